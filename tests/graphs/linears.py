"""Linears, in every form that exporters and quantizers write them, and ways in which they meet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto
from sketch import Sketch, Unfit, Value


def spread(k: int) -> float:
    """Deviation of a weight that keeps the size of what it multiplies."""
    return float(1 / np.sqrt(k))


def _x(s: Sketch, rank: int = 2) -> Value:
    return s.take(lambda v: v.real and len(v.shape) >= rank and v.shape[-1] <= 48 and len(v.shape) <= 4)


def _weight(s: Sketch, k: int, n: int) -> Value:
    """A float matrix [k, n]: new, one that the model has, all zeros, or some columns zero."""
    how = s.draw(_NUMBER)
    if how == 15:
        return s.constant(np.zeros((k, n), np.float32))
    same = [name for name, a in s.constants.items() if a.shape == (k, n) and a.dtype == np.float32]
    if how >= 12 and same:
        name = s.pick(same)
        return Value(name, (k, n), "float32", fixed=True)
    values = s.random.normal(0, spread(k), (k, n)).astype(np.float32)
    if how == 11:
        values[:, s.random.random(n) < 0.3] = 0
    return s.constant(values)


def _turned(s: Sketch, k: int, n: int) -> Value:
    """A float matrix stored as [n, k]: new, or one that the model has."""
    same = [name for name, a in s.constants.items() if a.shape == (n, k) and a.dtype == np.float32]
    if same and s.chance(3):
        return Value(s.pick(same), (n, k), "float32", fixed=True)
    return s.floats(n, k, spread=spread(k))


def _width(s: Sketch) -> int:
    return 1 if s.chance(12) else s.pick(s.widths)


def _bias(s: Sketch, y: Value) -> Value:
    """`y` plus a vector on either side, or `y`."""
    if s.chance(2):
        return y
    vector = s.floats(y.shape[-1], spread=0.5, what="bias")
    return s.op("Add", y, vector) if s.chance(2) else s.op("Add", vector, y)


def matmul(s: Sketch) -> Value:
    """x.W, with or without a bias."""
    x = _x(s, 1)
    return _bias(s, s.op("MatMul", x, _weight(s, x.shape[-1], _width(s))))


def turned(s: Sketch) -> Value:
    """x.Transpose(W)."""
    x = _x(s)
    weight = s.op("Transpose", _turned(s, x.shape[-1], _width(s)), perm=[1, 0])
    return _bias(s, s.op("MatMul", x, weight))


def gemm(s: Sketch) -> Value:
    """Gemm with alpha, beta, transA, transB and C in all its shapes."""
    x = s.take(lambda v: v.real and len(v.shape) == 2 and max(v.shape) <= 48)
    m, k = x.shape
    trans = s.chance(4)
    m, k = (k, m) if trans else (m, k)
    n, over = _width(s), s.chance(2)
    weight = _turned(s, k, n) if over else _weight(s, k, n)
    shape = s.pick([None, (n,), (1, n), (1,), (m, n), (m, 1), ()])
    c = None if shape is None else s.floats(*shape, spread=0.5, what="bias")
    attributes = {
        "alpha": s.pick([None, 1.0, 0.5, -2.0]),
        "beta": s.pick([None, 1.0, 0.25, 0.0]),
        "transA": 1 if trans else None,
        "transB": 1 if over else None,
    }
    return s.op("Gemm", x, weight, *([] if c is None else [c]), **attributes)


def gemm_between_reshapes(s: Sketch) -> Value:
    """GPT-2's: Reshape, Gemm, Reshape."""
    x = s.take(lambda v: v.real and len(v.shape) >= 3 and v.shape[-1] <= 48)
    k, n = x.shape[-1], _width(s)
    flat = s.op("Reshape", x, s.integers(-1, k))
    y = s.op("Gemm", flat, _weight(s, k, n), s.floats(n, spread=0.5, what="bias"))
    return s.op("Reshape", y, s.integers(*x.shape[:-1], n))


def _branch(s: Sketch, x: Value, n: int) -> Value:
    """s (x.A).B in one of its forms."""
    k = x.shape[-1]
    r = s.pick([2, 1, 4, 8])
    t = s.op("MatMul", x, s.floats(k, r, spread=spread(k), what="lora_A"))
    u = s.op("MatMul", t, s.floats(r, n, spread=spread(r), what="lora_B"))
    how = s.pick(["none", "mul", "mul first", "div", "vector"])
    if how == "mul":
        return s.op("Mul", u, s.scalar(s.pick([2.0, 0.5])))
    if how == "mul first":
        return s.op("Mul", s.scalar(1.5), u)
    if how == "div":
        return s.op("Div", u, s.scalar(2.0))
    if how == "vector":
        return s.op("Mul", u, s.floats(n, what="lambda"))
    return u


def lora(s: Sketch) -> Value:
    """Base and one or two branches, the bias before or after."""
    x = _x(s)
    n = s.pick(s.widths)
    y = _bias(s, s.op("MatMul", x, _weight(s, x.shape[-1], n)))
    for _ in range(1 + s.chance(4)):
        u = _branch(s, x, n)
        y = s.op("Add", y, u) if s.chance(2) else s.op("Add", u, y)
    return _bias(s, y) if s.chance(4) else y


def dora(s: Sketch) -> Value:
    """Add(base, Add(Mul(g - 1, base), Mul(g, lora)))."""
    x = _x(s)
    k, n = x.shape[-1], s.pick(s.widths)
    g = s.random.uniform(0.5, 2, (1, n)).astype(np.float32)
    base = s.op("MatMul", x, s.floats(k, n, spread=spread(k)))
    delta = s.op("Mul", s.constant(g), _branch(s, x, n))
    return s.op("Add", base, s.op("Add", s.op("Mul", s.constant(g - 1), base), delta))


def qdq(s: Sketch, x: Value, kind: str | None = None) -> Value:
    """`x` through QuantizeLinear and DequantizeLinear, asymmetric, with some room above the sample."""
    sample = s.samples[x.name]
    kind = kind or s.pick(["uint8", "int8"])
    low, high = min(float(sample.min()) * 1.5, -0.1), max(float(sample.max()) * 1.5, 0.1)
    scale = (high - low) / 255
    least = 0 if kind == "uint8" else -128
    zero = int(np.clip(np.rint(least - low / scale), least, least + 255))
    pair = [s.scalar(scale), s.constant(np.array(zero, kind), "zero_point")]
    return s.op("DequantizeLinear", s.op("QuantizeLinear", x, *pair), *pair)


def _quantized(s: Sketch, k: int, n: int, r: float | None = None) -> Value:
    """A weight behind DequantizeLinear: int8 or uint8, a scale a tensor or a column, its zero point given or not."""
    kind, columns = s.pick(["int8", "uint8"]), s.chance(2) and n > 1
    codes = s.random.integers(-127, 128, (k, n))
    if s.chance(12):
        codes[:, 0] = 0
    shape = (n,) if columns else ()
    zero = s.random.integers(-5, 6, shape) if s.chance(3) else np.zeros(shape, np.int64)
    low, high = (-128, 127) if kind == "int8" else (0, 255)
    middle = 0 if kind == "int8" else 128
    scale = s.constant((s.random.uniform(0.5, 1.5, shape) * (r or spread(k)) / 64).astype(np.float32), "scale")
    stored = s.constant(np.clip(codes + middle, low, high).astype(kind), "weight_quantized")
    zero_point = s.constant(np.asarray(zero + middle).astype(kind), "zero_point")
    return s.op("DequantizeLinear", stored, scale, zero_point, axis=1)


def static(s: Sketch) -> Value:
    """onnxruntime's static QDQ: x and the weight, then the bias, then the result or not."""
    x = _x(s)
    k, n = x.shape[-1], _width(s)
    read, weight = qdq(s, x), _quantized(s, k, n)
    if len(x.shape) == 2 and s.chance(3):
        y = s.op("Gemm", read, weight, s.floats(n, spread=0.5, what="bias"))
    else:
        y = _bias(s, s.op("MatMul", read, weight))
    return qdq(s, y) if s.chance(2) else y


def static_lora(s: Sketch) -> Value:
    """QDQ with a branch: Q/DQ of x shared, and behind base, A and B."""
    x = _x(s)
    k, n, r, between = x.shape[-1], s.pick(s.widths), s.pick([2, 4]), s.chance(2)
    read = qdq(s, x, "int8")

    def maybe(y: Value) -> Value:
        return qdq(s, y, "int8") if between else y

    base = maybe(s.op("MatMul", read, _quantized(s, k, n)))
    t = maybe(s.op("MatMul", read, _quantized(s, k, r)))
    u = maybe(s.op("MatMul", t, _quantized(s, r, n)))
    y = s.op("Add", base, u)
    return qdq(s, y) if s.chance(2) else y


def _dynamic(s: Sketch, quantized: list[Value], n: int) -> Value:
    codes, step, zero = quantized
    k = codes.shape[-1]
    columns = s.chance(2) and n > 1
    kind = s.pick(["int8", "uint8"])
    stored = s.random.integers(-127, 128, (k, n)) + (0 if kind == "int8" else 128)
    weight = s.constant(stored.astype(kind), "weight_quantized")
    shape = (n,) if columns else ()
    scale = s.constant((s.random.uniform(0.5, 1.5, shape) * spread(k) / 64).astype(np.float32), "scale")
    w_zero = s.constant(np.full(shape, 0 if kind == "int8" else 128, kind), "zero_point")
    y = s.op("Cast", s.op("MatMulInteger", codes, weight, zero, w_zero), to=TensorProto.FLOAT)
    both = s.op("Mul", step, scale)
    return s.op("Mul", y, both)


def dynamic(s: Sketch) -> Value:
    """onnxruntime's dynamic int8, with or without a branch that reads the same codes."""
    x = _x(s)
    n, branch = s.pick(s.widths), s.chance(3)
    quantized = s.ops_of("DynamicQuantizeLinear", x, count=3)
    y = _dynamic(s, quantized, n)
    if branch:
        t = _dynamic(s, quantized, 2)
        y = s.op("Add", y, _dynamic(s, s.ops_of("DynamicQuantizeLinear", t, count=3), n))
    return _bias(s, y)


def left(s: Sketch) -> Value:
    """W.x, the constant on the left."""
    x = s.take(lambda v: v.real and len(v.shape) >= 2 and v.shape[-2] <= 48)
    return s.op("MatMul", s.floats(s.pick(s.widths), x.shape[-2], spread=spread(x.shape[-2])), x)


def experts(s: Sketch) -> Value:
    """A constant [e, k, n]: another matrix for each row of the batch, or one x for all."""
    x = s.take(lambda v: v.real and len(v.shape) in (2, 3) and v.shape[-1] <= 48)
    many = x.shape[0] if len(x.shape) == 3 and x.shape[0] > 1 else 3
    k, n = x.shape[-1], s.pick(s.widths)
    return s.op("MatMul", x, s.floats(many, k, n, spread=spread(k)))


def einsum(s: Sketch) -> Value:
    """A product with a constant, written as Einsum, on either side."""
    x = s.take(lambda v: v.real and len(v.shape) in (2, 3) and v.shape[-1] <= 48)
    k, n = x.shape[-1], s.pick(s.widths)
    dims = "bt"[2 - (len(x.shape) - 1) :]
    if s.chance(2):
        return s.op("Einsum", s.floats(k, n, spread=spread(k)), x, equation=f"kn,{dims}k->{dims}n")
    return s.op("Einsum", x, s.floats(k, n, spread=spread(k)), equation=f"{dims}k,kn->{dims}n")


def between(s: Sketch, y: Value) -> Value:
    """What may stand between two linears that follow each other: nothing, a node that does nothing, Q/DQ."""
    match s.pick(["nothing", "identity", "dropout", "qdq", "cast", "relu"]):
        case "identity":
            return s.op("Identity", y)
        case "dropout":
            return s.op("Dropout", y)
        case "qdq":
            return qdq(s, y)
        case "cast":
            return s.op("Cast", y, to=TensorProto.FLOAT)
        case "relu":
            return s.op("Relu", y)
    return y


def chain(s: Sketch) -> Value:
    """Two or three linears directly behind each other."""
    y = between(s, matmul(s))
    for _ in range(1 + s.chance(3)):
        if len(y.shape) < 2 or y.shape[-1] > 48:
            raise Unfit("no further linear")
        quantized = s.chance(3)
        k, n = y.shape[-1], _width(s)
        y = _bias(s, s.op("MatMul", y, _quantized(s, k, n) if quantized else _weight(s, k, n)))
        y = between(s, y) if s.chance(3) else y
    return y


def fork(s: Sketch) -> Value:
    """One value read by several linears, whose results are joined or not."""
    x, n = _x(s), s.pick(s.widths)
    results = [_bias(s, s.op("MatMul", x, _weight(s, x.shape[-1], n))) for _ in range(2 + s.chance(3))]
    return s.op("Mul", results[0], results[1]) if s.chance(2) else results[-1]


def conv(s: Sketch) -> Value:
    """A convolution, 1x1 or 3x3, of an input of its own."""
    c, o = s.pick([3, 4, 8]), s.pick([4, 6])
    images = [v for v in s.values if v.real and len(v.shape) == 4]
    x = s.pick(images) if images and s.chance(2) else s.feed((1, c, 4, 5))
    size = s.pick([1, 3])
    weight = s.floats(o, x.shape[1], size, size, spread=spread(x.shape[1] * size * size))
    bias = [s.floats(o, spread=0.5, what="bias")] if s.chance(2) else []
    return s.op("Conv", x, weight, *bias, kernel_shape=[size, size], pads=[size // 2] * 4)


_NUMBER = st.integers(0, 15)

LINEARS: tuple[Callable[[Sketch], Value], ...] = (
    matmul, matmul, gemm, turned, gemm_between_reshapes, lora, lora, dora, static, static, static_lora, dynamic, left, experts,
    einsum, chain, chain, chain, fork, fork, conv,
)  # fmt: skip
