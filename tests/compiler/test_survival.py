"""--merge says how much of an adapter is left in the codes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import axlora
from axlora.isa.target import Target


def notice(build: Any, target: Target, folder: Path, bits: int, caplog: pytest.LogCaptureFixture) -> str:
    """What compiling says of merging into a base of 16 inputs whose weights are codes of 8 bits."""
    codes = np.random.default_rng(0).integers(-100, 100, (16, 8)).astype(np.float32)
    codes[0] = 127
    build.node("MatMul", "x", build.constant(codes / 64), out="y")
    build.nodes[0].name = "/q/MatMul"
    model = build.model({"x": [4, 16]}, ["y"])
    with caplog.at_level(logging.WARNING):
        axlora.compile(model, target, adapters={"a": folder}, merge=True, weight_bits=bits, operators="linears")
    (line,) = [r.message for r in caplog.records if "merged into" in r.message]
    return line


def adapter(write_peft: Callable[..., Path], steps: float) -> Path:
    """Adds a part of a step to every weight but the columns' largest."""
    a = (np.arange(16) > 0).astype(np.float32)[None]
    tensors = {f"base_model.model.q.lora_{n}.weight": v for n, v in (("A", a), ("B", np.full((8, 1), steps / 64, np.float32)))}
    return write_peft(tensors, r=1, lora_alpha=1)


@pytest.mark.parametrize(
    ("steps", "left", "norm"), [(3.0, "100.0%", "1.000"), (0.2, "0.0%", "0.000"), (0.6, "166.7%", "1.667")]
)
def test_the_part_of_a_merged_change_that_is_left(
    build: Any,
    target: Target,
    write_peft: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    steps: float,
    left: str,
    norm: str,
) -> None:
    """All of whole steps; none of a change below half a step; a whole step instead of 0.6."""
    line = notice(build, target, adapter(write_peft, steps), 8, caplog)
    assert line.startswith(f"merged into the codes of 1 linear: {left} of the change is left (least in 'val_1', {left}")
    assert line.endswith(f"the change in codes has {norm} times its norm)")


def test_four_bits_keep_less(
    build: Any, target: Target, write_peft: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    line = notice(build, target, adapter(write_peft, 3.0), 4, caplog)
    assert "100.0%" not in line
    assert float(line.rsplit("has ", 1)[1].split()[0]) > 1.2  # few weights move, each by a step six times the change
