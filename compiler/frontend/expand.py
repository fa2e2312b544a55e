"""Replace operators that TVM does not take by the definition that ONNX itself gives of them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import defs, numpy_helper

from axlora.compiler.frontend.fold import infer_shapes, known_shapes
from axlora.compiler.frontend.onnx_graph import attribute
from axlora.compiler.frontend.supported import is_expanded, opset

_DEPTH = 4
"""Rounds: a definition may use operators that have definitions themselves."""


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    graph = model.graph
    types = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return types


def _definition(node: onnx.NodeProto, version: int, types: dict[str, onnx.TypeProto]) -> onnx.FunctionProto | None:
    """What ONNX says the node computes, for these types; None if it says nothing."""
    schema: Any = defs.get_schema(node.op_type, version, "")
    if schema.has_context_dependent_function:
        given = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        known = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        one, made = node.SerializeToString(), schema.get_context_dependent_function_with_opset_version
        text = made(max(known), one, given) if known else schema.get_context_dependent_function(one, given)
        return _parsed(text)
    if not schema.has_function:
        return None
    known = [v for v in schema.function_opset_versions if v <= version]
    text = schema.get_function_with_opset_version(max(known)) if known else None
    return _parsed(text or schema.function_body.SerializeToString())


def _parsed(text: bytes) -> onnx.FunctionProto | None:
    """A definition as onnx serializes it; None where it has none."""
    if not text:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(text)
    return body


def _needs_types(node: onnx.NodeProto, version: int) -> bool:
    """Whether the definition depends on the types of what the node reads."""
    schema: Any = defs.get_schema(node.op_type, version, "")
    return bool(schema.has_context_dependent_function)


def _defaults(node: onnx.NodeProto, version: int) -> dict[str, onnx.AttributeProto]:
    """Attributes that have a value where the node gives none."""
    schema: Any = defs.get_schema(node.op_type, version, "")
    values = {name: a.default_value for name, a in schema.attributes.items()}
    return {name: value for name, value in values.items() if value.type != onnx.AttributeProto.UNDEFINED}


def _inlined(node: onnx.NodeProto, body: onnx.FunctionProto, index: int, version: int) -> list[onnx.NodeProto]:
    """The body's nodes on the node's tensors; inner tensors get names of their own."""
    names = dict(zip(body.input, [*node.input, *[""] * (len(body.input) - len(node.input))], strict=True))
    names |= {inner: outer for inner, outer in zip(body.output, node.output, strict=False) if outer}
    given = _defaults(node, version) | {a.name: a for a in (*body.attribute_proto, *node.attribute)}
    result: list[onnx.NodeProto] = []
    for inner in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.name = f"{node.name or node.op_type}.{index}.{len(result)}"
        for field in (copy.input, copy.output):
            for i, name in enumerate(field):
                field[i] = names.setdefault(name, f"{node.op_type}.{index}.{name}") if name else ""
        kept = []
        for one in copy.attribute:
            if one.ref_attr_name and one.ref_attr_name in given:
                value = onnx.AttributeProto()
                value.CopyFrom(given[one.ref_attr_name])
                value.name = one.name
                kept.append(value)
            elif not one.ref_attr_name:
                kept.append(one)
        del copy.attribute[:]
        copy.attribute.extend(kept)
        result.append(copy)
    return result


def plain_flattens(model: onnx.ModelProto) -> None:
    """Reshape for Flatten of a known shape, in place: onnxscript's own rewrite of two that read one tensor loses a shape."""
    shapes = known_shapes(model)
    for node in model.graph.node:
        if node.op_type == "Flatten" and (shape := shapes.get(node.input[0])) is not None:
            axis = int(attribute(node, "axis", 1))
            axis += len(shape) if axis < 0 else 0
            sizes = np.array([prod(shape[:axis]), prod(shape[axis:])], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(sizes, f"{node.output[0]}/sizes"))
            node.op_type = "Reshape"
            node.input.append(f"{node.output[0]}/sizes")
            del node.attribute[:]


def expand(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the operators that `operators.is_expanded` names."""
    version = opset(model)
    for _ in range(_DEPTH):
        if not any(is_expanded(node, version) for node in model.graph.node):
            return model
        if any(is_expanded(node, version) and _needs_types(node, version) for node in model.graph.node):
            model = infer_shapes(model)
        types = _types(model)
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(model.graph.node):
            body = _definition(node, version, types) if is_expanded(node, version) else None
            nodes += [node] if body is None else _inlined(node, body, index, version)
        result = onnx.ModelProto()
        result.CopyFrom(model)
        del result.graph.node[:], result.graph.value_info[:]
        result.graph.node.extend(nodes)
        model = result
    return model
