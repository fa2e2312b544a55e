"""What slides over an image without a product of matrices, as moves of elements and arithmetic: for models that run whole.

Pools, nearest neighbours and convolutions of one channel each become Gather, Max, Mul and Add of whole tensors, of which the
walk over a whole model makes windows (docs/decisions/0031). A part on the host keeps the operators: there they are fast.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.convolutions import Kernel, Weight, constant_weight
from axlora.compiler.frontend.fold import infer_shapes
from axlora.compiler.frontend.onnx_graph import Graph

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_PLACES = 64
"""Most places of a kernel that becomes a step each."""


def _seen(kernel: Kernel, axis: int, size: int, out: int) -> Int64:
    """[out, places]: the element along an axis that each place of the kernel is at; -1: none."""
    place = np.arange(kernel.size[axis]) * kernel.dilations[axis] - kernel.before[axis]
    at = np.arange(out)[:, None] * kernel.strides[axis] + place
    return np.where((at >= 0) & (at < size), at, -1)


def _coordinates(given: Mapping[str, Any], size: int, out: int, scale: float) -> Float64 | None:
    """[out]: where along an axis each element of a Resize lies; None in a mode that is not known.

    The formulas are those of ONNX's Resize, `coordinate_transformation_mode`.
    """
    x = np.arange(out, dtype=np.float64)
    match given.get("coordinate_transformation_mode", b"half_pixel"):
        case b"asymmetric":
            return x / scale
        case b"half_pixel":
            return (x + 0.5) / scale - 0.5
        case b"pytorch_half_pixel":
            return (x + 0.5) / scale - 0.5 if out > 1 else x * 0
        case b"align_corners":
            return x * (size - 1) / (out - 1) if out > 1 else x * 0
        case _:
            return None


def _nearest(given: Mapping[str, Any], x: Float64, size: int) -> Int64 | None:
    """[out]: the element along an axis nearest to each place (ONNX's `nearest_mode`); None in a mode that is not known."""
    match given.get("nearest_mode", b"round_prefer_floor"):
        case b"round_prefer_floor":
            x = np.ceil(x - 0.5)
        case b"round_prefer_ceil":
            x = np.floor(x + 0.5)
        case b"floor":
            x = np.floor(x)
        case b"ceil":
            x = np.ceil(x)
        case _:
            return None
    return np.clip(x, 0, size - 1).astype(np.int64)


class _Spelling:
    """Writes the nodes that stand for one operator."""

    def __init__(self, g: Graph, node: onnx.NodeProto) -> None:
        self.g, self.node = g, node
        self.given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.shape, self.out = g.shape(node.input[0]), g.shape(node.output[0])
        self.axes = range(2, len(self.shape))
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def run(self) -> list[onnx.NodeProto] | None:
        """The nodes; None if this operator stays as it is."""
        if len(self.shape) < 3 or 0 in (*self.shape, *self.out) or len([name for name in self.node.output if name]) != 1:
            return None
        y = getattr(self, self.node.op_type.lower())()
        if y is None or not self.nodes:
            return None
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns its result."""
        name = f"{self.node.name or self.node.output[0]}/{kind}.{len(self.nodes)}"
        made = helper.make_node(kind, inputs, [f"{self.node.output[0]}.{kind}.{len(self.nodes)}"], name, **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return str(made.output[0])

    def held(self, value: npt.NDArray[Any]) -> str:
        """A constant."""
        name = f"{self.node.output[0]}.spelled.{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def kernel(self, size: Sequence[int]) -> Kernel | None:
        """The sizes; None where it has more than `_PLACES` places."""
        return None if prod(size) > _PLACES else Kernel.of(self.node, size, self.shape[2:])

    def places(self, x: str, kernel: Kernel) -> Iterator[tuple[str, tuple[Int64, ...]]]:
        """x at each place of the kernel, zeros beside it, and the elements along each axis that it is, -1: none."""
        seen = [_seen(kernel, n, self.shape[axis], self.out[axis]) for n, axis in enumerate(self.axes)]
        padded = any((own < 0).any() for own in seen)
        if padded:
            pads = [0] * 2 * len(self.shape)
            pads[len(self.shape) + 2 :] = [1] * len(self.axes)
            x = self.add("Pad", x, self.held(np.array(pads)))
        for place in itertools.product(*(range(n) for n in kernel.size)):
            own, y = tuple(at[:, p] for at, p in zip(seen, place, strict=True)), x
            for axis, at in zip(self.axes, own, strict=True):
                y = self.add("Gather", y, self.held(np.where(at < 0, self.shape[axis], at)), axis=axis)
            yield y, own

    def maxpool(self) -> str | None:
        """The largest along one axis, then along the next: what lies beside the image is another element of the kernel's."""
        kernel = self.kernel(self.given["kernel_shape"])
        if kernel is None:
            return None
        x: str = self.node.input[0]
        for n, axis in enumerate(self.axes):
            seen = _seen(kernel, n, self.shape[axis], self.out[axis])
            if (seen < 0).all(axis=1).any():
                return None
            seen = np.where(seen < 0, seen.max(axis=1, keepdims=True), seen)
            parts = [self.add("Gather", x, self.held(own), axis=axis) for own in seen.T]
            x = reduce(self.larger, parts)
        return x

    def larger(self, a: str, b: str) -> str:
        """The larger of two, element by element: a over b is a table on the machine, which has no comparison."""
        return self.add("Add", b, self.add("Relu", self.add("Sub", a, b)))

    def averagepool(self) -> str | None:
        """A sum of elements, each over how many are counted; of a kernel that sees the whole image, its mean."""
        covers = all(k >= n for k, n in zip(self.given["kernel_shape"], self.shape[2:], strict=True))
        covers &= {*self.given.get("dilations", ())} <= {1}
        unpadded = not any(self.given.get("pads", ())) and self.given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        if covers and unpadded and {*self.out[2:]} == {1}:
            return self.globalaveragepool()
        kernel = self.kernel(self.given["kernel_shape"])
        if kernel is None:
            return None
        places = list(self.places(self.node.input[0], kernel))
        inside = [[own >= 0 for own in seen] for _, seen in places]
        count = np.sum([reduce(np.multiply.outer, own) for own in inside], axis=0)
        if self.given.get("count_include_pad"):
            if self.given.get("ceil_mode"):
                return None
            count = np.full(count.shape, prod(kernel.size))
        total = reduce(lambda a, b: self.add("Add", a, b), [x for x, _ in places])
        return self.add("Mul", total, self.held((1 / np.maximum(count, 1)).astype(np.float32)))

    def globalaveragepool(self) -> str:
        version = next(own.version for own in self.g.model.opset_import if own.domain in ("", "ai.onnx"))
        if version < 18:
            return self.add("ReduceMean", self.node.input[0], axes=[*self.axes], keepdims=1)
        return self.add("ReduceMean", self.node.input[0], self.held(np.array([*self.axes])), keepdims=1)

    def resize(self) -> str | None:
        """Elements along one axis, then along the next; of mode `linear` the two beside each place."""
        sizes, x, mode = self.out[2:], str(self.node.input[0]), self.given.get("mode", b"nearest")
        if mode not in (b"nearest", b"linear") or self.shape[:2] != self.out[:2] or self.given.get("axes"):
            return None
        if self.given.get("antialias"):
            return None
        scales = self.g.constant(self.node.input[2]) if len(self.node.input) > 2 and self.node.input[2] else None
        for n, (axis, size) in enumerate(zip(self.axes, sizes, strict=True)):
            known = scales is not None and scales.size == len(self.shape)
            scale = float(scales[n + 2]) if known and scales is not None else size / self.shape[axis]
            place = _coordinates(self.given, self.shape[axis], size, scale)
            if place is None:
                return None
            if mode == b"linear":
                x = self.between(x, place, axis)
                continue
            at = _nearest(self.given, place, self.shape[axis])
            if at is None:
                return None
            x = self.add("Gather", x, self.held(at), axis=axis)
        return x

    def between(self, x: str, place: Float64, axis: int) -> str:
        """Along an axis the two elements beside each place, the nearer one more; beyond the ends, the last."""
        first = np.floor(place)
        most, share = self.shape[axis] - 1, (place - first).astype(np.float32)
        low, high = (self.held(np.clip(at, 0, most).astype(np.int64)) for at in (first, first + 1))
        if not share.any():
            return self.add("Gather", x, low, axis=axis)
        each = [-1, *(1 for _ in range(axis + 1, len(self.shape)))]
        parts = [
            self.add("Mul", self.add("Gather", x, at, axis=axis), self.held(own.reshape(each)))
            for at, own in ((low, 1 - share), (high, share))
        ]
        return self.add("Add", *parts)

    def conv(self) -> str | None:
        """A convolution whose every channel is made of one: a sum of elements, each times a number of its channel."""
        groups, inputs = self.given.get("group", 1), [name for name in self.node.input[1:] if name]
        weight, *more = (constant_weight(self.g, name) for name in inputs)
        if weight is None or None in more or not groups == self.shape[1] == self.out[1] or groups == 1:
            return None
        kernel = self.kernel(weight.values.shape[2:])
        if kernel is None:
            return None
        real = _reals(weight).reshape(groups, -1).T
        each = [1, groups, *(1 for _ in self.axes)]
        terms = [
            self.add("Mul", x, self.held(own.reshape(each)))
            for (x, _), own in zip(self.places(self.node.input[0], kernel), real, strict=True)
        ]
        y = reduce(lambda a, b: self.add("Add", a, b), terms)
        return self.add("Add", y, self.held(_reals(more[0]).reshape(each))) if more and more[0] is not None else y


def _reals(weight: Weight) -> npt.NDArray[np.float32]:
    """What codes along the first axis stand for."""
    values = weight.values.astype(np.float64)
    if weight.parameters:
        each = (-1, *(1 for _ in values.shape[1:]))
        values = (values - weight.zero.astype(np.float64).reshape(each)) * weight.parameters[0].astype(np.float64).reshape(each)
    return values.astype(np.float32)


KINDS = ("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Conv")


def spell_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with pools, nearest neighbours and convolutions of one channel each spelled out, and shapes of what is new."""
    if not any(node.op_type in KINDS for node in model.graph.node):
        return model
    g = Graph(model)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    for node in g.nodes:
        spelling = _Spelling(g, node) if node.op_type in KINDS else None
        made = spelling.run() if spelling is not None else None
        nodes += [node] if made is None else made
        tensors += spelling.tensors if spelling is not None and made is not None else []
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(tensors)
    return infer_shapes(model)
