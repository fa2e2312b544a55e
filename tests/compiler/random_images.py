"""Random networks over images: what slides over pixels, meets, and is put side by side, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper
from writer import Writer

KINDS = ("conv", "conv", "single", "largest", "mean", "nearest", "function", "norm", "beside", "sum", "groups", "scale")
MOST = 24
"""Largest side."""


@dataclass
class _Net:
    """A network under construction: its last tensor [1, channels, *sides], and those before."""

    rng: np.random.Generator
    more: np.random.Generator
    """Of what was added later, which leaves the other draws as they were."""
    w: Writer
    x: str
    channels: int
    sides: list[int]
    before: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def ints(self, low: int, high: int, count: int) -> list[int]:
        return self.rng.integers(low, high + 1, count).tolist()

    def conv(self, outer: int, groups: int = 1, plain: bool = False) -> bool:
        size, strides, dilations, pads = (self.ints(*each) for each in ((1, 3, 2), (1, 2, 2), (1, 2, 2), (0, 1, 4)))
        if plain:
            size, strides, dilations, pads = [1, 1], [1, 1], [1, 1], [0] * 4
        sides = zip(self.sides, size, strides, dilations, pads[:2], pads[2:], strict=True)
        after = [(n + a + b - d * (k - 1) - 1) // s + 1 for n, k, s, d, a, b in sides]
        if min(after) < 1:
            return False
        inner = self.channels // groups
        kernel = self.rng.normal(0, 1.4 / np.sqrt(inner * np.prod(size)), (outer, inner, *size))
        held = [kernel, self.rng.normal(0, 0.1, outer)]
        sizes = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
        self.x = self.w("Conv", self.x, *map(self.w.constant, held), **sizes)
        self.channels, self.sides = outer, after
        return True

    def pool(self, kind: str, **attributes: int) -> bool:
        size, strides = self.ints(1, 3, 2), self.ints(1, 2, 2)
        pads = [int(self.rng.integers(0, size[n % 2])) for n in range(4)]
        sides = zip(self.sides, size, strides, pads[:2], pads[2:], strict=True)
        after = [(n + a + b - k) // s + 1 for n, k, s, a, b in sides]
        if min(after) < 1:
            return False
        self.x, self.sides = self.w(kind, self.x, kernel_shape=size, strides=strides, pads=pads, **attributes), after
        return True

    def nearest(self) -> bool:
        after = [n * int(self.rng.integers(1, 3)) for n in self.sides]
        if max(after) > MOST:
            return False
        modes = {
            "nearest_mode": str(self.rng.choice(["floor", "round_prefer_floor", "ceil"])),
            "coordinate_transformation_mode": str(self.rng.choice(["asymmetric", "half_pixel", "align_corners"])),
        }
        mode = "linear" if self.more.random() < 0.4 else "nearest"
        self.x = self.w("Resize", self.x, "", "", self.w.ints(1, self.channels, *after), mode=mode, **modes)
        self.sides = after
        return True

    def meet(self, kind: str) -> bool:
        """With a tensor before of the same sides, and channels if they are added up."""
        alike = [n for n, (c, s) in self.before.items() if s == self.sides and (kind == "Concat" or c == self.channels)]
        if not alike:
            return False
        other = alike[int(self.rng.integers(len(alike)))]
        more = self.before[other][0] if kind == "Concat" else 0
        self.x = self.w(kind, self.x, other, **({"axis": 1} if kind == "Concat" else {}))
        self.channels += more
        return True

    def step(self, kind: str) -> bool:
        """Append one; whether it fits."""
        c, rng, w = self.channels, self.rng, self.w
        match kind:
            case "conv":
                return self.conv(int(rng.integers(1, 9)))
            case "single":
                return self.conv(c, c)
            case "groups":
                return c % 2 == 0 and self.conv(2 * c, 2)
            case "largest":
                return self.pool("MaxPool")
            case "mean":
                return self.pool("AveragePool", count_include_pad=int(rng.integers(2)))
            case "nearest":
                return self.nearest()
            case "beside" | "sum":
                return self.meet("Concat" if kind == "beside" else "Add")
            case "function":
                self.x = w(str(rng.choice(["Relu", "Sigmoid", "HardSwish", "LeakyRelu"])), self.x)
            case "scale" if self.more.random() < 0.5:
                gate = w("Gemm", w("Flatten", w("GlobalAveragePool", self.x)), w.constant(self.more.normal(0, 1, (c, c))))
                self.x = w("Mul", self.x, w("Reshape", w("Sigmoid", gate), w.ints(1, c, 1, 1)))
            case "scale":
                self.x = w("Mul", self.x, w.constant(rng.uniform(0.5, 1.5, (1, c, 1, 1))))
            case "norm":
                numbers = (rng.uniform(0.5, 1.5, c), rng.normal(0, 0.1, c), rng.normal(0, 0.1, c), rng.uniform(0.5, 1.5, c))
                self.x = w("BatchNormalization", self.x, *map(w.constant, numbers))
        return True


def network(seed: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A network of up to six steps and a linear, or a convolution of single pixels; and the shape of its input `x`."""
    rng = np.random.default_rng(seed)
    net = _Net(rng, np.random.default_rng([seed, 1]), Writer(), "x", int(rng.integers(1, 5)), rng.integers(5, 13, 2).tolist())
    shape = (1, net.channels, *net.sides)
    for kind in rng.choice(KINDS, int(rng.integers(2, 7))):
        if net.step(str(kind)):
            net.before[net.x] = (net.channels, list(net.sides))
    if rng.random() < 0.5:
        net.conv(3, plain=True)
        out: list[int] = [1, 3, *net.sides]
    else:
        w, out = net.w, [1, 4]
        weight = w.constant(rng.normal(0, 0.4, (net.channels, 4)))
        whole = [n + int(net.more.integers(2)) for n in net.sides]  # or more, as a fixed kernel behind images of any size
        mean = w("AveragePool", net.x, kernel_shape=whole, strides=whole, ceil_mode=1) if net.more.random() < 0.5 else ""
        w("Gemm", w("Flatten", mean or w("GlobalAveragePool", net.x)), weight, w.constant(np.zeros(4)))
    net.w.nodes[-1].output[0] = "y"
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, out)]
    graph = helper.make_graph(net.w.nodes, "g", inputs, outputs, net.w.held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), shape
