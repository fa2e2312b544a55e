"""Where floats become codes and come back: the same arithmetic (`isa.numerics`) in front of every view of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel
from axlora.compiler.layer import Int64, Tensor
from axlora.isa import numerics


@dataclass(frozen=True)
class Quantized:
    """A tensor at the machine: codes [tokens, columns], and mantissa and shift [tokens, 1] if it is per token."""

    codes: Int64
    mantissa: Int64 | None = None
    shift: Int64 | None = None
    saturated: int = 0
    """Elements that the static scale clamps."""


def quantize(t: Tensor, value: npt.NDArray[Any]) -> Quantized:
    """Codes of a float array of `t`'s shape; integers are codes already.

    Raises:
        BadModel: NaN or infinity.
    """
    if value.dtype.kind == "i":
        return Quantized(value.reshape(t.tokens, t.columns).astype(np.int64))
    real = np.ascontiguousarray(value, np.float32).reshape(t.tokens, t.values)
    if not np.isfinite(real).all():
        raise BadModel("activation holds NaN or infinity", t.source or t.name, "check the model's inputs and weights")
    if t.per_token:
        codes, offset, mantissa, shift = numerics.quantize_tokens(real, t.bits, t.offset_columns > 0)
        return Quantized(np.hstack([codes, np.repeat(offset, t.offset_columns, axis=1)]), mantissa, shift)
    codes, clamped = numerics.quantize_real(real, t.scale, t.zero_point, t.bits)
    return Quantized(codes, saturated=int(clamped.sum()))


def restore(t: Tensor, codes: Int64) -> npt.NDArray[Any]:
    """What the host graph takes for a linear's result: the codes themselves, or float32 where they have 32 bits."""
    if t.bits < 32:
        return codes.astype(f"int{t.bits}").reshape(t.shape)
    return numerics.dequantize(codes, t.scale, t.zero_point).reshape(t.shape)


def token_rows(t: Tensor, rows: int) -> int:
    """Tokens of each of `rows` batch rows; 0 if they do not divide."""
    return 0 if t.tokens % rows else t.tokens // rows
