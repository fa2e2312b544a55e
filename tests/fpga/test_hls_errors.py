"""Errors of the HLS C++: the same code, unit and address as the simulator; every bit of every instruction; last places."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from programs import TARGETS
from test_errors import BEAT_END, CBUF_END, FAULTS, SIZE, TABLE_END, UBUF_END, WORD_END, Fault, _memory
from test_random_programs import _encodings

from axlora.fpga.hls_run import job_bytes, run_images, run_starts
from axlora.isa.assembly import assemble, encode_program
from axlora.isa.image import Image
from axlora.isa.opcodes import ErrorCode, Opcode, Unit
from axlora.isa.target import Target
from axlora.sim.errors import MachineError
from axlora.sim.run import run_image

TARGET = TARGETS["test"]
TIMED = {ErrorCode.AXI_READ, ErrorCode.AXI_WRITE, ErrorCode.SEMAPHORE, ErrorCode.WATCHDOG}
"""Codes that the C++ does not have: no bus, no semaphores, no time."""


def _simulated(target: Target, memory: bytes) -> tuple[int, int, int]:
    try:
        run_image(target, memory, 0, timing=False)
    except MachineError as error:
        return error.code, error.unit, error.address
    return 0, 0, 0


def _stop(target: Target, memories: list[bytes], names: list[str]) -> list[tuple[int, int, int]]:
    """(code, unit, address) of each, from power-up, as the simulator has it."""
    found = []
    for memory, name in zip(memories, names, strict=True):
        (result,) = run_images(target, [Image(memory, 0, {}, len(memory), dump=(0, 0))])
        found.append((result.error, result.error_unit, result.error_address))
        assert found[-1] == _simulated(target, memory), name
    return found


def test_faults_stop_as_in_the_simulator() -> None:
    faults = [fault for fault in FAULTS if fault.code not in TIMED]
    found = _stop(TARGET, [_memory(f) for f in faults], [f.name for f in faults])
    assert [code for code, _, _ in found] == [f.code for f in faults]


def test_a_program_that_leaves_the_memory_stops() -> None:
    memory = encode_program(assemble("SET rd=1 value=1\n" * 4))
    assert _stop(TARGET, [memory], ["no HALT"]) == [(ErrorCode.MEMORY_ADDRESS, Unit.FETCH, len(memory))]


def _alone(words: list[bytes]) -> list[bytes]:
    return [word + encode_program(assemble("HALT")) + bytes(992) for word in words]


def test_random_encodings_are_illegal_in_both_or_neither() -> None:
    words = list(_encodings(np.random.default_rng(3), 400))
    found = _stop(TARGET, _alone(words), [word[::-1].hex() for word in words])
    assert 100 < sum(code == ErrorCode.ILLEGAL for code, _, _ in found) < 300


BY_TARGET = (
    *(Opcode.LOAD, Opcode.STORE, Opcode.SEGW, Opcode.SEGA, Opcode.MATMUL),
    *(Opcode.VREQ, Opcode.VQT, Opcode.VOUT, Opcode.VMAP),
)
"""Opcodes of which a target may refuse what another takes."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("test", marks=pytest.mark.slow),
        pytest.param("mac-4x2", marks=pytest.mark.exhaustive),
        pytest.param("reuse-16x8", marks=pytest.mark.exhaustive),
        pytest.param("reuse-m2", marks=pytest.mark.exhaustive),
    ],
)
def test_every_bit_of_every_opcode(name: str) -> None:
    """Each bit of an instruction alone, and values of small fields: refused by both or by neither.

    A LOOP may run long, and so has few of its bits. What does not depend on the target is tried on one.
    """
    start = {Opcode.SET: 1 << 47, Opcode.LOOP: 1 << 96, Opcode.MATMUL: 1 << 26, Opcode.VLEN: 1 << 64}
    words = []
    for opcode in Opcode if name == "test" else BY_TARGET:
        word = start.get(opcode, 0) | opcode
        places = [word ^ 1 << bit for bit in range(6, 128)]
        places += [word | value << low for low in (26, 47, 51) for value in range(4, 16)]
        words += [place.to_bytes(16, "little") for place in places if opcode is not Opcode.LOOP or place >> 112 < 4]
    halt = encode_program(assemble("HALT"))
    target = TARGETS[name]
    memories = [word + halt + bytes(4096 - 80) for word in words]
    refused = 0
    for word, memory in zip(words, memories, strict=True):
        wanted = _simulated(target, memory)
        refused += wanted[0] == ErrorCode.ILLEGAL
        (result,) = run_starts(target, [Image(memory, 0, {}, len(memory), dump=(0, 0))])
        assert (result.error, result.error_unit, result.error_address) == wanted, word[::-1].hex()
    assert len(words) // 8 < refused < len(words)


LINES = TARGET.abuf_lines
PLACES = {
    "row a in VBUF": "VMAP a={} words=2", "row a in CBUF": "VMAP a={} words=2", "row b": "VMAP b={} words=2",
    "into VBUF": "VMAP words=2 into=1 size=2 to={}", "into OBUF": "VMAP words=4 into=3 size=2 to={}",
    "into UBUF": "VMAP words=8 into=2 to={}", "table": "VTAB first={} last=1\nVMAP function=3 words=1",
    "row values": "VROW rows=2 write=1 to={}", "row scales": "VROW function=3 rows=2 add={}",
    "store": f"STORE address={SIZE // 2} beat={{}} rows=1 beats=2", "activations of a product":
        "SEGW segment=0 format=3 groups=1\nMATMUL segments=1 blocks=2 line={}",
    "accumulators of a product": "SEGW segment=0 format=3 groups=2\nMATMUL segments=1 blocks=1 acc={}",
    "scaled accumulators": "SEGW segment=0 format=3 groups=2\nSEGA segment=0 scaled=1\n"
        "MATMUL segments=1 blocks=1 per_group=1 acc={}",
    "scale lines": "SEGW segment=0 format=3 groups=2\nSEGA segment=0 scaled=1 scale_line={}\n"
        "MATMUL segments=1 blocks=1 per_group=1",
    "weight lines": "SEGW segment=0 format=3 groups=2 group_stride=1 line={}\nMATMUL segments=1 blocks=1",
    "group words": "SEGW segment=0 format=3 groups={}\nSEGA segment=0 scaled=1\nMATMUL segments=1 blocks=1 per_group=1",
    "tokens of a product": "SEGW segment=0 format=3 groups=1\nMATMUL segments=1 blocks=1 tokens=2 token={}",
    "accumulators of VREQ": "VCFG\nVOUT\nVREQ groups=2 acc={}", "tokens of VREQ": "VOUT\nVREQ groups=1 tokens=2 token={}",
    "records of VREQ": "VCFG base={}\nVOUT\nVREQ groups=2", "second accumulators": "VCFG adapter=1 acc2={}\nVREQ groups=2",
    "VREQ into UBUF": "VOUT ubuf=1\nVREQ groups=4 to={}", "VREQ into VBUF": "VOUT size=2 vbuf=1\nVREQ groups=1 to={}",
    "VREQ into OBUF": "VOUT\nVREQ groups=4 tokens=2 to={}", "VQT": "VQT groups=4 to={}",
    "accumulators of a bank": "VCFG\nVBANK a={}\nVOUT\nVREQ groups=2 banks=2",
    "tokens of a bank": "VCFG\nVOUT\nVREQ groups=1 banks=4 token={}",
    "a bank into UBUF": "VBANK to={}\nVOUT ubuf=1\nVREQ groups=1 banks=2",
    "records of VQT": "VCFG base={}\nVQT groups=2",
    "accumulators of VQT": "VQT groups=2 acc={}", "tokens of VQT": "VQT groups=0 tokens=2 token={}",
    "load of weights": "LOAD buffer=0 address=0 rows=1 beats=2 beat={}",
}  # fmt: skip
END = {
    "row a in VBUF": WORD_END - 2, "row a in CBUF": CBUF_END - 2, "row b": WORD_END - 2, "into VBUF": WORD_END - 2,
    "into OBUF": BEAT_END - 4, "into UBUF": UBUF_END - 2, "table": TABLE_END - 2, "row values": BEAT_END - 2,
    "row scales": TARGET.tbuf_tokens - 2, "store": BEAT_END - 2, "activations of a product": LINES - 2,
    "accumulators of a product": TARGET.acc_words - 2, "scaled accumulators": TARGET.acc_words - 2,
    "scale lines": TARGET.sbuf_lines - 2, "weight lines": TARGET.wbuf_lines - 2, "group words": TARGET.group_words,
    "tokens of a product": TARGET.tbuf_tokens - 2, "accumulators of VREQ": TARGET.acc_words - 2,
    "tokens of VREQ": TARGET.tbuf_tokens - 2, "records of VREQ": TARGET.pbuf_groups - 2,
    "second accumulators": TARGET.acc_words - 2, "VREQ into UBUF": UBUF_END - 2, "VREQ into VBUF": WORD_END - 2,
    "accumulators of a bank": TARGET.acc_words - 2, "tokens of a bank": TARGET.tbuf_tokens - 4,
    "a bank into UBUF": UBUF_END - 1,
    "VREQ into OBUF": BEAT_END - 4, "VQT": UBUF_END - 2, "records of VQT": TARGET.pbuf_groups - 2,
    "accumulators of VQT": TARGET.acc_words - 2, "tokens of VQT": TARGET.tbuf_tokens - 2,
    "load of weights": TARGET.wbuf_lines * TARGET.wbuf_line_beats - 2,
}  # fmt: skip


def test_the_last_place_is_taken_and_the_one_after_it_is_not() -> None:
    for name, text in PLACES.items():
        memories = []
        for place in (END[name], END[name] + 1):
            fault = Fault(name, text.format(place) + "\nHALT", ErrorCode.NONE, Unit.FETCH, 0)
            memories.append(_memory(fault))
        within, beyond = _stop(TARGET, memories, [name, name])
        assert within == (0, 0, 0), name
        assert beyond[0] == ErrorCode.LOCAL_ADDRESS, name


def test_what_the_c_does_not_have_is_refused() -> None:
    for wanted in ({"bad": (0, 8)}, {"stall": 1}, {"trace": True}):
        with pytest.raises(ValueError, match="no bus"):
            job_bytes(dataclasses.replace(Image(bytes(64), 0, {}, 64), **wanted))  # type: ignore[arg-type]
