"""Adapters of a compiled program: add, remove, pin. Nothing else of the program changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from axlora.compiler.backend.link import adapter_block
from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.resolve import Matching
from axlora.compiler.layer import check_adapter_name
from axlora.compiler.passes.adapters import Origin, peft_adapters

from .choice import AdapterInfo, find
from .program import Program

_LOG = logging.getLogger(__name__)


def add_adapter(
    program: Program,
    name: str,
    path: str | Path,
    adapter_map: Mapping[str, str] | None = None,
    base: str | Path | None = None,
    partial_adapters: bool = False,
) -> Program:
    """The program with one more adapter from a PEFT directory.

    Args:
        adapter_map, base, partial_adapters: as `axlora.compile`.

    Raises:
        BadAdapter: the name is taken or no file name; the program has no slots; the rank is over its limit; as `compile`.
    """
    check_adapter_name(name)
    if any(a.name == name for a in program.adapters):
        raise BadAdapter(f"the package has an adapter {name!r}", "adapter", "remove it first, or choose another name")
    linears = program.linears()
    bits = {layer.input: layer.x_bits for layer in program.layers}
    matching, origin = Matching(adapter_map, base, partial_adapters), Origin(tables=program.interface.embeddings(program))
    made = peft_adapters(linears, bits, name, path, program.target, matching, program.rank, origin)
    found = made.adapters
    without = [layer.name for layer in program.layers if layer.name in found and not layer.tiling.shape.slots]
    if without:
        raise BadAdapter(
            f"adapter {name!r} changes {without[0]!r}, which has no adapter columns",
            str(path),
            "compile with --lora-linears all",
        )
    if found and not program.slots:
        raise BadAdapter("the package has no adapter slots", "adapter", "compile with --max-loras and --max-lora-rank")
    rank = max((a.rank for a in found.values()), default=0)
    own = tuple(replace(x, adapters=(found[x.name],)) if x.name in found else x for x in linears)
    tilings = {layer.name: layer.tiling for layer in program.layers}
    block = adapter_block(program.target, own, name, rank, tilings) if rank else b""
    rows = program.interface.rows_of(made.resolved.rows)
    for notice in made.resolved.notices:
        _LOG.warning("%s", notice)
    added = AdapterInfo(name, rank, block, modules=made.resolved.matches, rows=rows)
    program.interface.check_reach(added)
    return replace(program, adapters=(*program.adapters, added))


def module_rows(adapter: AdapterInfo) -> list[tuple[str, str, str]]:
    """(module, linear, evidence) of each module of an adapter, those of linears sorted: the table that is printed."""
    linears = [(match.module, match.linear, match.by.value) for match in adapter.modules]
    return linears + [(x.module, f"embeddings of {name!r}", x.size) for name, found in adapter.rows.items() for x in found]


def remove_adapter(program: Program, name: str) -> Program:
    """The program without an adapter.

    Raises:
        BadAdapter: there is none of that name, or it is pinned.
    """
    if find(program.adapters, name).pinned:
        raise BadAdapter(f"adapter {name!r} is pinned", "adapter", "axlora adapter pin --off OUT.axl NAME")
    kept = tuple(a for a in program.adapters if a.name != name)
    return replace(program, adapters=kept, default_adapter=None if program.default_adapter == name else program.default_adapter)


def pin_adapter(program: Program, name: str, pinned: bool = True) -> Program:
    """The program with an adapter that keeps a slot in every run, or gives it back.

    Raises:
        BadAdapter: there is none of that name, or the slots are all pinned.
    """
    find(program.adapters, name)
    changed = tuple(replace(a, pinned=pinned) if a.name == name else a for a in program.adapters)
    if sum(a.pinned and a.rank > 0 for a in changed) > program.max_loras:
        raise BadAdapter(
            f"all {program.max_loras} slots are pinned", "adapter", "unpin one, or compile with a larger --max-loras"
        )
    return replace(program, adapters=changed)
