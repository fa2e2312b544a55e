"""Multiply-accumulates of ONNX operators, wherever they run."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import onnx

from axlora.compiler.frontend.onnx_graph import attribute

Shape = tuple[int, ...]
MULTIPLYING = ("MatMul", "Gemm", "MatMulInteger", "Conv", "ConvInteger", "ConvTranspose", "Einsum")
"""Operators that are counted; every other has none."""


def macs(node: onnx.NodeProto, shape: Callable[[str], Shape]) -> int:
    """Multiply-accumulates of one node.

    Args:
        shape: shape of a tensor by name.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in MULTIPLYING:
        return 0
    first, second, result = shape(node.input[0]), shape(node.input[1]) if len(node.input) > 1 else (), shape(node.output[0])
    match node.op_type:
        case "MatMul" | "MatMulInteger":
            return prod(result) * first[-1]
        case "Gemm":
            return prod(result) * first[0 if attribute(node, "transA") else -1]
        case "Conv" | "ConvInteger":  # weight [out, in / group, *kernel]
            return prod(result) * prod(second[1:])
        case "ConvTranspose":  # weight [in, out / group, *kernel]
            return prod(first) * prod(second[1:])
        case _:
            return _einsum(node, [shape(name) for name in node.input])


def einsum_terms(node: onnx.NodeProto) -> tuple[list[str], str | None]:
    """Subscripts of the operands, and of the result if they are given, without blanks."""
    text = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    left, arrow, right = text.partition("->")
    return left.split(","), right if arrow else None


def _einsum(node: onnx.NodeProto, shapes: list[Shape]) -> int:
    """Product of the extents of all subscripts; 0 for one operand, which is only moved or summed."""
    terms, _ = einsum_terms(node)
    if len(shapes) < 2 or len(terms) != len(shapes):
        return 0
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        head, dots, tail = term.partition("...")
        hidden = len(shape) - len(head) - len(tail) if dots else 0
        labels = [*head, *(f"...{hidden - i}" for i in range(hidden)), *tail]
        for label, size in zip(labels, shape, strict=False):
            extents[label] = max(extents.get(label, 1), size)
    return prod(extents.values()) * (len(shapes) - 1)
