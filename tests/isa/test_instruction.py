"""Encoding: what encodes decodes to the same, text round trips, reserved bits are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axlora.isa.assembly import FIELDS, assemble, assemble_line, disassemble, encode_program, fields_of, make
from axlora.isa.instruction import BadInstruction, Instruction, decode
from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_OF, WORD, Opcode, Unit


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    """Any legal instruction."""
    opcode = draw(st.sampled_from(Opcode))
    values = {f.name: draw(st.integers(f.bias, f.bias + (1 << f.width) - 1)) for f in FIELDS[opcode]}
    unit = UNIT_OF[opcode]
    sems: dict[str, list[int]] = {"waits": [], "posts": []}
    if unit is not Unit.FETCH:
        sems["waits"] = draw(st.lists(st.integers(0, 15), max_size=2, unique=True))
        own = st.integers(4 * (unit - 1), 4 * (unit - 1) + 3)
        sems["posts"] = draw(st.lists(own, max_size=2, unique=True))
    registers = {name: draw(st.integers(0, 31)) for name in ("rx", "ry", "rz")}
    try:
        return make(opcode, **registers, **sems, **values)
    except BadInstruction:
        return make(opcode, **sems, **{"rd": 1, "value": 5} if opcode is Opcode.SET else _least(opcode))


def _least(opcode: Opcode) -> dict[str, int]:
    return {Opcode.LOOP: {"body": 1}, Opcode.MATMUL: {"segments": 1}}.get(opcode, {})


@given(instructions())
def test_encode_decode_is_identity(i: Instruction) -> None:
    assert decode(i.encode()) == i


@given(instructions())
def test_words_have_the_fields_that_the_headers_give(i: Instruction) -> None:
    word, low, found = int.from_bytes(i.encode(), "little"), 0, {}
    for name, bits in WORD:
        found[name] = word >> low & ((1 << bits) - 1)
        low += bits
    assert low == 8 * INSTRUCTION_BYTES
    assert found.pop("op") == i.opcode
    for name, held in (("wait", i.waits), ("post", i.posts)):
        pair = [found.pop(f"{name}_a"), found.pop(f"{name}_b")]
        assert pair == ([0x10 | s for s in held] + [0, 0])[:2]
    assert found == {name: getattr(i, name) for name in found}


@given(instructions())
def test_text_round_trips(i: Instruction) -> None:
    assert assemble_line(disassemble(i)) == i
    assert make(i.opcode, rx=i.rx, ry=i.ry, rz=i.rz, waits=i.waits, posts=i.posts, **fields_of(i)) == i


@given(st.binary(min_size=16, max_size=16))
def test_any_bytes_decode_to_what_encodes_to_them_or_are_refused(data: bytes) -> None:
    try:
        i = decode(data)
    except BadInstruction:
        return
    assert i.encode() == data


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NOPE", "unknown mnemonic"),
        ("SET rd=8 value=1", "rd must be 1..7"),
        ("SET rd=9 value=x", "is not name=number"),
        ("STORE bytes=7 rows=1 beats=1", "sub is 7"),
        ("LOAD buffer=0 post=4", "posts only its own"),
        ("LOAD buffer=0 wait=3,3", "twice"),
        ("HALT wait=1", "no semaphores"),
        ("MATMUL segments=0", "1 to 9"),
        ("SEGW segment=9", "sub is 9"),
        ("SEGW segment=0 format=9", "unknown"),
        ("LOOP count=3", "body"),
        ("VOUT size=3", "size"),
        ("MATMUL segments=1 lines=2", "no field 'lines'"),
        ("VREQ tokens=9", "does not fit"),
    ],
)
def test_bad_text_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(BadInstruction, match=words):
        assemble("HALT\n" + text)


def test_program_is_padded_to_cache_lines() -> None:
    assert len(encode_program(assemble("# only a halt\nHALT"))) == 64


def test_register_relative_fields_wrap() -> None:
    i = make(Opcode.LOAD, buffer=0, address=0xFFFFFFF8, beat=0xFFFF, rows=1, beats=2, rx=1, ry=2, rz=3)
    registers = [0, 16, 2, 0xFFFF] + [0] * 28
    r = i.resolved(registers)
    assert (r.x, r.y, r.z) == (8, 1, 0)
