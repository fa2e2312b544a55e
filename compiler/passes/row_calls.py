"""An operator on rows as a composite function and its call, and back: field by field, whatever the operator is.

What an operator reads and its arrays are arguments of the call; every other field is an attribute of the function. Its body is
a call of an external function of the same name: which integers it computes depends on the rows of a start (`rows/formulas.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import partial
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
from tvm import relax

from axlora.compiler.functions import along
from axlora.compiler.operators import Op, OwnFunction, operands

Expr = Any
Array = npt.NDArray[Any]
PREFIX = "axlora."
KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Op)}
"""Name of a composite function, without the prefix -> the operator."""
_FIELDS: dict[type[Any], dict[str, Any]] = {
    kind: {name: hint for name, hint in get_type_hints(kind).items() if hint is not str or name in ("y", "stream")}
    for kind in KINDS.values()
}
"""Operator -> field -> its type, but for the values that it reads and a linear's name, which its weights tell."""


def plain(value: Any) -> Any:
    """A number, a string or a tuple of them as an attribute."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def typed(hint: Any, attribute: Any) -> Any:
    """The inverse of `plain`, for a field of this type: a scalar's, an enum, a tuple, a named tuple, or one of them or None."""
    own: Any = next(each for each in get_args(hint) if each is not NoneType) if isinstance(hint, UnionType) else hint
    if get_origin(own) is tuple:
        hints = get_args(own)
        hints = hints[:1] * len(attribute) if hints[-1] is Ellipsis else hints
        return tuple(typed(h, each) for h, each in zip(hints, attribute, strict=True))
    if issubclass(own, tuple):
        return own(*(typed(h, each) for h, each in zip(get_type_hints(own).values(), attribute, strict=True)))
    return own(attribute)


def reads(op: Op) -> dict[str, str]:
    """Field -> the value that the operator reads by it."""
    names = (each.name for each in fields(op) if each.name not in _FIELDS[type(op)] and each.name != "name")
    return dict(zip(names, operands(op), strict=True))


def written(op: Op) -> tuple[dict[str, Any], dict[str, Array]]:
    """The other fields: attributes (strings, numbers, lists of numbers), and arrays."""
    attributes: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for name in _FIELDS[type(op)]:
        match value := getattr(op, name):
            case OwnFunction():
                attributes |= {name: value.name, "bound": value.bound}
                arrays["lines"] = value.lines
            case Enum():
                attributes[name] = value.value
            case np.ndarray():
                arrays[name] = value
            case None:
                pass
            case _:
                attributes[name] = plain(value)
    return attributes, arrays


def read(kind: str, attributes: Mapping[str, Any], arguments: Mapping[str, str | Array]) -> Op:
    """The operator: the inverse of `reads` and `written`.

    Args:
        kind: of `KINDS`.
        attributes: of the function; those that are no field are left out.
        arguments: values that are read, arrays, and a linear's name.
    """
    of = KINDS[kind]
    values: dict[str, Any] = dict.fromkeys(_FIELDS[of]) | dict(arguments)
    for name, hint in _FIELDS[of].items():
        if name not in attributes:
            continue
        value = attributes[name]
        if "lines" in values and name == "function":
            lines, bound = values.pop("lines"), float(attributes["bound"])
            values[name] = OwnFunction(str(value), partial(along, lines, bound), bound, lines)
        else:
            values[name] = typed(hint, value)
    return of(**values)  # type: ignore[no-any-return]


def external(name: str, args: Mapping[str, Expr], out: Any) -> relax.Function:
    """A function that calls an external one.

    Args:
        args: parameter -> what it will be called with, for the type.
        out: type of its result.
    """
    builder = relax.BlockBuilder()
    params = [relax.Var(parameter, each.ty) for parameter, each in args.items()]
    with builder.function("f", params, private=True):
        with builder.dataflow():
            result = builder.emit_output(relax.op.call_dps_packed(name, params, out))
        builder.emit_func_output(result)
    return builder.get()["f"].with_attr("Primitive", True)  # `FuseOpsByPattern` looks into no such function


def composite(kind: str, args: Mapping[str, Expr], out: Any, attributes: Mapping[str, Any]) -> relax.Function:
    """`external` as a composite function with attributes."""
    return external(PREFIX + kind, args, out).with_attrs({"Composite": PREFIX + kind, **attributes})
