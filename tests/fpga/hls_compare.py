"""Starts in the C simulation of the HLS C++ and in the simulator, compared to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from programs import Case

from axlora.fpga.hls_run import COUNTED, FLAGS, run_images
from axlora.isa.image import Image, ImageResult
from axlora.on_hls import hls_counters
from axlora.sim.run import SimResult, run_image


def assert_equal(name: object, sim: SimResult, hls: ImageResult) -> None:
    """Memory and counters of a run without an error."""
    assert hls.error == 0, f"{name}: error {hls.error} of unit {hls.error_unit} at {hls.error_address:#x}"
    wanted = hls_counters(sim)
    assert set(hls.counters) == set(COUNTED)
    different = {k: (v, hls.counters[k]) for k, v in wanted.items() if v != hls.counters[k]}
    assert not different, f"{name}: (simulator, C++) {different}"
    parted = np.flatnonzero(np.frombuffer(hls.memory, np.uint8) != sim.memory)
    assert parted.size == 0, f"{name}: memory parts at byte {parted[0]:#x}"


def compare(cases: Sequence[Case], flags: Sequence[str] = FLAGS) -> list[SimResult]:
    """Each case from power-up in both."""
    results = []
    for case in cases:
        (hls,) = run_images(case.target, [Image(case.memory, 0, case.registers, len(case.memory))], flags)
        sim = run_image(case.target, case.memory, 0, case.registers)
        assert_equal(f"{case.target.name}, seed {case.seed}", sim, hls)
        results.append(sim)
    return results
