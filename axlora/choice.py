"""Which adapter each row of a batch runs with: the same rules for every kind of program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from axlora.compiler.errors import BadAdapter
from axlora.compiler.layer import Lowered, ModuleMatch
from axlora.compiler.row_changes import RowChange, TableChanges, TableInfo

AdapterChoice = str | None | Sequence[str | None]
"""An adapter for all batch rows, None for the base or the model's own LoRA, or one of these for each row."""


Rows = Mapping[str, tuple[RowChange, ...]]
"""Input of ids -> what is added to the rows that it picks."""


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter's block for the machine, and what the host adds to rows of embeddings."""

    name: str
    rank: int
    """0: it changes no linear, has no block and needs no slot."""
    block: bytes
    pinned: bool = False
    """Counts among the different adapters of every batch, used or not."""
    modules: tuple[ModuleMatch, ...] = ()
    """Its modules, the linears that they change and the evidence, sorted by module; empty in packages of earlier versions."""
    rows: Rows = field(default_factory=dict)


def adapter_infos(
    blocks: Mapping[str, tuple[int, bytes]], lowered: Lowered, tables: Mapping[str, TableInfo]
) -> tuple[AdapterInfo, ...]:
    """The adapters of a compiled model: name -> (rank, block), with the linears that their modules change.

    Args:
        tables: input of ids -> its table.
    """
    return tuple(
        AdapterInfo(name, *block, modules=lowered.matches.get(name, ()), rows=rows_of(lowered.rows.get(name, ()), tables))
        for name, block in blocks.items()
    )


def rows_of(changes: TableChanges, tables: Mapping[str, TableInfo]) -> Rows:
    """What is added to the rows that every input of ids picks."""
    own = {
        input: tuple(change.times(info.scale).stored() for change, name in changes if name == info.name)
        for input, info in tables.items()
    }
    return {input: found for input, found in own.items() if found}


def find(adapters: Sequence[AdapterInfo], name: str) -> AdapterInfo:
    """The adapter of that name.

    Raises:
        BadAdapter: there is none.
    """
    found = next((a for a in adapters if a.name == name), None)
    if found is None:
        held = ", ".join(a.name for a in adapters) or "none"
        raise BadAdapter(f"no adapter {name!r} in the package", "adapter", f"it has: {held}")
    return found


def chosen(
    adapters: Sequence[AdapterInfo], default: str | None, limit: int, choice: AdapterChoice
) -> tuple[list[str], list[str | None]]:
    """(different adapters of a batch that need slots, pinned ones first; adapter of each row).

    Args:
        adapters: of the package.
        default: what None means.
        limit: most different adapters in one batch.
        choice: what the user names.

    Raises:
        BadAdapter: no such adapter, or more different ones than `limit`.
    """
    if choice is None:
        choice = default
    rows = [choice] if choice is None or isinstance(choice, str) else list(choice)
    for name in filter(None, rows):
        find(adapters, name)
    slotted = {a.name for a in adapters if a.rank}
    pinned = [a.name for a in adapters if a.pinned and a.rank]
    used = list(dict.fromkeys([*pinned, *(name for name in rows if name in slotted)]))
    if len(used) > limit:
        note = f" ({len(pinned)} of them pinned)" if pinned else ""
        what = f"{len(used)} different adapters in one batch{note}, the package has {limit} slots"
        hint = "compile with a larger --max-loras" + (", or unpin one" if pinned else "")
        raise BadAdapter(what, "adapter", hint)
    return used, rows
