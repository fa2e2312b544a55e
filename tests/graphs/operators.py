"""Operators around the linears: elementwise, over axes, and of shape."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from onnx import TensorProto
from sketch import Sketch, Unfit, Value

UNARY = (
    "Relu", "Tanh", "Sigmoid", "Identity", "LeakyRelu", "Elu", "Erf", "HardSigmoid", "Softplus", "Neg", "Abs", "Floor",
    "Reciprocal", "Exp", "Sqrt", "HardSwish", "Gelu", "Dropout", "Cast", "Pow", "Log", "Sin", "Selu", "Mish", "Sign", "Round",
)  # fmt: skip
_SINCE = {"HardSwish": 14, "Gelu": 20, "Mish": 18}


def unary(s: Sketch) -> Value:
    """A function of each value; of a bounded or positive one where it needs that."""
    x = s.real()
    kind = s.pick([u for u in UNARY if _SINCE.get(u, 0) <= s.opset])
    match kind:
        case "Exp":
            return s.op("Exp", s.op("Tanh", x))
        case "Sqrt":
            return s.op("Sqrt", s.op("Abs", x))
        case "Log" | "Reciprocal":
            return s.op(kind, s.op("Add", s.op("Abs", x), s.scalar(1.0)))
        case "Pow":
            return s.op("Pow", x, s.scalar(2.0))
        case "Cast":
            return s.op("Cast", x, to=TensorProto.FLOAT)
        case "LeakyRelu" | "Elu":
            return s.op(kind, x, alpha=s.pick([None, 0.3]))
        case "Gelu":
            return s.op("Gelu", x, approximate=s.pick([None, "tanh"]))
    return s.op(kind, x)


def _other(s: Sketch, x: Value) -> Value:
    """Something that broadcasts with `x`: a value of its shape, a vector, a scalar, a column."""
    same = [v for v in s.values if v.real and v.shape == x.shape]
    fits = [v for v in s.values if v.real and v.shape != x.shape and 0 < len(v.shape) <= len(x.shape) and _broadcasts(v, x)]
    how = s.pick(["same", "same", "vector", "scalar", "column", "smaller"])
    if how == "same" and len(same) > 1:
        return s.pick(same)
    if how == "smaller" and fits:
        return s.pick(fits)
    if how == "column" and len(x.shape) > 1:
        return s.floats(*x.shape[:-1], 1)
    return s.floats(x.shape[-1]) if how == "vector" and x.shape else s.scalar(s.pick([1.0, 0.5, -2.0]))


def _broadcasts(v: Value, x: Value) -> bool:
    return all(a in (1, b) for a, b in zip(v.shape[::-1], x.shape[::-1], strict=False))


def binary(s: Sketch) -> Value:
    """Two values, or a value and a constant on either side."""
    x = s.real(0)
    kind, other = s.pick(["Add", "Mul", "Sub", "Div", "Min", "Max"]), _other(s, x)
    if kind == "Div":
        return s.op("Div", x, s.op("Add", s.op("Abs", other), s.scalar(1.0)))
    if kind in ("Min", "Max") and s.chance(3):
        return s.op(kind, x, other, s.scalar(0.25))
    return s.op(kind, other, x) if s.chance(3) else s.op(kind, x, other)


def clip(s: Sketch) -> Value:
    """Clip with both bounds, one, or none."""
    x, (low, high) = s.real(), s.pick([(0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 0.5), (None, None)])
    bounds = [None if b is None else s.scalar(b) for b in (low, high)]
    while bounds and bounds[-1] is None:
        bounds.pop()
    return s.op("Clip", x, *bounds)


def where(s: Sketch) -> Value:
    """Where a comparison, a negated one, two joined, or an input of truth values says so."""
    x = s.real()
    other = _other(s, x)
    how = s.pick(["input", "greater", "not", "and", "equal"])
    if how == "input":
        condition = s.feed(x.shape if s.chance(2) else x.shape[-1:], "bool")
    else:
        condition = s.op("Less" if how == "not" else "Greater", x, s.scalar(0.1))
        if how == "not":
            condition = s.op("Not", condition)
        if how == "and":
            condition = s.op("And", condition, s.op("GreaterOrEqual", x, s.scalar(-1.0)))
        if how == "equal":
            places = s.op("ArgMax", s.real(), axis=-1, keepdims=1)
            condition = s.op("Equal", places, s.constant(np.array(1, np.int64)))
            if not _broadcasts(condition, x):
                raise Unfit("condition of another shape")
    return s.op("Where", condition, x, other)


def _axis(s: Sketch, x: Value) -> int:
    axis = s.pick(range(len(x.shape)))
    return axis - len(x.shape) if s.chance(2) else axis


def softmax(s: Sketch) -> Value:
    """Softmax or its logarithm along the last axis, or another."""
    x = s.real()
    return s.op(s.pick(["Softmax", "LogSoftmax"]), x, axis=-1 if s.chance(2) else _axis(s, x))


def layer_norm(s: Sketch) -> Value:
    """LayerNormalization, or from 13 on the chain that computes it."""
    x = s.take(lambda v: v.real and v.shape[-1:] > (3,))
    gain, bias = s.floats(x.shape[-1], what="gain"), s.floats(x.shape[-1], what="bias")
    if s.opset >= 17:
        return s.op("LayerNormalization", x, gain, *([bias] if s.chance(2) else []), axis=-1, epsilon=1e-5)
    centred = s.op("Sub", x, _reduced(s, "ReduceMean", x, [-1], 1))
    variance = _reduced(s, "ReduceMean", s.op("Pow", centred, s.scalar(2.0)), [-1], 1)
    root = s.op("Sqrt", s.op("Add", variance, s.scalar(1e-5)))
    return s.op("Add", s.op("Mul", s.op("Div", centred, root), gain), bias)


def _reduced(s: Sketch, kind: str, x: Value, axes: list[int], keep: int) -> Value:
    """Axes as an input or an attribute, as the opset has it."""
    if s.opset >= (13 if kind == "ReduceSum" else 18):
        return s.op(kind, x, s.integers(*axes), keepdims=keep)
    return s.op(kind, x, axes=axes, keepdims=keep)


def reduce(s: Sketch) -> Value:
    """A sum, mean, extreme or length over one axis or all."""
    x = s.real()
    kind = s.pick(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare"])
    axes = list(range(len(x.shape))) if s.chance(5) else [_axis(s, x)]
    return _reduced(s, kind, x, axes, s.pick([1, 0]))


def reshape(s: Sketch) -> Value:
    """Reshape with plain numbers, a -1, a 0; Flatten."""
    x = s.real()
    shape, size = x.shape, prod(x.shape)
    forms: list[tuple[int, ...]] = [(-1, shape[-1]), (-1,), (*(0 for _ in shape[:-1]), -1), (1, *shape)]
    if shape[-1] % 2 == 0:
        forms += [(*shape[:-1], shape[-1] // 2, 2), (-1, shape[-1] // 2)]
    if len(shape) > 1:
        forms += [(shape[0], size // shape[0]), (0, 1, -1)]
    if s.chance(5):
        return s.op("Flatten", x, axis=s.pick([1, 0]))
    return s.op("Reshape", x, s.integers(*s.pick(forms)))


def transpose(s: Sketch) -> Value:
    """Any order of the axes; the default one."""
    x = s.real(2)
    rank = len(x.shape)
    orders = [None, [*range(rank - 2), rank - 1, rank - 2], [1, 0, *range(2, rank)], [rank - 1, *range(rank - 1)]]
    return s.op("Transpose", x, perm=s.pick(orders))


def squeeze(s: Sketch) -> Value:
    """Unsqueeze, or Squeeze of an axis of one."""
    x = s.real()
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    if ones and len(x.shape) > 1 and s.chance(2):
        return s.op("Squeeze", x, s.integers(s.pick(ones)))
    return s.op("Unsqueeze", x, s.integers(s.pick([0, len(x.shape), 1])))


def concat(s: Sketch) -> Value:
    """With a value or a constant of the same shape but for one axis."""
    x = s.real()
    axis = _axis(s, x)
    same = [v for v in s.values if v.real and v.shape == x.shape]
    other = s.pick(same) if s.chance(2) else s.floats(*x.shape)
    return s.op("Concat", x, other, axis=axis) if s.chance(2) else s.op("Concat", other, x, x, axis=axis)


def split(s: Sketch) -> Value:
    """Two or three parts, one of which may stay unread."""
    x = s.take(lambda v: v.real and v.shape[-1:] >= (4,))
    first = s.pick([x.shape[-1] // 2, 1, 3])
    parts = s.ops_of("Split", x, s.integers(first, x.shape[-1] - first), count=2, axis=-1)
    return parts[-1] if s.chance(2) else parts[0]


def slices(s: Sketch) -> Value:
    """A stretch, with a step, backwards, up to far beyond the end."""
    x = s.real()
    axis = _axis(s, x)
    first, last, step = s.pick(
        [(0, 2, 1), (1, 1 << 31, 1), (0, -1, 1), (-2, 1 << 62, 1), (0, 1 << 31, 2), (-1, -(1 << 31), -1)]
    )
    return s.op("Slice", x, s.integers(first), s.integers(last), s.integers(axis), s.integers(step))


def gather(s: Sketch) -> Value:
    """Rows by constant indices, or by an input of numbers; rows of a constant table."""
    if s.chance(3):
        table = s.floats(s.pick([12, 30]), s.pick(s.widths), what="table")
        ids = s.feed(s.pick([(4,), (2, 3)]), "int64", table.shape[0])
        return s.op("Gather", table, ids, axis=0)
    x = s.real()
    axis = _axis(s, x)
    size = x.shape[axis]
    indices = s.constant(np.array(s.pick([[0], [size - 1, 0], 0, -1, [[0, size - 1]]]), np.int64), "indices")
    return s.op("Gather", x, indices, axis=axis)


def grow(s: Sketch) -> Value:
    """Expand, Tile or Pad."""
    x = s.real()
    match s.pick(["Expand", "Tile", "Pad"]):
        case "Expand":
            return s.op("Expand", x, s.integers(*(d if d > 1 else 3 for d in x.shape)))
        case "Tile":
            return s.op("Tile", x, s.integers(*([1] * (len(x.shape) - 1)), 2))
    pads = s.integers(*([0] * (len(x.shape) - 1)), 1, *([0] * (len(x.shape) - 1)), 2)
    mode = s.pick(["constant", "reflect", "edge"])
    return s.op("Pad", x, pads, *([s.scalar(0.5)] if mode == "constant" and s.chance(2) else []), mode=mode)


def attention(s: Sketch) -> Value:
    """A product of two activations: MatMul with a transposed one, or Einsum; scores, and what they weigh."""
    x = s.real(2, 3)
    y = s.take(lambda v: v.real and v.shape == x.shape)
    last = len(x.shape)
    if s.chance(3):
        dims = "b" * (last - 2)
        scores = s.op("Einsum", x, y, equation=f"{dims}ik,{dims}jk->{dims}ij")
    else:
        turned = s.op("Transpose", y, perm=[*range(last - 2), last - 1, last - 2])
        scores = s.op("MatMul", x, turned)
    if s.chance(2):
        return scores
    scores = s.op("Softmax", s.op("Mul", scores, s.scalar(0.25)), axis=-1)
    return s.op("MatMul", scores, y)


def group_norm(s: Sketch) -> Value:
    """GroupNormalization (21) or InstanceNormalization."""
    x = s.take(lambda v: v.real and len(v.shape) in (3, 4) and prod(v.shape[2:]) > 2)
    c = x.shape[1]
    gain, bias = s.floats(c, what="gain"), s.floats(c, what="bias")
    if s.opset >= 21:
        return s.op("GroupNormalization", x, gain, bias, num_groups=2 if c % 2 == 0 else 1)
    return s.op("InstanceNormalization", x, gain, bias)


def numbers(s: Sketch) -> Value:
    """ArgMax, TopK or CumSum."""
    x = s.real()
    match s.pick(["CumSum", "ArgMax", "TopK"]):
        case "ArgMax":
            return s.op("ArgMax", x, axis=_axis(s, x), keepdims=s.pick([1, 0]))
        case "TopK":
            axis = -1
            return s.ops_of("TopK", x, s.integers(min(2, x.shape[axis])), count=2, axis=axis)[0]
    return s.op("CumSum", x, s.constant(np.array(_axis(s, x), np.int64)))


def of_constants(s: Sketch) -> Value:
    """Something computed from constants alone, or from a shape."""
    if s.chance(2):
        return s.op("Add", s.real(), s.op("Cast", s.op("Shape", s.real()), to=TensorProto.FLOAT))
    x = s.real()
    return s.op("Add", x, s.op("Mul", s.floats(x.shape[-1]), s.scalar(2.0)))


OPERATORS: tuple[Callable[[Sketch], Value], ...] = (
    unary, unary, unary, binary, binary, binary, clip, where, softmax, layer_norm, reduce, reduce, reshape, reshape, transpose,
    squeeze, concat, split, slices, gather, grow, attention, group_norm, numbers, of_constants,
)  # fmt: skip
