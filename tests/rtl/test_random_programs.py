"""Verilog against simulator on seeded random programs: memory, counters, and the cycles of every single instruction."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from programs import SMALL, TARGETS, Case, random_case, semaphore_case

from axlora.isa.legality import trace
from axlora.isa.opcodes import COUNTERS, SEMAPHORE_MAX, SEMAPHORES, Opcode
from axlora.rtl.runner import Image, run_images
from axlora.sim.run import SimResult, run_image

PUSH_SEEDS = 5
ALL_SEEDS = 26


def _compare(cases: list[Case]) -> list[SimResult]:
    found = run_images(cases[0].target, [Image(c.memory, 0, c.registers, len(c.memory), trace=True) for c in cases])
    results = []
    for case, rtl in zip(cases, found, strict=True):
        assert rtl.error == 0, f"seed {case.seed}: error {rtl.error} at {rtl.error_address:#x}"
        sim = run_image(case.target, case.memory, 0, case.registers, keep_events=True)
        different = {k: (v, rtl.counters[k]) for k, v in sim.counters.items() if v != rtl.counters[k]}
        assert not different, f"seed {case.seed}: (simulator, Verilog) {different}"
        assert set(rtl.counters) == {c.name for c in COUNTERS}
        parted = np.flatnonzero(np.frombuffer(rtl.memory, np.uint8) != sim.memory)
        assert parted.size == 0, f"seed {case.seed}: memory parts at byte {parted[0]:#x}"
        assert sim.cycles == rtl.cycles > 0
        steps = [(e.work.instruction.unit, e.work.address, e.accept, e.done) for e in sim.events]
        assert sorted(steps) == sorted(rtl.events), f"seed {case.seed}: an instruction's cycles differ"
        results.append(sim)
    return results


@pytest.mark.parametrize("name", SMALL)
def test_verilog_equals_simulator(name: str) -> None:
    _compare([random_case(seed, TARGETS[name]) for seed in range(PUSH_SEEDS)])


@pytest.mark.slow
def test_verilog_equals_simulator_on_every_target_and_all_is_covered() -> None:
    """208 programs; every opcode, every stall cause and the wrap of every semaphore occurs."""
    opcodes: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    most_posts: Counter[int] = Counter()
    programs = 0
    for target in TARGETS.values():
        cases = [random_case(seed, target) for seed in range(100, 100 + ALL_SEEDS)]
        for case in cases:
            executed = trace(case.program, case.registers)
            assert len(case.program) >= 20
            assert len({i.unit for _, i in executed}) >= 4
            names = Counter(i.opcode for _, i in executed)
            assert names[Opcode.LOOP] >= 1
            assert names[Opcode.MATMUL] >= 4
            opcodes.update(o.name for o in names)
            posts = Counter(s for _, i in executed for s in i.posts)
            most_posts |= posts
            programs += 1
        for result in _compare(cases):
            counted.update({k: v for k, v in result.counters.items() if v})
    assert programs >= 200
    assert set(opcodes) == {o.name for o in Opcode}
    silent = {c.name for c in COUNTERS} - set(counted)
    assert not silent, f"never counted: {silent}"
    rings = semaphore_case(TARGETS["test"])
    _compare([rings])
    most_posts |= Counter(s for _, i in trace(rings.program) for s in i.posts)
    assert all(most_posts[s] > SEMAPHORE_MAX for s in range(SEMAPHORES))
