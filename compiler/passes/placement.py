"""The placement table: where every operator of the model went, why, and its multiply-accumulates."""

from __future__ import annotations

from math import prod

from axlora.compiler.frontend.found import FoundLinear
from axlora.compiler.frontend.graph import Graph
from axlora.compiler.layer import Placement

_MOVES = {"QuantizeLinear": "float to codes at the boundary", "DequantizeLinear": "codes to float at the boundary"}


def _macs(g: Graph, index: int) -> int:
    """Multiply-accumulates of a MatMul or Gemm: result elements times K; 0 of others."""
    node = g.nodes[index]
    if node.op_type not in ("MatMul", "Gemm"):
        return 0
    return prod(g.shape(node.output[0])) * g.shape(node.input[0])[-1]


def place(g: Graph, found: tuple[FoundLinear, ...]) -> tuple[Placement, ...]:
    """One row an ONNX node, in the graph's order."""
    owner = {index: linear.name for linear in found for index in linear.nodes}
    rows = []
    for index, node in enumerate(g.nodes):
        name = f"{node.op_type} {node.name or node.output[0]}"
        constant = node.op_type == "DequantizeLinear" and g.constant(node.input[0]) is not None
        feeds = {owner[i] for i in g.readers.get(node.output[0], []) if i in owner}
        if index in owner:
            row = Placement(name, "accelerator", f"part of linear {owner[index]}", _macs(g, index))
        elif constant and feeds:
            row = Placement(name, "accelerator", f"weight codes of linear {min(feeds)}", 0)
        elif node.op_type in _MOVES:
            row = Placement(name, "host", _MOVES[node.op_type], 0)
        elif node.op_type in ("MatMul", "Gemm"):
            row = Placement(name, "host", "both operands are activations", _macs(g, index))
        else:
            row = Placement(name, "host", "no integer form of this operator yet", 0)
        rows.append(row)
    return tuple(rows)
