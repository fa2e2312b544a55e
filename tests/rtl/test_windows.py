"""Windows of registers: each has its R16..R31, a loop goes through them, and a start begins in window 0."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from axlora.fpga.hls_run import run_images as run_hls
from axlora.isa.assembly import assemble, encode_program
from axlora.isa.image import Image
from axlora.isa.opcodes import ErrorCode, Unit
from axlora.isa.registers import in_window
from axlora.isa.target import Target
from axlora.rtl.runner import run_images
from axlora.sim.errors import MachineError
from axlora.sim.run import run_image

TARGET = dataclasses.replace(Target.load("test"), windows=3)
SIZE = 4096
THROUGH = """STORE address=0 rx=31 rows=0 rz=16 beats=1
SET rd=1 value=0
LOOP count=3 body=3
WINDOW number=0 rx=1
STORE address=0 rx=31 rows=0 rz=16 beats=1
SET rd=1 value=1 rx=1
ENDLOOP
WINDOW number=0
STORE address=64 rx=31 rows=1 beats=1
HALT"""
REGISTERS = {15: 7} | in_window(0, {31: 1024, 16: 1}) | in_window(1, {31: 2048, 16: 2}) | in_window(2, {31: 3072, 16: 5})


def _memory(text: str) -> bytes:
    return encode_program(assemble(text)).ljust(SIZE, b"\xff")


def test_registers_of_windows_are_numbered_behind_each_other() -> None:
    assert in_window(0, {1: 5, 16: 6, 31: 7}) == {1: 5, 16: 6, 31: 7}
    assert in_window(2, {1: 5, 16: 6, 31: 7}) == {1: 5, 48: 6, 63: 7}


def test_each_window_has_its_own_registers_in_every_view() -> None:
    image = Image(_memory(THROUGH), 0, REGISTERS, SIZE)
    (rtl,), (hls,), sim = run_images(TARGET, [image]), run_hls(TARGET, [image]), run_image(TARGET, image.memory, 0, REGISTERS)
    expected = np.frombuffer(image.memory, np.uint8).copy()
    for first, beats in ((1024, 1), (2048, 2), (3072, 5), (1024 + 64, 1)):
        expected[first : first + beats * TARGET.beat_bytes] = 0
    for memory in (rtl.memory, hls.memory, sim.memory):
        assert np.array_equal(np.frombuffer(bytes(memory), np.uint8), expected)
    assert rtl.counters == {name: sim.counters[name] for name in rtl.counters}


@pytest.mark.parametrize(
    "text", ["WINDOW number=3\nHALT", "SET rd=1 value=4294967295\nWINDOW number=2 rx=1\nWINDOW number=2 rx=31\nHALT"]
)
def test_a_window_that_is_not_there_stops_the_machine(text: str) -> None:
    image = Image(_memory(text), 0, REGISTERS, SIZE)
    with pytest.raises(MachineError) as found:
        run_image(TARGET, image.memory, 0, REGISTERS)
    assert (found.value.code, found.value.unit) == (ErrorCode.ILLEGAL, Unit.FETCH)
    for result in (*run_images(TARGET, [image]), *run_hls(TARGET, [image])):
        assert (result.error, result.error_address) == (ErrorCode.ILLEGAL, found.value.address)


def test_a_machine_of_one_window_takes_window_0_alone() -> None:
    one = dataclasses.replace(TARGET, windows=1)
    good, bad = _memory("WINDOW number=0\n" + THROUGH.splitlines()[0] + "\nHALT"), _memory("WINDOW number=1\nHALT")
    images = [Image(memory, 0, {31: 1024, 16: 1}, SIZE) for memory in (good, bad)]
    found = run_images(one, images)
    assert [result.error for result in found] == [ErrorCode.NONE, ErrorCode.ILLEGAL]
    assert bytes(found[0].memory) == bytes(run_image(one, good, 0, images[0].registers).memory)
