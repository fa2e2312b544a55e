"""Rows of a weight that meet the offset of a token: x = s (q + z) gives x.W = s (q.W + z sum_k W), all of it in the matrix.

The codes of a token end with z, R times, and the weight ends with R rows that sum to sum_k W in every column, so the
accumulator holds (q + z).W exactly and nothing behind it changes (docs/decisions/0006).
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from axlora.compiler.layer import Codes, Int64

Float64 = npt.NDArray[np.float64]


def _zero(weight: Codes) -> Int64:
    """Zero point of each column, which is that of all its groups: int64 [n]."""
    return np.zeros(weight.stored.shape[1], np.int64) if weight.zero is None else weight.zero[0].astype(np.int64)


def rows_needed(weight: Codes, bits: int) -> int:
    """R: enough for every column of `weight`, and for those of an adapter's A whose sum is two standard deviations out.

    A row holds up to h = 2**(bits-1) - 1; the sum of k codes that are uniform over +-h has the deviation h sqrt(k / 3).
    """
    high = (1 << (bits - 1)) - 1
    total, zero = weight.weights().sum(axis=0), _zero(weight)
    room = np.where(total > 0, high - zero, high + 1 + zero)  # 0 only where every weight is 0 or of the other sign
    most = int((-(-np.abs(total) // np.maximum(room, 1))).max(initial=0))
    return max(most, ceil(2 * sqrt(weight.stored.shape[0] / 3)))


def _spread(total: Int64, rows: int) -> Int64:
    """[rows, n] integers that sum to `total` [n] and differ by at most 1 in a column."""
    each = total // rows
    return each + (np.arange(rows)[:, None] < total - each * rows)


def with_offset_rows(weight: Codes, rows: int) -> Codes:
    """The weight with its rows for the offset, in the scale groups that follow."""
    extra = _spread(weight.weights().sum(axis=0), rows) + _zero(weight)
    stored = np.vstack([weight.codes, extra])
    if not weight.group:
        return replace(weight, stored=stored)
    groups = -(-len(stored) // weight.group)
    scale, zero = (None if part is None else np.repeat(part[:1], groups, axis=0) for part in (weight.scale, weight.zero))
    return replace(weight, stored=stored, scale=scale, zero=zero)


def fitted(a: Float64, codes: Int64, scale: Float64, rows: int) -> tuple[Int64, Float64]:
    """A's codes [k, r] with their rows for the offset; columns whose sum those rows cannot hold get a larger scale.

    Args:
        a: the reals [k, r].
        codes, scale: as `quantize_weight` made them, 8 bits.
        rows: R.
    """
    while (over := np.abs(codes.sum(axis=0)) > 127 * rows).any():
        wished = np.abs(a.sum(axis=0)) / (127 * rows)
        scale = np.where(over, np.maximum(wished, scale * 1.01), scale)
        codes = np.where(over, np.rint(a / np.where(scale > 0, scale, 1)), codes).astype(np.int64)
    return np.vstack([codes, _spread(codes.sum(axis=0), rows)]), scale
