"""Nodes and constants of the ONNX model that a directory becomes; nodes are called after Hugging Face's modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from axlora.compiler.frontend.attach import SCOPES
from axlora.compiler.frontend.forms.experts import gates
from axlora.compiler.frontend.hf.config import Function
from axlora.compiler.frontend.hf.packed_codes import Held, Packing
from axlora.compiler.frontend.hf.weights import Weights

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
_OPSET, _IR = 21, 10


def _empty() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(helper.make_graph([], "model", [], []), opset_imports=opsets, ir_version=_IR)


@dataclass(frozen=True)
class Part:
    """Where the outputs of a linear lie among those of a module that holds several."""

    path: str
    first: int
    total: int


@dataclass
class Writer:
    """Appends nodes; weights stay in the files but for codes that are packed in another order there."""

    weights: Weights
    packing: Packing
    model: onnx.ModelProto = field(default_factory=_empty)
    """Grows in place: a copy of it would hold all codes twice."""
    held: set[str] = field(default_factory=set)
    """Names of constants."""

    @property
    def graph(self) -> onnx.GraphProto:
        """Of the model."""
        return self.model.graph

    def input(self, name: str) -> str:
        """An input of integers [batch, sequence]."""
        self.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        return name

    def output(self, name: str, x: str, *shape: int | str) -> None:
        """An output of floats that is the tensor x."""
        self.graph.node.append(helper.make_node("Identity", [x], [name], name=f"{name}/Identity"))
        self.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def hold(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """A constant of that name, made once."""
        if name not in self.held:
            self.held.add(name)
            array = np.asarray(value, dtype)
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            self.graph.initializer.add(name=name, data_type=kind, dims=array.shape, raw_data=array.tobytes())
        return name

    def weight(self, name: str, *shape: int, part: Part | None = None) -> str:
        """A tensor of the files as a constant of its own name, or a part of one; errors as those of `Weights.entry`."""
        if name not in self.held:
            self.held.add(name)
            if part is None:
                tensor = self.weights.tensor(name, shape)
            else:
                whole = (part.total, *shape[1:])
                tensor = self.weights.tensor(f"{part.path}.weight", whole, name, part.first, shape[0])
            self.graph.initializer.append(tensor)
        return name

    def node(self, kind: str, path: str, reads: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """A node of a module; returns its result. The module is the node's scope."""
        name = f"{path}/{kind}"
        made = helper.make_node(kind, list(reads), [f"{name}/result"], name=name, domain=domain, **attributes)
        made.metadata_props.add(key=SCOPES, value=str(["", path, kind]))
        self.graph.node.append(made)
        return str(made.output[0])

    def linear(self, path: str, x: str, k: int, n: int, bias: bool = False, part: Part | None = None) -> str:
        """x times the module's weight [n, k] turned, and its bias [n]; `part`: it is a part of another module's."""
        own = part or Part(path, 0, n)
        held = self.packing.read(self.weights, own.path, k, own.total)
        if held is None:
            result = self.turned(path, x, self.weight(f"{path}.weight", n, k, part=part))
        else:
            result = self.product(path, x, held.columns(own.first, n))
        return self.node("Add", path, [result, self.weight(f"{path}.bias", n)]) if bias else result

    def turned(self, path: str, x: str, weight: str) -> str:
        """x times a constant [n, k], turned."""
        return self.node("MatMul", path, [x, self.node("Transpose", path, [weight], perm=[1, 0])])

    def product(self, path: str, x: str, held: Held) -> str:
        """x times codes."""
        reads = [x, *(self.hold(f"{path}.{name}", value, value.dtype) for name, value in held.constants().items())]
        result = self.node(held.operator, path, reads, MICROSOFT, **held.attributes())
        self.graph.node[-1].name = f"{path}/MatMul"
        return result

    def embedding(self, path: str, ids: str, rows: int, features: int) -> str:
        """Rows of the module's table."""
        return self.node("Gather", path, [self.weight(f"{path}.weight", rows, features), ids], axis=0)

    def gates(self, path: str, logits: str, count: int, normalized: bool) -> str:
        """As `forms.experts.gates`, nodes of a module."""
        return gates(partial(self._made, path), self.hold, self.graph.node, logits, count, normalized)

    def _made(self, path: str, kind: str, reads: Sequence[str], **attributes: Any) -> str:
        return self.node(kind, path, reads, **attributes)

    def apply(self, function: Function, path: str, x: str) -> str:
        """An element-wise function."""
        match function:
            case Function.SILU:
                return self.node("Mul", path, [x, self.node("Sigmoid", path, [x])])
            case Function.GELU:
                return self.node("Gelu", path, [x])
            case Function.GELU_TANH:
                return self.node("Gelu", path, [x], approximate="tanh")
            case Function.RELU:
                return self.node("Relu", path, [x])
