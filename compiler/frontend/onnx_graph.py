"""An ONNX graph with the questions that cutting out the host part, placement and embeddings ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.storage import values

_PASSIVE = ("Identity", "Cast")


def attribute(node: onnx.NodeProto, name: str, default: float = 0) -> float:
    """A number attribute."""
    found = next((a for a in node.attribute if a.name == name), None)
    return onnx.helper.get_attribute_value(found) if found is not None else default


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Nodes behind those that make what they read, in place: converters append some at the end. A circle is left as it is."""
    maker = {name: n for n, node in enumerate(graph.node) for name in node.output if name}
    needs = {n: {maker[name] for name in node.input if name in maker} for n, node in enumerate(graph.node)}
    if all(m < n for n, own in needs.items() for m in own) or any(a.HasField("g") for n in graph.node for a in n.attribute):
        return
    try:
        order = [*TopologicalSorter(needs).static_order()]
    except CycleError:
        return
    copies = [onnx.NodeProto.FromString(graph.node[n].SerializeToString()) for n in order]
    del graph.node[:]
    graph.node.extend(copies)


@dataclass
class Graph:
    """Producers, readers, constants and shapes by tensor name."""

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(init=False)
    producer: dict[str, int] = field(init=False)
    """Index of the node that writes a tensor."""
    readers: dict[str, list[int]] = field(init=False)
    _values: dict[str, onnx.TensorProto] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.producer = {out: i for i, node in enumerate(self.nodes) for out in node.output}
        self.readers = {}
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(i)
        self._values = {i.name: i for i in graph.initializer}
        self._shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in (*graph.input, *graph.value_info, *graph.output)
            if v.type.tensor_type.HasField("shape")
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; raises `BadModel` if inference did not find it."""
        if name in self._values:
            return tuple(self._values[name].dims)
        if name not in self._shapes:
            raise BadModel("shape of the tensor is not known", name, "run ONNX shape inference on the model")
        return self._shapes[name]

    def node_of(self, name: str) -> onnx.NodeProto | None:
        """The node that writes a tensor, or None."""
        return self.nodes[self.producer[name]] if name in self.producer else None

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """Value of a constant tensor (initializer, Constant, Transpose or Cast of one), or None."""
        if name in self._values:
            return values(self._values[name])
        node = self.node_of(name)
        if node is None:
            return None
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(node.attribute[0].t))
        if node.op_type in (*_PASSIVE, "Transpose"):
            inner = self.constant(node.input[0])
            if inner is None:
                return None
            if node.op_type == "Transpose":
                perm = attribute(node, "perm", 0) or None
                return np.transpose(inner, perm)  # type: ignore[arg-type]
            if node.op_type == "Cast":
                return inner.astype(onnx.helper.tensor_dtype_to_np_dtype(int(attribute(node, "to"))))
            return inner
        return None

    def real(self, name: str) -> npt.NDArray[np.float64] | None:
        """Value of a constant, or of one that went through Q/DQ (scales along its last dimension, or one); or None."""
        value = self.constant(name)
        if value is not None:
            return value.astype(np.float64)
        node = self.node_of(name)
        if node is None or node.op_type not in (*_PASSIVE, "DequantizeLinear"):
            return None
        if node.op_type in _PASSIVE:
            return self.real(node.input[0])
        raw, scale = self._codes_of_constant(node.input[0]), self.constant(node.input[1])
        zero = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if raw is None or scale is None or zero is None:
            return None
        return (raw.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)

    def _codes_of_constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """A constant, or what QuantizeLinear makes of one (exporters' Constant nodes keep their QuantizeLinear)."""
        node = self.node_of(name)
        if node is None or node.op_type != "QuantizeLinear" or len(node.input) < 3:
            return self.constant(name)
        real, scale, zero = (self.constant(n) for n in node.input[:3])
        if real is None or scale is None or zero is None or zero.dtype.kind not in "iu":
            return None
        limits = np.iinfo(zero.dtype.name)
        codes = np.rint(real.astype(np.float32) / scale.astype(np.float32)).astype(np.int64) + zero.astype(np.int64)
        return np.clip(codes, limits.min, limits.max)

    def scalar(self, name: str) -> float | None:
        """Value of a constant or dequantized constant with one element, or None."""
        value = self.real(name) if self._is_small(name) else None
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def _is_small(self, name: str) -> bool:
        """Not a matrix: cheap to look at."""
        shape = self._values[name].dims if name in self._values else self._shapes.get(name, ())
        return int(prod(shape)) <= max(shape, default=1)
