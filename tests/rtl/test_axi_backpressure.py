"""Under cocotbext-axi's random back-pressure and delays on all channels, memory stays exact; only time moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench_axi import CHANNELS, AxiCase, AxiOutcome
from harness import simulate
from programs import TARGETS, Case, random_case

import axlora.rtl.runner as machine
from axlora.isa.opcodes import COUNTERS, UNIT_COUNTERS
from axlora.isa.verilog_header import target_parameters
from axlora.sim.run import run_image

pytestmark = pytest.mark.slow


TARGET = TARGETS["test"]
WORK = [c.name for c in COUNTERS if c.unit not in ("cycles", "lane-cycles") and c.name != "cycles"]
SEEDS = (0, 1, 2, 3, 4, 9)
NONE = (0.0,) * 5


def _cases(seed: int) -> list[AxiCase]:
    """Without pauses; every channel paused; then one channel alone, very slow."""
    case = random_case(seed, TARGET)
    plain = AxiCase(case.memory, case.registers, 4096 * (1 + 7 * seed), NONE, seed)
    only = tuple(0.8 if n == seed % len(CHANNELS) else 0.0 for n in range(len(CHANNELS)))
    return [
        plain,
        dataclasses.replace(plain, pauses=(0.8, 0.75, 0.8, 0.75, 0.8), seed=seed + 1000),
        dataclasses.replace(plain, pauses=only, seed=seed + 2000),
    ]


@pytest.fixture(scope="module")
def outcomes() -> dict[int, list[AxiOutcome]]:
    """Three outcomes a seed."""
    sources = [*machine.sources(), Path(__file__).with_name("axi_tb.v")]
    job = tuple(case for seed in SEEDS for case in _cases(seed))
    found = simulate("axi_tb", sources, target_parameters(TARGET), "bench_axi", job)
    return {seed: found[3 * n : 3 * n + 3] for n, seed in enumerate(SEEDS)}


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_stays_exact_and_time_moves(seed: int, outcomes: dict[int, list[AxiOutcome]]) -> None:
    case: Case = random_case(seed, TARGET)
    expected = run_image(TARGET, case.memory, 0, case.registers)
    for outcome in outcomes[seed]:
        assert (outcome.error, outcome.status) == (0, 2)
        parted = np.flatnonzero(np.frombuffer(outcome.memory, np.uint8) != expected.memory)
        assert parted.size == 0, f"memory parts at byte {parted[0]:#x}"
        assert {n: outcome.counters[n] for n in WORK} == {n: expected.counters[n] for n in WORK}
        for names in UNIT_COUNTERS.values():
            assert sum(outcome.counters[n] for n in names) == outcome.counters["cycles"]
    plain, paused, slow = (outcome.counters["cycles"] for outcome in outcomes[seed])
    assert paused > plain
    assert slow >= plain


def test_pauses_on_every_channel_cost_time(outcomes: dict[int, list[AxiOutcome]]) -> None:
    """More than a fifth over all programs; in one of few loads, lines asked for ahead hide pauses."""
    plain, paused, _ = (sum(o[run].counters["cycles"] for o in outcomes.values()) for run in range(3))
    assert paused > 1.2 * plain


def test_one_slow_channel_alone_costs_time(outcomes: dict[int, list[AxiOutcome]]) -> None:
    """AR, R, W and B, in one program at least; a slow AW may hide behind the other units."""
    costly = {CHANNELS[s % 5] for s, o in outcomes.items() if o[2].counters["cycles"] > o[0].counters["cycles"]}
    assert costly >= {"ar", "r", "w", "b"}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_master_keeps_the_rules_of_axi(seed: int, outcomes: dict[int, list[AxiOutcome]]) -> None:
    """VALID and payload stay until READY, no burst crosses 4 KiB, WLAST at the last beat, OUTSTANDING holds (axi_tb.v)."""
    assert [outcome.broken for outcome in outcomes[seed]] == [0, 0, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_outside_the_image_is_written(seed: int, outcomes: dict[int, list[AxiOutcome]]) -> None:
    assert all(outcome.guarded for outcome in outcomes[seed])
