"""Named fields of every instruction, and the text form: assembler and disassembler.

One instruction a line: `MNEMONIC name=value ... rx=R wait=S,S post=S`, `#` starts a comment. Fields left out are zero
(`tokens` is one).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .instruction import BadInstruction, Instruction, check
from .opcodes import INSTRUCTION_BYTES, Opcode


@dataclass(frozen=True, slots=True)
class Field:
    """Bits `low`..`low+width-1` of one of the members x, y, z, sub, misc; the value stored is value - bias."""

    name: str
    member: str
    low: int
    width: int
    bias: int = 0


def _fields(*rows: tuple[str, str, int, int] | tuple[str, str, int, int, int]) -> tuple[Field, ...]:
    return tuple(Field(*row) for row in rows)


_TRANSFER = (("address", "x", 0, 32), ("beat", "y", 0, 16), ("rows", "z", 0, 16), ("beats", "misc", 0, 17))

FIELDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.HALT: (),
    Opcode.SET: _fields(("rd", "misc", 0, 5), ("value", "x", 0, 32)),
    Opcode.LOOP: _fields(("count", "z", 0, 16), ("body", "y", 0, 16)),
    Opcode.ENDLOOP: (),
    Opcode.WINDOW: _fields(("number", "x", 0, 32)),
    Opcode.LOAD: _fields(("buffer", "sub", 0, 3), *_TRANSFER),
    Opcode.SEGW: _fields(
        ("segment", "sub", 0, 4),
        ("format", "misc", 0, 4),
        ("slot", "misc", 4, 4),
        ("line", "y", 0, 16),
        ("groups", "z", 0, 16),
        ("block_stride", "x", 0, 16),
        ("group_stride", "x", 16, 16),
    ),
    Opcode.SEGA: _fields(
        ("segment", "sub", 0, 4),
        ("acc", "y", 0, 16),
        ("scale_line", "z", 0, 16),
        ("scale_stride", "x", 0, 16),
        ("scaled", "misc", 0, 1),
        ("sums", "misc", 1, 1),
    ),
    Opcode.CODEBOOK: _fields(("half", "sub", 0, 1), ("e0", "x", 0, 32), ("e4", "y", 0, 16), ("e6", "z", 0, 16)),
    Opcode.MATMUL: _fields(
        ("segments", "sub", 0, 4),
        ("token", "x", 0, 16),
        ("acc", "x", 16, 16),
        ("line", "y", 0, 16),
        ("blocks", "z", 0, 16),
        ("first", "misc", 0, 1),
        ("tokens", "misc", 1, 3, 1),
        ("per_group", "misc", 4, 12),
    ),
    Opcode.VCFG: _fields(
        ("base", "x", 0, 16),
        ("adapters", "x", 16, 16),
        ("adapter_stride", "y", 0, 16),
        ("acc2", "z", 0, 16),
        ("guard", "misc", 0, 5),
        ("token_scale", "misc", 5, 1),
        ("bias_end", "misc", 6, 1),
        ("bias_shift", "misc", 7, 4),
        ("adapter", "misc", 11, 1),
        ("row_scale", "misc", 12, 1),
    ),
    Opcode.VOUT: _fields(("zero_point", "x", 0, 16), ("size", "misc", 0, 2), ("ubuf", "misc", 2, 1), ("vbuf", "misc", 3, 1)),
    Opcode.VREQ: _fields(
        ("acc", "x", 0, 16),
        ("token", "x", 16, 16),
        ("to", "y", 0, 16),
        ("groups", "z", 0, 16),
        ("tokens", "misc", 0, 3, 1),
        ("banks", "misc", 3, 6, 1),
    ),
    Opcode.VQT: _fields(
        ("acc", "x", 0, 16),
        ("token", "x", 16, 16),
        ("to", "y", 0, 16),
        ("groups", "z", 0, 16),
        ("tokens", "misc", 0, 3, 1),
        ("slot", "misc", 3, 4),
    ),
    Opcode.STORE: _fields(*_TRANSFER, ("bytes", "sub", 0, 3)),
    Opcode.SPITCH: _fields(("row", "x", 0, 32), ("part", "y", 0, 16)),
    Opcode.VMAP: _fields(
        ("function", "sub", 0, 2),
        ("reduce", "sub", 2, 2),
        ("a", "x", 0, 16),
        ("b", "x", 16, 16),
        ("to", "y", 0, 16),
        ("words", "z", 0, 16),
        ("rows", "misc", 0, 6, 1),
        ("into", "misc", 6, 2),
        ("size", "misc", 8, 2),
        ("scale", "misc", 10, 2),
        ("less", "misc", 12, 2),
        ("subtract", "misc", 14, 1),
        ("tiled", "misc", 15, 1),
        ("shared", "misc", 16, 1),
    ),
    Opcode.VROW: _fields(
        ("function", "sub", 0, 2),
        ("factor", "x", 0, 16),
        ("add", "x", 16, 16),
        ("to", "y", 0, 16),
        ("shift", "z", 0, 6),
        ("adjust", "z", 6, 8),
        ("rows", "misc", 0, 6, 1),
        ("scalar", "misc", 6, 2),
        ("write", "misc", 8, 1),
    ),
    Opcode.VLEN: _fields(("valid", "x", 0, 32), ("step", "misc", 0, 1)),
    Opcode.VPITCH: _fields(("a", "x", 0, 16), ("b", "x", 16, 16), ("to", "y", 0, 16)),
    Opcode.VCON: _fields(("ca", "x", 0, 16), ("cb", "x", 16, 16), ("shift", "y", 0, 6)),
    Opcode.VTAB: _fields(
        ("low", "x", 0, 32),
        ("first", "y", 0, 16),
        ("last", "z", 0, 16),
        ("step", "misc", 0, 6),
        ("shift", "misc", 6, 6),
    ),
    Opcode.VBANK: _fields(("a", "x", 0, 16), ("b", "x", 16, 16), ("to", "y", 0, 16), ("rows", "misc", 0, 3, 1)),
}
"""Named fields of every instruction, in the order of the disassembly."""

_BY_NAME = {opcode: {f.name: f for f in fields} for opcode, fields in FIELDS.items()}


def make(
    opcode: Opcode,
    *,
    rx: int = 0,
    ry: int = 0,
    rz: int = 0,
    waits: Iterable[int] = (),
    posts: Iterable[int] = (),
    **fields: int,
) -> Instruction:
    """An instruction from named fields; two's complement for negative values of full-width fields.

    Raises:
        BadInstruction: unknown field, or a value that does not fit.
    """
    members = {"x": 0, "y": 0, "z": 0, "sub": 0, "misc": 0}
    known = _BY_NAME[opcode]
    for name, value in fields.items():
        f = known.get(name)
        if f is None:
            raise BadInstruction(f"{opcode.name} has no field {name!r}; it has {', '.join(known) or 'none'}")
        stored = int(value) - f.bias
        if stored < 0 and f.width in (8, 16, 32):
            stored += 1 << f.width
        if not 0 <= stored < 1 << f.width:
            raise BadInstruction(f"{opcode.name}: {name} is {value}, does not fit {f.width} bits")
        members[f.member] |= stored << f.low
    i = Instruction(opcode, **members, rx=rx, ry=ry, rz=rz, waits=tuple(waits), posts=tuple(posts))
    check(i)
    return i


def fields_of(i: Instruction) -> dict[str, int]:
    """The named fields of an instruction."""
    return {f.name: (getattr(i, f.member) >> f.low & ((1 << f.width) - 1)) + f.bias for f in FIELDS[i.opcode]}


def disassemble(i: Instruction) -> str:
    """One line of text that `assemble` takes back."""
    parts = [i.opcode.name]
    parts += [f"{name}={value}" for name, value in fields_of(i).items()]
    parts += [f"{name}={getattr(i, name)}" for name in ("rx", "ry", "rz") if getattr(i, name)]
    if i.waits:
        parts.append("wait=" + ",".join(map(str, i.waits)))
    if i.posts:
        parts.append("post=" + ",".join(map(str, i.posts)))
    return " ".join(parts)


def assemble_line(line: str) -> Instruction:
    """The instruction of one line.

    Raises:
        BadInstruction: says which word is wrong.
    """
    words = line.split()
    if words[0].upper() not in Opcode.__members__:
        raise BadInstruction(f"unknown mnemonic {words[0]!r}; known: {', '.join(Opcode.__members__)}")
    values: dict[str, int] = {}
    sems: dict[str, list[int]] = {"wait": [], "post": []}
    for word in words[1:]:
        name, _, text = word.partition("=")
        try:
            if name in sems:
                sems[name] = [int(part, 0) for part in text.split(",")]
            else:
                values[name] = int(text, 0)
        except ValueError:
            raise BadInstruction(f"{word!r} is not name=number") from None
    registers = {name: values.pop(name) for name in ("rx", "ry", "rz") if name in values}
    return make(Opcode[words[0].upper()], **registers, waits=sems["wait"], posts=sems["post"], **values)


def assemble(text: str) -> list[Instruction]:
    """Instructions of a whole text.

    Raises:
        BadInstruction: with the line number.
    """
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition("#")[0].strip()
        if code:
            try:
                out.append(assemble_line(code))
            except BadInstruction as error:
                raise BadInstruction(f"line {number}: {error}") from None
    return out


def encode_program(instructions: Iterable[Instruction]) -> bytes:
    """The bytes of a program, padded with zeros to whole cache lines of 64 bytes."""
    data = b"".join(i.encode() for i in instructions)
    return data + bytes(-len(data) % (4 * INSTRUCTION_BYTES))
