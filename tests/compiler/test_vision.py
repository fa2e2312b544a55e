"""Vision transformers whole on the machine: the host cuts images into squares, everything else is rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoder_decoders import Sizes
from vision import Vision, vision
from whole_runs import TARGET, Feed, compared, distance, expected

import axlora

CASES = {
    "class token": Vision(),
    "mean of the patches behind a class token": Vision(pooled="mean"),
    "every row, two tokens, a side and heads that are no multiples": Vision(
        pooled="all", tokens=2, side=13, body=Sizes(heads=3, dim=6)
    ),
}


def images(v: Vision, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, v.side, v.side)).astype(np.float32)


def calibration(v: Vision) -> Feed:
    return {"pixel_values": images(v, 8, 1)[:, None]}


@pytest.mark.parametrize("name", [*list(CASES)[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in list(CASES)[1:])])
def test_whole_near_onnxruntime_and_equal_to_both_references(name: str, tmp_path: Path) -> None:
    v = CASES[name]
    proto, given = vision(v), {"pixel_values": images(v, 1, 2)}
    program, run = compared(proto, given, calibration=calibration(v))
    assert distance(run.outputs["logits"], expected(proto, given)) < 0.04
    program.save(tmp_path / "m.axl")
    again = axlora.simulate(axlora.load(tmp_path / "m.axl"), given)
    np.testing.assert_array_equal(again.outputs["logits"], run.outputs["logits"])


def test_blocks_have_the_bits_of_all_rows_at_once() -> None:
    v = Vision(side=24)
    proto, given, runs = vision(v), {"pixel_values": images(v, 1, 2)}, []
    for words, several in ((TARGET.vbuf_words, False), (512, True)):
        program = axlora.compile(proto, replace(TARGET, vbuf_words=words), operators="all", calibration=calibration(v))
        assert any(name.startswith("rows ") for name in program.regions) == several
        runs.append(axlora.simulate(program, given).codes["logits"])
    np.testing.assert_array_equal(*runs)


def test_an_image_of_another_size_is_refused() -> None:
    v = CASES["class token"]
    program = axlora.compile(vision(v), "test", operators="all", calibration=calibration(v))
    with pytest.raises(axlora.BadInput, match=r"compiled for \(1, 3, 12, 12\)"):
        axlora.simulate(program, {"pixel_values": np.zeros((1, 3, 12, 8), np.float32)})


@pytest.mark.slow
def test_verilog_has_the_simulators_bits_and_counters() -> None:
    v = Vision(side=8)
    program = axlora.compile(vision(v), TARGET, operators="all", calibration=calibration(v))
    sim, rtl = (program.session(engine=engine).run({"pixel_values": images(v, 1, 2)}) for engine in ("sim", "rtl"))
    assert sim.counters == rtl.counters
    np.testing.assert_array_equal(sim.codes["logits"], rtl.codes["logits"])
