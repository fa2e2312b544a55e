"""Reading a package's manifest.json by type: every value is what its dataclass says, or `BadPackage` names the field."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from enum import Enum
from typing import Any, TypeVar

from axlora.compiler.errors import BadPackage

T = TypeVar("T")
_TEXT = 4096
"""Most characters of a name."""


@functools.cache
def _fields(cls: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Field -> (type, whether it must be there)."""
    hints = typing.get_type_hints(cls)
    required = dataclasses.MISSING
    return {f.name: (hints[f.name], f.default is required and f.default_factory is required) for f in dataclasses.fields(cls)}


class Manifest:
    """A manifest of a package."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        """`where` is the package, for messages."""
        self._data, self.where = data, where

    def __contains__(self, field: str) -> bool:
        """Whether a field is there."""
        return field in self._data

    def refuse(self, field: str, found: object, wanted: str) -> BadPackage:
        """The error that says what a field holds and what it should."""
        text = repr(found)
        return BadPackage(
            f"manifest.json: {field} is {text if len(text) <= 80 else text[:77] + '...'}, must be {wanted}",
            self.where,
            "compile again",
        )

    def get(self, kind: type[T] | Any, *path: str) -> Any:
        """The value at a path of fields, as `kind`: int, float, str, bool, a tuple, dict or union of them, or a dataclass.

        Raises:
            BadPackage: a field is missing, unknown, of another type, or not finite.
        """
        value: object = self._data
        for place, key in enumerate(path):
            if not isinstance(value, dict):
                raise self.refuse(".".join(path[:place]), value, "an object")
            if key not in value:
                raise BadPackage(f"manifest.json: {'.'.join(path[: place + 1])} is missing", self.where, "compile again")
            value = value[key]
        return self.read(value, kind, ".".join(path))

    def read(self, value: object, kind: Any, field: str) -> Any:
        """`value` of field `field` as `kind`; see `get`."""
        origin = typing.get_origin(kind)
        if origin in (types.UnionType, typing.Union):
            inner = [k for k in typing.get_args(kind) if k is not type(None)]
            return None if value is None else self.read(value, inner[0], field)
        if dataclasses.is_dataclass(kind):
            return self._dataclass(value, kind, field)
        if origin is tuple:
            return self._tuple(value, typing.get_args(kind), field)
        if origin is dict:
            if not isinstance(value, dict):
                raise self.refuse(field, value, "an object")
            of = typing.get_args(kind)[1]
            return {key: self.read(item, of, f"{field}.{key[:60]}") for key, item in value.items()}
        return self._plain(value, kind, field)

    def _plain(self, value: object, kind: Any, field: str) -> Any:
        if kind is Any:
            return value
        if isinstance(kind, type) and issubclass(kind, Enum):
            if value not in tuple(kind):
                raise self.refuse(field, value, f"one of {', '.join(map(str, kind))}")
            return kind(value)
        if kind is float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
                raise self.refuse(field, value, "a finite number")
            return float(value)
        if kind is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
            return value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is str and isinstance(value, str) and len(value) <= _TEXT and value.isprintable():
            return value
        raise self.refuse(field, value, {int: "an integer", bool: "true or false", str: "a text of one line"}[kind])

    def _tuple(self, value: object, kinds: tuple[Any, ...], field: str) -> Any:
        if not isinstance(value, list):
            raise self.refuse(field, value, "a list")
        if kinds[-1] is Ellipsis:
            return tuple(self.read(item, kinds[0], f"{field}[{i}]") for i, item in enumerate(value))
        if len(value) != len(kinds):
            raise self.refuse(field, value, f"a list of {len(kinds)}")
        return tuple(self.read(item, kind, f"{field}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds, strict=True)))

    def _dataclass(self, value: object, kind: Any, field: str) -> Any:
        if not isinstance(value, dict):
            raise self.refuse(field, value, "an object")
        fields = _fields(kind)
        for name in value:
            if name not in fields:
                raise BadPackage(f"manifest.json: {field}.{name[:60]} is not known", self.where, "compile again")
        for name, (_, required) in fields.items():
            if required and name not in value:
                raise BadPackage(f"manifest.json: {field}.{name} is missing", self.where, "compile again")
        return kind(**{name: self.read(item, fields[name][0], f"{field}.{name}") for name, item in value.items()})
