"""Weights with a scale a block: read back from their normal form (`frontend/forms/block_codes.py`), as the machine holds them.

The machine's scale group is up to 128 rows with an 8-bit scale and a signed zero point a column, times the column's scale.
Codes and integer zero points stay as they are. A negative scale, which onnxruntime's symmetric quantizer writes, mirrors the
codes: (q - z) * -s = (~q - ~z) * s, and ~q fits wherever q does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.recognised import BlockCodes
from axlora.compiler.layer import Codes, Int64
from axlora.compiler.passes.dataflow import Dataflow, Matrix
from axlora.isa.formats import Format
from axlora.isa.target import Target

Float64 = npt.NDArray[np.float64]
_FORMATS = (Format.S2, Format.S3, Format.S4, Format.S8)
GROUP_ROWS = 128
"""Most rows of a scale group: tiles are whole groups."""
_SCALE_HIGH = 255
_TRIES = 128
"""Column scales that are tried: the largest block's code is 255, 254 and so on."""
ENTRIES = 16
"""Of a codebook: bytes of so many different values, 0 among them, are held as 4-bit places in it."""
AGAIN_BITS = 8
"""Bits of weights whose blocks a target cannot hold: 4 with a scale a column would lose what the blocks were for."""
_LOG = logging.getLogger(__name__)


def block_matrix(g: Dataflow, name: str, turned: bool = False) -> Matrix | None:
    """A constant weight in the normal form of blocks; None if it is not in that form.

    Args:
        turned: the tensor is the weight's transpose. Blocks then run along the outputs, and no codes are given.
    """
    node = g.node_of(name)
    if node is not None and node.op == "permute_dims" and len(g.shape(name)) == 2:
        return block_matrix(g, node.inputs[0], not turned)
    rows = g.shape(name)[0] if node is not None and len(g.shape(name)) == 2 else 0
    if node is not None and node.op == "strided_slice":
        node = g.node_of(node.inputs[0])
    if node is None or node.op != "reshape":
        return None
    parts = _parts(g, node.inputs[0])
    if parts is None:
        return None
    codes = _codes(*parts, rows)
    k, n = codes.stored.shape
    if turned:
        return Matrix((n, k), None, lambda: codes.reals.T)
    exact = codes if parts[2] is None or np.array_equal(parts[2], np.rint(parts[2])) else None
    return Matrix((k, n), exact, lambda: codes.reals)


def _parts(g: Dataflow, name: str) -> tuple[Int64, Float64, Float64 | None] | None:
    """Codes [blocks, rows, n], scales and zero points [blocks, n] behind the product of both; None if it is anything else."""
    node = g.node_of(name)
    scale = g.constant(node.inputs[1]) if node is not None and node.op == "multiply" else None
    node = g.node_of(node.inputs[0]) if node is not None and scale is not None else None
    zero = None
    if node is not None and node.op == "subtract":
        zero = g.constant(node.inputs[1])
        node = g.node_of(node.inputs[0]) if zero is not None else None
    if (
        node is None
        or scale is None
        or node.op != "dequantize"
        or g.scalar(node.inputs[1]) != 1
        or g.scalar(node.inputs[2]) != 0
    ):
        return None
    codes = g.constant(node.inputs[0])
    if codes is None or codes.ndim != 3 or scale.shape != (codes.shape[0], 1, codes.shape[2]):
        return None
    return codes, scale[:, 0].astype(np.float64), None if zero is None else zero[:, 0].astype(np.float64)


def _codes(codes: Int64, scale: Float64, zero: Float64 | None, k: int) -> BlockCodes:
    """The codes of the first `k` rows with scales that are not negative."""
    blocks, rows, n = codes.shape
    negative = scale < 0
    if negative.any():
        zero = np.where(negative, -1.0 - (0 if zero is None else zero), 0.0 if zero is None else zero)
        codes = np.where(negative[:, None], ~codes, codes)
    stored = codes.reshape(blocks * rows, n)[:k].astype(np.int8)
    bits = next(f.bits for f in _FORMATS if f.low <= stored.min(initial=0) and stored.max(initial=0) <= f.high)
    return BlockCodes(stored, np.abs(scale), bits, rows, zero)


def held_blocks(blocks: BlockCodes, target: Target, name: str, grouped: Callable[[int], int]) -> tuple[Codes, Float64] | None:
    """The weight in the machine's scale groups, and the scale of each column [n]; None, with a notice, if no groups hold it.

    Args:
        name: of the linear, for the notice.
        grouped: rows of a scale group of at least so many places of x; those with gaps hold other groups than the file's.
    """
    (count, n), k = blocks.scale.shape, blocks.stored.shape[0]
    fmt = next(f for f in _FORMATS if f.bits == blocks.bits)
    if count == 1 and blocks.zero is None:
        return Codes(blocks.stored, fmt), blocks.scale[0]
    rows = _group_rows(blocks.rows, count, target.lanes) if target.group_scales else 0
    if not rows or grouped(rows) != rows:
        why = "lanes of target {} are more than a block" if not rows else "heads that {} holds with gaps cross its blocks"
        why = why if target.group_scales else "target {} has no group scales"
        what = f"weights with a scale for each block of {blocks.rows} rows are quantized again, with {AGAIN_BITS} bits"
        _LOG.warning("%s: %s, as %s", name, what, why.format(target.name))
        return None
    zero = np.zeros((count, n), np.int64) if blocks.zero is None else blocks.zero.astype(np.int64)
    group, column = _scales(blocks, zero, target)
    of = np.arange(0, k, rows) // blocks.rows
    book = _codebook(blocks.stored) if fmt is Format.S8 and blocks.zero is None else None
    if book is None:
        return Codes(blocks.stored, fmt, None, rows, group[of], zero[of]), column
    places = np.zeros(1 << AGAIN_BITS, np.uint8)  # by the byte of a value
    places[book.astype(np.uint8)] = np.arange(book.size)
    codebook = np.append(book, np.zeros(ENTRIES - book.size, np.int8)).astype(np.int64)
    return Codes(places[blocks.stored.view(np.uint8)], Format.CB4, codebook, rows, group[of], zero[of]), column


def _codebook(stored: npt.NDArray[np.int8]) -> npt.NDArray[np.int8] | None:
    """The values that there are, ascending; None: too many for a codebook, or without 0, which stands in gaps."""
    counts = np.bincount(stored.view(np.uint8).reshape(-1), minlength=1 << AGAIN_BITS)
    found = np.sort(np.flatnonzero(counts).astype(np.uint8).view(np.int8))
    return found if found.size <= ENTRIES and counts[0] else None


def _group_rows(block: int, blocks: int, lanes: int) -> int:
    """Most rows of a scale group, whole lanes, of which a block is a multiple; 0 if there are none."""
    sizes = range(GROUP_ROWS // lanes * lanes, 0, -lanes)
    return next((rows for rows in sizes if blocks == 1 or block % rows == 0), 0)


def _scales(blocks: BlockCodes, zero: Int64, target: Target) -> tuple[Int64, Float64]:
    """Group scales [blocks, n] of 0 to 255 and the column's scale [n], whose products are nearest to the scales of the blocks.

    The largest block's is as many codes as the accumulator has room for, at most 255.
    """
    scale, n = blocks.scale, blocks.scale.shape[1]
    largest = scale.max(axis=0)
    relative = scale / np.where(largest > 0, largest, 1)
    firsts = np.arange(0, blocks.stored.shape[0], blocks.rows)
    worth = np.add.reduceat(np.abs(blocks.stored.astype(np.int64)), firsts, axis=0) + blocks.rows * np.abs(zero)
    room = ((1 << (target.accumulator_bits - 1)) - 1) >> (target.activation_bits - 1)
    reach = (worth * relative).sum(axis=0) + worth.sum(axis=0) / (2 * _SCALE_HIGH)  # rounding of each scale included
    most = np.clip(room // np.maximum(reach, 1), 1, _SCALE_HIGH).astype(np.int64)
    best, error = np.ones(n), np.full(n, np.inf)
    for less in range(_TRIES):
        wide = np.maximum(most - less, 1)
        off = ((np.rint(relative * wide) / wide - relative) ** 2 * worth).sum(axis=0)
        best, error = np.where(off < error, wide, best), np.minimum(off, error)
    group = np.rint(relative * best).astype(np.int64)
    return group, largest / best
