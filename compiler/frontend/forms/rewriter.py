"""What every rewrite of a node needs: constants of the file, names for what it adds, and the nodes in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.fold import constant_of
from axlora.compiler.frontend.recognised import MARK
from axlora.compiler.frontend.storage import whole
from axlora.compiler.frontend.supported import because

Array = npt.NDArray[Any]
_AXES_AS_INPUT, _MEAN_AXES_AS_INPUT = 13, 18
"""First versions of the standard whose sums, and whose means, take their axes as an input."""
_END = (1 << 63) - 1
"""As the end of a Slice: all that is left."""
_FAR = 64
"""Most nodes that are gone back for the rank of a tensor."""
_SAME_RANK = (
    "MatMul", "MatMulNBits", "MatMulBnb4", "FusedMatMul", "Add", "Sub", "Mul", "Div", "Cast", "Identity", "Dropout", "Split",
    "Slice", "Concat", "LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "QuantizeLinear",
    "SkipSimplifiedLayerNormalization", "RotaryEmbedding", "BiasGelu", "FastGelu", "QuickGelu", "Gelu", "Relu", "Sigmoid",
    "Tanh", "DequantizeLinear",
)  # fmt: skip
"""Operators whose result has the dimensions of the first input, as files have them (a weight is never the first)."""
_ROWS = ("EmbedLayerNormalization", "Attention", "MultiHeadAttention", "GroupQueryAttention")
"""Operators of com.microsoft whose first result is [batch, tokens, features]."""
Nodes = list[onnx.NodeProto] | None
"""The nodes in place of one; None: it stays, and is refused by name if it has no path."""


@dataclass
class File:
    """The constants of a model, and those that rewrites add; of all its graphs, for branches read what is outside."""

    folder: Path
    """Where external data lies."""
    where: str
    """The model, for messages."""
    version: int
    """Of the standard operators."""
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """Constant nodes by what they write."""
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    """Of the graph and its branches."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Dimensions of the tensors that the file tells them of."""
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """What writes a tensor."""
    added: dict[str, onnx.TensorProto] = field(default_factory=dict)
    """What rewrites put into the graph; codes take the place of the file's constant of that name."""

    def collect(self, graph: onnx.GraphProto) -> None:
        """Note what a graph and its branches hold."""
        self.tensors |= {t.name: t for t in graph.initializer}
        self.outputs |= {value.name for value in graph.output}
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                self.ranks[value.name] = len(value.type.tensor_type.shape.dim)
        for node in graph.node:
            self.makers |= dict.fromkeys((name for name in node.output if name), node)
            if node.op_type == "Constant":
                self.nodes[node.output[0]] = node
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self.collect(attribute.g)

    def array(self, name: str) -> Array | None:
        """Value of a constant, read from its file if need be; None if the tensor is not constant.

        Raises:
            BadModel: external data that cannot be read.
        """
        if name in self.nodes:
            return constant_of(self.nodes[name])
        tensor = self.tensors.get(name, self.added.get(name))
        return None if tensor is None else np.asarray(numpy_helper.to_array(whole(tensor, self.folder, self.where)))

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant; None if the tensor is not constant."""
        tensor = self.tensors.get(name, self.added.get(name))
        if tensor is not None:
            return tuple(tensor.dims)
        value = constant_of(self.nodes[name]) if name in self.nodes else None
        return None if value is None else value.shape

    def rank(self, name: str) -> int | None:
        """Number of dimensions: as the file says, or as what makes the tensor tells; None if neither does."""
        for _ in range(_FAR):
            if (dims := self.dims(name)) is not None:
                return len(dims)
            if name in self.ranks:
                return self.ranks[name]
            node = self.makers.get(name)
            if node is None or not node.input:
                return None
            if node.op_type == "Transpose":
                return next((len(a.ints) for a in node.attribute if a.name == "perm"), None)
            if node.op_type == "Reshape":
                target = self.dims(node.input[1])
                return None if target is None else target[0]
            if node.op_type in _ROWS and node.domain and name == node.output[0]:
                return 3
            if node.op_type == "Gather":
                table, index = self.rank(node.input[0]), self.rank(node.input[1])
                return None if table is None or index is None else table + index - 1
            if node.op_type not in _SAME_RANK:
                return None
            name = node.input[0]
        return None

    def add(self, name: str, make: Callable[[], Array]) -> str:
        """A constant of that name, made once: weights may be read by several nodes."""
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.asarray(make(), order="C"), name)
        return name


class Rewriter:
    """Appends the nodes that replace one."""

    def __init__(self, node: onnx.NodeProto, file: File) -> None:
        self.node, self.file = node, file
        self.nodes: list[onnx.NodeProto] = []
        self.base = next(name for name in node.output if name)

    def add(self, kind: str, inputs: list[str], of: str = "", called: str = "", **attributes: Any) -> str:
        """Append a node; returns its result.

        Args:
            of: weight that the result is a step of; its name stands in front of `MARK`.
            called: what stands behind the replaced node's name in the new one's: its kind, and of a MatMul nothing.
        """
        own = f"{self.base}.{kind}" if of else kind
        name = f"{of or self.base}{MARK}{own}.{len(self.nodes)}"
        own = self.node.name or self.base
        called = called or ("" if kind == "MatMul" else kind)
        made = helper.make_node(kind, inputs, [name], name=f"{own}/{called}" if called else own, **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """A constant of the node's own."""
        return self.file.add(f"{self.base}{MARK}{name}", lambda: np.asarray(value, dtype))

    def given(self, index: int) -> str:
        """Name of an input; empty if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def number(self, name: str, default: float = 0) -> float:
        """A number attribute."""
        found = next((a for a in self.node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def reads(self, index: int) -> bool:
        """Whether anything needs the node's result of that index."""
        name = self.node.output[index] if index < len(self.node.output) else ""
        return bool(name) and (name in self.file.outputs or bool(self.file.readers.get(name)))

    def refuse(self, why: str) -> Nodes:
        """None, for the node stays; its refusal says why."""
        because(self.node, why)
        return None

    def sum(self, *terms: str) -> str:
        """Append the sum of the terms that are not left out."""
        first, *rest = (name for name in terms if name)
        for name in rest:
            first = self.add("Add", [first, name])
        return first

    def mean(self, x: str) -> str:
        """Append the mean over the last dimension, which stays as one."""
        if self.file.version < _MEAN_AXES_AS_INPUT:
            return self.add("ReduceMean", [x], axes=[-1], keepdims=1)
        return self.add("ReduceMean", [x, self.constant("last", [-1], np.int64)], keepdims=1)

    def total(self, x: str, axis: int) -> str:
        """Append the sum over one dimension, which goes."""
        return self._along("ReduceSum", x, axis, keepdims=0)

    def squeezed(self, x: str, axis: int) -> str:
        """Append a tensor without a dimension of one."""
        return self._along("Squeeze", x, axis)

    def _along(self, kind: str, x: str, axis: int, **attributes: Any) -> str:
        if self.file.version < _AXES_AS_INPUT:
            return self.add(kind, [x], axes=[axis], **attributes)
        return self.add(kind, [x, self.constant(f"axis {axis}", [axis], np.int64)], **attributes)

    def shaped(self, x: str, *shape: int) -> str:
        """Append a Reshape, with 0 and -1 as ONNX has them."""
        return self.add("Reshape", [x, self.constant(f"shape {shape}", shape, np.int64)])

    def part(self, x: str, axis: int, start: int, end: int = _END) -> str:
        """Append a Slice along one axis."""
        bounds = (("start", start), ("end", end), ("axis", axis))
        return self.add("Slice", [x, *(self.constant(f"{what} {value}", [value], np.int64) for what, value in bounds)])

    def dim(self, x: str, axis: int) -> str:
        """Append an extent of a tensor: int64 [1]."""
        return self.part(self.add("Shape", [x]), 0, axis, axis + 1)

    def count(self, extent: str) -> str:
        """Append 0, 1, .. up to an extent [1]: int64 [extent]."""
        scalar = self.constant("scalar", [], np.int64)
        end = self.add("Reshape", [extent, scalar])
        return self.add("Range", [self.constant("0", 0, np.int64), end, self.constant("1", 1, np.int64)])

    def finish_as(self, *results: str) -> list[onnx.NodeProto]:
        """Tensors in the order of the node's outputs become what it wrote; those that it left out are ignored."""
        names = {}
        for name, output in zip(results, self.node.output, strict=False):
            if not name or not output:
                continue
            made = any(name in node.output for node in self.nodes)
            names[name if made and name not in names else self.add("Identity", [name])] = output
        for node in self.nodes:
            for field_ in (node.input, node.output):
                for i, name in enumerate(field_):
                    field_[i] = names.get(name, name)
        return self.nodes

    def finish(self, bias: str = "") -> list[onnx.NodeProto]:
        """The last node, an Add of the bias if there is one, writes what the replaced one wrote."""
        if bias:
            self.add("Add", [self.nodes[-1].output[0], bias])
        self.nodes[-1].output[0] = self.base
        return self.nodes


Rewrite = Callable[[Rewriter], Nodes]


def branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs that a node holds."""
    return (a.g for a in node.attribute if a.HasField("g"))
