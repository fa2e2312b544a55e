"""What the host part needs rewritten before TVM 0.27 takes it (found by running exported models; `fold` does the most).

- Targets of Expand, Tile, Slice and the like are Constant nodes, not initializers: TVM keeps initializers as parameters, and
  a shape that comes from a parameter is symbolic (the LLVM build of a Reshape after it took 90 s).
"""

from __future__ import annotations

from math import prod

import onnx
from onnx import TensorProto, helper

_SMALL = 256
"""Elements of an integer or truth value that becomes a Constant node."""
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


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The folded model in the form that TVM takes; shapes stay inferred."""
    _inline_parameters(model)
    return model
