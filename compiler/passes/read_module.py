"""A model's Relax function read back: its calls as nodes, with producers, readers, constants and shapes by name.

`from_onnx` gives the function. What it loses stands beside it: each binding keeps the name of the ONNX tensor that it computes
and the ONNX node that it comes from, and each weight is a parameter of its own name, whose values stay in the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.fold import constant_of
from axlora.compiler.frontend.storage import values
from axlora.compiler.frontend.tvm_import import import_to_read
from axlora.compiler.passes.lower_linears import Names

Array = npt.NDArray[Any]
_WIDENED: dict[int, int] = {TensorProto.UINT4: TensorProto.UINT8, TensorProto.INT4: TensorProto.INT8}
"""Types of weights that Relax has no tensors of: their codes take a byte each."""
_WEIGHTS = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
    *_WIDENED,
)  # fmt: skip
PASSIVE = ("astype",)
RESHAPES = ("reshape", "squeeze", "expand_dims")


@dataclass(frozen=True)
class Node:
    """A call of a Relax operator."""

    op: str
    """Relax's name without `relax.`; of a TE function, the name of the function."""
    inputs: tuple[str, ...]
    """Tensors that it reads; constants have names too."""
    outputs: tuple[str, ...]
    static: tuple[tuple[float, ...], ...]
    """Arguments that are numbers, shapes or tuples of numbers."""
    attributes: Any
    """Relax's attributes of the call."""
    origin: int
    """Index of the ONNX node that it comes from."""
    source: onnx.NodeProto
    """That node: its name and scope, for messages and adapters."""

    def number(self, name: str, default: float = 0) -> float:
        """A number attribute."""
        value = getattr(self.attributes, name, None)
        return default if value is None else value

    def numbers(self, name: str) -> list[int] | None:
        """A list attribute, or a number as a list of one; None if the call has none."""
        value = getattr(self.attributes, name, None)
        if value is None:
            return None
        return [int(v) for v in value] if hasattr(value, "__iter__") else [int(value)]


def _constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers and what Constant nodes give, by name."""
    found = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and (value := constant_of(node)) is not None:
            found[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    return found


def _with_all_tensors(model: onnx.ModelProto, constants: Mapping[str, TensorProto]) -> tuple[onnx.ModelProto, list[str]]:
    """The model with weights as inputs and every tensor that a node computes as an output; these in order."""
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] not in constants]
    names = [name for node in nodes for name in node.output if name]
    weights = [i for i in constants.values() if len(i.dims) > 1 and i.data_type in _WEIGHTS]
    held = {i.name for i in weights}
    inputs = [v for v in graph.input if v.name not in constants]
    inputs += [helper.make_tensor_value_info(i.name, _WIDENED.get(i.data_type, i.data_type), list(i.dims)) for i in weights]
    small = [_in_bytes(i) for i in constants.values() if i.name not in held]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    every = helper.make_graph(nodes, "main", inputs, outputs, small)
    return helper.make_model(every, opset_imports=model.opset_import, ir_version=model.ir_version), names


def _in_bytes(tensor: TensorProto) -> TensorProto:
    """A constant of 4-bit codes (a zero point) with a byte for each."""
    if tensor.data_type not in _WIDENED:
        return tensor
    dtype = helper.tensor_dtype_to_np_dtype(_WIDENED[tensor.data_type])
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name)


def _static(argument: Any) -> tuple[float, ...] | None:
    """A number, a shape or a tuple of numbers as numbers; None for anything else."""
    if isinstance(argument, tvm.tirx.IntImm | tvm.tirx.FloatImm):
        return (argument.value,)
    values = argument.values if isinstance(argument, relax.ShapeExpr) else getattr(argument, "fields", None)
    if values is None:
        return None
    try:
        return tuple(int(getattr(v, "value", v)) for v in values)
    except TypeError:
        return None


def _operator(value: Any) -> str:
    """Name of the operator of a call."""
    name = str(getattr(value.op, "name", ""))
    if name == "relax.call_tir":
        return str(value.args[0].name_hint).rstrip("0123456789").rstrip("_")
    return name.removeprefix("relax.")


@dataclass(eq=False)
class ReadModule:
    """Producers, readers, constants and shapes by tensor name."""

    model: onnx.ModelProto
    """The normalised ONNX model."""
    passes: Sequence[Any] = ()
    """Relax passes between the import and what is read."""
    phases: tuple[tuple[str, tvm.IRModule], ...] = field(init=False)
    """What `from_onnx` gives, and what each pass makes of it: `main` returns every tensor."""
    nodes: list[Node] = field(init=False, default_factory=list)
    producer: dict[str, int] = field(init=False, default_factory=dict)
    """Index of the node that writes a tensor."""
    readers: dict[str, list[int]] = field(init=False, default_factory=dict)
    outputs: set[str] = field(init=False)
    _values: dict[str, TensorProto | Array] = field(init=False, default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(init=False, default_factory=dict)
    _dtypes: dict[str, str] = field(init=False, default_factory=dict)
    _alias: dict[str, str] = field(init=False, default_factory=dict)
    """Tensor -> the name under which it is known, where Relax has no operator between them."""
    _variables: dict[Any, str] = field(init=False, default_factory=dict)
    _named: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        constants = _constants(self.model)
        every, names = _with_all_tensors(self.model, constants)
        self._values |= constants
        self.outputs = {o.name for o in self.model.graph.output}
        self.phases = ()
        if not names:  # nothing is computed
            return
        module = import_to_read(self.model, every)
        self.phases = (("import", module),)
        for each in self.passes:
            self.phases += ((str(each.info.name), each(self.module)),)
        function = self.module["main"]
        self._named = {*names, *constants, *(v.name for v in every.graph.input)}
        for proto, variable in zip(every.graph.input, function.params, strict=True):
            self._known(variable, proto.name)
        bindings = [b for block in function.body.blocks for b in block.bindings]
        last = bindings[-1]
        several = isinstance(last.value, relax.Tuple) and len(names) > 1
        returned = list(bindings.pop().value.fields) if several else [last.var]
        for name, value in zip(names, returned, strict=True):
            if isinstance(value, relax.Var):
                if value in self._variables:
                    self._alias[name] = self._variables[value]
                else:
                    self._known(value, name)
            else:
                self._values[name] = self._constant_value(value)
        self._read(bindings)
        self.outputs = {self.canonical(name) for name in self.outputs}

    def _known(self, variable: Any, name: str) -> None:
        self._variables[variable] = name
        shape = getattr(variable.ty, "shape", None)
        if shape is not None and isinstance(variable.ty, relax.TensorType):
            self._shapes[name] = tuple(int(d) for d in shape.values)
            self._dtypes[name] = str(variable.ty.dtype)

    @staticmethod
    def _constant_value(value: Any) -> Array:
        return np.asarray(value.value.numpy())

    def is_named(self, name: str) -> bool:
        """Whether the ONNX model has a tensor of this name: Relax's operators inside a node write others."""
        return name in self._named

    def canonical(self, name: str) -> str:
        """The name under which a tensor of the ONNX model is known."""
        return self._alias.get(name, name)

    def _read(self, bindings: Sequence[Any]) -> None:
        """The bindings as nodes, in the order of the ONNX nodes that they come from."""
        from_node = {name: i for i, node in enumerate(self.model.graph.node) for name in node.output}
        fields: dict[Any, dict[int, Any]] = defaultdict(dict)
        origin: dict[Any, int] = {}
        for binding in reversed(bindings):
            variable, value = binding.var, binding.value
            own = from_node.get(self._variables.get(variable, ""), origin.get(variable, -1))
            origin[variable] = own
            if isinstance(value, relax.TupleGetItem):
                fields[value.tuple_value][int(value.index)] = variable
            for read in relax.analysis.free_vars(value):
                if read not in self._variables and own >= 0:  # what nothing reads (a part of a tuple) is of no node
                    origin[read] = min(own, origin.get(read, own))
        count = 0
        found: list[tuple[int, Node]] = []
        for binding in bindings:
            variable, value = binding.var, binding.value
            if isinstance(value, relax.TupleGetItem):
                continue
            own = origin[variable]
            source = self.model.graph.node[own]
            made = [variable]
            if variable in fields:
                parts = fields[variable]
                made = [parts.get(n) for n in range(max(parts) + 1)]
            for each in made:
                if each is not None and each not in self._variables:
                    self._known(each, f"{source.output[0]}/{count}")
                    count += 1
            outputs = tuple("" if each is None else self._variables[each] for each in made)
            found.append((own, self._node(value, outputs, own, source)))
        found.sort(key=lambda pair: pair[0])
        for index, (_, node) in enumerate(found):
            self.nodes.append(node)
            self.producer |= {name: index for name in node.outputs if name}
            for name in node.inputs:
                self.readers.setdefault(name, []).append(index)

    def _node(self, value: Any, outputs: tuple[str, ...], origin: int, source: onnx.NodeProto) -> Node:
        inputs: list[str] = []
        static: list[tuple[float, ...]] = []
        if not isinstance(value, relax.Call):
            if isinstance(value, relax.Var):  # a binding that only renames
                return Node("identity", (self._variables[value],), outputs, (), None, origin, source)
            return Node(type(value).__name__, (), outputs, (), None, origin, source)
        kind = _operator(value)
        arguments = list(value.args)
        if str(getattr(value.op, "name", "")) == "relax.call_tir":
            arguments = list(arguments[1].fields)
        for argument in arguments:
            numbers = _static(argument)
            if numbers is not None and not isinstance(argument, relax.Var):
                static.append(numbers)
                continue
            for each in argument.fields if isinstance(argument, relax.Tuple) else [argument]:
                inputs.append(self._operand(each, outputs[0], len(inputs)))
        return Node(kind, tuple(inputs), outputs, tuple(static), value.attrs, origin, source)

    def _operand(self, value: Any, of: str, place: int) -> str:
        """Name of what a call reads; a constant gets one."""
        if isinstance(value, relax.Var):
            return self._variables.get(value, "")
        if hasattr(value, "value") and hasattr(value.value, "numpy"):
            name = f"{of}/constant {place}"
            self._values[name] = self._constant_value(value)
            return name
        return ""

    @property
    def module(self) -> tvm.IRModule:
        """The module that is read."""
        return self.phases[-1][1]

    def names(self) -> Names:
        """What the variables of the module stand for."""
        by_name = {name: variable for variable, name in self._variables.items()}
        by_name |= {name: by_name[known] for name, known in self._alias.items()}
        held = {i.name for i in self.model.graph.initializer}
        inputs = [i.name for i in self.model.graph.input if i.name not in held]
        names = [o.name for o in self.model.graph.output]
        return Names(by_name, inputs, {n: by_name[n] if n in by_name else relax.const(self.constant(n)) for n in names})

    # Questions

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; raises `BadModel` if inference did not find it."""
        value = self._values.get(name)
        if value is not None:
            return tuple(value.dims) if isinstance(value, TensorProto) else value.shape
        if name not in self._shapes:
            raise BadModel("shape of the tensor is not known", name, "run ONNX shape inference on the model")
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """Type of a tensor that is no constant."""
        return self._dtypes.get(name, "")

    def node_of(self, name: str) -> Node | None:
        """The node that writes a tensor, or None."""
        return self.nodes[self.producer[name]] if name in self.producer else None

    def origins(self, indices: Iterable[int]) -> tuple[int, ...]:
        """ONNX nodes that nodes come from, each once."""
        return tuple(dict.fromkeys(self.nodes[i].origin for i in indices))

    def constant(self, name: str) -> Array | None:
        """Value of a constant tensor (a weight, a constant, one of them turned or of another type), or None."""
        value = self._values.get(name)
        if value is not None:
            return values(value) if isinstance(value, TensorProto) else value
        node = self.node_of(name)
        if node is None or node.op not in (*PASSIVE, "permute_dims"):
            return None
        inner = self.constant(node.inputs[0])
        if inner is None:
            return None
        return np.transpose(inner, node.numbers("axes")) if node.op == "permute_dims" else inner.astype(self._dtypes[name])
