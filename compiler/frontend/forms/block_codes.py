"""Weights with a scale for each block of rows: MatMulNBits, blocked DequantizeLinear, com.microsoft's 4-bit pairs.

The normal form of such a weight [k, n], of any opset, keeps the codes as they are, in signed bytes:
Reshape((DequantizeLinear(codes [g, rows, n], 1) - zeros [g, 1, n]) * scales [g, 1, n]), with a Slice where the last block is
cut. Without zeros there is no Sub. `passes/block_weights.py` reads it back, and `fold` leaves it in the graph.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.forms.rewriter import Array, Nodes, Rewriter
from axlora.compiler.frontend.recognised import MARK
from axlora.compiler.frontend.supported import named

_LOG = logging.getLogger(__name__)
_INT8 = 8
_PRODUCTS = ("MatMul", "Gemm", "Transpose", "Reshape", "Cast", "Identity")
"""Readers for whose sake a weight stays codes."""
BNB4 = (
    (
        0.0, 0.0052083333, 0.6666666667, 1.0, 0.3333333333, 0.5, 0.1666666667, 0.25,
        0.0, -0.0052083333, -0.6666666667, -1.0, -0.3333333333, -0.5, -0.1666666667, -0.25,
    ),
    (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
)  # fmt: skip
"""What the codes of MatMulBnb4 stand for, by its `quant_type`: FP4 and NF4 (Dettmers et al., arXiv:2305.14314, appendix E)."""
_HIGH = 127


@dataclass(frozen=True)
class Blocks:
    """A weight [k, n] = (codes - zero) * scale, both of a block of `rows` rows."""

    codes: npt.NDArray[np.int8]
    """[k, n]."""
    scale: npt.NDArray[np.float32]
    """[g, n]."""
    zero: npt.NDArray[np.float32] | None
    """[g, n]."""
    rows: int

    def reals(self) -> npt.NDArray[np.float32]:
        """[k, n]."""
        group = np.arange(self.codes.shape[0]) // self.rows
        less = 0 if self.zero is None else self.zero[group]
        return np.asarray((self.codes - less) * self.scale[group], np.float32)

    def padded(self) -> npt.NDArray[np.int8]:
        """[g, rows, n]: zeros behind the last row; one block alone has the rows that there are."""
        groups, (k, n) = self.scale.shape[0], self.codes.shape
        rows = self.rows if groups > 1 else k
        whole = np.zeros((groups * rows, n), np.int8)
        whole[:k] = self.codes
        return whole.reshape(groups, rows, n)


def weight(to: Rewriter, name: str, blocks: Blocks) -> str:
    """Append the normal form of a weight, whose constants are called after `name`; returns the tensor [k, n]."""
    add, codes = to.file.add, blocks.padded()
    own = name + MARK
    groups, rows, n = codes.shape
    result = to.add("DequantizeLinear", [add(name, lambda: codes), to.constant("one", 1)], of=name)
    if blocks.zero is not None:
        result = to.add("Sub", [result, add(f"{own}zeros", lambda: _middle(blocks.zero))], of=name)
    result = to.add("Mul", [result, add(f"{own}scales", lambda: _middle(blocks.scale))], of=name)
    result = to.add("Reshape", [result, to.constant(f"shape {groups * rows} {n}", [groups * rows, n], np.int64)], of=name)
    if (k := blocks.codes.shape[0]) == groups * rows:
        return result
    starts, ends, axes = (
        to.constant(f"{part} {value}", [value], np.int64) for part, value in (("from", 0), ("to", k), ("axis", 0))
    )
    return to.add("Slice", [result, starts, ends, axes], of=name)


def _middle(values: Any) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)[:, None, :]


def unpacked(data: Array, bits: int) -> npt.NDArray[np.uint8]:
    """Codes of `bits` bits, low ones first: uint8 [.., m] to uint8 [.., m * 8 / bits]."""
    per = 8 // bits
    parts = [(data >> (bits * i)) & ((1 << bits) - 1) for i in range(per)]
    return np.stack(parts, axis=-1).reshape(*data.shape[:-1], -1).astype(np.uint8)


def _signed(codes: Array, middle: int) -> npt.NDArray[np.int8]:
    return (codes.astype(np.int16) - middle).astype(np.int8)


def _check(fits: bool, to: Rewriter, what: str) -> None:
    if not fits:
        hint = "quantize the model again"
        raise BadModel(f"{to.node.op_type} has {what}", f"{named(to.node)} of {to.file.where}", hint)


def matmul_nbits(to: Rewriter) -> Nodes:
    """MatMulNBits(a, b, scales, zero points, g_idx, bias; K, N, bits, block_size): MatMul with the weight in its normal form.

    Codes are unsigned, [N, blocks, bytes], low bits first; the zero point, in the middle where none is given, becomes signed
    with them. Rows in another order of blocks (`g_idx`) have no scale groups: such weights become floats.

    Raises:
        BadModel: sizes that contradict each other, or codes of other than 2, 4 or 8 bits.
    """
    file, given = to.file, to.given
    packed, scales = file.array(given(1)), file.array(given(2))
    zeros = file.array(given(3)) if given(3) else None
    order = file.array(given(4)) if given(4) else None
    if packed is None or scales is None or (given(3) and zeros is None) or (given(4) and order is None):
        return None
    k, n, bits, rows = (int(to.number(name, default)) for name, default in (("K", 0), ("N", 0), ("bits", 4), ("block_size", 0)))
    _check(bits in (2, 4, 8) and rows > 0 and k > 0 and n > 0, to, f"K {k}, N {n}, bits {bits} and block_size {rows}")
    groups = -(-k // rows)
    _check(packed.size == n * groups * rows * bits // 8 and scales.size == n * groups, to, "data of another size than K and N")
    middle = 1 << (bits - 1)
    codes = unpacked(packed.astype(np.uint8).reshape(n, -1), bits)[:, :k]
    zero = None if zeros is None else _zero_points(to, zeros, n, groups, bits)
    scale = np.ascontiguousarray(scales.astype(np.float32).reshape(n, groups).T)
    blocks = Blocks(_signed(codes, middle).T, scale, zero, rows)
    in_order = order is None or np.array_equal(order.reshape(-1)[:k], np.arange(k) // rows)
    if in_order:
        held = weight(to, given(1), blocks)
    else:
        assert order is not None
        _LOG.warning("%s: weights become floats, as g_idx gives their rows scales in another order", named(to.node))
        group = order.reshape(-1)[:k].astype(np.int64)
        _check(group.min() >= 0 and group.max() < groups, to, f"g_idx outside of {groups} blocks")
        less = 0 if zero is None else zero[group]
        held = file.add(f"{given(1)}{MARK}reals", lambda: ((blocks.codes - less) * scale[group]).astype(np.float32))
    to.add("MatMul", [given(0), held])
    return to.finish(given(5))


def _entries(table: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int8], float]:
    """Signed bytes that are nearest to a table by their step, and the step: the largest is 64 to 127 steps."""
    steps = np.abs(table).max() / np.arange(_HIGH // 2 + 1, _HIGH + 1)
    off = [float(np.square(table - np.rint(table / step) * step).sum()) for step in steps]
    step = float(steps[int(np.argmin(off))])
    return np.rint(table / step).astype(np.int8), step


def matmul_bnb4(to: Rewriter) -> Nodes:
    """MatMulBnb4(a, b, absmax; K, N, block_size, quant_type): MatMul with the weight in its normal form.

    b holds [N, K] as one row, two codes a byte, the first in the high bits, and absmax [blocks] is of that row. Codes become
    the bytes nearest to what they stand for, of which there are 16 at most. Where blocks go from row to row, floats.

    Raises:
        BadModel: sizes that contradict each other, or another table.
    """
    file, given = to.file, to.given
    packed, largest = file.array(given(1)), file.array(given(2))
    if packed is None or largest is None:
        return None
    k, n, kind, rows = (
        int(to.number(name, default)) for name, default in (("K", 0), ("N", 0), ("quant_type", 1), ("block_size", 0))
    )
    _check(
        kind in range(len(BNB4)) and rows > 0 and k > 0 and n > 0, to, f"K {k}, N {n}, quant_type {kind} and block_size {rows}"
    )
    fits = packed.size == -(-n * k // 2) and largest.size == -(-n * k // rows)
    _check(fits and to.number("transB", 1) == 1, to, "data of another size than K and N")
    data = packed.astype(np.uint8).reshape(-1)
    index = np.stack([data >> 4, data & 15], axis=1).reshape(-1)[: n * k].reshape(n, k)
    table = np.array(BNB4[kind])
    if k % rows:
        _LOG.warning("%s: weights become floats, as blocks of %d go from row to row of %d", named(to.node), rows, k)
        of = (np.arange(n * k) // rows).reshape(n, k)
        held = file.add(f"{given(1)}{MARK}reals", lambda: (table[index] * largest.reshape(-1)[of]).T.astype(np.float32))
    else:
        entries, step = _entries(table)
        scale = np.ascontiguousarray(largest.reshape(n, k // rows).T.astype(np.float32) * np.float32(step))
        held = weight(to, given(1), Blocks(entries[index].T, scale, None, rows))
    to.add("MatMul", [given(0), held])
    return to.finish()


def _zero_points(to: Rewriter, zeros: Array, n: int, groups: int, bits: int) -> npt.NDArray[np.float32] | None:
    """Zero points of signed codes [groups, n]; None if all are 0. Packed ones lie in whole bytes a column."""
    if zeros.dtype == np.uint8:
        _check(zeros.size == n * -(-groups * bits // 8), to, "zero points of another size than K and N")
        zeros = unpacked(zeros.reshape(n, -1), bits)[:, :groups]
    _check(zeros.size == n * groups, to, "zero points of another size than K and N")
    result = zeros.astype(np.float32).reshape(n, groups).T - (1 << (bits - 1))
    return np.ascontiguousarray(result) if result.any() else None


def _codes(raw: Array) -> tuple[npt.NDArray[np.int8], int] | None:
    """Signed codes, and what was taken from each: of 4 and 8 bits; None for other types."""
    middle = {"int4": 0, "int8": 0, "uint4": 8, "uint8": 128}.get(str(raw.dtype))
    return None if middle is None else (_signed(raw, middle), middle)


def _blocks_of(to: Rewriter, axis: int) -> Blocks | None:
    """What a DequantizeLinear of a matrix reads, turned so that its blocks run along the first axis.

    One scale for all and one a column are blocks of all rows.
    """
    file, given, rows = to.file, to.given, int(to.number("block_size"))
    raw, scale = file.array(given(0)), file.array(given(1))
    zero = file.array(given(2)) if given(2) else None
    found = None if raw is None or raw.ndim != 2 else _codes(raw)
    if found is None or scale is None or (given(2) and zero is None):
        return None
    codes, middle = found
    points = np.zeros(scale.shape, np.float32) if zero is None else zero.astype(np.float32)
    points = points - middle
    scale = scale.astype(np.float32)
    if not rows:
        _check(scale.size in (1, codes.shape[axis]), to, f"scales {scale.shape} for a tensor {codes.shape}")
        along = (1, codes.shape[axis])
        scale, points = (np.broadcast_to(each.reshape(1, -1), along) for each in (scale, points))
        codes, rows = (codes, codes.shape[0]) if axis else (codes.T, codes.shape[1])
    else:
        groups = -(-codes.shape[axis] // rows)
        wanted = (groups, codes.shape[1]) if axis == 0 else (codes.shape[0], groups)
        _check(scale.shape == points.shape == wanted, to, f"scales {scale.shape} for a tensor {codes.shape}, blocks of {rows}")
        if axis == 1:
            codes, scale, points = codes.T, scale.T, points.T
    return Blocks(codes, np.ascontiguousarray(scale), np.ascontiguousarray(points) if points.any() else None, rows)


def dequantize(to: Rewriter) -> Nodes:
    """DequantizeLinear of a constant with blocked scales, or of com.microsoft: the normal form, turned back.

    What no product reads (a table of embeddings) becomes floats.
    """
    rows, own = int(to.number("block_size")), bool(to.node.domain)
    if not rows and not own:
        return None
    dims = to.file.dims(to.given(0))
    axis = int(to.number("axis", 1))
    axis += len(dims) if dims is not None and axis < 0 else 0
    blocks = _blocks_of(to, axis) if dims is not None and len(dims) == 2 else None
    if blocks is None:
        return _standard(to) if own and not rows else None
    turned = (axis == 1) == bool(rows)
    if not any(node.op_type in _PRODUCTS for node in to.file.readers.get(to.base, ())):
        reals = to.file.add(f"{to.given(0)}{MARK}reals", lambda: blocks.reals().T if turned else blocks.reals())
        to.add("Identity", [reals])
        return to.finish()
    held = weight(to, to.given(0), blocks)
    if turned:
        to.add("Transpose", [held], perm=[1, 0])
    return to.finish()


def _standard(to: Rewriter) -> Nodes:
    """com.microsoft's QuantizeLinear or DequantizeLinear as the standard's, of 8 bits."""
    inputs = list(to.node.input)
    values = [value for name in inputs if name and (value := to.file.array(name)) is not None]
    if any("int4" in str(v.dtype) or "int16" in str(v.dtype) for v in values):
        return None
    to.add(to.node.op_type, inputs, axis=int(to.number("axis", 1)))
    return to.finish()


def quantize(to: Rewriter) -> Nodes:
    """com.microsoft's QuantizeLinear as the standard's."""
    return None if to.number("block_size") else _standard(to)


def gather(to: Rewriter) -> Nodes:
    """GatherBlockQuantized(data, indices, scales, zero points): Gather of a table of floats, as the host picks its rows."""
    file, given = to.file, to.given
    data, scales = file.array(given(0)), file.array(given(2))
    zeros = file.array(given(3)) if given(3) else None
    rows, bits, axis = int(to.number("block_size", 128)), int(to.number("bits", 4)), int(to.number("quantize_axis", 1))
    if data is None or scales is None or data.ndim != 2 or axis % 2 != 1 or (given(3) and zeros is None):
        return None
    packed = data.dtype == np.uint8
    codes = (unpacked(data, bits) if packed and bits < _INT8 else data).astype(np.float32)
    group = np.arange(codes.shape[1]) // rows
    _check(scales.shape == (codes.shape[0], group[-1] + 1), to, f"scales {scales.shape} for a table {codes.shape}")
    if zeros is None:
        points = np.full(scales.shape, 0.0 if str(data.dtype) == "int4" else 1 << (bits - 1), np.float32)
    else:
        points = (unpacked(zeros, bits)[:, : scales.shape[1]] if packed and bits < _INT8 else zeros).astype(np.float32)
    table = file.add(f"{given(0)}{MARK}reals", lambda: (codes - points[:, group]) * scales.astype(np.float32)[:, group])
    to.add("Gather", [table, given(1)], axis=int(to.number("gather_axis", 0)))
    return to.finish()
