"""An adapter's tensors by module, and the numbers of its configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import MISFITS, PeftChange, PeftLora

Tensor = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
LARGEST = 1e30
"""Largest magnitude of a number in the configuration."""
_REPEATS = 3
_PATH = 160
"""Most repetitions in a key of rank_pattern or alpha_pattern, and characters of a path that it is matched with: the time of a
match grows with the power of the one in the other."""


def short(value: object) -> str:
    """The value for a message, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Config:
    """adapter_config.json."""

    fields: Mapping[str, Any]
    where: str
    """The adapter, for messages."""

    def number(self, field: str, default: float | None = None) -> float:
        """A number; `default` where the field is missing or null.

        Raises:
            BadAdapter: it is something else, or missing without a default.
        """
        value = self.fields.get(field)
        return default if value is None and default is not None else self._real(value, field)

    def count(self, field: str, default: int | None = None) -> int:
        """A whole number that is not negative."""
        value = self.number(field, default)
        if value != int(value) or value < 0:
            raise BadAdapter(f"{field} is {value:g}, must be a whole number", self.where, f"fix {field}")
        return int(value)

    def _real(self, value: object, field: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise BadAdapter(f"{field} is {short(value)}, must be a number", self.where, f"fix {field}")
        return float(value)

    def patterned(self, module: str, field: str, default: float) -> float:
        """PEFT's rule: the value of the first key that matches the end of the module's path."""
        pattern = self.fields.get(field)
        if not pattern:
            return default
        if not isinstance(pattern, dict):
            raise BadAdapter(f"{field} is {short(pattern)}, must be an object", self.where, f"fix {field}")
        for key, value in pattern.items():
            if len(re.findall(r"[*+{]", key)) > _REPEATS or re.search(r"\)[*+{]", key) or len(module) > _PATH:
                what = f"{field} has the key {short(key)}: too many repetitions"
                raise BadAdapter(what, self.where, "name the modules in full")
            try:
                found = re.match(rf"(.*\.)?({key})$", module)
            except (re.error, RecursionError, OverflowError):
                what = f"{field} has the key {short(key)}: no regular expression"
                raise BadAdapter(what, self.where, f"fix {field}") from None
            if found:
                return self._real(value, f"{field}[{short(key)}]")
        return default


@dataclass(frozen=True)
class Own:
    """The tensors of one module."""

    module: str
    """Dotted path in the base model."""
    tuner: str
    """Its kind, for messages."""
    tensors: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    """Those of the whole adapter."""
    config: Config

    def has(self, name: str) -> bool:
        """The module has a tensor of that name."""
        return name in self.tensors

    def get(self, name: str, dimensions: int | None = None) -> Tensor:
        """A tensor.

        Raises:
            BadAdapter: it is missing, or has another number of dimensions.
        """
        if name not in self.tensors:
            raise self.bad(f"has no {name}")
        value = self.tensors[name]
        if dimensions is not None and value.ndim != dimensions:
            raise self.bad(f"{name} has shape {value.shape}, must have {dimensions} dimensions")
        return value

    def common(self, name: str) -> Tensor | None:
        """A tensor of the whole adapter, which may stand at the module too; None: it was not saved."""
        return self.tensors.get(name, self.shared.get(name))

    def bad(self, what: str, hint: str = "save the adapter again") -> BadAdapter:
        """The error for this module."""
        return BadAdapter(f"module {self.module!r}: {self.tuner} {what}", self.config.where, hint)


def matrix(delta: Tensor) -> Float64:
    """A change [out, in] as [in, out]; of a convolution [out, in, ..] `in` are patches' elements (frontend/convolutions)."""
    flat = delta if delta.ndim == 2 else np.moveaxis(delta.reshape(*delta.shape[:2], -1), 1, 2).reshape(len(delta), -1)
    return np.asarray(flat.T, np.float64)


def read_own(read: Callable[[Own], PeftLora | PeftChange], own: Own) -> PeftLora | PeftChange:
    """The change of one module.

    Raises:
        BadAdapter: tensors that do not fit together.
    """
    try:
        return read(own)
    except MISFITS as error:
        raise own.bad(f"has tensors that do not fit together ({(str(error).splitlines() or [''])[0][:100]})") from None
