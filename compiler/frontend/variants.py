"""The linears of a model under its base and under each of its adapters: what calibration runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from axlora.compiler.frontend.embeddings import Table
from axlora.compiler.frontend.merge import Merged, merge_graph, merge_peft
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.frontend.resolve import Matching

Linears = tuple[FoundLinear, ...]


def variants(
    found: Linears, adapters: Mapping[str, str | Path], matching: Matching | None = None, tables: Sequence[Table] = ()
) -> list[Merged]:
    """The base, the linears under the graph's own branches if it has such, and what each adapter makes of the base, merged.

    Raises:
        BadAdapter: as `merge_peft`.
    """
    result = [Merged(found)]
    if any(f.loras for f in found):
        result.append(Merged(merge_graph(found)))
    return result + [merge_peft(found, name, path, matching, tables) for name, path in adapters.items()]
