"""Which linear a module of an adapter means: explicit map, then scope metadata and names; never order or shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from axlora.compiler.errors import BadAdapter

_ALIASES = {"attn": "self_attn", "attention": "attention", "feed_forward": "mlp"}
"""Path segments that exporters rename (ONNX Runtime GenAI writes attn for self_attn)."""


def _segments(path: str) -> tuple[str, ...]:
    return tuple(_ALIASES.get(s, s) for s in path.replace("/", ".").strip(".").split(".") if s)


def _agree(module: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """One is the end of the other."""
    length = min(len(module), len(path))
    return length > 0 and module[-length:] == path[-length:]


class Named(Protocol):
    """A linear by its names."""

    @property
    def name(self) -> str:
        """Unique."""

    @property
    def node(self) -> str:
        """Of its MatMul or Gemm."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted module paths, the surest first."""


T = TypeVar("T", bound=Named)


def find_linear(module: str, linears: Sequence[T], adapter_map: Mapping[str, str] | None, where: str) -> T:
    """The one linear that `module` means.

    Args:
        adapter_map: module -> name of a node or linear; looked at first.
        where: the adapter, for messages.

    Raises:
        BadAdapter: none, or several: the candidates are named.
    """
    if adapter_map and module in adapter_map:
        wanted = adapter_map[module]
        chosen = [x for x in linears if wanted in (x.node, x.name)]
        if len(chosen) != 1:
            known = ", ".join(x.node for x in linears[:8])
            raise BadAdapter(f"adapter map sends {module!r} to {wanted!r}, no linear", where, f"linears: {known}")
        return chosen[0]
    wanted_path = _segments(module)
    exact = [x for x in linears if any(_segments(p) == wanted_path for p in x.modules)]
    found = exact or [x for x in linears if any(_agree(wanted_path, _segments(p)) for p in x.modules)]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(x.name for x in linears[:6]) + (", ..." if len(linears) > 6 else "")
        raise BadAdapter(f"module {module!r} is no linear of the model", where, f"linears: {known}; or give --adapter-map")
    names = ", ".join(x.node for x in found[:8])
    raise BadAdapter(f"module {module!r} could be {len(found)} linears: {names}", where, "give --adapter-map")
