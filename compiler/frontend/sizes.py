"""Bounds on a graph before anything is allocated for it, and what a host graph must be before it is compiled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.host_graph import stages_after
from axlora.compiler.frontend.storage import values
from axlora.compiler.frontend.tensors import check_data, inner_tensors
from axlora.compiler.layer import Host

ELEMENTS = 1 << 28
"""Most elements of a tensor that the host computes: 1 GiB of float32."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_AGAIN = "export the model again"


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape of a tensor, or None if a dimension is free."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
        return None
    return tuple(d.dim_value for d in kind.shape.dim)


def check_sizes(model: onnx.ModelProto, where: str, weights: Collection[str] = ()) -> None:
    """Raise `BadModel` for a tensor with more than `ELEMENTS` elements, or with a negative dimension.

    Args:
        model: its inputs, outputs and whatever inference has found between.
        where: the model, for messages.
        weights: inputs that stand for weights, whose bytes are there.
    """
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        shape = static_shape(value) or ()
        if value.name in weights:
            continue
        if any(d < 0 for d in shape) or prod(shape) > ELEMENTS:
            hint = "smaller --shape values, or another export"
            raise BadModel(f"tensor {value.name!r} has shape {shape}, more than {ELEMENTS} elements", where, hint)


@dataclass(frozen=True)
class Value:
    """A tensor of a host graph."""

    shape: tuple[int, ...]
    dtype: str
    stage: int
    """In which it is known."""


def check_host(host: Host, stages: int) -> dict[str, Value]:
    """Every typed tensor of a host graph.

    Args:
        stages: starts of the machine.

    Raises:
        BadModel: refused by the ONNX checker, external data, free or huge shapes, names that are not in the graph, a stage out
            of range.
    """
    model, graph = host.model, host.model.graph
    for tensor in (*graph.initializer, *inner_tensors(model)):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise BadModel("it holds external data", "host", _AGAIN)
        check_data(tensor, "host")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and protobuf have no common base
        raise BadModel(f"ONNX checker: {' '.join(str(error).split())[:160]}", "host", _AGAIN) from None
    check_sizes(model, "host")
    check_values(model, "host")
    arrivals = dict(host.arrivals)
    _check_names(host, arrivals, stages)
    for node in graph.node:
        if not node.output or not node.output[0]:
            raise BadModel(f"node {node.name[:80]!r} has no output", "host", _AGAIN)
    known = stages_after(graph.node, arrivals)
    if max(known.values(), default=0) != stages:
        raise BadModel(f"it has {max(known.values(), default=0)} stages, the program {stages}", "host", _AGAIN)
    values = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape, kind = static_shape(value), value.type.tensor_type.elem_type
        if shape is None or kind not in helper.get_all_tensor_dtypes():
            raise BadModel(f"tensor {value.name[:80]!r} has no fixed shape or type", "host", _AGAIN)
        values[value.name] = Value(shape, str(helper.tensor_dtype_to_np_dtype(kind)), known.get(value.name, 0))
    lacking = next((n for node in graph.node for n in node.output if n and n not in values), None)
    if lacking is not None:
        raise BadModel(f"tensor {lacking[:80]!r} has no type", "host", _AGAIN)
    return values


def _check_names(host: Host, arrivals: dict[str, int], stages: int) -> None:
    graph = host.model.graph
    given = [v.name for v in graph.input]
    made = {*given, *(v.name for v in graph.output), *(i.name for i in graph.initializer)}
    if sorted(given) != sorted({*host.inputs, *arrivals}) or len(given) != len(host.inputs) + len(host.arrivals):
        raise BadModel("its inputs are not those of the manifest", "host", _AGAIN)
    for name in host.outputs:
        if name not in made:
            raise BadModel(f"output {name[:80]!r} is not in the graph", "host", _AGAIN)
    for name, stage in arrivals.items():
        if not 1 <= stage <= stages:
            raise BadModel(f"{name[:80]!r} arrives in stage {stage}, the program has {stages}", "host", _AGAIN)


def check_values(model: onnx.ModelProto, where: str) -> None:
    """Raise `BadModel` for NaN in a constant that is read, and for scales that are not finite (activations: positive)."""
    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    codes = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear") and len(n.input) > 1]
    scales = {n.input[1]: n.input[0] in constants for n in codes}  # of a weight it may be 0 or negative
    _check_axes(model, where)
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & constants.keys()):
        if constants[name].data_type not in _FLOATS:
            continue
        value = values(constants[name]).astype(np.float32, copy=False)
        bad = np.isnan(value)
        if name in scales:
            bad = ~(np.isfinite(value) & (scales[name] | (value > 0)))
        if bad.any():
            scale = f"scale {name!r} holds {value[bad][0]}, must be finite, and positive for activations"
            what = scale if name in scales else f"tensor {name!r} holds NaN"
            reader = next(n for n in model.graph.node if name in n.input)
            raise BadModel(what, f"node {reader.name or reader.output[0]!r} of {where}", "export or quantize the model again")


def _check_axes(model: onnx.ModelProto, where: str) -> None:
    """Raise `BadModel` for Q/DQ scales that are neither one nor one for each place along the axis."""
    shapes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info):
        if (shape := static_shape(value)) is not None:
            shapes[value.name] = shape
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 2:
            continue
        numbers = {a.name: a.i for a in node.attribute}
        x, scale = shapes.get(node.input[0]), shapes.get(node.input[1])
        zero = shapes.get(node.input[2]) if len(node.input) > 2 and node.input[2] else scale
        if x is None or scale is None or zero is None or numbers.get("block_size"):
            continue
        axis = numbers.get("axis", 1)
        along = x[axis] if -len(x) <= axis < len(x) else 0
        if prod(scale) != prod(zero) or (prod(scale) != 1 and scale != (along,)):
            what = f"{node.op_type} has scales {scale} and zero points {zero} for a tensor {x}"
            raise BadModel(what, f"node {node.name or node.output[0]!r} of {where}", "quantize the model again")
