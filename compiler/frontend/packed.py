"""Linears that hold several modules side by side (q, k and v; gate and up), and adapters of the one on the other.

The columns of a part are those of the layout that the packed linear's name stands for, and of the parts' own sizes; a name that
stands for no one order of columns has no layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import PeftLora
from axlora.compiler.frontend.held import Candidate

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Modules that linears hold side by side, the first module's outputs first."""

    parts: tuple[str, ...]
    """Last components of the modules: two of one size, or q, k and v, where k and v have one size."""
    packed: tuple[str, ...]
    """Last components of the linears."""

    def columns(self, sizes: Mapping[str, int], total: int) -> dict[str, slice] | None:
        """The columns of every part.

        Args:
            sizes: of the parts that are known, in outputs; at least one.
            total: outputs of the packed linear.

        Returns:
            None where the sizes do not fill the linear.
        """
        if len(self.parts) == 2:
            full = dict.fromkeys(self.parts, total // 2)
        else:
            q, k, v = self.parts
            keys = sizes.get(k, sizes.get(v, (total - sizes.get(q, 0)) // 2))
            full = {q: total - 2 * keys, k: keys, v: keys}
        if sum(full.values()) != total or min(full.values()) <= 0 or any(full[part] != n for part, n in sizes.items()):
            return None
        ends = np.cumsum(list(full.values()))
        return {part: slice(int(end) - n, int(end)) for (part, n), end in zip(full.items(), ends, strict=True)}


LAYOUTS = (
    Layout(("q_proj", "k_proj", "v_proj"), ("qkv_proj", "qkv", "W_pack", "Wqkv", "in_proj")),
    Layout(("query", "key", "value"), ("qkv", "qkv_proj")),
    Layout(("wq", "wk", "wv"), ("wqkv", "qkv_proj")),
    Layout(("gate_proj", "up_proj"), ("gate_up_proj",)),
)
INTERLEAVED = {**dict.fromkeys(("query", "key", "value"), ("query_key_value",))}
"""Module -> packed linears whose order of columns differs from model to model (head by head, group by group)."""


@dataclass(frozen=True)
class Columns:
    """Some columns of linears, as the base of a change."""

    parts: tuple[tuple[Candidate, slice], ...]
    """Side by side, with the columns of each."""

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out)."""
        return self.parts[0][0].shape[0], sum(own.stop - own.start for _, own in self.parts)

    @property
    def weight(self) -> Float64:
        """[in, out]."""
        return np.concatenate([linear.held().values[:, own] for linear, own in self.parts], axis=1)

    @property
    def bias(self) -> Float64:
        """[out]."""
        return np.concatenate([linear.bias[own] for linear, own in self.parts])


@dataclass(frozen=True)
class PackedPart:
    """The branch of a module that is some columns of a packed linear."""

    part: str
    """Last component of the module."""
    lora: PeftLora


def joined(linear: Candidate, layout: Layout, parts: Sequence[PackedPart], limit: int | None, where: str) -> PeftLora:
    """The branches of parts of a packed linear as one: A side by side, each B in the rows of its A and its own columns.

    Args:
        limit: largest rank of the one branch; None: any.

    Raises:
        BadAdapter: the parts do not fill the linear; DoRA on some of them; a rank over the limit.
    """
    k, n = linear.shape
    names = ", ".join(x.lora.module for x in parts)
    columns = layout.columns({x.part: x.lora.b.shape[1] for x in parts}, n)
    if columns is None or any(x.lora.a.shape[0] != k for x in parts):
        sizes = ", ".join(f"{x.lora.module} is {x.lora.a.shape[0]} to {x.lora.b.shape[1]}" for x in parts)
        what = f"{sizes}, and {linear.name!r}, which should hold {', '.join(layout.parts)}, {k} to {n}"
        raise BadAdapter(what, where, "this adapter belongs to another base")
    magnitudes = [x.lora.magnitude for x in parts if x.lora.magnitude is not None]
    if magnitudes and len(magnitudes) < len(layout.parts):
        what = f"DoRA on {names}, which is not all of the packed linear {linear.name!r}"
        raise BadAdapter(what, where, f"train it on all of {', '.join(layout.parts)}")
    rank = sum(x.lora.rank for x in parts)
    if limit is not None and rank > limit:
        what = f"{names} share the packed linear {linear.name!r}: rank {rank} together, over the limit {limit}"
        raise BadAdapter(what, where, f"raise max_lora_rank to {rank}")
    b, first = np.zeros((rank, n)), 0
    for x in parts:
        b[first : first + x.lora.rank, columns[x.part]] = x.lora.scale * x.lora.b
        first += x.lora.rank

    def over(base: Float64, values: Sequence[Float64 | None]) -> Float64 | None:
        """`base` with the values of the parts that have some, in their columns; None: none has."""
        given = [(x, value) for x, value in zip(parts, values, strict=True) if value is not None]
        result = base.copy()
        for x, value in given:
            result[columns[x.part]] = value
        return result if given else None

    return PeftLora(
        linear.name,
        np.concatenate([x.lora.a for x in parts], axis=1),
        b,
        1.0,
        over(np.zeros(n), [None if x.lora.bias is None else x.lora.scale * x.lora.bias for x in parts]),
        over(np.zeros(n), [x.lora.magnitude for x in parts]),
        over(linear.bias, [x.lora.base_bias for x in parts]),
        over(np.ones(n), [x.lora.gain for x in parts]),
    )


def split(lora: PeftLora, layout: Layout, sizes: Mapping[str, int], where: str) -> dict[str, PeftLora]:
    """The branch of a packed module on linears that hold its parts apart: the same A, the columns of B.

    Args:
        sizes: outputs of the linear of every part.

    Raises:
        BadAdapter: the parts do not make up the module.
    """
    n = lora.b.shape[1]
    columns = layout.columns(sizes, n)
    if columns is None:
        own = ", ".join(f"{part} {size}" for part, size in sizes.items())
        what = f"module {lora.module!r} has {n} outputs, the linears that it packs have {own}"
        raise BadAdapter(what, where, "this adapter belongs to another base")

    def cut(values: Float64 | None, own: slice) -> Float64 | None:
        return None if values is None else values[own]

    return {
        part: replace(
            lora,
            b=lora.b[:, own],
            bias=cut(lora.bias, own),
            magnitude=cut(lora.magnitude, own),
            base_bias=cut(lora.base_bias, own),
            gain=cut(lora.gain, own),
        )
        for part, own in columns.items()
    }
