"""Every error code: the Verilog stops, and the simulator raises the same code, unit and address."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from programs import TARGETS

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.opcodes import CBUF_BIT, QUEUE_DEPTH, UBUF_BIT, ErrorCode, Unit
from axlora.rtl.runner import Image, run_images
from axlora.sim.errors import MachineError
from axlora.sim.run import run_image

TARGET = TARGETS["test"]
SIZE = 1 << 14


@dataclass(frozen=True)
class Fault:
    """A program that must stop: `raw` replaces the bytes of its second instruction."""

    name: str
    text: str
    code: ErrorCode
    unit: Unit
    index: int
    raw: bytes = b""
    bad: tuple[int, int] | None = None


LOAD = "LOAD buffer=0 address=8192 beat=0 rows=1 beats=8"
VECTOR = "VCFG\nVOUT size=0\n"
UBUF_END = UBUF_BIT + TARGET.ubuf_lines
WORD_END, TABLE_END, BEAT_END = TARGET.vbuf_words, TARGET.table_entries, TARGET.obuf_beats
CBUF_END = CBUF_BIT + TARGET.cbuf_words
KEY = f"LOAD buffer=7 address=8192 rows=1 beats=2 beat={TARGET.wbuf_lines - 1}"
"""Two beats of a key: 16 codes, lines n and n + 1 of 8 lanes."""
FAULTS = [
    Fault("opcode zero", "SET rd=1 value=1\nHALT", ErrorCode.ILLEGAL, Unit.FETCH, 1, raw=bytes(16)),
    Fault("unknown opcode", "SET rd=1 value=1\nHALT", ErrorCode.ILLEGAL, Unit.FETCH, 1, raw=b"\x3f" + bytes(15)),
    Fault(
        "semaphore without valid bit", "SET rd=1 value=1\nHALT", ErrorCode.ILLEGAL, Unit.FETCH, 1, raw=b"\x10\x01" + bytes(14)
    ),
    Fault(
        "foreign semaphore",
        "SET rd=1 value=1\nHALT",
        ErrorCode.ILLEGAL,
        Unit.FETCH,
        1,
        raw=(0x10 | 0x10 << 16).to_bytes(4, "little") + bytes(12),
    ),
    Fault(
        "odd address",
        "SET rd=1 value=3\nLOAD buffer=0 address=0 beat=0 rows=1 beats=1 rx=1\nHALT",
        ErrorCode.ILLEGAL,
        Unit.FETCH,
        1,
    ),
    Fault("too many tokens", "SET rd=1 value=3\nMATMUL segments=1 tokens=3\nHALT", ErrorCode.ILLEGAL, Unit.FETCH, 1),
    Fault(
        "scaled without groups",
        "SEGW segment=0 format=3 groups=1\nSEGA segment=0 scaled=1\nMATMUL segments=1 blocks=1\nHALT",
        ErrorCode.ILLEGAL,
        Unit.MATRIX,
        2,
    ),
    Fault("weight buffer", LOAD.replace("beat=0", "beat=16380") + "\nHALT", ErrorCode.LOCAL_ADDRESS, Unit.LOAD, 0),
    Fault(
        "activation buffer",
        LOAD.replace("buffer=0", "buffer=1").replace("beat=0", "beat=2044") + "\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.LOAD,
        0,
    ),
    Fault(
        "record buffer",
        LOAD.replace("buffer=0", "buffer=2").replace("beat=0", "beat=2047") + "\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.LOAD,
        0,
    ),
    Fault(
        "token buffer",
        LOAD.replace("buffer=0", "buffer=3").replace("beat=0", "beat=30") + "\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.LOAD,
        0,
    ),
    Fault(
        "scale buffer",
        LOAD.replace("buffer=0", "buffer=4").replace("beat=0", "beat=511") + "\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.LOAD,
        0,
    ),
    Fault(
        "weight line",
        "SEGW segment=0 format=3 groups=2 line=4095 group_stride=1\nMATMUL segments=1 blocks=1\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.MATRIX,
        1,
    ),
    Fault(
        "activation line",
        "SEGW segment=0 format=3 groups=2 group_stride=1\nMATMUL segments=1 blocks=2 line=1023\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.MATRIX,
        1,
    ),
    Fault(
        "unit buffer line",
        f"SEGW segment=0 format=3 groups=2 group_stride=1\nMATMUL segments=1 blocks=2 line={UBUF_END - 1}\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.MATRIX,
        1,
    ),
    Fault(
        "accumulator",
        "SEGW segment=0 format=3 groups=2 group_stride=1\nMATMUL segments=1 blocks=1 acc=4095\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.MATRIX,
        1,
    ),
    Fault(
        "token of matmul",
        "SEGW segment=0 format=3 groups=1\nMATMUL segments=1 blocks=1 token=64\nHALT",
        ErrorCode.LOCAL_ADDRESS,
        Unit.MATRIX,
        1,
    ),
    Fault("accumulator of requantize", VECTOR + "VREQ groups=2 acc=4095\nHALT", ErrorCode.LOCAL_ADDRESS, Unit.VECTOR, 2),
    Fault("record of requantize", "VCFG base=511\nVOUT\nVREQ groups=2\nHALT", ErrorCode.LOCAL_ADDRESS, Unit.VECTOR, 2),
    Fault("result of requantize", VECTOR + "VREQ groups=2 to=2048\nHALT", ErrorCode.LOCAL_ADDRESS, Unit.VECTOR, 2),
    Fault(
        "unit buffer of block quantize", VECTOR + f"VQT groups=2 to={UBUF_END}\nHALT", ErrorCode.LOCAL_ADDRESS, Unit.VECTOR, 2
    ),
    Fault("output buffer", "STORE address=8192 beat=2047 rows=1 beats=2\nHALT", ErrorCode.LOCAL_ADDRESS, Unit.STORE, 0),
    Fault("load beyond memory", LOAD.replace("8192", str(SIZE)) + "\nHALT", ErrorCode.MEMORY_ADDRESS, Unit.LOAD, 0),
    Fault(
        "store beyond memory", f"STORE address={SIZE - 8} beat=0 rows=1 beats=2\nHALT", ErrorCode.MEMORY_ADDRESS, Unit.STORE, 0
    ),
    Fault("read error", LOAD + "\nHALT", ErrorCode.AXI_READ, Unit.LOAD, 0, bad=(8192, 8200)),
    Fault(
        "write error", "STORE address=8192 beat=0 rows=1 beats=2\nHALT", ErrorCode.AXI_WRITE, Unit.STORE, 0, bad=(8192, 8200)
    ),
    Fault("semaphore overflow", "LOOP count=16 body=1\nSEGA post=4\nENDLOOP\nHALT", ErrorCode.SEMAPHORE, Unit.MATRIX, 1),
    Fault("loop without end", "LOOP count=2 body=1\n" * 5 + "HALT", ErrorCode.LOOP, Unit.FETCH, 4),
    Fault("end without loop", "ENDLOOP\nHALT", ErrorCode.LOOP, Unit.FETCH, 0),
    Fault("wait that is never met", "SEGA wait=0\nHALT", ErrorCode.WATCHDOG, Unit.FETCH, 1),
    Fault(
        "full queue before an error that is never reached",
        "SEGA wait=0\n" * (QUEUE_DEPTH + 1) + LOAD.replace("beat=0", "beat=60000") + "\nHALT",
        ErrorCode.WATCHDOG,
        Unit.FETCH,
        QUEUE_DEPTH,
    ),
]


def _outside(name: str, *lines: str, unit: Unit = Unit.VECTOR, code: ErrorCode = ErrorCode.LOCAL_ADDRESS) -> Fault:
    """A fault of the last instruction."""
    return Fault(name, "\n".join([*lines, "HALT"]), code, unit, len(lines) - 1)


ROW_FAULTS = [
    _outside("words of CBUF", LOAD.replace("buffer=0", "buffer=5").replace("beat=0", "beat=2044"), unit=Unit.LOAD),
    _outside("function table", LOAD.replace("buffer=0", "buffer=6").replace("beat=0", "beat=1020"), unit=Unit.LOAD),
    _outside("weights of a key", KEY, unit=Unit.LOAD),
    _outside("weights of the last key", KEY.replace(f"beat={TARGET.wbuf_lines - 1}", f"beat={TARGET.wbuf_lines - 2}").replace(
        "rows=1", f"rows={TARGET.ports + 1}"), unit=Unit.LOAD),
    _outside("row a in VBUF", f"VMAP a={WORD_END - 1} words=2"),
    _outside("row b in VBUF", f"VMAP b={WORD_END - 1} words=2"),
    _outside("row b of a product in VBUF", f"VMAP function=1 b={WORD_END - 1} words=2"),
    _outside("row a in CBUF", f"VMAP a={CBUF_END - 1} words=2"),
    _outside("row b in CBUF", f"VMAP b={CBUF_END - 1} words=2"),
    _outside("second row of a", f"VPITCH a={WORD_END - 8}", "VMAP a=8 rows=2 words=1"),
    _outside("second row of b", f"VPITCH b={WORD_END - 8}", "VMAP b=8 rows=2 words=1"),
    _outside("second bank of a", f"VBANK a={WORD_END - 8}", "VMAP a=8 rows=2 words=1"),
    _outside("second bank of b", f"VBANK b={WORD_END - 8}", "VMAP b=8 rows=2 words=1"),
    _outside("second bank of a result in VBUF", f"VBANK to={WORD_END - 8}", "VMAP words=1 rows=2 into=1 size=2 to=8"),
    _outside("second bank of a result in UBUF", f"VBANK to={TARGET.ubuf_lines}", "VMAP words=1 rows=2 into=2"),
    _outside("second bank of a result in OBUF", f"VBANK to={BEAT_END - 8}", "VMAP words=1 rows=2 into=3 to=8"),
    _outside("interval", f"VTAB first={TABLE_END - 4} last=4", "VMAP function=3 words=1"),
    _outside("result in VBUF", f"VMAP words=2 into=1 size=2 to={WORD_END - 1}"),
    _outside("second row of a result in VBUF", f"VPITCH to={WORD_END - 8}", "VMAP words=1 rows=2 into=1 size=2 to=8"),
    _outside("result in UBUF", f"VMAP words=8 into=2 to={TARGET.ubuf_lines - 1}"),
    _outside("result in OBUF", f"VMAP words=2 into=3 size=2 to={BEAT_END - 1}"),
    _outside("second row of a result in OBUF", f"VPITCH to={BEAT_END - 8}", "VMAP words=1 rows=2 into=3 to=8"),
    _outside("tiled result in OBUF", f"VMAP words=4 into=3 tiled=1 to={BEAT_END - 1}"),
    _outside("requantized into VBUF", "VOUT size=2 vbuf=1", f"VREQ groups=1 to={WORD_END - 1}"),
    _outside("third bank of accumulators", f"VBANK a={TARGET.acc_words // 2}", "VREQ groups=1 banks=3"),
    _outside("second bank into UBUF", f"VBANK to={TARGET.ubuf_lines}", "VOUT ubuf=1", "VREQ groups=1 banks=2"),
    _outside("second bank into VBUF", f"VBANK to={WORD_END}", "VOUT size=2 vbuf=1", "VREQ groups=1 banks=2"),
    _outside("token of the fifth bank", f"VREQ groups=1 banks=5 token={TARGET.tbuf_tokens - 4}"),
    _outside("row values in OBUF", f"VROW rows=2 write=1 to={BEAT_END - 1}"),
    _outside("token of a row scale", f"VROW function=3 rows=2 add={TARGET.tbuf_tokens - 1}"),
    *(
        _outside(name, "SET rd=1 value=1", line, unit=Unit.FETCH, code=ErrorCode.ILLEGAL)
        for name, line in (
            ("long elements to UBUF", "VMAP into=2 size=1"),
            ("a bank of more rows than T", f"VBANK rows={TARGET.tokens + 1}"),
            ("bytes of a beat that are not aligned", "STORE address=8192 beats=1 rows=1 bytes=2 rx=1"),
            ("a key at an odd address", "LOAD buffer=7 address=8192 beats=1 rows=1 rx=1"),
        )
    ),
]  # fmt: skip
FAULTS += ROW_FAULTS
FAULTS += [
    Fault(
        "write error of a burst before one beyond memory",
        f"STORE address={SIZE - 128} beat=0 rows=1 beats=32\nHALT",
        ErrorCode.AXI_WRITE,
        Unit.STORE,
        0,
        bad=(SIZE - 128, SIZE - 120),
    ),
    Fault(
        "write error of a part after others",
        "SPITCH part=16\nSTORE address=8192 beat=0 rows=1 beats=40 bytes=1\nHALT",
        ErrorCode.AXI_WRITE,
        Unit.STORE,
        1,
        bad=(8192 + 16 * 30, 8200 + 16 * 30),
    ),
    _outside(
        "second row beyond memory",
        f"SPITCH row={SIZE}",
        "STORE address=8192 rows=2 beats=1",
        unit=Unit.STORE,
        code=ErrorCode.MEMORY_ADDRESS,
    ),
    _outside(
        "part beyond OBUF", "SPITCH part=16", f"STORE address=8192 beat={BEAT_END - 1} rows=2 beats=1 bytes=1", unit=Unit.STORE
    ),
    _outside(
        "bytes of more than a beat",
        "SPITCH",
        "STORE address=8192 beats=1 rows=1 bytes=5",
        unit=Unit.FETCH,
        code=ErrorCode.ILLEGAL,
    ),
]


def test_every_error_code_is_in_the_list() -> None:
    assert {f.code for f in FAULTS} == set(ErrorCode) - {ErrorCode.NONE}


def _memory(fault: Fault) -> bytes:
    data = bytearray(SIZE)
    program = encode_program(assemble(fault.text))
    data[: len(program)] = program
    if fault.raw:
        data[16:32] = fault.raw
    return bytes(data)


def test_simulator_and_verilog_stop_alike() -> None:
    images = [Image(_memory(f), 0, {}, SIZE, watchdog=2000, bad=f.bad) for f in FAULTS]
    for fault, rtl in zip(FAULTS, run_images(TARGET, images), strict=True):
        with pytest.raises(MachineError) as info:
            run_image(TARGET, _memory(fault), 0, bad=range(*fault.bad) if fault.bad else range(0))
        expected = (fault.code, fault.unit, fault.index * 16)
        assert (info.value.code, info.value.unit, info.value.address) == expected, fault.name
        assert (rtl.error, rtl.error_unit, rtl.error_address) == expected, fault.name


def test_u8_needs_a_large_cache() -> None:
    target = dataclasses.replace(TARGET, index_entries=128)
    with pytest.raises(MachineError, match="U8"):
        run_image(target, encode_program(assemble("SEGW segment=0 format=7 groups=1\nHALT")), 0)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["VMAP words=1 into=3 size=2 to={}", "VOUT size=2\nVREQ groups=1 tokens=1 to={}"])
def test_elements_of_a_cycle_that_reach_beyond_the_last_beat(text: str) -> None:
    """Where they fill two beats, the last beat but one is the last that they may begin in."""
    target = TARGETS["reuse-m2"]
    assert target.vector_word_bytes == 2 * target.beat_bytes
    images = [encode_program(assemble(f"{text.format(target.obuf_beats - n)}\nHALT")).ljust(SIZE, b"\0") for n in (2, 1)]
    fits, reaches = run_images(target, [Image(image, 0, {}, SIZE, watchdog=2000) for image in images])
    assert fits.error == ErrorCode.NONE
    run_image(target, images[0], 0)
    with pytest.raises(MachineError) as info:
        run_image(target, images[1], 0)
    assert (reaches.error, reaches.error_address) == (info.value.code, info.value.address)
    assert info.value.code is ErrorCode.LOCAL_ADDRESS
