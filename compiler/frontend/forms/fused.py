"""onnxruntime's fused products as the standard operators that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from axlora.compiler.frontend.forms.rewriter import Nodes, Rewriter

_BOUNDS_AS_INPUTS = 11
"""First version of the standard whose Clip takes its bounds as inputs."""


def fused_matmul(to: Rewriter) -> Nodes:
    """FusedMatMul(a, b; alpha, transA, transB, transBatchA, transBatchB): Transpose, MatMul, Mul.

    trans exchanges the last two dimensions; transBatch puts the first one behind those of the batch before that.
    """
    sides = [_turned(to, to.given(i), f"trans{side}", f"transBatch{side}") for i, side in enumerate("AB")]
    if not all(sides):
        return to.refuse("that turns a tensor whose dimensions the file does not tell")
    product = to.add("MatMul", sides)
    if (alpha := to.number("alpha", 1)) != 1:
        to.add("Mul", [product, to.constant("alpha", alpha)])
    return to.finish()


def _turned(to: Rewriter, name: str, last: str, batch: str) -> str:
    """Append the Transpose of an operand, if it has one; empty if its number of dimensions is not known."""
    if not to.number(last) and not to.number(batch):
        return name
    rank = to.file.rank(name)
    if rank is None:
        return ""
    order = list(range(rank))
    if to.number(batch) and rank > 2:
        order = [*order[1:-1], 0, order[-1]]
    if to.number(last) and rank > 1:
        order = [*order[:-2], order[-1], order[-2]]
    return to.add("Transpose", [name], perm=order)


def _integer_to_float(to: Rewriter, codes: list[str], x_scale: str, w_scale: str, bias: str) -> list[onnx.NodeProto]:
    product = to.add("Cast", [to.add("MatMulInteger", codes)], to=TensorProto.FLOAT)
    to.add("Mul", [product, to.add("Mul", [x_scale, w_scale])])
    return to.finish(bias)


def matmul_integer_to_float(to: Rewriter) -> Nodes:
    """MatMulIntegerToFloat(a, b, scale of a, of b, zero of a, of b, bias)."""
    g = to.given
    return _integer_to_float(to, [g(0), g(1), g(4), g(5)], g(2), g(3), g(6))


def dynamic_quantize_matmul(to: Rewriter) -> Nodes:
    """DynamicQuantizeMatMul(x, b, scale of b, zero of b, bias)."""
    g = to.given
    names = [f"{to.base}.x_{part}" for part in ("codes", "scale", "zero")]
    to.nodes.append(helper.make_node("DynamicQuantizeLinear", [g(0)], names, name=f"{to.base}/quantize"))
    return _integer_to_float(to, [names[0], g(1), names[2], g(3)], names[1], g(2), g(4))


_ACTIVATIONS = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max"),
}  # fmt: skip
"""What is fused behind a product -> its parameters, in their order."""


def fused_gemm(to: Rewriter) -> Nodes:
    """FusedGemm(a, b, c; activation, activation_alpha, ..): Gemm, activation."""
    own = {a.name: helper.get_attribute_value(a) for a in to.node.attribute}
    kind = own.get("activation", b"").decode()
    parameters = [own.pop(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")]
    own.pop("activation", None)
    to.add("Gemm", list(to.node.input), **own)
    return _activated(to, kind, [p for p in parameters if p is not None])


def fused_conv(to: Rewriter) -> Nodes:
    """FusedConv(x, w, bias, z; activation, activation_params): Conv, the sum with z, activation."""
    own = {a.name: helper.get_attribute_value(a) for a in to.node.attribute}
    kind, parameters = own.pop("activation", b"").decode(), own.pop("activation_params", [])
    product = to.add("Conv", list(to.node.input[:3]), **own)
    to.sum(product, to.given(3))
    return _activated(to, kind, parameters)


def _activated(to: Rewriter, kind: str, parameters: Sequence[float]) -> Nodes:
    """The last node's result behind an activation, or as it is without one."""
    if not kind:
        return to.finish()
    if kind not in _ACTIVATIONS or len(parameters) > len(_ACTIVATIONS[kind]):
        return to.refuse(f"with {kind}")
    x, names = to.nodes[-1].output[0], _ACTIVATIONS[kind]
    given: dict[str, Any] = dict(zip(names, map(float, parameters), strict=False))
    if kind == "Clip" and to.file.version >= _BOUNDS_AS_INPUTS:
        to.add(kind, [x, *(to.constant(name, given[name]) if name in given else "" for name in names)])
    else:
        to.add(kind, [x], **given)
    return to.finish()
