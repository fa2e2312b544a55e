"""Operators on codes, of the standard and of com.microsoft: DequantizeLinear, the operator on floats, QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from axlora.compiler.frontend.forms.rewriter import Nodes, Rewrite, Rewriter

_CHANNELS_LAST = "channels_last"


def _attributes(to: Rewriter, *without: str) -> dict[str, Any]:
    """The node's attributes but those that only its quantized form has."""
    return {a.name: helper.get_attribute_value(a) for a in to.node.attribute if a.name not in without}


def _reals(to: Rewriter, first: int, axis: int = 1) -> str:
    """Append the DequantizeLinear of codes, scale and zero point, which are inputs `first` and on."""
    codes, scale, zero = (to.given(i) for i in range(first, first + 3))
    return to.add("DequantizeLinear", [codes, *_flat(to, scale, zero)], axis=axis)


def _flat(to: Rewriter, scale: str, zero: str) -> list[str]:
    """Names of scale and zero point without further dimensions of one: scales a column may be [1, n] or [1]."""
    names = [name for name in (scale, zero) if name]
    values = [to.file.array(name) for name in names]
    if all(value is None or value.ndim == 0 for value in values):
        return names
    size = max(value.size for value in values if value is not None)
    shape = () if size == 1 else (size,)
    return [
        name
        if value is None
        else to.constant(f"{place} flat {name}", np.broadcast_to(value.reshape(-1), shape), value.dtype)
        if size > 1
        else to.constant(f"{place} flat {name}", value.reshape(()), value.dtype)
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    ]


def _codes(to: Rewriter, reals: str, scale: str, zero: str) -> Nodes:
    """Append the QuantizeLinear of the result; without a zero point its codes have the type of the other ones."""
    if not zero:
        kinds = [value.dtype for name in to.node.input if (value := to.file.array(name)) is not None]
        zero = to.constant("zero", 0, np.int8 if np.dtype(np.int8) in kinds else np.uint8)
    to.add("QuantizeLinear", [reals, *_flat(to, scale, zero)])
    return to.finish()


def matmul(to: Rewriter) -> Nodes:
    """QLinearMatMul(a, scale, zero, b, scale, zero, scale of y, zero of y)."""
    dims = to.file.dims(to.given(3))
    axis = len(dims) - 1 if dims else 1
    product = to.add("MatMul", [_reals(to, 0), _reals(to, 3, axis)])
    return _codes(to, product, to.given(6), to.given(7))


def gemm(to: Rewriter) -> Nodes:
    """QGemm(a, scale, zero, b, scale, zero, c, scale of y, zero of y): c has the scales of a and b; no scale of y: floats."""
    file, given, alpha = to.file, to.given, to.number("alpha", 1)
    turned = int(to.number("transB"))
    inputs = [_reals(to, 0), _reals(to, 3, 0 if turned else 1)]
    if given(6):
        bias, x, w = (file.array(given(i)) for i in (6, 1, 4))
        if bias is None or x is None or w is None:
            return None
        step = alpha * x.astype(np.float64).reshape(-1) * w.astype(np.float64).reshape(-1)
        inputs.append(to.constant("c", bias * step))
    product = to.add("Gemm", inputs, alpha=float(alpha), transA=int(to.number("transA")), transB=turned)
    return _codes(to, product, given(7), given(8)) if given(7) else to.finish()


def conv(to: Rewriter) -> Nodes:
    """QLinearConv(x, scale, zero, w, scale, zero, scale of y, zero of y, bias): the bias has the scales of x and w."""
    file, given = to.file, to.given
    inputs = [_reals(to, 0), _reals(to, 3, 0)]
    if given(8):
        bias, x, w = (file.array(given(i)) for i in (8, 1, 4))
        if bias is None or x is None or w is None:
            return None
        inputs.append(to.constant("bias", bias * x.astype(np.float64).reshape(-1) * w.astype(np.float64).reshape(-1)))
    return _codes(to, to.add("Conv", inputs, **_attributes(to)), given(6), given(7))


def conv_integer(to: Rewriter) -> Nodes:
    """ConvInteger(codes of x, w, zero of x, of w) behind DynamicQuantizeLinear: Conv(x, w) over the scale of x.

    Floats as they are, for codes of x get scales of their own here; those of w stay, with a scale of 1.
    """
    x = _dynamic(to)
    if x is None:
        return None
    _convolved(to, x, np.ones(1))
    to.add("Div", [to.nodes[-1].output[0], x.output[1]])
    return to.finish()


def conv_scaled(to: Rewriter) -> Nodes:
    """Mul(Cast(ConvInteger), scale of x * scale of w), the Mul given: Conv(x, what the codes of w stand for)."""
    makers = to.file.makers
    for a, b in ((0, 1), (1, 0)):
        cast, scales = (makers.get(to.given(i)) for i in (a, b))
        conv = makers.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
        if conv is None or conv.op_type != "ConvInteger" or scales is None or scales.op_type != "Mul":
            continue
        own = Rewriter(conv, to.file)
        x = _dynamic(own)
        scale = next((value for name in scales.input if (value := to.file.array(name)) is not None), None)
        if x is not None and scale is not None and x.output[1] in scales.input:
            own.base = to.base
            _convolved(own, x, scale.reshape(-1))
            return own.finish()
    return None


def _dynamic(to: Rewriter) -> onnx.NodeProto | None:
    """The DynamicQuantizeLinear whose codes a ConvInteger of a constant kernel reads; None of any other."""
    x = to.file.makers.get(to.given(0))
    if x is None or x.op_type != "DynamicQuantizeLinear" or to.given(2) != x.output[2] or to.file.dims(to.given(1)) is None:
        return None
    return x


def _convolved(to: Rewriter, x: onnx.NodeProto, scale: npt.NDArray[np.generic]) -> None:
    """Append the Conv of what was quantized, with codes of w times a scale [1 or channels]."""
    zero = [to.given(3)] if to.given(3) else []
    dims = to.file.dims(zero[0]) or () if zero else ()
    shape = dims if scale.size == 1 else scale.shape
    weight = to.add(
        "DequantizeLinear",
        [to.given(1), to.constant("scale", np.broadcast_to(scale if shape else scale[0], shape)), *zero],
        of=to.given(1),
        axis=0,
    )
    to.add("Conv", [x.input[0], weight], **_attributes(to))


def binary(kind: str) -> Rewrite:
    """QLinearAdd and its like (a, scale, zero, b, scale, zero, scale of y, zero of y)."""

    def rewrite(to: Rewriter) -> Nodes:
        result = to.add(kind, [_reals(to, 0), _reals(to, 3)])
        return _codes(to, result, to.given(6), to.given(7))

    return rewrite


def unary(kind: str) -> Rewrite:
    """QLinearSigmoid and its like (x, scale, zero, scale of y, zero of y), with the attributes of the standard operator."""

    def rewrite(to: Rewriter) -> Nodes:
        if to.number(_CHANNELS_LAST):
            return to.refuse("with channels_last")
        result = to.add(kind, [_reals(to, 0)], **_attributes(to, _CHANNELS_LAST))
        return _codes(to, result, to.given(3), to.given(4))

    return rewrite


def softmax(to: Rewriter) -> Nodes:
    """QLinearSoftmax(x, scale, zero, scale of y, zero of y; axis, opset): older versions take all axes from one on together."""
    old = to.number("opset", to.file.version) < 13
    if old != (to.file.version < 13) and to.number("axis", -1) != -1:
        return None
    result = to.add("Softmax", [_reals(to, 0)], axis=int(to.number("axis", -1)))
    return _codes(to, result, to.given(3), to.given(4))


def concat(to: Rewriter) -> Nodes:
    """QLinearConcat(scale of y, zero of y, x, scale, zero, x, scale, zero, ..; axis)."""
    parts = [_reals(to, first) for first in range(2, len(to.node.input), 3)]
    return _codes(to, to.add("Concat", parts, axis=int(to.number("axis"))), to.given(0), to.given(1))


def where(to: Rewriter) -> Nodes:
    """QLinearWhere(condition, x, scale, zero, y, scale, zero, scale of z, zero of z)."""
    result = to.add("Where", [to.given(0), _reals(to, 1), _reals(to, 4)])
    return _codes(to, result, to.given(7), to.given(8))
