"""Operators that only move codes, as ones that move what the codes stand for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx
from onnx import numpy_helper

from axlora.compiler.frontend.fold import drop_dead
from axlora.compiler.frontend.supported import STANDARD

_MOVES = (
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split", "Expand", "Identity", "MaxPool",
    "Resize", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
"""Operators whose results are elements of their first operand; the largest code stands for the largest value."""


def _moves(node: onnx.NodeProto) -> bool:
    """Whether an operator only moves what it reads; a Resize may interpolate."""
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    return node.op_type in _MOVES and (node.op_type != "Resize" or mode == b"nearest")


def move_reals(model: onnx.ModelProto) -> None:
    """Put each DequantizeLinear of one scale in front of what moves its codes, in place: as in a file of Q/DQ pairs.

    Operators on codes (QLinearMatMul and its like) hand their codes through reshapes to the next operator. Codes that are
    read as such (an output, an operator without a float form) stay beside.
    """
    graph = model.graph
    values = {i.name: numpy_helper.to_array(i).ravel() for i in graph.initializer if prod(i.dims) == 1}
    pairs: dict[str, tuple[str, ...]] = {}
    """Codes -> scale and zero point that QuantizeLinear made them with, or of what they are moved."""
    reals: dict[str, str] = {}
    """Codes -> the float tensor that they stand for, made already."""
    moved: dict[str, onnx.NodeProto] = {}
    """Codes -> the operator that moves them here."""
    nodes: list[onnx.NodeProto] = []

    def alike(a: Sequence[str], b: Sequence[str]) -> bool:
        return len(a) == len(b) and all(
            x == y or (x in values and y in values and values[x] == values[y]) for x, y in zip(a, b, strict=True)
        )

    def stands_for(codes: str) -> str:
        """Append what makes the floats of codes."""
        if codes in reals:
            return reals[codes]
        if codes not in moved:
            reals[codes] = f"{codes}/reals"
            nodes.append(onnx.helper.make_node("DequantizeLinear", [codes, *pairs[codes]], [reals[codes]], f"{codes}/reals"))
            return reals[codes]
        node = onnx.NodeProto()
        node.CopyFrom(moved[codes])
        node.input[0] = stands_for(moved[codes].input[0])
        for i, name in enumerate(node.output):
            if name:
                node.output[i] = reals[name] = f"{name}/reals"
        node.name = f"{node.name}/reals"
        nodes.append(node)
        return reals[codes]

    for node in graph.node:
        first = node.input[0] if node.input else ""
        if node.domain in STANDARD and node.op_type == "QuantizeLinear" and node.input[1] in values:
            pairs[node.output[0]] = tuple(node.input[1:])
        elif node.domain in STANDARD and _moves(node) and first in pairs:
            moved |= dict.fromkeys(node.output, node)
            pairs |= dict.fromkeys(node.output, pairs[first])
        elif node.op_type == "DequantizeLinear" and first in moved and alike(pairs[first], node.input[1:]):
            nodes.append(onnx.helper.make_node("Identity", [stands_for(first)], list(node.output), node.name))
            continue
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    drop_dead(model)
