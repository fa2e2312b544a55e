"""Cut the linears out of a model: what is left is the host graph, in stages between starts of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.layer import Host

Float64 = npt.NDArray[np.float64]


def stages(nodes: Sequence[onnx.NodeProto], results: Mapping[str, str]) -> dict[str, int]:
    """Stage at which each tensor is known; inputs and constants, which are not named, at 0.

    Args:
        nodes: in topological order.
        results: result of a linear -> tensor that it reads.
    """
    known: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in known and name in results:
            known[name] = of(results[name]) + 1
        return known.get(name, 0)

    for node in nodes:
        stage = max((of(name) for name in node.input), default=0)
        for name in node.output:
            if name not in results:
                known[name] = stage
    for name in results:
        of(name)
    return known


def stages_after(nodes: Sequence[onnx.NodeProto], arrivals: Mapping[str, int]) -> dict[str, int]:
    """`stages` where those of the linears' results are known: tensor -> stage, `arrivals` included."""
    known = dict(arrivals)
    for node in nodes:
        known.update(dict.fromkeys(node.output, max((known.get(name, 0) for name in node.input), default=0)))
    return known


def live(nodes: Sequence[onnx.NodeProto], wanted: set[str], given: set[str]) -> list[onnx.NodeProto]:
    """The nodes, in order, that `wanted` tensors need, where those of `given` come from elsewhere."""
    needed, kept = set(wanted) - given, []
    for node in reversed(nodes):
        if needed & (set(node.output) - given):
            needed |= set(node.input) - given
            kept.append(node)
    return kept[::-1]


def _divided(
    nodes: list[onnx.NodeProto], smooth: Mapping[str, tuple[str, Float64]], results: Mapping[str, str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes, still in topological order, with a Mul behind each tensor that is divided by `smooth` for linears.

    Args:
        smooth: in the order of the model.
        results: result of a linear -> tensor that it reads.
    """
    result, factors = list(nodes), []

    def place(tensor: str) -> int:
        """Index from which on a tensor is known."""
        while tensor in results:
            tensor = results[tensor]
        return next((i for i, n in enumerate(result) if tensor in n.output), -1) + 1

    for name, (source, by) in smooth.items():
        factor = numpy_helper.from_array((1 / by).astype(np.float32), f"{name}.factor")
        result.insert(place(source), helper.make_node("Mul", [source, factor.name], [name], name=name))
        factors.append(factor)
    return result, factors


def _constants(nodes: Sequence[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Constant nodes as initializers, so that every stage has those that it reads; and the other nodes."""
    kept, tensors = [], []
    for node in nodes:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        value = helper.get_attribute_value(node.attribute[0])
        if node.attribute[0].name == "value":
            tensors.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
        else:  # value_int, value_floats, ...
            dtype = np.float32 if node.attribute[0].name.startswith("value_float") else np.int64
            tensors.append(numpy_helper.from_array(np.array(value, dtype), node.output[0]))
    return kept, tensors


def cut(
    g: Graph, results: Mapping[str, str], smooth: Mapping[str, tuple[str, Float64]] | None = None
) -> tuple[Host, dict[str, int]]:
    """The host graph of a model.

    Args:
        g: the model.
        results: tensor that a linear gives back -> float tensor that it reads.
        smooth: tensor to make -> (tensor of the model, what to divide its last dimension by).

    Returns:
        the host graph, and the stage of every result's linear.

    Raises:
        BadModel: linears that feed each other in a circle; a tensor of unknown type.
    """
    graph = g.model.graph
    constants = {i.name for i in graph.initializer}
    inputs = tuple(i.name for i in graph.input if i.name not in constants)
    outputs = tuple(o.name for o in graph.output)
    given = set(results)
    divided = smooth or {}
    sources = {divided[name][0] if name in divided else name for name in results.values()}
    nodes, fixed = _constants(live(g.nodes, {*outputs, *sources}, given))
    nodes, factors = _divided(nodes, divided, results)
    known = stages(nodes, results)
    constants |= {i.name for i in fixed}
    computed = {name for node in nodes for name in node.output if name}
    read = list(dict.fromkeys(results.values()))
    for name in (*outputs, *read):
        if name not in computed | set(inputs) | constants | given:
            raise BadModel("tensor has no source", name, "check the model")
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    kinds |= dict.fromkeys(divided, TensorProto.FLOAT)
    used = {name for node in nodes for name in node.input} | {*outputs, *read}

    def info(name: str) -> onnx.ValueInfoProto:
        if not kinds.get(name):
            raise BadModel("type of the tensor is not known", name, "run ONNX shape inference on the model")
        shape = g.shape(divided[name][0] if name in divided else name)
        return helper.make_tensor_value_info(name, kinds[name], shape)

    arrivals = [name for name in results if name in used]
    model = onnx.ModelProto()
    model.ir_version = g.model.ir_version
    model.opset_import.extend(g.model.opset_import)
    model.functions.extend(g.model.functions)
    model.graph.name = "host"
    model.graph.node.extend(nodes)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    model.graph.initializer.extend(i for i in (*graph.initializer, *fixed, *factors) if i.name in used)
    model.graph.input.extend(info(name) for name in (*inputs, *arrivals))
    # ONNX lets a graph give back only what a node of it makes; inputs, constants and results of linears need no copy.
    model.graph.output.extend(info(name) for name in dict.fromkeys((*outputs, *read)) if name in computed)
    inner = computed - {o.name for o in model.graph.output}
    model.graph.value_info.extend(info(name) for name in sorted(inner) if kinds.get(name))
    host = Host(model, inputs, outputs, tuple((name, known[name]) for name in arrivals))
    return host, {name: known[name] - 1 for name in results}
