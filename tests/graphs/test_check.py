"""The check of random models fails for packages that are wrong: their parts are changed here, one at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import axlora

sys.path.insert(0, str(Path(__file__).parent))

import check as checking
from check import Failed, check, compiled
from sketch import Sketch, assemble
from strategy import Drawn

WIDTH = 16


def small() -> Drawn:
    """Two linears with bias, a branch, a residual, and a norm: x -> y, z."""
    random = np.random.default_rng(3)
    s = Sketch(lambda strategy: pytest.fail(str(strategy)), 18, random, "plain", (WIDTH,))
    x = s.feed((4, WIDTH))
    a, b = s.floats(WIDTH, 2, spread=0.25, what="lora_A"), s.floats(2, WIDTH, spread=0.7, what="lora_B")
    base = s.op("Add", s.op("MatMul", x, s.floats(WIDTH, WIDTH, spread=0.25)), s.floats(WIDTH, spread=0.5, what="bias"))
    first = s.op("Add", base, s.op("MatMul", s.op("MatMul", x, a), b))
    hidden = s.op("Tanh", first)
    second = s.op("Add", s.op("MatMul", hidden, s.floats(WIDTH, WIDTH, spread=0.25)), s.floats(WIDTH, what="bias"))
    y = s.op("Add", second, x)
    z = s.op("LayerNormalization", y, s.floats(WIDTH, what="gain"), axis=-1)
    return Drawn(assemble(s, [y, z]), {x.name: s.samples[x.name]})


def zeroed(word: str) -> Callable[[onnx.ModelProto], None]:
    """Set the first constant whose name starts with `word` to zeros."""

    def change(model: onnx.ModelProto) -> None:
        found = next(i for i in model.graph.initializer if i.name.startswith(word))
        found.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(found)), found.name))

    return change


def swapped_weights(model: onnx.ModelProto) -> None:
    """Exchange the two linears' weights."""
    one, two = (i for i in model.graph.initializer if i.name.startswith("weight"))
    one.name, two.name = two.name, one.name


def without(kind: str) -> Callable[[onnx.ModelProto], None]:
    """Take out the last node of a kind: its readers read its first input."""

    def change(model: onnx.ModelProto) -> None:
        node = [n for n in model.graph.node if n.op_type == kind][-1]
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], list(node.output)))

    return change


def another_operator(model: onnx.ModelProto) -> None:
    """Erf in the place of Tanh, which it resembles."""
    next(n for n in model.graph.node if n.op_type == "Tanh").op_type = "Erf"


def one_column(model: onnx.ModelProto) -> None:
    """Set one column of the first weight to zeros."""
    found = next(i for i in model.graph.initializer if i.name.startswith("weight"))
    values = numpy_helper.to_array(found).copy()
    values[:, 3] = 0
    found.CopyFrom(numpy_helper.from_array(values, found.name))


def test_the_model_itself_passes(tmp_path: Path) -> None:
    assert check(small(), tmp_path).ran


@pytest.mark.parametrize(
    "change",
    [
        zeroed("bias"), zeroed("lora_B"), zeroed("gain"), swapped_weights, without("Tanh"), without("Add"),
        without("LayerNormalization"), another_operator, one_column,
    ],
)  # fmt: skip
def test_another_model_fails(
    change: Callable[[onnx.ModelProto], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The package is that of a model with one difference."""

    def other(drawn: Drawn, folder: Path, target: str, calibrated: bool) -> object:
        model = onnx.ModelProto()
        model.CopyFrom(drawn.model)
        change(model)
        return compiled(Drawn(model, drawn.inputs), folder, target, calibrated)

    monkeypatch.setattr(checking, "compiled", other)
    with pytest.raises(Failed, match="wrong"):
        check(small(), tmp_path)


def test_exchanged_outputs_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = axlora.simulate

    def simulate(*arguments: object, **options: bool) -> object:
        run = real(*arguments, **options)  # type: ignore[arg-type]
        names = list(run.outputs)
        values = [run.outputs[name] for name in reversed(names)]
        run.outputs.update(zip(names, values, strict=True))
        return run

    monkeypatch.setattr(axlora, "simulate", simulate)
    with pytest.raises(Failed, match="wrong"):
        check(small(), tmp_path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (axlora.UnsupportedOperator("TVM does not take the model", "node 'x'"), "internals"),
        (axlora.UnsupportedOperator("operator Tanh", "node 'x'", "leave it out"), "without need"),
        (axlora.BadModel("operator Loop"), "place"),
        (axlora.BadModel("", "node 'x'"), "message"),
        (KeyError("x"), "compile KeyError"),
    ],
)
def test_refusals_that_do_not_help_fail(error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(axlora, "compile", refuse)
    with pytest.raises(Failed, match=kind):
        check(small(), tmp_path)


def test_what_must_be_refused_fails_when_it_runs(tmp_path: Path) -> None:
    drawn = small()
    with pytest.raises(Failed, match="accepted"):
        check(Drawn(drawn.model, drawn.inputs, "LSTM"), tmp_path)


def test_files_of_a_refused_model_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> object:
        (tmp_path / "half").write_bytes(b"")
        raise axlora.UnsupportedOperator("operator Loop", "node 'x'", "leave it out")

    monkeypatch.setattr(axlora, "compile", refuse)
    with pytest.raises(Failed, match="files"):
        check(small(), tmp_path)
