"""What a model takes: the kinds of models, names and shapes of inputs, and the error of a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import Error

Inputs = Mapping[str, npt.ArrayLike]
"""What a user gives: input -> array."""
Values = dict[str, npt.NDArray[Any]]
InputsInfo = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Input -> (shape, type)."""


class BadInput(Error):
    """An input array is missing, unknown, or has the wrong shape or type."""


class Kind(StrEnum):
    """How a model's inputs become starts of the machine."""

    LINEARS = "linears"
    """Linears run in stages, the rest on the host between them."""
    WHOLE = "whole"
    """A start takes a whole sequence, or rows that nothing mixes."""
    GENERATOR = "generator"
    """Starts take one token, or a few, and go on where the last one ended."""


def no_sequence() -> NoReturn:
    """Raise the `BadInput` of a session that is to go on with a sequence, and whose model is no language model."""
    raise BadInput("this package does not generate", "session", "compile with --generate, or run axlora simulate")


def cast(name: str, value: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An input's values in the model's type.

    Raises:
        BadInput: not numbers, not finite, or out of the type's range.
    """
    if value.dtype.kind not in "fiub":
        raise BadInput(f"input {name!r} has type {value.dtype}, must be numbers", "input", str(dtype))
    if not np.isfinite(value).all():
        raise BadInput(f"input {name!r} holds NaN or infinity", "input", f"finite {dtype} values")
    with np.errstate(over="ignore", invalid="ignore"):
        found = value.astype(dtype)
    if not np.isfinite(found).all() or (dtype.kind in "iub" and (found != value).any()):
        raise BadInput(f"input {name!r} holds values that are no {dtype}", "input", f"{dtype} values")
    return np.asarray(found, order="C")


def checked(inputs: Inputs, known: InputsInfo) -> Values:
    """The inputs as arrays.

    Raises:
        BadInput: a name that is not known or missing, or another shape.
    """
    for name in inputs:
        if name not in known:
            raise BadInput(f"unknown input {name!r}", "input", f"the model has: {', '.join(known)}")
    found: Values = {}
    for name, (shape, dtype) in known.items():
        if name not in inputs:
            raise BadInput(f"input {name!r} is missing", "input", f"shape {shape}, type {dtype}")
        found[name] = np.asarray(inputs[name])
        if found[name].shape != shape:
            what = f"input {name!r} has shape {found[name].shape}, compiled for {shape}"
            raise BadInput(what, "input", "--shape at compile time sets it")
    return found
