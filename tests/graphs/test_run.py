"""The command that checks many random models, and how it makes a failing one smaller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reduce import reduced
from sketch import Sketch, Unfit, assemble
from strategy import Drawn

RUN = Path(__file__).parent / "run.py"


def test_the_command_counts_every_model(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), "--count", "4", "--seed", "5", "--jobs", "1", "--failures", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "4 models: " in done.stdout
    assert ", 0 failed" in done.stdout
    assert not list(tmp_path.iterdir())


def sketch() -> Sketch:
    """An empty model that draws nothing."""
    return Sketch(lambda strategy: pytest.fail(str(strategy)), 18, np.random.default_rng(1), "plain", (8,))


def test_a_model_shrinks_to_the_node_that_fails() -> None:
    s = sketch()
    x = s.feed((3, 8))
    y = s.op("MatMul", s.op("Relu", x), s.floats(8, 8, spread=0.3))
    z = s.op("Neg", s.op("Tanh", y))
    drawn = Drawn(assemble(s, [y, z, s.op("Abs", x)]), {x.name: s.samples[x.name]})
    small = reduced(drawn, lambda d: any(n.op_type == "Tanh" for n in d.model.graph.node))
    assert [n.op_type for n in small.model.graph.node] == ["Tanh"]
    (value,) = small.inputs.values()
    assert np.array_equal(value, s.samples[y.name])


def test_a_step_that_does_not_fit_leaves_nothing() -> None:
    s = sketch()
    x = s.feed((3, 8))

    def step(s: Sketch) -> None:
        s.op("Mul", s.op("Relu", x), s.scalar(2.0))
        s.feed((1,))
        raise Unfit("the last operator")

    assert not s.try_step(step)
    assert [v.name for v in s.values] == [x.name]
    assert (s.ops, s.constants, list(s.samples), s.inputs) == ([], {}, [x.name], [x])
