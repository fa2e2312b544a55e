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

Array = npt.NDArray[Any]
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
    added: dict[str, onnx.TensorProto] = field(default_factory=dict)
    """What rewrites put into the graph; codes take the place of the file's constant of that name."""

    def collect(self, graph: onnx.GraphProto) -> None:
        """Note what a graph and its branches hold."""
        self.tensors |= {t.name: t for t in graph.initializer}
        for node in graph.node:
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

    def add(self, name: str, make: Callable[[], Array]) -> str:
        """A constant of that name, made once: weights may be read by several nodes."""
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.ascontiguousarray(make()), name)
        return name


class Rewriter:
    """Appends the nodes that replace one."""

    def __init__(self, node: onnx.NodeProto, file: File) -> None:
        self.node, self.file = node, file
        self.nodes: list[onnx.NodeProto] = []
        self.base = next(name for name in node.output if name)

    def add(self, kind: str, inputs: list[str], of: str = "", **attributes: Any) -> str:
        """Append a node; returns its result.

        Args:
            of: weight that the result is a step of; its name stands in front of `MARK`.
        """
        own = f"{self.base}.{kind}" if of else kind
        name = f"{of or self.base}{MARK}{own}.{len(self.nodes)}"
        own = self.node.name or self.base
        made = helper.make_node(kind, inputs, [name], name=own if kind == "MatMul" else f"{own}/{kind}", **attributes)
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
