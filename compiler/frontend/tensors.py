"""The constants of a model: where they are, and whether their data is what their dimensions say."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import onnx
from onnx import TensorProto, helper

from axlora.compiler.errors import BadModel

_BITS: dict[int, int] = {
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64, TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16, TensorProto.UINT16: 16,
    TensorProto.INT32: 32, TensorProto.UINT32: 32, TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.BOOL: 8,
}  # fmt: skip


TAKEN = "floats of 16, 32 and 64 bits, bfloat16 and integers of 4 to 64 bits are"
"""What to say of another type."""


def check_inputs(model: onnx.ModelProto, where: str) -> None:
    """Raise `BadModel` for an input of the graph that is no tensor of numbers of a type that is taken."""
    for value in model.graph.input:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise BadModel(f"input {value.name!r} is of type {kind}, not a tensor", where, "export with tensors")
        element = value.type.tensor_type.elem_type
        if element not in _BITS:
            known = element in TensorProto.DataType.values()
            kind = TensorProto.DataType.Name(element) if known else str(element)
            what = f"input {value.name!r} has type {kind}, which is not taken"
            raise BadModel(what, where, TAKEN)


def size(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor by its type and dimensions."""
    bits = _BITS.get(tensor.data_type, 32)
    return int((prod(tensor.dims) * bits + 7) // 8)


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The graph, its subgraphs and the model's functions."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def inner_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant but the graph's own initializers: of attributes, sparse, of subgraphs and functions."""
    for place, graph in enumerate(graphs(model)):
        if isinstance(graph, onnx.GraphProto):
            if place:
                yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                own = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                for sparse in (*own, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def check_data(tensor: onnx.TensorProto, where: str) -> None:
    """A known type, dimensions that are sizes, and as many elements as they say; of external data only the first two.

    Raises:
        BadModel: names the tensor.
    """
    again = "export the model again"
    if tensor.data_type not in helper.get_all_tensor_dtypes() or any(d < 0 for d in tensor.dims):
        what = f"weights of {tensor.name!r} have type {tensor.data_type} and dimensions {list(tensor.dims)}"
        raise BadModel(what, where, again)
    if tensor.data_type not in (*_BITS, TensorProto.STRING):
        what = f"weights of {tensor.name!r} have type {TensorProto.DataType.Name(tensor.data_type)}, which is not taken"
        raise BadModel(what, where, TAKEN)
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    if tensor.HasField("raw_data"):
        found, needed = len(tensor.raw_data), size(tensor)
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        found, needed = max(len(tensor.string_data), *map(len, fields)), prod(tensor.dims)
        if _BITS.get(tensor.data_type, 0) == 4:  # packed by two
            found, needed = min(found, needed), min(found, needed) if needed <= 2 * found else needed
    if found != needed:
        raise BadModel(f"weights of {tensor.name!r} have {found} bytes or elements, need {needed}", where, again)
