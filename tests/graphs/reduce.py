"""Make a failing model smaller while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import onnx
from onnx import helper
from sketch import values_of
from strategy import Drawn


def _reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, in its bodies too."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names |= {o.name for o in attribute.g.output}.union(*(_reads(inner) for inner in attribute.g.node))
    return names


def _pruned(drawn: Drawn) -> Drawn:
    """Without nodes, constants and inputs that no output needs."""
    graph = drawn.model.graph
    needed, kept = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= _reads(node)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept[::-1])
    for part in (graph.initializer, graph.input):
        left = [x for x in part if x.name in needed]
        del part[:]
        part.extend(left)
    words = {n.op_type for n in kept} | {onnx.TensorProto.DataType.Name(i.data_type) for i in graph.initializer}
    refusal = drawn.refusal if any(drawn.refusal and word.startswith(drawn.refusal) for word in words) else ""
    return replace(drawn, inputs={n: a for n, a in drawn.inputs.items() if n in needed}, refusal=refusal)


def _copy(drawn: Drawn) -> Drawn:
    model = onnx.ModelProto()
    model.CopyFrom(drawn.model)
    return replace(drawn, model=model)


def _shapes(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}


def _without_output(drawn: Drawn) -> Iterator[Drawn]:
    """One output less, or another output's input in its place."""
    for i in range(len(drawn.model.graph.output)):
        if len(drawn.model.graph.output) > 1:
            smaller = _copy(drawn)
            del smaller.model.graph.output[i]
            yield smaller


def _without_end(drawn: Drawn) -> Iterator[Drawn]:
    """What the node of an output reads is the output."""
    shapes = _shapes(drawn.model)
    for i, output in enumerate(drawn.model.graph.output):
        node = next((n for n in drawn.model.graph.node if output.name in n.output), None)
        for name in () if node is None else node.input:
            if name in shapes and name not in {o.name for o in drawn.model.graph.output}:
                smaller = _copy(drawn)
                smaller.model.graph.output[i].CopyFrom(shapes[name])
                yield smaller


def _with_input(drawn: Drawn) -> Iterator[Drawn]:
    """A result is an input instead."""
    shapes = _shapes(drawn.model)
    outputs = {o.name for o in drawn.model.graph.output}
    values = values_of(drawn.model, drawn.inputs, [n for n in shapes if n not in outputs])
    for i, node in reversed(list(enumerate(drawn.model.graph.node))):
        name = node.output[0]
        if name not in values or len(node.output) > 1 or name in outputs or not node.input:
            continue
        kind = shapes[name].type.tensor_type
        if kind.elem_type == onnx.TensorProto.FLOAT:
            smaller = _copy(drawn)
            del smaller.model.graph.node[i]
            smaller.model.graph.input.append(shapes[name])
            yield replace(smaller, inputs={**drawn.inputs, name: values[name]})


def _bypassed(drawn: Drawn) -> Iterator[Drawn]:
    """A node's readers read its first input of the same type instead."""
    shapes = _shapes(drawn.model)
    for i, node in enumerate(drawn.model.graph.node):
        name = node.output[0]
        same = [n for n in node.input if n in shapes and name in shapes and shapes[n].type == shapes[name].type]
        if not same or any(name == o.name for o in drawn.model.graph.output):
            continue
        smaller = _copy(drawn)
        del smaller.model.graph.node[i]
        for other in smaller.model.graph.node:
            for at, read in enumerate(other.input):
                if read == name:
                    other.input[at] = same[0]
        yield smaller


def reduced(drawn: Drawn, fails: Callable[[Drawn], bool], tries: int = 150) -> Drawn:
    """The smallest model found that still fails.

    Args:
        fails: whether a model fails in the way that is looked for.
        tries: most models looked at.
    """
    again = True
    while again:
        again = False
        for smaller in (m for way in (_without_output, _without_end, _with_input, _bypassed) for m in way(drawn)):
            if tries == 0:
                return drawn
            tries -= 1
            candidate = _pruned(smaller)
            try:
                onnx.checker.check_model(candidate.model)
            except onnx.checker.ValidationError:
                continue
            if candidate.model.graph.node and fails(candidate):
                drawn, again = candidate, True
                break
    return drawn


def as_text(drawn: Drawn) -> str:
    """The model as ONNX's text."""
    return str(helper.printable_graph(drawn.model.graph))
