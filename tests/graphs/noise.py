"""How far quantization may move a model's outputs: the model itself in floats, with noise where codes will stand.

Nothing here is the compiler's: a copy of the model gets, at every product with a constant, uniform noise of a step of 8 bits
on what the product reads (a step for each row of x, and for each column of the weight), and of 16 bits on its result; at every
QuantizeLinear, of one of its steps. `bound` runs the copy a few times with `GAIN` times that noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sketch import Array, session, values_of

GAIN, RUNS = 4.0, 16
PRODUCTS = ("MatMul", "Gemm", "Einsum", "Conv")
_TURNS = ("DequantizeLinear", "Transpose", "Cast", "Identity", "Mul", "Add", "Reshape")


@dataclass
class _Noisy:
    opset: int
    shapes: dict[str, tuple[int, ...]]
    fixed: set[str]
    """Names computed from constants alone."""
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    count: int = 0

    def _new(self, what: str) -> str:
        self.count += 1
        return f"noise.{what}.{self.count}"

    def uniform(self, shape: tuple[int, ...]) -> str:
        """A new input of uniform numbers in +-1/2."""
        name = self._new("uniform")
        self.inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        return name

    def add(self, nodes: list[onnx.NodeProto], x: str, step: str) -> str:
        """x + uniform * step."""
        part, result = self._new("part"), self._new("sum")
        nodes.append(helper.make_node("Mul", [self.uniform(self.shapes[x]), step], [part]))
        nodes.append(helper.make_node("Add", [x, part], [result]))
        return result

    def number(self, nodes: list[onnx.NodeProto], value: float) -> str:
        """A constant."""
        name = self._new("number")
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.float32))))
        return name

    def reduced(self, nodes: list[onnx.NodeProto], kind: str, x: str, axes: list[int] | None) -> str:
        """A reduction that keeps the axes; over all to a scalar without `axes`."""
        y = self._new(kind)
        if axes is None:
            nodes.append(helper.make_node(kind, [x], [y], keepdims=0))
        elif self.opset < 18:
            nodes.append(helper.make_node(kind, [x], [y], axes=axes))
        else:
            name = self._new("axes")
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(axes, np.int64))))
            nodes.append(helper.make_node(kind, [x, name], [y]))
        return y

    def step(self, nodes: list[onnx.NodeProto], x: str, axes: list[int] | None, steps: float) -> str:
        """The largest magnitude along `axes`, by `steps`."""
        size, result = self._new("abs"), self._new("step")
        nodes.append(helper.make_node("Abs", [x], [size]))
        most = self.reduced(nodes, "ReduceMax", size, axes)
        nodes.append(helper.make_node("Div", [most, self.number(nodes, steps)], [result]))
        return result

    def product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The product with noise on both operands and the result."""
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        own = onnx.NodeProto()
        own.CopyFrom(node)
        sides = list(node.input[:2])
        plain = node.op_type == "MatMul" and sides[1] in self.fixed
        for i, name in enumerate(sides):
            axes = ([-2] if i else [-1]) if plain and len(self.shapes[name]) > i else None
            own.input[i] = self.add(before, name, self.step(before, name, axes, 127))
        weight = next(n for n in reversed(sides) if n in self.fixed)
        norm = self.reduced(before, "ReduceL2", weight, [-2] if plain else None)
        own.output[0] = self._new("product")
        self.shapes[own.output[0]] = self.shapes[node.output[0]]
        result = self.add(after, own.output[0], self.step(after, norm, None, 2.0**15))
        after.append(helper.make_node("Identity", [result], [node.output[0]]))
        return [*before, own, *after]

    def quantized(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A quantization with noise of its own step in front."""
        before: list[onnx.NodeProto] = []
        own = onnx.NodeProto()
        own.CopyFrom(node)
        dynamic = node.op_type == "DynamicQuantizeLinear"
        step = self.step(before, node.input[0], None, 127) if dynamic else node.input[1]
        own.input[0] = self.add(before, node.input[0], step)
        return [*before, own]

    def graph(self, graph: onnx.GraphProto) -> None:
        """Put the noise in, in place, in bodies too."""
        self.fixed |= {i.name for i in graph.initializer}
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    self.graph(attribute.g)
            constant = [name in self.fixed for name in node.input if name]
            if all(constant) and (node.op_type in _TURNS or not constant) and node.op_type not in ("If", "Loop"):
                self.fixed |= set(node.output)
                nodes.append(node)
            elif node.op_type in PRODUCTS and any(constant[:2]):
                nodes += self.product(node)
            elif node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
                nodes += self.quantized(node)
            else:
                nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)


def _known(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for v in (*graph.input, *graph.value_info, *graph.output):
        shapes[v.name] = tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                shapes |= _known(attribute.g)
    return shapes


def noisy(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> tuple[onnx.ModelProto, list[tuple[str, tuple[int, ...]]]]:
    """The copy with noise, and the inputs that it has more: names and shapes."""
    copy = onnx.shape_inference.infer_shapes(model, data_prop=True)
    opset = next(o.version for o in model.opset_import if not o.domain)
    inside = [name for node in model.graph.node for name in node.output]
    seen = {name: a.shape for name, a in values_of(model, inputs, inside).items()}
    work = _Noisy(opset, _known(copy.graph) | seen, set())
    work.graph(copy.graph)
    del copy.graph.value_info[:]
    copy.graph.input.extend(work.inputs)
    return copy, [(v.name, tuple(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in work.inputs]


def noisy_runs(model: onnx.ModelProto, inputs: Mapping[str, Array], seed: int = 0) -> list[list[Array]]:
    """The model's outputs under `RUNS` draws of the noise; those of runs alone that stay finite."""
    copy, more = noisy(model, inputs)
    runner, random = session(copy), np.random.default_rng(seed)
    names = {i.name for i in runner.get_inputs()}
    results = []
    for _ in range(RUNS):
        noise = {name: (GAIN * random.uniform(-0.5, 0.5, shape)).astype(np.float32) for name, shape in more}
        results.append(runner.run(None, {n: a for n, a in {**inputs, **noise}.items() if n in names}))
    return results
