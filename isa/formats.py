"""Weight formats: how a code is stored, what it is worth, and which cache entry its product lives in."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Format(IntEnum):
    """Format of a segment's codes; the value is the encoding of SEGW."""

    S2 = 0
    S3 = 1
    S4 = 2
    S8 = 3
    U2 = 4
    U3 = 5
    U4 = 6
    U8 = 7
    CB4 = 8

    @property
    def bits(self) -> int:
        """Bits that carry information."""
        return (2, 3, 4, 8, 2, 3, 4, 8, 4)[self]

    @property
    def storage(self) -> int:
        """Bits a code takes in memory and in the weight buffer: 2, 4 or 8."""
        return (2, 4, 4, 8, 2, 4, 4, 8, 4)[self]

    @property
    def signed(self) -> bool:
        """Two's complement codes: products are cached by magnitude."""
        return self <= Format.S8

    @property
    def format_class(self) -> int:
        """0 signed, 1 unsigned, 2 codebook: a change of class clears the result cache."""
        return 0 if self <= Format.S8 else 1 if self <= Format.U8 else 2

    @property
    def low(self) -> int:
        """Least code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Greatest code."""
        return (1 << (self.bits - (1 if self.signed else 0))) - 1


def pack(codes: npt.NDArray[np.integer], fmt: Format) -> npt.NDArray[np.uint8]:
    """Pack codes along the last axis, low bits first.

    Args:
        codes: integers in [fmt.low, fmt.high], shape [..., n], n*storage a multiple of 8.
        fmt: the format.

    Returns:
        uint8, shape [..., n*storage/8].
    """
    width = fmt.storage
    raw = codes.astype(np.uint8) & np.uint8((1 << fmt.bits) - 1)
    per = 8 // width
    raw = raw.reshape(*raw.shape[:-1], -1, per)
    out = np.zeros(raw.shape[:-1], np.uint8)
    for i in range(per):
        out |= raw[..., i] << np.uint8(i * width)
    return out


def unpack(data: npt.NDArray[np.uint8], fmt: Format) -> npt.NDArray[np.int16]:
    """Inverse of `pack`: uint8 [..., m] to codes int16 [..., m*8/storage] (codebook: the index)."""
    width = fmt.storage
    per = 8 // width
    out = np.empty((*data.shape, per), np.int16)
    for i in range(per):
        out[..., i] = (data >> np.uint8(i * width)) & ((1 << fmt.bits) - 1)
    if fmt.signed:
        out = np.where(out > fmt.high, out - (1 << fmt.bits), out).astype(np.int16)
    return out.reshape(*data.shape[:-1], -1)
