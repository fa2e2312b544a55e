"""The reuse figures on real MiniLM rows, read from the Verilog's own counters."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from axlora.rtl.runner import Image, RtlResult, run_images
from axlora.sim.run import run_image

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from reuse import TARGET, matrix_cycles

from minilm import image, linears, link_linears

LEAST = {
    "int8 per tensor": (0.94, 6.0),
    "int8 per channel": (0.84, 4.1),
    "int4 per channel": (0.98, 7.5),
}
"""Multiplications removed, and mac cycles over reuse cycles."""


def _both(engine: str) -> dict[str, RtlResult]:
    """One layer's six linears in each quantization, one token, rows uncut; Verilog, checked against the simulator."""
    target = dataclasses.replace(TARGET, engine=engine)
    memories = {}
    for how in LEAST:
        parts = linears(how, range(2, 3))
        memories[how] = image(target, link_linears(target, parts, 1, whole_rows=True), parts, 1)
    results = run_images(target, [Image(m.tobytes(), 0, {}, m.size) for m in memories.values()])
    for memory, rtl in zip(memories.values(), results, strict=True):
        sim = run_image(target, memory, 0)
        assert rtl.counters == sim.counters
        assert (np.frombuffer(rtl.memory, np.uint8) == sim.memory).all()
    return dict(zip(memories, results, strict=True))


@pytest.mark.slow
def test_multiplications_removed_and_cycles_saved() -> None:
    reuse, mac = _both("reuse"), _both("mac")
    for how, (removed, ratio) in LEAST.items():
        counters = reuse[how].counters
        assert 1 - counters["multiplications"] / counters["macs"] >= removed, how
        assert mac[how].counters["multiplications"] == mac[how].counters["macs"]
        assert matrix_cycles(mac[how].counters) / matrix_cycles(counters) >= ratio, how
