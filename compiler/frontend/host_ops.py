"""What the host part needs rewritten before TVM 0.27 takes it, found by running exported models.

| found in | TVM's trouble | rewritten by |
| --- | --- | --- |
| both: Shape, Gather, Concat, Range, GatherND of masks | dynamic shapes, Shape of a shape | `fold` |
| TorchScript: ConstantOfShape, Equal, Where, Expand of a constant target | wrong ranks in broadcast_to | `fold` |
| both: Reshape after Expand to an initializer (grouped queries) | symbolic shape, 90 s in LLVM | Constant nodes, here |
| opset 23: Attention, RotaryEmbedding, RMSNormalization | no importer, or one for other attributes | `expand` |
| Gather and its like along a negative axis | negative indices counted from another axis's extent | positive axes, here |
| GroupNormalization | scales a group, not a channel | `expand` |
| float16, bfloat16 | no bfloat16 kernels on the host | `precision` |
| onnxruntime's own operators, scales of blocks | no importer | `forms/` |

IsNaN, Where, Softmax, LayerNormalization, Gelu, Erf, GatherElements, DynamicQuantizeLinear, MatMulInteger and Q/DQ it takes.
"""

from __future__ import annotations

from math import prod

import onnx
from onnx import TensorProto, helper

from axlora.compiler.frontend.fold import known_shapes

_SMALL = 256
"""Elements of an integer or truth value that becomes a Constant node."""
_INDEXING = ("Gather", "GatherElements", "ScatterElements")
_CODES = ("QuantizeLinear", "DequantizeLinear", "MatMulInteger")
_PARAMETERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def _inline_parameters(model: onnx.ModelProto) -> None:
    graph = model.graph
    named = {o.name for o in graph.output} | {i.name for i in graph.input}
    named |= {name for node in graph.node if node.op_type in _CODES for name in node.input}
    constants = []
    for i in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[i]
        if tensor.data_type in _PARAMETERS and prod(tensor.dims) <= _SMALL and tensor.name not in named:
            constants.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
            del graph.initializer[i]
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*constants[::-1], *kept])


def _positive_axes(model: onnx.ModelProto) -> None:
    shapes = known_shapes(model)
    for node in model.graph.node:
        if node.op_type not in _INDEXING or node.input[0] not in shapes:
            continue
        for attribute in node.attribute:
            if attribute.name == "axis" and attribute.i < 0:
                attribute.i += len(shapes[node.input[0]])


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The folded model in the form that TVM takes; shapes stay inferred."""
    _inline_parameters(model)
    _positive_axes(model)
    return model
