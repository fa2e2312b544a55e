"""Several starts within one power-up: other registers, MEM_BASE, soft reset after an error, starts while busy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from harness import Outcome, Step, simulate_machine
from programs import TARGETS, Case, random_case

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.opcodes import ErrorCode, Unit
from axlora.isa.registers import in_window
from axlora.sim.run import SimResult, run_image

pytestmark = pytest.mark.slow


TARGET = TARGETS["test"]
DONE, ERROR = 2, 4
STORED = "STORE address=0 rx=31 rows=1 beats=1\nHALT"


def _start(target_name: str, steps: list[Step]) -> list[Outcome]:
    target = TARGETS[target_name]
    found: list[Outcome] = simulate_machine(target, "bench_starts", (target.beat_bytes, tuple(steps)))
    return found


def _step(case: Case, **changes: object) -> Step:
    registers = tuple((n, case.registers.get(n, 0)) for n in range(1, 32))
    return dataclasses.replace(Step(case.memory, registers), **changes)  # type: ignore[arg-type]


def _equal(outcome: Outcome, expected: SimResult) -> None:
    assert (outcome.error, outcome.status) == (0, DONE)
    parted = np.flatnonzero(np.frombuffer(outcome.memory, np.uint8) != expected.memory)
    assert parted.size == 0, f"memory parts at byte {parted[0]:#x}"
    different = {k: (v, outcome.counters[k]) for k, v in expected.counters.items() if v != outcome.counters[k]}
    assert not different, f"(simulator, Verilog) {different}"


def _expected(case: Case) -> SimResult:
    return run_image(case.target, case.memory, 0, case.registers)


def _with_two_adapters() -> Case:
    """A case whose first two slots hold adapters of different rank or address."""
    return next(c for c in (random_case(seed, TARGET) for seed in range(50)) if 11 in c.registers)


def test_another_adapter_is_three_register_writes_and_a_start() -> None:
    """Slots 1 and 2 change places between two starts in one power-up; the memory is the first image again."""
    case = _with_two_adapters()
    swapped = dict(case.registers)
    for k in range(3):
        swapped[8 + k], swapped[11 + k] = case.registers[11 + k], case.registers[8 + k]
    other = dataclasses.replace(case, registers=swapped)
    changed = tuple((n, swapped[n]) for n in range(8, 14))
    first, second, third = _start("test", [_step(case), Step(case.memory, changed), _step(case)])
    _equal(first, _expected(case))
    _equal(second, _expected(other))
    _equal(third, _expected(case))
    assert first.memory != second.memory


def test_a_start_begins_in_window_0_whatever_the_program_before_chose() -> None:
    """The second program stores zeros where R31 of its window says."""
    data = [bytes(encode_program(assemble(text))).ljust(4096, b"\xff") for text in ("WINDOW number=2\nHALT", STORED)]
    registers = in_window(0, {31: 1024}) | in_window(2, {31: 2048})
    _, second = _start("test", [Step(data[0], tuple(registers.items())), Step(data[1])])
    _equal(second, run_image(TARGET, data[1], 0, registers))


@pytest.mark.parametrize("name", ["test", "reuse-m2"])
def test_other_programs_at_other_bases_run_as_from_power_up(name: str) -> None:
    """What the buffers keep from the program before changes nothing: neither bytes nor cycles."""
    cases = [random_case(seed, TARGETS[name]) for seed in (20, 21, 22)]
    bases = (0, 0x5000, 0x10_0000)
    for outcome, case in zip(_start(name, [_step(c, base=b) for c, b in zip(cases, bases, strict=True)]), cases, strict=True):
        _equal(outcome, _expected(case))


def test_a_start_while_busy_is_ignored() -> None:
    case = random_case(3, TARGET)
    (outcome,) = _start("test", [_step(case, read_every=97)])
    _equal(outcome, _expected(case))


def _fault(text: str, size: int = 1 << 14) -> bytes:
    program = encode_program(assemble(text))
    return program + bytes(size - len(program))


FAULTS = {
    "illegal": (Step(_fault("SET rd=1 value=3\nMATMUL segments=1 tokens=3\nHALT")), ErrorCode.ILLEGAL, Unit.FETCH),
    "read": (
        Step(_fault("LOAD buffer=0 address=8192 beat=0 rows=1 beats=64\nHALT"), bad=(8200, 8208)),
        ErrorCode.AXI_READ,
        Unit.LOAD,
    ),
    "write": (
        Step(_fault("STORE address=8192 beat=0 rows=1 beats=64\nHALT"), bad=(8200, 8208)),
        ErrorCode.AXI_WRITE,
        Unit.STORE,
    ),
    "in the middle": (
        Step(_fault("SEGW segment=0 format=3 groups=64 group_stride=1\nMATMUL segments=1 blocks=70 first=1\nLOAD buffer=0 "
                    "address=8192 beat=16380 rows=1 beats=64\nHALT")),
        ErrorCode.LOCAL_ADDRESS,
        Unit.LOAD,
    ),
    "watchdog": (Step(_fault("SEGA wait=0 post=4\nHALT"), watchdog=500), ErrorCode.WATCHDOG, Unit.FETCH),
}  # fmt: skip


@pytest.mark.parametrize("reset", [True, False], ids=["soft reset", "start alone"])
def test_after_any_error_a_run_is_clean(reset: bool) -> None:
    """Error, soft reset (clears error and STATUS) or plain start, then a program: as from power-up."""
    case = random_case(4, TARGET)
    steps = [s for step, _, _ in FAULTS.values() for s in (step, _step(case, reset=reset))]
    found = _start("test", steps)
    for (name, (_, code, unit)), outcome in zip(FAULTS.items(), found[::2], strict=True):
        assert (outcome.error, outcome.unit, outcome.status) == (code, unit, ERROR), name
    for outcome in found[1::2]:
        assert outcome.status_before == (0 if reset else ERROR)
        _equal(outcome, _expected(case))


def test_a_soft_reset_stops_a_running_program_and_a_run_after_it_is_clean() -> None:
    """At any time: in a fetch, a load, a store. MEM_BASE keeps its value until then (the bench tries to write it)."""
    case = random_case(5, TARGET)
    cycles = _expected(case).cycles
    times = [10, 40, 90, *(cycles * part // 7 for part in range(1, 7))]
    steps = [s for after in times for s in (_step(case, reset_after=after), _step(case))]
    found = _start("test", steps)
    for outcome in found[::2]:
        assert (outcome.error, outcome.status) == (0, 0)
    for outcome in found[1::2]:
        assert outcome.status_before == 0
        _equal(outcome, _expected(case))
