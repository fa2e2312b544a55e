"""Bring a float16, bfloat16 or float64 model to float32, in place: the host and the compiler compute in float32.

Half precision values are float32 values, so weights do not change; sums are no longer rounded to half precision.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Types that become float32."""
_TYPED = ("to", "dtype", "output_dtype", "stash_type")
"""Attributes that hold an element type."""


def in_float32(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor with float32 values, if it holds other floats; else the tensor itself."""
    if tensor.data_type not in FLOATS:
        return tensor
    result = onnx.TensorProto()
    copy_in_float32(tensor, result)
    return result


def copy_in_float32(tensor: onnx.TensorProto, result: onnx.TensorProto) -> None:
    """Fill the empty `result` with the tensor, with float32 values if it holds other floats."""
    if tensor.data_type not in FLOATS:
        result.CopyFrom(tensor)
        return
    with np.errstate(over="ignore"):
        value = numpy_helper.to_array(tensor).astype(np.float32)
    result.name, result.data_type = tensor.name, TensorProto.FLOAT
    result.dims.extend(tensor.dims)
    result.raw_data = value.tobytes()


def _attribute(attribute: onnx.AttributeProto) -> None:
    if attribute.name in _TYPED and attribute.i in FLOATS:
        attribute.i = TensorProto.FLOAT
    if attribute.HasField("t") and attribute.t.data_type in FLOATS:
        attribute.t.CopyFrom(in_float32(attribute.t))
    for graph in attribute.graphs:
        _graph(graph)
    if attribute.HasField("g"):
        _graph(attribute.g)


def _graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS:
            tensor.CopyFrom(in_float32(tensor))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            _attribute(attribute)


def to_float32(model: onnx.ModelProto) -> None:
    """Every floating tensor, type and Cast becomes float32; inputs and outputs too."""
    _graph(model.graph)
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                _attribute(attribute)
