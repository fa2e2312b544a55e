"""Rewrite every recognised linear into one canonical float form, whose tagged initializers tell the Relax passes which it is.

    DQ(codes of x) -> MatMul(DQ(ax{i}_w)) -> Add(ax{i}_bias) [-> Add(MatMul(MatMul(x, ax{i}_a), ax{i}_b))] [-> Q]

A and B are zeros of the widest rank: real adapters are run-time inputs of the lowered graph.
What nothing needs afterwards goes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.found import Activation, FoundLinear
from axlora.compiler.frontend.graph import Graph
from axlora.compiler.layer import Linear


def tag(index: int) -> str:
    """Prefix of everything that stands for linear `index`."""
    return f"ax{index}_"


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, axis=axis))
        return output


def _write(g: Graph, i: int, f: FoundLinear, x: Activation, linear: Linear, rank: int, to: _Writer) -> None:
    t, (k, n) = tag(i), f.weight.shape
    scales = g.nodes[g.producer[x.codes]].input
    source = to.node("DequantizeLinear", [x.codes, scales[1], scales[2]], f"{t}x")
    codes = to.constant(f"{t}w", linear.weight.values().astype(np.int8))
    assert linear.grid is not None
    step = to.constant(f"{t}w_scale", linear.grid.w_scale.astype(np.float32))
    zero = to.constant(f"{t}w_zero", np.zeros(n, np.int8))
    weight = to.node("DequantizeLinear", [codes, step, zero], f"{t}w_real", axis=1)
    y = to.node("MatMul", [source, weight], f"{t}product")
    y = to.node("Add", [y, to.constant(f"{t}bias", f.bias.astype(np.float32))], f"{t}sum")
    if rank:
        a = to.constant(f"{t}a", np.zeros((k, rank), np.float32))
        b = to.constant(f"{t}b", np.zeros((rank, n), np.float32))
        delta = to.node("MatMul", [to.node("MatMul", [source, a], f"{t}xa"), b], f"{t}xab")
        y = to.node("Add", [y, delta], f"{t}joined")
    last = g.nodes[g.producer[f.result]]
    if f.output is not None:
        shape, wanted = g.shape(last.input[0]), (*g.shape(g.nodes[g.producer[x.codes]].output[0])[:-1], n)
    else:
        shape, wanted = g.shape(f.result), (*g.shape(x.codes)[:-1], n)
    if shape != wanted:
        y = to.node("Reshape", [y, to.constant(f"{t}shape", np.array(shape, np.int64))], f"{t}reshaped")
    if f.output is not None:
        to.node("QuantizeLinear", [y, *last.input[1:]], f.result)
    else:
        to.nodes[-1].output[0] = f.result


def _live(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def canonical(
    g: Graph, found: tuple[tuple[FoundLinear, Activation], ...], linears: tuple[Linear, ...], rank: int
) -> onnx.ModelProto:
    """The model with every linear in canonical form; `rank` 0: without adapter branches."""
    at = {g.producer[f.result]: i for i, (f, _) in enumerate(found)}
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for index, node in enumerate(g.nodes):
        if index not in at:
            nodes.append(node)
            continue
        to = _Writer()
        f, x = found[at[index]]
        _write(g, at[index], f, x, linears[at[index]], rank, to)
        nodes += to.nodes
        initializers += to.initializers
    model = onnx.ModelProto()
    model.CopyFrom(g.model)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(_live(nodes, g.outputs))
    used = {name for node in model.graph.node for name in node.input} | g.outputs
    kept = [x for x in (*model.graph.initializer, *initializers) if x.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model
