"""Convolutions as products of matrices: the patches that a kernel sees are rows, its weights a matrix.

The host lays out the patches before they become codes: pairs work on elements, and may as well stand behind. The kernel's
weights keep their codes and scales; groups become blocks of a matrix whose other codes are zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.fold import infer_shapes
from axlora.compiler.frontend.onnx_graph import Graph, attribute
from axlora.compiler.frontend.recognised import MARK
from axlora.compiler.layer import TOKENS

Array = npt.NDArray[Any]
PATCHES = "patches."
"""In the names of tensors of a kernel of several places, whose rows have the channels of each place."""
PARTS = 16
"""Most products that a convolution of groups becomes."""


@dataclass(frozen=True)
class Kernel:
    """A convolution's sizes, a number for each of the dimensions behind the channels."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def apart(self) -> bool:
        """Whether patches neither meet nor leave anything between them."""
        return self.strides == self.size and set(self.dilations) == {1}

    @classmethod
    def of(cls, node: onnx.NodeProto, size: Sequence[int], shape: Sequence[int]) -> Kernel:
        """`size`: of the kernel; `shape`: of the input behind its channels."""
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        strides, dilations = (tuple(given.get(name, (1,) * len(size))) for name in ("strides", "dilations"))
        pads = tuple(given.get("pads", (0,) * 2 * len(size)))
        before, after = pads[: len(size)], pads[len(size) :]
        if (auto := given.get("auto_pad", b"NOTSET")) in (b"SAME_UPPER", b"SAME_LOWER"):
            sizes = zip(shape, strides, size, dilations, strict=True)
            total = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, s, k, d in sizes]
            less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            before, after = (less, more) if auto == b"SAME_UPPER" else (more, less)
        return cls(tuple(size), strides, dilations, before, after)


@dataclass(frozen=True)
class Weight:
    """A constant of a convolution: reals, or codes of which the first axis may have scales of its own."""

    values: Array
    parameters: tuple[Array, ...] = ()
    """Scale, and zero point if there is one; () of reals."""

    def part(self, own: slice) -> Weight:
        """Some of the first axis."""
        return Weight(self.values[own], tuple(p if p.size == 1 else p[own] for p in self.parameters))

    @property
    def zero(self) -> Array:
        """What stands for 0, of each of the first axis or of all."""
        return self.parameters[1] if len(self.parameters) > 1 else np.zeros((), self.values.dtype)

    def matrix(self, groups: int) -> Weight:
        """Weights [out, in / groups, ..] as [out, elements of the kernel times in]: zeros outside of a group's block."""
        count, own = self.values.shape[:2]
        flat = np.moveaxis(self.values.reshape(count, own, -1), 1, 2)
        full = np.empty((count, flat.shape[1], own * groups), self.values.dtype)
        full[:] = self.zero.reshape(-1, 1, 1)
        for group, rows in enumerate(np.split(np.arange(count), groups)):
            full[rows, :, group * own : (group + 1) * own] = flat[rows]
        return Weight(full.reshape(count, -1), self.parameters)


def constant_weight(g: Graph, name: str) -> Weight | None:
    """A constant, or codes of one whose scales are one or as many as the first axis has; None if it is neither."""
    value, back = g.constant(name), g.node_of(name)
    if value is not None:
        return Weight(value)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    codes, *parameters = (g.constant(each) for each in back.input)
    if codes is None or any(p is None for p in parameters) or attribute(back, "block_size"):
        return None
    known = tuple(p.reshape(-1) for p in parameters if p is not None)
    first = attribute(back, "axis", 1) % max(1, codes.ndim) == 0
    return Weight(codes, known) if first or all(p.size == 1 for p in known) else None


class _Unfolding:
    """Writes the nodes that stand for one convolution."""

    def __init__(self, g: Graph, node: onnx.NodeProto, parts: int) -> None:
        """`parts`: most products that a convolution of groups becomes."""
        self.g, self.node, self.most = g, node, parts
        self.places = prod(g.shape(node.input[1])[2:])
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, of: str = "", **attributes: Any) -> str:
        """Append a node; returns its result, which is named after the weight `of` that it is a step of, if it is one."""
        own, number = self.node.name or self.node.output[0], len(self.nodes)
        name = own if kind == "MatMul" else f"{own}/{kind}.{number}"
        made = helper.make_node(kind, inputs, [self.name(kind, number, of)], name, **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return str(made.output[0])

    def name(self, kind: str, number: int, of: str) -> str:
        return f"{of}{MARK if of else ''}{self.node.output[0]}.{PATCHES if self.places > 1 else ''}{kind}.{number}"

    def numbers(self, values: Sequence[int]) -> str:
        return self.add("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))

    def held(self, weight: Weight, turned: bool, of: str) -> str:
        """A part of the constant `of`, [out, k] turned or [out], with the DequantizeLinear of its codes."""
        values = weight.values.T if turned else weight.values
        names = []
        for value in (values, *(p if p.size > 1 else p.reshape(()) for p in weight.parameters)):
            names.append(self.name("constant", len(self.tensors), of))
            self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), names[-1]))
        return self.add("DequantizeLinear", *names, of=of, axis=int(turned)) if weight.parameters else names[0]

    def pair(self) -> list[onnx.NodeProto]:
        """The QuantizeLinear and the DequantizeLinear of one scale that make the input; [] if none do."""
        back = self.g.node_of(self.node.input[0])
        codes = self.g.node_of(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
        if back is None or codes is None or codes.op_type != "QuantizeLinear":
            return []
        return [codes, back] if all(prod(self.g.shape(p)) == 1 for p in (*codes.input[1:], *back.input[1:])) else []

    def patches(self, x: str, k: Kernel, out: Sequence[int]) -> str:
        """[N, C, ..] to [N, positions of the output, elements of the kernel times C]; `out`: the output's dimensions."""
        if k.apart and not any((*k.before, *k.after)):
            return self.tiles(x, k, out)
        if any((*k.before, *k.after)):
            x = self.add("Pad", x, self.numbers([0, 0, *k.before, 0, 0, *k.after]))
        parts = []
        for place in itertools.product(*map(range, k.size)):
            first = [p * d for p, d in zip(place, k.dilations, strict=True)]
            end = [f + (n - 1) * s + 1 for f, n, s in zip(first, out[2:], k.strides, strict=True)]
            axes = range(2, len(out))
            parts.append(self.add("Slice", x, *map(self.numbers, (first, end, axes, k.strides))))
        every = parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)
        flat = self.add("Reshape", every, self.numbers([out[0], -1, prod(out[2:])]))
        return self.add("Transpose", flat, perm=[0, 2, 1])

    def tiles(self, x: str, k: Kernel, out: Sequence[int]) -> str:
        """As `patches`, which lie side by side: of an image in tiles, for example."""
        rank, axes = len(k.size), range(2, len(out))
        whole = [n * s for n, s in zip(out[2:], k.size, strict=True)]
        x = self.add("Slice", x, *map(self.numbers, ([0] * rank, whole, axes)))
        cut = self.add("Reshape", x, self.numbers([out[0], -1, *itertools.chain(*zip(out[2:], k.size, strict=True))]))
        turned = self.add("Transpose", cut, perm=[0, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2), 1])
        return self.add("Reshape", turned, self.numbers([out[0], prod(out[2:]), -1]))

    def product(self, patches: str, weight: Weight, bias: Weight | None) -> str:
        """Patches, behind the pair of the input, times a matrix."""
        for node in self.pair():
            patches = self.add(node.op_type, patches, *node.input[1:])
        names = self.node.input
        y = self.add("MatMul", patches, self.held(weight, True, names[1]))
        return y if bias is None else self.add("Add", y, self.held(bias, False, names[2]))

    def run(self) -> list[onnx.NodeProto] | None:
        """The nodes; None if this convolution stays as it is."""
        node, g = self.node, self.g
        shape, out = g.shape(node.input[0]), g.shape(node.output[0])
        names = [name for name in node.input[1:] if name]
        weight, *more = (constant_weight(g, name) for name in names)
        if weight is None or None in more or out[0] * prod(out[2:]) > TOKENS or 0 in (*shape, *out):
            return None
        k = Kernel.of(node, weight.values.shape[2:], shape[2:])
        source = self.pair()[0].input[0] if self.pair() else node.input[0]
        found = []
        groups = int(attribute(node, "group", 1))
        each, own = out[1] // groups, weight.values.shape[1]
        together = next(n for n in range(-(-groups // self.most), groups + 1) if groups % n == 0)
        patches, rows = self.patches(source, k, out), [out[0], prod(out[2:])]
        if together < groups:
            apart = self.add("Reshape", patches, self.numbers([*rows, self.places, own * groups]))
        for first in range(0, groups, together):
            columns = slice(first * each, (first + together) * each)
            if together < groups:
                ends = (first * own, (first + together) * own, 3)
                part = self.add("Slice", apart, *(self.numbers([n]) for n in ends))
                patches = self.add("Reshape", part, self.numbers([*rows, self.places * own * together]))
            bias = next((b.part(columns) for b in more if b is not None), None)
            found.append(self.product(patches, weight.part(columns).matrix(together), bias))
        y = found[0] if len(found) == 1 else self.add("Concat", *found, axis=2)
        self.add("Reshape", self.add("Transpose", y, perm=[0, 2, 1]), self.numbers(out))
        self.nodes[-1].output[0] = node.output[0]
        return self.nodes


def _with_biases(g: Graph) -> Graph:
    """The graph with sums of a Conv and a number for each channel as the Conv's own biases: so quantizers write them."""
    outputs, gone = {o.name for o in g.model.graph.output}, set()
    for node in g.nodes:
        name = node.output[0]
        if node.op_type != "Conv" or name in outputs or any(node.input[2:]) or len(readers := g.readers.get(name, [])) != 1:
            continue
        other, shape = g.nodes[readers[0]], g.shape(name)
        vector = g.constant(next((n for n in other.input if n != name), "")) if other.op_type == "Add" else None
        if vector is None or (1,) * (len(shape) - vector.ndim) + vector.shape != (1, shape[1], *(1,) * (len(shape) - 2)):
            continue
        held = f"{name}/bias"
        g.model.graph.initializer.append(numpy_helper.from_array(vector.reshape(-1), held))
        inputs = [*node.input[:2], held]
        del node.input[:]
        node.input.extend(inputs)
        node.output[0] = other.output[0]
        gone.add(readers[0])
    if not gone:
        return g
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for i, n in enumerate(g.nodes) if i not in gone]
    del g.model.graph.node[:]
    g.model.graph.node.extend(kept)
    return Graph(g.model)


def unfold_convolutions(model: onnx.ModelProto, parts: int = PARTS) -> onnx.ModelProto:
    """The model with products of matrices for convolutions of constant kernels, and the shapes of what is new.

    Args:
        parts: most products that a convolution of groups becomes.

    One stays where its output has more positions than a linear takes tokens, or its kernel is in no form that is understood.
    """
    if not any(node.op_type == "Conv" for node in model.graph.node):
        return model
    g = _with_biases(Graph(model))
    nodes: list[onnx.NodeProto] = []
    for node in g.nodes:
        unfolding = _Unfolding(g, node, parts) if node.op_type == "Conv" else None
        made = unfolding.run() if unfolding is not None else None
        nodes += [node] if made is None else made
        model.graph.initializer.extend(unfolding.tensors if unfolding is not None and made is not None else [])
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return infer_shapes(model)
