"""Element-wise functions as real numbers: one definition for recognition, calibration and the tables of the machine."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import Function

Float64 = npt.NDArray[np.float64]


@numba.vectorize(["float64(float64)"], cache=True)  # type: ignore[no-untyped-call,untyped-decorator]
def erf(x: float) -> float:
    """The error function, of an array element by element."""
    return math.erf(x)


def _sigmoid(x: Float64) -> Float64:
    return 1 / (1 + np.exp(-x))


REALS: dict[Function, tuple[Callable[[Float64], Float64], float]] = {
    Function.GELU: (lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), 8.0),
    Function.GELU_TANH: (lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), 8.0),
    Function.SILU: (lambda x: x * _sigmoid(x), 16.0),
    Function.SIGMOID: (_sigmoid, 16.0),
    Function.TANH: (np.tanh, 8.0),
    Function.RELU: (lambda x: np.maximum(x, 0.0), 8.0),
    Function.HARD_SWISH: (lambda x: x * np.clip(x + 3, 0.0, 6.0) / 6, 8.0),
}
"""Each function, and the x beyond which it is a straight line to within 2**-19."""


def real(function: Function, x: Float64) -> Float64:
    """The function itself, float64."""
    return REALS[function][0](x)
