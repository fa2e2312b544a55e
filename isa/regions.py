"""Regions: how activations and results lie in memory and buffers, and which registers name an adapter (docs/isa.md)."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .target import Target

Int64 = npt.NDArray[np.int64]
Integer = TypeVar("Integer", bound=np.integer[Any])
_KIND = {1: "i1", 2: "<i2", 4: "<i4"}


def padded(values: npt.NDArray[Integer], rows: int, columns: int) -> npt.NDArray[Integer]:
    """`values` [r, c] in the corner of a [rows, columns] array of zeros, of their type."""
    out = np.zeros((rows, columns), values.dtype)
    out[: values.shape[0], : values.shape[1]] = values
    return out


def region_bytes(target: Target, codes: Int64, blocks: int, token_groups: int) -> bytes:
    """Activation codes [tokens, k] in region order [token group][block][token][lane], padded with zeros."""
    t = target
    full = padded(codes, token_groups * t.tokens, blocks * t.lanes)
    region = full.reshape(token_groups, t.tokens, blocks, t.lanes).transpose(0, 2, 1, 3)
    return region.astype(_KIND[t.element_bytes]).tobytes()


def region_codes(
    target: Target, data: npt.NDArray[np.uint8], element: int, blocks: int, token_groups: int, stride: int
) -> Int64:
    """Inverse for results: bytes of `token_groups` regions, `stride` bytes apart, to codes [tokens, blocks*L].

    Args:
        data: uint8 [token_groups*stride].
        element: bytes of a result, 1, 2 or 4.
    """
    t = target
    size = blocks * t.lanes * t.tokens * element
    used = np.ascontiguousarray(data.reshape(token_groups, stride)[:, :size]).view(np.dtype(_KIND[element]))
    values = used.reshape(token_groups, blocks, t.tokens, t.lanes).transpose(0, 2, 1, 3)
    return values.reshape(token_groups * t.tokens, -1).astype(np.int64)


def token_words(slots: Int64, mantissa: Int64 | int = 0, shift: Int64 | int = 0) -> bytes:
    """The words of tokens: adapter slot in bits 3..0, the token scale's shift in 15..10 and its mantissa in 31..16.

    Args:
        slots: [tokens], 0 for the base.
        mantissa: u16 [tokens]; 0 without token scales.
        shift: 1..62 [tokens].
    """
    return (slots | shift << 10 | mantissa << 16).astype("<u4").tobytes()


def slot_registers(slot: int) -> tuple[int, int, int]:
    """Registers of slot 1..8: address, rank in column groups, rank in row blocks."""
    first = 8 + 3 * (slot - 1)
    return first, first + 1, first + 2


def slot_values(target: Target, slot: int, address: int, rank: int) -> dict[int, int]:
    """What the host writes to make a slot name an adapter block."""
    return dict(zip(slot_registers(slot), (address, -(-rank // target.ports), -(-rank // target.lanes)), strict=True))
