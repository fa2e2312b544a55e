"""What the frontend recognises in an ONNX graph, as reals and codes: the input of quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating[Any]]
Numbers = TypeVar("Numbers", bound=np.generic)
MARK = "#"
"""Between a tensor's name in the file and what rewrites of its form put behind it."""


def in_model_order(values: npt.NDArray[Numbers], order: Int64 | None) -> npt.NDArray[Numbers]:
    """Values [.., n] of a linear's columns in the order of the model's outputs; `order` as `FoundLinear.order`."""
    return values if order is None else values[..., np.argsort(order)]


@dataclass(frozen=True)
class Activation:
    """A tensor that is codes at the machine: value = (code - zero_point) * scale, codes signed."""

    tensor: str
    """Name of the float tensor that it stands for; unique among activations."""
    codes: str
    """Name of the tensor of codes in the ONNX graph."""
    scale: float
    zero_point: int
    """After the shift of unsigned codes to signed ones."""
    bits: int
    per_token: bool = False
    """A scale for each token at run time; `scale` is 1 and `codes` empty."""


@dataclass(frozen=True)
class WeightCodes:
    """Integer weights of the file: weight = (codes - zero) * scale."""

    stored: npt.NDArray[np.integer[Any]]
    """[k, n], in the narrowest type that holds them."""
    scale: Float64
    """[n]."""
    bits: int
    zero: Int64 | None = None
    """[n], 0..2**bits - 1; the codes are then unsigned, 0..2**bits - 1. None: symmetric, the codes are signed."""

    @property
    def codes(self) -> Int64:
        """[k, n], widened anew at every call."""
        return self.stored.astype(np.int64)

    @property
    def reals(self) -> Float64:
        """[k, n]: what the codes stand for."""
        return (self.stored.astype(np.float64) - (0 if self.zero is None else self.zero)) * self.scale

    @property
    def steps(self) -> Float64:
        """[k, n]: the size of a code's step."""
        return np.broadcast_to(self.scale, self.stored.shape)

    def ordered(self, order: Int64) -> WeightCodes:
        """With its columns in another order, as `FoundLinear.order`."""
        zero = None if self.zero is None else self.zero[..., order]
        return replace(self, stored=self.stored[:, order], scale=self.scale[..., order], zero=zero)


@dataclass(frozen=True)
class BlockCodes:
    """Integer weights of the file with a scale a block: weight = (stored - zero) * scale, both of the block of the row."""

    stored: npt.NDArray[np.int8]
    """[k, n], signed."""
    scale: Float64
    """[blocks, n], not negative."""
    bits: int
    """2, 3, 4 or 8: the least that hold the codes."""
    rows: int
    """Of a block, the last of which may have fewer."""
    zero: Float64 | None = None
    """[blocks, n], signed; integers where a linear has these codes."""

    @property
    def block(self) -> Int64:
        """[k]: the block of each row."""
        return np.arange(self.stored.shape[0]) // self.rows

    @property
    def reals(self) -> Float64:
        """[k, n]: what the codes stand for."""
        block = self.block
        return (self.stored.astype(np.float64) - (0 if self.zero is None else self.zero[block])) * self.scale[block]

    @property
    def steps(self) -> Float64:
        """[k, n]: the size of a code's step."""
        return self.scale[self.block]

    def ordered(self, order: Int64) -> BlockCodes:
        """With its columns in another order, as `FoundLinear.order`."""
        zero = None if self.zero is None else self.zero[..., order]
        return replace(self, stored=self.stored[:, order], scale=self.scale[..., order], zero=zero)


@dataclass(frozen=True)
class GraphLora:
    """A low-rank branch found in the graph: y += scale * (x.A).B + bias."""

    a: Float64
    """[k, r]."""
    b: Float64
    """[r, n]."""
    scale: float
    bias: Float64 | None
    """[n], after the scale."""
    gain: Float64 | None = None
    """[n], DoRA: y = gain * (x.W + scale * (x.A).B) + the base's bias + bias."""


@dataclass(frozen=True)
class FoundLinear:
    """One linear of the model: y = x.W + bias (+ branches)."""

    name: str
    node: str
    """Name of its MatMul or Gemm."""
    modules: tuple[str, ...]
    """Dotted module paths that name it, the surest first."""
    x_name: str
    """Float tensor that it reads; dynamic: that DynamicQuantizeLinear reads."""
    x: Activation | None
    """Its scale, if the file has one."""
    reals: Reals | Callable[[], Reals] = field(repr=False)
    """[k, n], or how to read it: the weights of a big model are not held twice."""
    codes: WeightCodes | BlockCodes | None
    bias: Float64
    """[n], zeros if the model has none."""
    output_name: str
    """Float tensor that it writes: after bias, branches and Q/DQ."""
    output: Activation | None
    loras: tuple[GraphLora, ...]
    nodes: tuple[int, ...]
    """Indices of the ONNX nodes that it stands for, in no order."""
    result: str
    """ONNX tensor to replace: the codes if the output is quantized, else the float output."""
    smooth: Float64 | None = None
    """[k]: the codes are of x / smooth, and `weight` and A have rows times smooth (SmoothQuant)."""
    dynamic: bool = False
    """x is quantized at run time, per tensor (DynamicQuantizeLinear -> MatMulInteger); `x` is then None."""
    shape: tuple[int, int] = (0, 0)
    """(k, n), known without reading the weights."""
    scopes: int = 0
    """How many of `modules`, from the first, are of scope metadata; the others are names of the node and of the weight."""
    gram: Float64 | None = field(default=None, repr=False)
    """[k, k]: the sum of x x^T over rows of calibration data, divided as `smooth` says; its weight is rounded for these."""
    bits: int | None = None
    """Of its codes, where the file holds floats; None: as all have."""

    order: Int64 | None = field(default=None, repr=False)
    """[n]: the model's output that each column is; None: they are in the model's order."""

    @property
    def weight(self) -> Float64:
        """[k, n], dequantized if the file has codes; read anew at every call."""
        return np.asarray(self.reals() if callable(self.reals) else self.reals, np.float64)

    @property
    def is_finite(self) -> bool:
        """Whether weight and bias hold neither NaN nor infinity."""
        weight = self.reals() if callable(self.reals) else self.reals
        return bool(np.isfinite(weight).all() and np.isfinite(self.bias).all())
