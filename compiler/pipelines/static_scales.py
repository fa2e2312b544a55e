"""Static scales from calibration in a whole model: what linears read is rounded to codes of one scale a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import FakeQuantize, Linear, Op, Quantization
from axlora.compiler.transformer import Transformer

Float64 = npt.NDArray[np.float64]
_LEAST = 2.0**-30
"""Of a scale: what is 0 in every sample has one too."""


def with_static_scales(model: Transformer, peaks: Mapping[str, Float64], bits: int) -> tuple[Transformer, dict[str, Float64]]:
    """The model with a pair before its linears, and the peaks with those of its new values.

    Args:
        peaks: value -> largest magnitude [features], over the samples.
        bits: of a code; the largest magnitude gets the largest.
    """
    most = (1 << (bits - 1)) - 1
    rounded: dict[str, str] = {}
    operators: list[Op] = []
    found = dict(peaks)
    for op in model.operators:
        if isinstance(op, Linear):
            if op.x not in rounded:
                rounded[op.x] = f"{op.x} codes"
                scale = max(float(peaks[op.x].max()) / most, _LEAST)
                operators.append(FakeQuantize(op.x, rounded[op.x], Quantization(scale, 0, -most, most)))
                found[rounded[op.x]] = peaks[op.x]
            op = replace(op, x=rounded[op.x])
        operators.append(op)
    return replace(model, operators=tuple(operators)), found
