"""onnxruntime's fused products as the standard operators that they stand for."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from axlora.compiler.frontend.forms.rewriter import Nodes, Rewriter


def fused_matmul(to: Rewriter) -> Nodes:
    """FusedMatMul(a, b; alpha, transA, transB) of two dimensions or constant b: Transpose, MatMul, Mul."""
    if to.number("transA") or to.number("transBatchA") or to.number("transBatchB"):
        return None
    right = to.given(1)
    if to.number("transB"):
        if len(to.file.dims(right) or ()) != 2:
            return None
        right = to.add("Transpose", [right], perm=[1, 0])
    product = to.add("MatMul", [to.given(0), right])
    if (alpha := to.number("alpha", 1)) != 1:
        to.add("Mul", [product, to.constant("alpha", alpha)])
    return to.finish()


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
