"""One compiled loop carries out the instructions of a walk, in program order.

Program order is a legal order: every wait is met by posts earlier in program order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import cached, inner
from axlora.isa.opcodes import Opcode

from .control import MISC, OPCODE, SUB, X, Y, Z
from .counts import BEATS, DURATION, FORM
from .matrix import matmul
from .requantizer import vqt, vreq
from .rows import vmap, vrow
from .state import (
    CODEBOOKS,
    SEG_ACC,
    SEG_BLOCK_STRIDE,
    SEG_FORMAT,
    SEG_GROUP_STRIDE,
    SEG_GROUPS,
    SEG_LINE,
    SEG_SCALE_LINE,
    SEG_SCALE_STRIDE,
    SEG_SCALED,
    SEG_SLOT,
    SEG_SUMS,
    SET_MISC,
    SET_SPITCH,
    SET_VBANK,
    SET_VCFG,
    SET_VCON,
    SET_VLEN,
    SET_VOUT,
    SET_VPITCH,
    SET_VTAB,
    Size,
    State,
)
from .tiles import Tiles
from .transfers import load, store

Int64 = npt.NDArray[np.int64]


@inner
def form(opcode: int, a: int, b: int, c: int) -> int:
    """What a duration follows from, as one number: an opcode, two numbers below 2**8 and 2**16, and one below 2**32."""
    return opcode << 56 | a << 48 | b << 32 | c


def unform(number: int) -> tuple[Opcode, int, int, int]:
    """Inverse of `form`."""
    return Opcode(number >> 56), number >> 48 & 0xFF, number >> 32 & 0xFFFF, number & 0xFFFFFFFF


@cached
def execute(size: Size, s: State, tiles: Tiles, walk: Int64, begin: int, costs: Int64, counts: Int64, fault: Int64) -> int:
    """Carry out instructions from number `begin` on.

    Args:
        walk: int64 [n, COLUMNS] of `control`.
        costs: int64 [n, COSTS], zeros; counts: int64 [n, COUNTS], zeros. What each instruction costs and counts.
        fault: int64 [FAULT], zeros. Why the instruction that is returned is not carried out.

    Returns:
        The instruction at which the machine stops, or n.
    """
    for n in range(begin, len(walk)):
        i, cost, count = walk[n], costs[n], counts[n]
        opcode, sub, misc, x, y, z = i[OPCODE], i[SUB], i[MISC], i[X], i[Y], i[Z]
        cost[DURATION] = 1
        if opcode == Opcode.VMAP:
            cost[FORM] = form(opcode, misc & 63, z, sub >> 2)
            if z:
                vmap(size, s, sub, x, y, z, misc, count, fault)
        elif opcode == Opcode.VROW:
            cost[FORM] = form(opcode, misc & 63, 0, sub)
            vrow(size, s, sub, x, y, z, misc, fault)
        elif opcode == Opcode.LOAD:
            cost[BEATS], cost[DURATION] = load(size, s, sub, x, y, z, misc, fault), 2
        elif opcode == Opcode.MATMUL:
            last = matmul(size, s, tiles, sub, x, y, z, misc, count, fault)
            cost[FORM] = form(opcode, misc >> 1 & 7, sub, last + 1)
        elif opcode == Opcode.VREQ:
            cost[FORM] = form(opcode, misc & 7, z, misc >> 3 << 1 | s.settings[SET_VCFG, SET_MISC] >> 11 & 1)
            if z:
                vreq(size, s, x, y, z, misc, count, fault)
        elif opcode == Opcode.VQT:
            cost[FORM] = form(opcode, misc & 7, z, vqt(size, s, x, y, z, misc, count, fault))
        elif opcode == Opcode.STORE:
            cost[BEATS], cost[DURATION] = misc * z, store(size, s, 1 << (sub - 1) if sub else 0, x, y, z, misc, fault)
        elif opcode == Opcode.SEGW:
            of = s.segments[sub]
            of[SEG_FORMAT], of[SEG_SLOT], of[SEG_LINE], of[SEG_GROUPS] = misc & 15, misc >> 4, y, z
            of[SEG_BLOCK_STRIDE], of[SEG_GROUP_STRIDE] = x & 0xFFFF, x >> 16
        elif opcode == Opcode.SEGA:
            of = s.segments[sub]
            of[SEG_ACC], of[SEG_SCALE_LINE], of[SEG_SCALE_STRIDE] = y, z, x & 0xFFFF
            of[SEG_SCALED], of[SEG_SUMS] = misc & 1, misc >> 1 & 1
        elif opcode == Opcode.CODEBOOK:
            low = x | y << 32 | z << 48
            for e in range(8):
                s.codebook[8 * sub + e] = np.int8(low >> 8 * e)
            s.now[CODEBOOKS] += 1
        else:
            setting = -1
            if opcode == Opcode.VCFG:
                setting = SET_VCFG
            elif opcode == Opcode.VOUT:
                setting = SET_VOUT
            elif opcode == Opcode.VLEN:
                setting = SET_VLEN
            elif opcode == Opcode.VPITCH:
                setting = SET_VPITCH
            elif opcode == Opcode.VCON:
                setting = SET_VCON
            elif opcode == Opcode.VTAB:
                setting = SET_VTAB
            elif opcode == Opcode.VBANK:
                setting = SET_VBANK
            elif opcode == Opcode.SPITCH:
                setting = SET_SPITCH
            if setting >= 0:
                of = s.settings[setting]
                of[0], of[1], of[2], of[3] = x, y, z, misc
        if fault[0]:
            return n
    return len(walk)
