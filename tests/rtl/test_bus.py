"""Under random pauses of every AXI channel the results and the work counters stay; the cycles of each unit still add up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from programs import TARGETS, random_case

from axlora.isa.opcodes import COUNTERS, UNIT_COUNTERS
from axlora.rtl.runner import Image, run_images

WORK = [c.name for c in COUNTERS if c.unit not in ("cycles", "lane-cycles")]


@pytest.mark.parametrize("name", ["test", pytest.param("mac-4x2", marks=pytest.mark.slow)])
def test_random_pauses_move_time_only(name: str) -> None:
    cases = [random_case(seed, TARGETS[name]) for seed in range(4)]
    steady = [Image(c.memory, 0, c.registers, len(c.memory)) for c in cases]
    paused = [dataclasses.replace(image, stall=0xACE1 + 77 * n) for n, image in enumerate(steady)]
    found = run_images(TARGETS[name], steady + paused)
    for before, after in zip(found[: len(cases)], found[len(cases) :], strict=True):
        assert after.error == 0
        assert after.memory == before.memory
        assert {n: after.counters[n] for n in WORK} == {n: before.counters[n] for n in WORK}
        assert after.cycles > before.cycles
        for names in UNIT_COUNTERS.values():
            assert sum(after.counters[n] for n in names) == after.cycles


def test_a_dump_is_a_part_of_the_memory() -> None:
    case = random_case(0, TARGETS["test"])
    image = Image(case.memory, 0, case.registers, len(case.memory))
    whole, part = run_images(TARGETS["test"], [image, dataclasses.replace(image, dump=(100, 333))])
    assert part.memory == whole.memory[100:433]
    assert part.counters == whole.counters


@pytest.mark.exhaustive
def test_waves_are_written(tmp_path: Path) -> None:
    case = random_case(0, TARGETS["test"])
    image = Image(case.memory, 0, case.registers, len(case.memory))
    waves = tmp_path / "run.vcd"
    traced = run_images(TARGETS["test"], [image], waves)
    assert traced == run_images(TARGETS["test"], [image])
    assert waves.stat().st_size > 1000
