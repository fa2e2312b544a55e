"""Faults as compiled code tells of them: int64 [FAULT], a kind, then what `MachineError.detail` says of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.opcodes import ErrorCode, Unit

from .errors import MachineError

Int64 = npt.NDArray[np.int64]

NONE, PLACES, OBUF_BYTES, LIMIT, READ, WRITE, SCALE_GROUP, ROOM = range(8)
FAULT = 5
PLACE_NAMES = (
    *(f"{name} beats" for name in ("WBUF", "ABUF", "PBUF", "TBUF", "SBUF", "CBUF", "FBUF")),
    *("WBUF lines", "OBUF beats", "ABUF lines", "UBUF lines", "TBUF tokens", "group words", "ACC words", "SBUF lines"),
    *("PBUF groups", "CBUF words", "VBUF words", "table entries", "tokens"),
)
"""Places of buffers: beats of LOAD's destinations in the order of `Buffer`, then what instructions read and write."""
(
    WBUF_LINES,
    OBUF_BEATS,
    ABUF_LINES,
    UBUF_LINES,
    TBUF_TOKENS,
    GROUP_WORDS,
    ACC_WORDS,
    SBUF_LINES,
    PBUF_GROUPS,
    CBUF_WORDS,
    VBUF_WORDS,
    TABLE_ENTRIES,
    TOKENS,
) = range(7, 20)


@inner
def outside(fault: Int64, name: int, first: int, count: int, depth: int) -> bool:
    """Whether places first..first+count-1 are not all of a buffer that has `depth`; then `fault` tells of it."""
    if count and first + count > depth:
        fault[0], fault[1], fault[2], fault[3], fault[4] = PLACES, name, first, count, depth
        return True
    return False


def stopped(unit: Unit, address: int, fault: Int64) -> MachineError:
    """The error that compiled code told of."""
    kind, a, b, c, d = fault.tolist()
    if kind == PLACES:
        return MachineError(ErrorCode.LOCAL_ADDRESS, unit, address, f"{PLACE_NAMES[a]} {b}..{b + c - 1}, has {d}")
    if kind == OBUF_BYTES:
        return MachineError(ErrorCode.LOCAL_ADDRESS, unit, address, f"OBUF bytes up to {a}, has {b}")
    if kind == LIMIT:
        return MachineError(ErrorCode.MEMORY_ADDRESS, unit, address, f"memory up to {a:#x}, limit {b:#x}")
    if kind == SCALE_GROUP:
        return MachineError(ErrorCode.ILLEGAL, unit, address, "a scaled segment needs blocks a scale group")
    code = ErrorCode.AXI_READ if kind == READ else ErrorCode.AXI_WRITE
    return MachineError(code, unit, address, "the memory answers with an error")
