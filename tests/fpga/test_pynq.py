"""The PYNQ driver of `axlora zynq` before a fake pynq: over the simulator, and over the emitted wrapper in Verilator."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_zynq import ZynqJob
from fake_pynq import description, install
from harness import simulate
from programs import TARGETS, Case, random_case
from tiny_decoder import Sizes, random_decoder
from tiny_onnx import write_onnx

import axlora
from axlora.fpga.zynq import emit
from axlora.isa.assembly import assemble, encode_program
from axlora.isa.opcodes import COUNTERS, MACHINE_ID, REGISTERS, ErrorCode, Unit
from axlora.isa.registers import register_offset
from axlora.isa.target import Target
from axlora.sim.errors import MachineError
from axlora.sim.run import run_image

TARGET = TARGETS["test"]
OFFSET = {r.name: r.offset for r in REGISTERS}
MODULES = ("pynq", "axlora_registers", "axlora_machine", "axlora_pynq")


class SimulatedDevice:
    """The register map of docs/isa.md over the simulator; a run is over after a few looks at the status."""

    def __init__(self, target: Target, looks: int = 3) -> None:
        self.target, self.looks = target, looks
        self.memory = bytearray(1 << 20)
        self.registers = dict.fromkeys(range(0, 2048, 4), 0)
        self.left = 0
        self.starts = 0
        self.seen: tuple[int, int] = (0, 0)

    def read(self, offset: int) -> int:
        if offset == OFFSET["ID"]:
            return MACHINE_ID
        if offset == OFFSET["STATUS"] and self.left:
            self.left -= 1
            return 1
        return self.registers[offset]

    def write(self, offset: int, value: int) -> None:
        if offset == OFFSET["CTRL"]:
            assert value in (1, 2)
            if value == 2:
                self.left, self.registers[OFFSET["STATUS"]] = 0, 0
            elif not self.left:
                self._start()
            return
        assert offset == OFFSET["IRQ_STATUS"] or not self.left, "a register is written while the machine is busy"
        self.registers[offset] = value

    def _start(self) -> None:
        self.starts += 1
        base, limit = (self.registers[OFFSET[n]] for n in ("MEM_BASE", "MEM_LIMIT"))
        held = {n: self.registers[register_offset(n)] for n in range(1, 16 * (1 + self.target.windows))}
        self.seen, self.left = (base, limit), self.looks
        try:
            run = run_image(self.target, bytes(self.memory[base : base + limit]), self.registers[OFFSET["PROGRAM"]], held)
        except MachineError as error:
            self.registers[OFFSET["STATUS"]] = 4
            self.registers[OFFSET["ERR_CODE"]] = error.code | error.unit << 8
            self.registers[OFFSET["ERR_ADDR"]] = error.address
            return
        self.registers[OFFSET["STATUS"]] = 2
        self.memory[base : base + limit] = run.memory.tobytes()
        for n, counter in enumerate(COUNTERS):
            value = run.counters[counter.name]
            self.registers[OFFSET["COUNTERS"] + 8 * n] = value & 0xFFFFFFFF
            self.registers[OFFSET["COUNTERS"] + 8 * n + 4] = value >> 32


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    """With the fake pynq and the emitted modules importable."""
    emit(TARGET, tmp_path / "zynq")
    found = SimulatedDevice(TARGET)
    install(found)
    sys.path.insert(0, str(tmp_path / "zynq" / "pynq"))
    yield found
    sys.path.remove(str(tmp_path / "zynq" / "pynq"))
    for name in MODULES:
        sys.modules.pop(name, None)


def _ip() -> Any:
    import axlora_pynq  # type: ignore[import-not-found]

    return axlora_pynq.AxloraIP(description())


def _memory(case: Case) -> np.ndarray:
    return np.frombuffer(case.memory, np.uint8)


def test_the_numbers_are_the_machines(device: SimulatedDevice) -> None:
    import axlora_registers as numbers  # type: ignore[import-not-found]

    assert numbers.MACHINE_ID == MACHINE_ID
    assert tuple(c.name for c in COUNTERS) == numbers.COUNTERS
    assert numbers.REGISTERS == OFFSET
    assert {e.value: e.name.lower() for e in ErrorCode} == numbers.ERRORS
    assert {u.value: u.name.lower() for u in Unit} == numbers.UNITS
    assert dataclasses.asdict(TARGET) == numbers.TARGET


def test_the_driver_binds_to_the_wrapper(device: SimulatedDevice) -> None:
    assert type(_ip()).bindto == ["xilinx.com:module_ref:axlora_zynq:1.0"]


def test_the_driver_runs_programs_one_after_another(device: SimulatedDevice) -> None:
    """Bytes, cycles and counters are the simulator's; a buffer is kept where it is large enough; caches are flushed."""
    ip = _ip()
    for seed in range(3):
        case = random_case(seed, TARGET)
        left = ip.start(_memory(case), 0, case.registers)
        wanted = run_image(TARGET, case.memory, 0, case.registers)
        assert (left.memory == wanted.memory).all()
        assert (left.cycles, left.counters) == (wanted.cycles, wanted.counters)
        assert device.seen[0] % 4096 == 0
        assert device.seen[1] == len(case.memory)
    ip.free()


@pytest.mark.parametrize("fires", [True, False], ids=["interrupt", "lost interrupt"])
def test_the_driver_waits_by_interrupt(device: SimulatedDevice, fires: bool) -> None:
    import asyncio

    class Interrupt:
        waited = 0

        async def wait(self) -> None:
            self.waited += 1
            await asyncio.sleep(0 if fires else 60)

    ip = _ip()
    ip.irq = Interrupt()
    ip.wait_by_interrupt()
    case = random_case(1, TARGET)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        left = ip.start(_memory(case), 0, case.registers)
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    assert (left.memory == run_image(TARGET, case.memory, 0, case.registers).memory).all()
    assert ip.irq.waited >= 1


def _program(text: str) -> np.ndarray:
    data = encode_program(assemble(text))
    return np.frombuffer(data + bytes(-len(data) % 4096), np.uint8)


def test_an_error_of_the_machine_is_named(device: SimulatedDevice) -> None:
    ip = _ip()
    with pytest.raises(RuntimeError, match="illegal error in fetch at instruction 0x10"):
        ip.start(_program("SET rd=1 value=3\nMATMUL segments=1 tokens=3\nHALT"), 0, {})
    ip.machine.reset()
    case = random_case(1, TARGET)
    ip.start(_memory(case), 0, case.registers)


def test_a_run_that_does_not_end_is_an_error_in_time_and_a_reset_helps(device: SimulatedDevice) -> None:
    ip, case = _ip(), random_case(1, TARGET)
    device.looks, ip.seconds = 1 << 30, 0.05
    with pytest.raises(TimeoutError, match="reset it"):
        ip.start(_memory(case), 0, case.registers)
    with pytest.raises(RuntimeError, match="busy"):
        ip.start(_memory(case), 0, case.registers)
    assert device.starts == 1
    ip.machine.reset()
    device.looks = 0
    ip.start(_memory(case), 0, case.registers)


@pytest.mark.parametrize(("program", "registers"), [(16, {}), (0, {0: 1}), (0, {64: 1})])
def test_what_the_machine_cannot_take_is_refused(device: SimulatedDevice, program: int, registers: dict[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be a multiple|can be set"):
        _ip().start(np.zeros(4096, np.uint8), program, registers)
    assert device.starts == 0


def test_another_bitstream_is_noticed(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "read", lambda offset: 0)
    with pytest.raises(RuntimeError, match="another bitstream"):
        _ip()


def test_a_buffer_beyond_the_machines_reach_is_refused(device: SimulatedDevice) -> None:
    install(device, (1 << 31) - 4096)
    sys.modules.pop("axlora_pynq", None)
    with pytest.raises(MemoryError, match="first 2 GB"):
        _ip().start(np.zeros(4096, np.uint8), 0, {})


@pytest.mark.parametrize("operators", ["all", "linears"])
def test_a_package_runs_through_the_driver(device: SimulatedDevice, tmp_path: Path, operators: str) -> None:
    model = write_onnx(random_decoder(Sizes(layers=1, context=8), seed=3), tmp_path / "m.onnx")
    shapes = {"batch": 1, "sequence": 4}
    program = axlora.compile(model, TARGET, shapes=shapes, operators=operators)
    program.save(tmp_path / "m.axl")
    inputs = {n: np.zeros(shape, dtype) for n, (shape, dtype) in program.inputs_info.items()}
    ip = _ip()
    import axlora_pynq

    found = axlora_pynq.run_package(ip, str(tmp_path / "m.axl"), inputs)
    wanted = axlora.simulate(program, inputs).outputs
    assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in wanted.items()}
    other = axlora.compile(model, TARGETS["reuse-m2"], shapes=shapes, operators="linears")
    other.save(tmp_path / "other.axl")
    with pytest.raises(ValueError, match="for the target"):
        axlora_pynq.run_package(ip, str(tmp_path / "other.axl"), inputs)


def test_text_is_generated_through_the_driver(device: SimulatedDevice, tmp_path: Path) -> None:
    model = write_onnx(random_decoder(Sizes(layers=1, context=8), seed=3), tmp_path / "m.onnx")
    program = axlora.compile(model, TARGET, generate=True, max_context=8)
    assert program.kind == "generator"
    program.save(tmp_path / "m.axl")
    ip = _ip()
    wanted = list(axlora.generate(program, [3, 1], max_new_tokens=3))
    assert list(axlora.generate(program, [3, 1], max_new_tokens=3, start=ip.start)) == wanted
    import axlora_pynq

    inputs = program.random_inputs(1)
    (logits,) = axlora_pynq.run_package(ip, str(tmp_path / "m.axl"), inputs).values()
    assert np.array_equal(logits, *axlora.simulate(program, inputs).outputs.values())


@pytest.mark.slow
def test_the_emitted_driver_runs_the_emitted_verilog(tmp_path: Path) -> None:
    """The wrapper in Verilator with cocotbext-axi on both sides: bytes and work counters, an error, a reset, a run after it."""
    emit(TARGET, tmp_path / "out")
    text = (tmp_path / "out" / "axlora_zynq.v").read_text()
    text = re.sub(
        r"^(    (?:input|output) +wire +(?:\[.*?\] +)?\w+)(,?)$", r"\1 /*verilator public_flat_rw*/\2", text, flags=re.M
    )
    (tmp_path / "out" / "axlora_zynq.v").write_text(text)
    files = [tmp_path / "out" / "axlora_zynq.v", *sorted((tmp_path / "out" / "rtl").glob("*.v"))]
    cases = [random_case(seed, TARGET) for seed in (20, 21)]
    bad = _program("SET rd=1 value=3\nMATMUL segments=1 tokens=3\nHALT").tobytes()
    starts = [(c.memory, c.registers) for c in cases]
    job = ZynqJob(str(tmp_path / "out" / "pynq"), (starts[0], (bad, {}), starts[1]))
    first, stopped, second = simulate("axlora_zynq", files, {}, "bench_zynq", job)
    assert stopped == ("illegal", "fetch", 16)
    timed = {c.name for c in COUNTERS if c.unit in ("cycles", "lane-cycles")}
    for (memory, counters), case in zip((first, second), cases, strict=True):
        wanted = run_image(TARGET, case.memory, 0, case.registers)
        assert memory == wanted.memory.tobytes()
        assert {n: v for n, v in counters.items() if n not in timed} == {
            n: v for n, v in wanted.counters.items() if n not in timed
        }
