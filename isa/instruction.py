"""Instructions: fields, encoder, decoder. One dataclass for all; docs/isa.md gives every field's place."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from .formats import Format
from .opcodes import SEGMENTS, SLOTS, UNIT_OF, Buffer, Into, Opcode, Row, Unit, poster
from .target import Target


class BadInstruction(ValueError):
    """An encoding or a field that the machine refuses (error code 1)."""


SUB_MAX = {
    Opcode.LOAD: max(Buffer),
    Opcode.SEGW: SEGMENTS - 1,
    Opcode.SEGA: SEGMENTS - 1,
    Opcode.CODEBOOK: 1,
    Opcode.MATMUL: SEGMENTS,
    Opcode.VMAP: 15,
    Opcode.VROW: max(Row),
    Opcode.STORE: 6,
}
"""Largest value of `sub`; 0 where an opcode is not named."""

MISC_BITS = {
    Opcode.SET: 5,
    Opcode.LOAD: 17,
    Opcode.STORE: 17,
    Opcode.SEGW: 8,
    Opcode.SEGA: 2,
    Opcode.MATMUL: 16,
    Opcode.VCFG: 13,
    Opcode.VOUT: 4,
    Opcode.VREQ: 9,
    Opcode.VQT: 7,
    Opcode.VMAP: 17,
    Opcode.VROW: 9,
    Opcode.VLEN: 1,
    Opcode.VTAB: 12,
    Opcode.VBANK: 3,
}
"""Bits of `misc` in use, from the lowest; 0 where an opcode is not named."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as encoded. `waits` and `posts` hold up to two semaphores each."""

    opcode: Opcode
    x: int = 0
    y: int = 0
    z: int = 0
    sub: int = 0
    misc: int = 0
    rx: int = 0
    ry: int = 0
    rz: int = 0
    waits: tuple[int, ...] = ()
    posts: tuple[int, ...] = ()

    @property
    def unit(self) -> Unit:
        """The unit that executes it."""
        return UNIT_OF[self.opcode]

    def resolved(self, registers: list[int]) -> Instruction:
        """The instruction with its register-relative fields added up (docs/isa.md, Encoding)."""
        if not (self.rx or self.ry or self.rz):
            return self
        return replace(
            self,
            x=(self.x + registers[self.rx]) & 0xFFFFFFFF,
            y=(self.y + registers[self.ry]) & 0xFFFF,
            z=(self.z + registers[self.rz]) & 0xFFFF,
            rx=0,
            ry=0,
            rz=0,
        )

    def encode(self) -> bytes:
        """16 bytes.

        Raises:
            BadInstruction: a field out of range, or a combination that the machine refuses.
        """
        check(self)
        sems = 0
        if self.waits or self.posts:
            for place, sem in (*zip((0, 5), self.waits, strict=False), *zip((10, 15), self.posts, strict=False)):
                sems |= (0x10 | sem) << place
        w0 = self.opcode | sems << 6 | self.sub << 26
        w1 = self.rx | self.ry << 5 | self.rz << 10 | self.misc << 15
        return struct.pack("<IIIHH", w0, w1, self.x, self.y, self.z)


def check(i: Instruction) -> None:
    """Refuse what the decoder of the machine refuses.

    Raises:
        BadInstruction: with the field's name and its range.
    """
    if (i.x | i.y << 16 | i.z << 16) >> 32 or (i.rx | i.ry | i.rz) >> 5 or i.sub >> 6 or i.misc >> 17:
        _refuse_range(i)
    signals = i.waits + i.posts
    if signals and (len(i.waits) > 2 or len(i.posts) > 2 or any(not 0 <= s < 16 for s in signals)):
        raise BadInstruction(f"{i.opcode.name}: at most two waits and two posts, semaphores 0..15")
    if signals and (len(set(i.waits)) < len(i.waits) or len(set(i.posts)) < len(i.posts)):
        raise BadInstruction(f"{i.opcode.name}: names a semaphore twice")
    if i.sub > SUB_MAX.get(i.opcode, 0):
        raise BadInstruction(f"{i.opcode.name}: sub is {i.sub}, at most {SUB_MAX.get(i.opcode, 0)}")
    if i.misc >> MISC_BITS.get(i.opcode, 0):
        raise BadInstruction(f"{i.opcode.name}: misc has reserved bits set ({i.misc:#x})")
    if signals and i.unit is Unit.FETCH:
        raise BadInstruction(f"{i.opcode.name}: control instructions carry no semaphores")
    if any(poster(s) is not i.unit for s in i.posts):
        raise BadInstruction(f"{i.opcode.name}: posts {i.posts}, but {i.unit.name.lower()} posts only its own four")
    fault = _FAULTS.get(i.opcode)
    if fault is not None and (text := fault(i)):
        raise BadInstruction(f"{i.opcode.name}: {text}")


def _refuse_range(i: Instruction) -> None:
    """Name the first member that does not fit its bits."""
    bits = {"x": 32, "y": 16, "z": 16, "sub": 6, "misc": 17, "rx": 5, "ry": 5, "rz": 5}
    for name, width in bits.items():
        value = getattr(i, name)
        if value >> width:
            raise BadInstruction(f"{i.opcode.name}: {name} is {value}, must be in 0..{(1 << width) - 1}")


# What is wrong with an instruction's fields, by opcode: empty if nothing is.


def _alone(i: Instruction) -> str:
    return "takes no operands" if i.x or i.y or i.z or i.rx or i.ry or i.rz else ""


def _set(i: Instruction) -> str:
    return "rd must be 1..7, y and z unused" if not 1 <= i.misc <= 7 or i.y or i.z or i.ry or i.rz else ""


def _window(i: Instruction) -> str:
    return "y and z unused" if i.y or i.z or i.ry or i.rz else ""


def _loop(i: Instruction) -> str:
    return "x and ry unused, body of at least one instruction" if i.x or i.rx or i.ry or i.y == 0 else ""


def _codebook(i: Instruction) -> str:
    return "takes no registers" if i.rx or i.ry or i.rz else ""


def _segw(i: Instruction) -> str:
    fmt, slot = i.misc & 15, i.misc >> 4
    return f"format {fmt} or slot {slot} unknown" if fmt > _LAST_FORMAT or slot > SLOTS else ""


def _sega(i: Instruction) -> str:
    return "x[31:16] is reserved, and a sum segment must be scaled" if i.x >> 16 or i.misc == 2 else ""


def _matmul(i: Instruction) -> str:
    return "needs 1 to 9 segments" if i.sub == 0 else ""


def _vout(i: Instruction) -> str:
    if i.rx or i.ry or i.rz or i.x >> 16 or i.y or i.z or i.misc & 3 == 3:
        return "takes a 16-bit zero point and element size 0..2 only"
    if i.misc >> 2 == 3 or (i.misc & 8 and i.misc & 3 != 2):
        return "goes to UBUF or VBUF, and VBUF elements have 32 bits"
    return ""


def _vqt(i: Instruction) -> str:
    return f"slot {i.misc >> 3} unknown" if i.misc >> 3 > SLOTS else ""


def _vmap(i: Instruction) -> str:
    into, size, tiled = i.misc >> 6 & 3, i.misc >> 8 & 3, i.misc >> 15 & 1
    if size == 3 or (into == Into.VBUF and size != 2) or (into == Into.NOTHING and size):
        return f"element size {size} does not go with {Into(into).name}"
    return "tiles are bytes of OBUF" if tiled and (into != Into.OBUF or size) else ""


def _vrow(i: Instruction) -> str:
    if i.rz or i.z >> 14 or (i.sub == Row.TOKEN and (i.ry or i.misc >> 8 or i.y >> 8)):
        return "takes no rz, z[15:14] is reserved, and TOKEN writes no OBUF"
    return ""


def _vlen(i: Instruction) -> str:
    return "y and z unused" if i.y or i.z or i.ry or i.rz else ""


def _vpitch(i: Instruction) -> str:
    return "z unused" if i.z or i.rz else ""


def _spitch(i: Instruction) -> str:
    return "z unused" if i.z or i.rz else ""


def _vcon(i: Instruction) -> str:
    return "takes no registers, z unused, a shift of 6 bits" if i.rx or i.ry or i.rz or i.z or i.y >> 6 else ""


def _vtab(i: Instruction) -> str:
    return "takes no registers, and a step of at most 31" if i.rx or i.ry or i.rz or i.misc & 32 else ""


_LAST_FORMAT = max(Format)
_FAULTS: dict[Opcode, Callable[[Instruction], str]] = {
    Opcode.HALT: _alone,
    Opcode.ENDLOOP: _alone,
    Opcode.WINDOW: _window,
    Opcode.SET: _set,
    Opcode.LOOP: _loop,
    Opcode.CODEBOOK: _codebook,
    Opcode.SEGW: _segw,
    Opcode.SEGA: _sega,
    Opcode.MATMUL: _matmul,
    Opcode.VOUT: _vout,
    Opcode.VQT: _vqt,
    Opcode.VMAP: _vmap,
    Opcode.VROW: _vrow,
    Opcode.VLEN: _vlen,
    Opcode.VPITCH: _vpitch,
    Opcode.SPITCH: _spitch,
    Opcode.VCON: _vcon,
    Opcode.VTAB: _vtab,
    Opcode.VBANK: _vpitch,
}


def check_resolved(i: Instruction, target: Target) -> None:
    """Refuse what a machine with these parameters refuses once registers are added in.

    Raises:
        BadInstruction: as `check`.
    """

    def refuse(text: str) -> None:
        raise BadInstruction(f"{i.opcode.name}: {text}")

    op = i.opcode
    unit = 1 << (i.sub - 1) if op is Opcode.STORE and i.sub else target.beat_bytes
    if op in (Opcode.LOAD, Opcode.STORE) and i.x % unit:
        refuse(f"memory address {i.x:#x} is not a multiple of {unit}")
    if op is Opcode.STORE and i.sub and unit > target.beat_bytes:
        refuse(f"{unit} bytes of each beat, a beat has {target.beat_bytes}")
    if op is Opcode.LOAD and i.sub == Buffer.WKEY and target.beat_bytes > target.lanes:
        refuse("WKEY needs a beat no wider than the lanes")
    if op is Opcode.WINDOW and i.x >= target.windows:
        refuse(f"window {i.x}, the target has {target.windows}")
    if op is Opcode.VMAP:
        _check_map(i, target, refuse)
    if op is Opcode.SEGW and i.misc & 15 == Format.U8 and target.engine == "reuse" and target.index_entries < 256:
        refuse("format U8 needs index_entries = 256")
    if op is Opcode.SEGA and i.misc & 1 and not target.group_scales:
        refuse("the target has no group scales")
    tokens = (i.misc >> 1 if op is Opcode.MATMUL else i.misc) & 7
    if op in (Opcode.MATMUL, Opcode.VREQ, Opcode.VQT, Opcode.VBANK) and tokens >= target.tokens:
        what = "rows of a bank" if op is Opcode.VBANK else "tokens"
        refuse(f"{tokens + 1} {what}, the target has {target.tokens} tokens")
    if op is Opcode.VOUT and i.misc & 4 and 8 << (i.misc & 3) != target.activation_bits:
        refuse(f"UBUF elements have {target.activation_bits} bits")


def _check_map(i: Instruction, target: Target, refuse: Callable[[str], None]) -> None:
    if i.misc >> 6 & 3 == Into.UBUF and 8 << (i.misc >> 8 & 3) != target.activation_bits:
        refuse(f"UBUF elements have {target.activation_bits} bits")
    if i.misc >> 15 & 1 and target.ports > target.beat_bytes:
        refuse("tiles need a beat of at least the ports")


_OPCODES = {int(opcode): opcode for opcode in Opcode}


def _semaphores(fields: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Waits and posts from the 20 bits of the four semaphore fields.

    Raises:
        BadInstruction: a field without its valid bit, or a second one without a first.
    """
    sems = [fields >> place & 31 for place in (0, 5, 10, 15)]
    for field in sems:
        if field and not field & 16:
            raise BadInstruction(f"semaphore field {field:#x} lacks its valid bit")
    if (sems[1] and not sems[0]) or (sems[3] and not sems[2]):
        raise BadInstruction("second semaphore field used without the first")
    return tuple(s & 15 for s in sems[:2] if s), tuple(s & 15 for s in sems[2:] if s)


def decode(data: bytes) -> Instruction:
    """Decode 16 bytes.

    Raises:
        BadInstruction: unknown opcode, reserved bits set, or a field that the machine refuses.
    """
    w0, w1, x, y, z = struct.unpack("<IIIHH", data)
    opcode = _OPCODES.get(w0 & 0x3F)
    if opcode is None:
        raise BadInstruction(f"opcode {w0 & 0x3F:#x} unknown")
    waits, posts = _semaphores(w0 >> 6 & 0xFFFFF) if w0 >> 6 & 0xFFFFF else ((), ())
    i = Instruction(
        opcode,
        x=x,
        y=y,
        z=z,
        sub=w0 >> 26,
        misc=w1 >> 15,
        rx=w1 & 31,
        ry=w1 >> 5 & 31,
        rz=w1 >> 10 & 31,
        waits=waits,
        posts=posts,
    )
    check(i)
    return i
