"""A model while it is drawn: values with a sample each, constants, and nodes that onnxruntime has run on the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import strategies as st
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
T = TypeVar("T")

MOST = 1e3
"""Values of a sample stay below this: what grows further only measures overflow."""


class Unfit(Exception):
    """No value of the kind that an operator needs, or a result that is too large: the step is left out."""


@dataclass(frozen=True)
class Value:
    """A tensor of the model."""

    name: str
    shape: tuple[int, ...]
    kind: str
    """Its NumPy dtype's name."""
    fixed: bool = False
    """A constant, or computed from constants alone."""

    @property
    def real(self) -> bool:
        """A float that is computed or given, not a constant."""
        return self.kind == "float32" and not self.fixed


@dataclass(frozen=True)
class Op:
    """A node before it is one."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    domain: str = ""
    outer: tuple[str, ...] = ()
    """Names that its bodies read from the graph around them."""

    def node(self) -> onnx.NodeProto:
        """The ONNX node."""
        name = f"{self.outputs[0]}/{self.kind}" if "/" in self.outputs[0] else f"{self.kind}.{self.outputs[0]}"
        return helper.make_node(
            self.kind, list(self.inputs), list(self.outputs), name, domain=self.domain, **dict(self.attributes)
        )


def info(name: str, shape: Sequence[int], kind: str) -> onnx.ValueInfoProto:
    """The tensor's type as ONNX writes it."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), list(shape))


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """The model as it stands, without optimizations, on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ir_version(opset: int) -> int:
    """The IR version of the time."""
    return {13: 8, 17: 8, 18: 9}.get(opset, 10)


@dataclass
class Sketch:
    """The model so far."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    opset: int
    random: np.random.Generator
    style: str
    """How tensors are named."""
    widths: tuple[int, ...]
    """Features that linears give: few, so that results can be added."""
    values: list[Value] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    constant_nodes: bool = False
    """Small constants are Constant nodes."""
    samples: dict[str, Array] = field(default_factory=dict)
    refusal: str = ""
    """What is in the model that must be refused."""
    refused: list[Value] = field(default_factory=list)
    """Its results: outputs of the model, so that it is needed."""

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        if not options:
            raise Unfit("nothing to pick from")
        return self.draw(st.sampled_from(options))  # type: ignore[no-any-return]

    def chance(self, one_in: int) -> bool:
        """True once in so many times; shrinks to False."""
        return bool(self.draw(st.integers(0, one_in - 1)) == one_in - 1)

    def name(self, what: str = "t") -> str:
        """A new name."""
        number = len(self.samples)
        return {
            "plain": f"{what}_{number}",
            "torch": f"/model/layers.{number % 3}/{what}_{number}/output_0",
            "scopes": f"model.layers.{number % 3}.{what}.{number}",
            "bare": f"val_{number}",
        }[self.style]

    def feed(self, shape: Sequence[int], kind: str = "float32", high: int = 2, spread: float = 1.0) -> Value:
        """A new input of the model: normal values of this spread, or integers below `high`."""
        if kind == "float32":
            sample = self.random.normal(0, spread, shape).astype(np.float32)
        else:
            sample = np.asarray(self.random.integers(0, high, shape)).astype(kind)
        self.inputs.append(self._put(self.name("input"), sample))
        return self.inputs[-1]

    def constant(self, array: Array, what: str = "weight") -> Value:
        """A new constant."""
        name = self.name(what)
        self.constants[name] = np.asarray(array)
        self.samples[name] = self.constants[name]
        return Value(name, self.constants[name].shape, str(self.constants[name].dtype), fixed=True)

    def floats(self, *shape: int, spread: float = 1.0, what: str = "weight") -> Value:
        """A new constant of normal values."""
        return self.constant(self.random.normal(0, spread, shape).astype(np.float32), what)

    def integers(self, *values: int) -> Value:
        """A constant int64 vector."""
        return self.constant(np.array(values, np.int64), "shape")

    def scalar(self, value: float) -> Value:
        """A constant float32 scalar."""
        return self.constant(np.array(value, np.float32), "scalar")

    def _put(self, name: str, sample: Array, fixed: bool = False) -> Value:
        self.samples[name] = sample
        value = Value(name, sample.shape, str(sample.dtype), fixed)
        if not fixed:
            self.values.append(value)
        return value

    def ops_of(
        self, kind: str, *inputs: Value | None, count: int = 1, domain: str = "", outer: Sequence[Value] = (), **attributes: Any
    ) -> list[Value]:
        """Add a node of `count` results.

        Args:
            inputs: None: left out.
            outer: what the bodies in `attributes` read.

        Raises:
            Unfit: a result that is not finite, is too large or has no elements.
        """
        given = [v for v in (*inputs, *outer) if v is not None]
        names, base = [], self.name(kind.lower())
        for i in range(count):
            names.append(base if i == 0 else f"{base}.{i}")
        op = Op(
            kind,
            tuple(v.name if v is not None else "" for v in inputs),
            tuple(names),
            tuple((k, v) for k, v in attributes.items() if v is not None),
            outer=tuple(v.name for v in outer),
        )
        results = self._run(op, {v.name: self.samples[v.name] for v in given})
        for result in results:
            big = np.abs(result).max(initial=0) if result.dtype.kind == "f" else 0
            if not np.isfinite(big) or big > MOST or not result.size or result.size > 4096 or result.ndim > 5:
                raise Unfit(f"{kind}: {big}, {result.shape}")
        self.ops.append(op)
        fixed = all(v.fixed for v in given)
        return [self._put(name, np.asarray(result), fixed) for name, result in zip(names, results, strict=True)]

    def op(self, kind: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Add a node of one result; as `ops_of`."""
        return self.ops_of(kind, *inputs, **attributes)[0]

    def _run(self, op: Op, given: Mapping[str, Array]) -> list[Array]:
        graph = helper.make_graph(
            [op.node()],
            "one",
            [info(n, a.shape, str(a.dtype)) for n, a in given.items()],
            [helper.make_empty_tensor_value_info(n) for n in op.outputs],
        )
        model = helper.make_model(graph, opset_imports=opsets(self.opset), ir_version=ir_version(self.opset))
        try:
            return [np.asarray(r) for r in session(model).run(None, dict(given))]
        except Exception as error:  # onnxruntime's errors have no public base
            raise Unfit(f"{op.kind}: {error}") from None

    def take(self, fits: Callable[[Value], bool]) -> Value:
        """A value that fits; one of the last three, more often than not.

        Raises:
            Unfit: there is none.
        """
        fitting = [v for v in reversed(self.values) if fits(v)]
        return self.pick(fitting[:3] if len(fitting) > 3 and not self.chance(3) else fitting)

    def real(self, least: int = 1, most: int = 5) -> Value:
        """A float value of `least` to `most` dimensions."""
        return self.take(lambda v: v.real and least <= len(v.shape) <= most)

    def try_step(self, step: Callable[[Sketch], object]) -> bool:
        """Take the step, or leave nothing of it."""
        before = len(self.values), len(self.ops), set(self.constants), set(self.samples), len(self.inputs)
        try:
            step(self)
        except Unfit:
            del self.values[before[0] :], self.ops[before[1] :], self.inputs[before[4] :]
            self.constants = {n: a for n, a in self.constants.items() if n in before[2]}
            self.samples = {n: a for n, a in self.samples.items() if n in before[3]}
            return False
        return True


def opsets(opset: int, *domains: str) -> list[onnx.OperatorSetIdProto]:
    """The default domain at `opset`, others at 1."""
    return [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]


def assemble(sketch: Sketch, outputs: Sequence[Value]) -> onnx.ModelProto:
    """The sketch as a model."""
    used = {n for op in sketch.ops for n in (*op.inputs, *op.outer)} | {v.name for v in outputs}
    nodes, initializers = [], []
    for name, array in sketch.constants.items():
        if name not in used:
            continue
        tensor = numpy_helper.from_array(array, name)
        if sketch.constant_nodes and array.size <= 8:
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            initializers.append(tensor)
    nodes += [op.node() for op in sketch.ops]
    graph = helper.make_graph(
        nodes,
        "drawn",
        [info(v.name, v.shape, v.kind) for v in sketch.inputs],
        [info(v.name, v.shape, v.kind) for v in outputs],
        initializers,
    )
    domains = sorted({op.domain for op in sketch.ops if op.domain})
    return helper.make_model(graph, opset_imports=opsets(sketch.opset, *domains), ir_version=ir_version(sketch.opset))


def reference(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """The model's outputs by onnxruntime."""
    runner = session(model)
    names = {i.name for i in runner.get_inputs()}
    return [np.asarray(r) for r in runner.run(None, {n: a for n, a in inputs.items() if n in names})]


def values_of(model: onnx.ModelProto, inputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Values of tensors inside the model by onnxruntime; none if that does not take the model."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    inside = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in names if name in inside]
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    try:
        return dict(zip(wanted, reference(shown, inputs), strict=True))
    except Exception:  # an operator that is there to be refused
        return {}
