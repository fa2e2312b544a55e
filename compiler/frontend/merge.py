"""Merge low-rank branches into the weights, before quantization: the model then has no adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.adapter_content import PeftLora
from axlora.compiler.frontend.embeddings import Table
from axlora.compiler.frontend.held import of_found
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.frontend.resolve import Matching, resolve
from axlora.compiler.row_changes import TableChanges

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Merged:
    """A model with adapters in its weights."""

    linears: tuple[FoundLinear, ...]
    rows: TableChanges = ()
    """What is added to its embeddings."""
    notices: tuple[str, ...] = ()
    """What is left out."""


def merged(
    found: tuple[FoundLinear, ...], adapters: Mapping[str, str | Path], matching: Matching, tables: Sequence[Table]
) -> Merged:
    """The linears with the graph's branches, and those of PEFT directories, in their weights.

    Raises:
        BadAdapter: as `resolve`.
    """
    result = Merged(merge_graph(found))
    for name, path in adapters.items():
        more = merge_peft(result.linears, name, path, matching, tables)
        result = Merged(more.linears, result.rows + more.rows, result.notices + more.notices)
    return result


def merge_graph(found: tuple[FoundLinear, ...]) -> tuple[FoundLinear, ...]:
    """The linears with the branches of the graph in their weights; codes of the file give way to floats there."""
    return tuple(_with_branches(f) if f.loras else f for f in found)


def _with_branches(found: FoundLinear) -> FoundLinear:
    weight, bias = found.weight, found.bias
    for lora in found.loras:
        weight = weight + lora.scale * (lora.a @ lora.b)
        weight = weight if lora.gain is None else weight * lora.gain
        bias = bias if lora.bias is None else bias + lora.bias
    return replace(found, reals=weight, codes=None, bias=bias, loras=())


def _with_peft(found: FoundLinear, lora: PeftLora) -> FoundLinear:
    weight = found.weight + lora.scale * (lora.a @ lora.b)
    weight = weight if lora.gain is None else weight * lora.gain
    if lora.magnitude is not None:
        weight = weight * (lora.magnitude / np.maximum(np.linalg.norm(weight, axis=0), 1e-30))
    bias = found.bias if lora.base_bias is None else lora.base_bias
    bias = bias if lora.bias is None else bias + lora.scale * lora.bias
    return replace(found, reals=weight, codes=None, bias=bias)


def merge_peft(
    found: tuple[FoundLinear, ...],
    name: str,
    path: str | Path,
    matching: Matching | None = None,
    tables: Sequence[Table] = (),
) -> Merged:
    """The linears with a PEFT directory merged into their weights.

    Raises:
        BadAdapter: as `resolve`.
    """
    resolved = resolve(name, path, [of_found(f) for f in found], tables, matching, merge=True)
    result = {f.name: f for f in found}
    for lora, own in resolved.loras:
        result[own] = _with_peft(result[own], lora)
    for whole, own in resolved.modules:
        chosen = result[own]
        if whole.weight is not None:
            weight = whole.weight if whole.weight.shape == chosen.shape else whole.weight.T
            chosen = replace(chosen, reals=weight, codes=None)
        result[own] = chosen if whole.bias is None else replace(chosen, bias=whole.bias)
    return Merged(tuple(result.values()), resolved.rows, resolved.notices)
