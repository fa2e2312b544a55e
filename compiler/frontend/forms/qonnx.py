"""QONNX's quantizers (Brevitas, FINN, hls4ml): codes of constants, Q/DQ pairs of activations, or the arithmetic that they mean.

Formulas: Pappalardo et al., QONNX: Representing Arbitrary-Precision Quantized Neural Networks, arXiv 2206.07527.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.forms.rewriter import Array, Nodes, Rewriter
from axlora.compiler.frontend.recognised import MARK
from axlora.compiler.frontend.supported import named

_LOG = logging.getLogger(__name__)
_CLIP_WITH_INPUTS = 11
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Rounding:
    """A rounding mode, of values and as operators."""

    kind: str
    """Operator that rounds."""
    signless: bool = False
    """Whether the magnitude is rounded, and the sign put back."""
    shift: float = 0
    """Added before."""

    def of(self, values: Float64) -> Float64:
        """Rounded; float64 of the same shape."""
        function: Callable[[Float64], Float64] = {"Round": np.rint, "Ceil": np.ceil, "Floor": np.floor}[self.kind]
        if not self.signless:
            return function(values)
        return np.sign(values) * function(np.abs(values) + self.shift)

    def add(self, to: Rewriter, x: str) -> str:
        """Append the operators."""
        if not self.signless:
            return to.add(self.kind, [x])
        size = to.add("Abs", [x])
        if self.shift:
            size = to.add("Add", [size, to.constant("shift", self.shift)])
        return to.add("Mul", [to.add("Sign", [x]), to.add(self.kind, [size])])


_ROUNDINGS = {
    "ROUND": _Rounding("Round"),
    "HALF_EVEN": _Rounding("Round"),
    "CEIL": _Rounding("Ceil"),
    "FLOOR": _Rounding("Floor"),
    "UP": _Rounding("Ceil", True),
    "DOWN": _Rounding("Floor", True),
    "ROUND_TO_ZERO": _Rounding("Floor", True),
    "HALF_UP": _Rounding("Floor", True, 0.5),
    "HALF_DOWN": _Rounding("Ceil", True, -0.5),
}


@dataclass(frozen=True)
class _Quantizer:
    """(clamp(x / scale + zero, low, high) rounded - zero) * scale."""

    scale: Array
    zero: Array
    low: int
    high: int
    rounding: _Rounding

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8] | None:
        """Of bytes that hold codes and zero point; None if no byte does."""
        whole = self.zero.size > 0 and bool((self.zero == np.rint(self.zero)).all())
        least, most = min(self.low, int(self.zero.min())), max(self.high, int(self.zero.max()))
        if not whole or not np.isfinite(self.scale).all() or (self.scale <= 0).any():
            return None
        kinds: tuple[type[np.int8] | type[np.uint8], ...] = (np.int8, np.uint8)
        return next((kind for kind in kinds if least >= np.iinfo(kind).min and most <= np.iinfo(kind).max), None)

    def codes(self, x: Array) -> Float64:
        """Integers, of the shape of x."""
        return self.rounding.of(np.clip(x.astype(np.float32) / self.scale + self.zero, self.low, self.high).astype(np.float64))

    def axis(self, shape: tuple[int, ...]) -> int | None:
        """The dimension of x along which scale and zero point differ, -1 if they do not; None if there are several."""
        varying = np.broadcast_shapes(self.scale.shape, self.zero.shape)
        axes = [len(shape) - len(varying) + i for i, n in enumerate(varying) if n > 1]
        return None if len(axes) > 1 or len(varying) > len(shape) else axes[0] if axes else -1


def _quantizer(to: Rewriter) -> _Quantizer | None:
    """Of a Quant whose scale, zero point and width are constants."""
    scale, zero, width = (to.file.array(to.given(i)) for i in (1, 2, 3))
    if scale is None or zero is None or width is None or width.size != 1 or float(width.reshape(())) % 1:
        return None
    bits, signed, narrow = int(width.reshape(())), to.number("signed", 1) != 0, to.number("narrow") != 0
    low = -(1 << (bits - 1)) + narrow if signed else 0
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1 - narrow
    return _Quantizer(scale, zero, low, high, _ROUNDINGS[_mode(to, "ROUND")])


def _mode(to: Rewriter, default: str) -> str:
    found = next((a.s.decode() for a in to.node.attribute if a.name == "rounding_mode"), default)
    return found.upper()


def quant(to: Rewriter) -> Nodes:
    """Quant(x, scale, zero point, bits; signed, narrow, rounding_mode).

    A constant becomes codes in bytes, an activation with one scale and rounding to even a Q/DQ pair, clipped where it has
    fewer codes than a byte; everything else its arithmetic.
    """
    if _mode(to, "ROUND") not in _ROUNDINGS:
        return to.refuse(f"with rounding_mode {_mode(to, 'ROUND')}")
    quantizer = _quantizer(to)
    if quantizer is None:
        return to.refuse("whose scale, zero point or bits are no constants")
    if quantizer.high == 0 and to.number("signed", 1):
        return _two_valued(to)
    x = to.file.array(to.given(0))
    if x is not None:
        return _held(to, x, quantizer)
    single = quantizer.scale.size == 1 and quantizer.zero.size == 1
    if single and quantizer.rounding == _ROUNDINGS["ROUND"] and quantizer.dtype is not None:
        return _pair(to, quantizer, quantizer.dtype)
    return _arithmetic(to, quantizer)


def _held(to: Rewriter, x: Array, quantizer: _Quantizer) -> Nodes:
    """A constant as its codes."""
    axis, dtype = quantizer.axis(x.shape), quantizer.dtype
    codes = quantizer.codes(x)
    if axis is None or dtype is None:
        _LOG.warning(
            "%s: weights become floats, as no byte holds their codes, or they have several scales a column", named(to.node)
        )
        reals = ((codes - quantizer.zero) * quantizer.scale).astype(np.float32)
        to.add("Identity", [to.file.add(f"{to.given(0)}{MARK}{to.base}", lambda: reals)])
        return to.finish()
    return _codes(to, codes, quantizer.scale, quantizer.zero, axis, dtype)


def _codes(to: Rewriter, codes: Float64, scale: Array, zero: Array, axis: int, dtype: type) -> Nodes:
    """DequantizeLinear of codes along an axis, or of one scale where that is -1; the codes take the weight's name."""
    name, shape = to.given(0), () if axis < 0 else (codes.shape[axis],)
    alone = name in to.file.tensors and len(to.file.readers.get(name, ())) == 1
    held = to.file.add(name if alone else f"{name}{MARK}{to.base}", lambda: codes.astype(dtype))
    parts = [np.broadcast_to(v.reshape(-1), shape or (1,)).reshape(shape) for v in (scale, zero)]
    pair = [to.constant("scale", parts[0]), to.constant("zero", parts[1], dtype)]
    if axis < 0:
        to.add("DequantizeLinear", [held, *pair])
    else:
        to.add("DequantizeLinear", [held, *pair], axis=axis)
    return to.finish()


def _pair(to: Rewriter, quantizer: _Quantizer, dtype: type) -> Nodes:
    """QuantizeLinear and DequantizeLinear of an activation.

    QuantizeLinear adds the zero point behind the rounding: where it is odd, a value halfway between codes gets the other one.
    """
    x, limits = to.given(0), np.iinfo(dtype)
    scale, zero = float(quantizer.scale.reshape(())), float(quantizer.zero.reshape(()))
    if (quantizer.low, quantizer.high) != (limits.min, limits.max):
        x = _clipped(to, x, (quantizer.low - zero) * scale, (quantizer.high - zero) * scale)
    pair = [to.constant("scale", scale), to.constant("zero", zero, dtype)]
    to.add("DequantizeLinear", [to.add("QuantizeLinear", [x, *pair]), *pair])
    return to.finish()


def _clipped(to: Rewriter, x: str, low: float, high: float) -> str:
    if to.file.version < _CLIP_WITH_INPUTS:
        return to.add("Clip", [x], min=low, max=high)
    return to.add("Clip", [x, to.constant("low", low), to.constant("high", high)])


def _arithmetic(to: Rewriter, quantizer: _Quantizer) -> Nodes:
    scale, zero = to.given(1), to.given(2)
    ratio = to.add("Add", [to.add("Div", [to.given(0), scale]), zero])
    codes = quantizer.rounding.add(to, _clipped(to, ratio, quantizer.low, quantizer.high))
    to.add("Mul", [to.add("Sub", [codes, zero]), scale])
    return to.finish()


def _two_valued(to: Rewriter) -> Nodes:
    """scale where x / scale is not below zero, else -scale; codes of a constant are 1 and -1."""
    x, scale = to.file.array(to.given(0)), to.file.array(to.given(1))
    if x is not None and scale is not None:
        quantizer = _Quantizer(scale, np.zeros((), np.float32), -1, 1, _ROUNDINGS["ROUND"])
        axis = quantizer.axis(x.shape)
        if axis is not None and quantizer.dtype is not None:
            return _codes(to, np.where(x / scale >= 0, 1.0, -1.0), scale, quantizer.zero, axis, np.int8)
    seen = to.add("Less", [to.add("Div", [to.given(0), to.given(1)]), to.constant("zero", 0)])
    to.add("Where", [seen, to.add("Neg", [to.given(1)]), to.given(1)])
    return to.finish()


def bipolar(to: Rewriter) -> Nodes:
    """BipolarQuant(x, scale)."""
    return _two_valued(to)


def trunc(to: Rewriter) -> Nodes:
    """Trunc(x, scale, zero point, bits before, bits after; rounding_mode): the low bits go.

    The later form, with a scale of its result, has six inputs.
    """
    mode, widths = _mode(to, "FLOOR"), [to.file.array(to.given(i)) for i in (3, 4)]
    if mode not in _ROUNDINGS or len(to.node.input) > 5:
        return to.refuse(f"with rounding_mode {mode}" if mode not in _ROUNDINGS else "with a scale of its result")
    before, after = widths
    if before is None or after is None:
        return to.refuse("whose bits are no constants")
    scale, zero = to.given(1), to.given(2)
    whole = to.add("Round", [to.add("Add", [to.add("Div", [to.given(0), scale]), zero])])
    lost = to.add("Div", [whole, to.constant("lost", 2.0 ** float(before.reshape(()) - after.reshape(())))])
    to.add("Mul", [to.add("Sub", [_ROUNDINGS[mode].add(to, lost), zero]), scale])
    return to.finish()
