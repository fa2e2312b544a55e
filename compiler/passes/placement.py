"""The placement table: where every operator of the model went, why, and its multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx

from axlora.compiler.frontend.macs import MULTIPLYING, macs
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.layer import TOKENS, Placement

_MOVES = {"QuantizeLinear": "float to codes at the boundary", "DequantizeLinear": "codes to float at the boundary"}
CONSTANT = "a constant"
_NAMED = 6
"""Most operators that a message names."""


def _is_constant(g: Graph, name: str) -> bool:
    """Whether a tensor is a constant, codes of one, or a turned one."""
    while g.constant(name) is None:
        node = g.node_of(name)
        if node is None or node.op_type not in (
            "DequantizeLinear",
            "QuantizeLinear",
            "Transpose",
            "Cast",
            "Identity",
            "Reshape",
        ):
            return False
        name = node.input[0]
    return True


def _form(g: Graph, name: str) -> str:
    """What is wrong with a constant matrix on the right."""
    while g.constant(name) is None:
        name = g.nodes[g.producer[name]].input[0]
    value = g.constant(name)
    assert value is not None
    if not value.size:
        return "its constant has no elements"
    return f"its constant of type {value.dtype} is in a form that is not understood; floats and codes of 4 and 8 bits are taken"


def reason(g: Graph, node: onnx.NodeProto) -> str:
    """Why the host runs an operator."""
    if node.op_type not in MULTIPLYING:
        return "no integer form of this operator yet"
    constant = [_is_constant(g, name) for name in node.input[:2]]
    if not any(constant):
        return "both operands are activations"
    if node.op_type == "Conv" and 0 not in (out := g.shape(node.output[0])):
        positions = out[0] * prod(out[2:])
        known = "its kernel is in a form that is not understood"
        return f"its {positions} positions are more than the {TOKENS} that a linear takes" if positions > TOKENS else known
    if node.op_type in ("Conv", "ConvInteger", "ConvTranspose"):
        return "convolutions of this kind have no path to the accelerator yet"
    if all(constant):
        return "both operands are constant"
    if node.op_type == "Einsum":
        return "this form of Einsum with a constant operand has no path to the accelerator yet"
    if constant[0]:
        return "its constant on the left cannot be turned to the right"
    shape = g.shape(node.input[1])
    if len(shape) != 2 and 0 not in shape:
        return f"its constant has shape {shape}; the weight of a linear has two dimensions"
    if node.op_type == "MatMulInteger":
        return "its codes and scales are not those of DynamicQuantizeLinear, Cast and Mul"
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        return f"its C of shape {g.shape(node.input[2])} is no constant row"
    return _form(g, node.input[1])


def _weights(g: Graph, owner: Mapping[int, str]) -> dict[int, str]:
    """Nodes that make a linear's weight of constants -> the linear, the first by name where it has several."""
    fixed = {name for name in g.readers if g.constant(name) is not None}
    for node in g.nodes:
        if node.op_type != "Constant" and all(name in fixed for name in node.input if name):
            fixed |= set(node.output)
    found: dict[int, str] = {}
    for index, node in reversed(list(enumerate(g.nodes))):
        readers = g.readers.get(node.output[0], [])
        feeds = {linear for i in readers if (linear := owner.get(i) or found.get(i)) is not None}
        if node.op_type != "Constant" and node.output[0] in fixed and feeds:
            found[index] = min(feeds)
    return found


def place(g: Graph, found: tuple[FoundLinear, ...]) -> tuple[Placement, ...]:
    """One row an ONNX node, in the graph's order."""
    owner = {index: linear.name for linear in found for index in linear.nodes}
    weights = _weights(g, owner)
    rows = []
    for index, node in enumerate(g.nodes):
        name = f"{node.op_type} {node.name or node.output[0]}"
        if index in owner:
            row = Placement(name, "accelerator", f"part of linear {owner[index]}", macs(node, g.shape))
        elif index in weights:
            row = Placement(name, "accelerator", f"weight codes of linear {weights[index]}", 0)
        elif node.op_type == "Constant":
            row = Placement(name, "host", CONSTANT, 0)
        elif node.op_type in _MOVES:
            row = Placement(name, "host", _MOVES[node.op_type], 0)
        else:
            row = Placement(name, "host", reason(g, node), macs(node, g.shape))
        rows.append(row)
    return tuple(rows)


def no_linear(g: Graph) -> str:
    """What to say of a model without a linear: which operators multiply, and why none of them is one."""
    found = [f"{n.op_type} {n.name or n.output[0]!r}: {reason(g, n)}" for n in g.nodes if n.op_type in MULTIPLYING]
    if not found:
        return "no linear found: no operator of the model multiplies matrices"
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"no linear with a constant weight found ({'; '.join(found[:_NAMED])}{more})"


def computes_on_host(rows: tuple[Placement, ...]) -> list[Placement]:
    """The rows of operators that the host computes, without moves between codes and floats, and without constants."""
    idle = {*_MOVES.values(), CONSTANT}
    return [row for row in rows if row.where == "host" and row.reason not in idle]
