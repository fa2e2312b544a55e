"""What an adapter changes in the embeddings of a model, and in the heads that share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import Dense, Float64, PeftLora, PeftModule, PeftRows, check_rank, factored
from axlora.compiler.frontend.attach import candidates, module_path
from axlora.compiler.frontend.base_weights import BaseWeights
from axlora.compiler.frontend.embeddings import Table
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.left_over import EMBEDDINGS, HEADS, Left, resized
from axlora.compiler.layer import By
from axlora.compiler.row_changes import RowChange

_HOST = "the host picks the rows of a whole model alone: compile it so (--operators all), or put them into the base"
_TRAINED = "put it into the base before exporting, or train linears alone"


@dataclass
class Embedded:
    """The embeddings of a model, and what is found out of an adapter's."""

    linears: Sequence[Candidate]
    tables: Sequence[Table]
    mapped: frozenset[str]
    """Modules that a map sends to linears."""
    base: BaseWeights | None
    where: str
    left: list[Left]
    """Gets what is not taken."""
    equal: list[str]
    """Gets what is the base's own."""
    changes: list[tuple[RowChange, Table, bool]] = field(default_factory=list)
    """With the tables, and whether heads that share them take the change too."""

    def is_base(self, module: PeftModule) -> bool:
        """The module's weight is that of the base's directory, if one is given."""
        weight = self.base.of(module.module) if self.base is not None and module.bias is None else None
        return weight is not None and module.weight is not None and Held(weight).equals(module.weight.T)

    def table(self, module: str, copy: Float64 | None = None) -> Table | None:
        """The table of a module: by its name, or by the values that the base, or a copy in the adapter, has of it."""
        path = module_path(module)
        named = [t for t in self.tables if t.is_of(path)]
        if named:
            return next((t for t in named if t.picked), named[0])
        for values in (None if self.base is None else self.base.of(module), copy):
            shaped = [] if values is None else [t for t in self.tables if t.shape == values.shape]
            same = [t for t in shaped if (held := t.held()) is not None and held.equals(np.asarray(values))]
            if len(same) == 1:
                return same[0]
        return None

    def whole(self, module: PeftModule) -> bool:
        """Whether a module that was saved whole is an embedding: changed, equal to the model's, or `left` says why neither.

        A linear of its path comes before.
        """
        assert module.weight is not None
        name, path, rows = module.module, module_path(module.module), module.weight.T
        named = self.table(name)
        found, by = candidates(name, self.linears)
        if name in self.mapped or (found and not (named is not None and by is By.WEIGHT)):
            return False
        if named is None and path.rest[-1] not in EMBEDDINGS:
            return False
        tied = [x.held for x in self.linears if x.shape == module.weight.shape and x.name.rsplit(".", 1)[-1] in HEADS]
        same = [t.held for t in ([named] if named is not None else self.tables) if t.shape == rows.shape]
        if any((held := read()) is not None and held.equals(rows) for read in same):
            self.equal.append(name)
            return True
        if named is None and (any(read().equals(module.weight) for read in tied) or self.is_base(module)):
            self.equal.append(name)
            return True
        if named is not None:
            self.take(PeftRows(name, rows, tied=module.tied), named)
            return True
        near = [t for t in self.tables if rows.ndim == 2 and t.shape[1] == rows.shape[1]]
        if len(near) == 1 and near[0].shape[0] != rows.shape[0]:
            self.left.append(resized(name, rows.shape[0], near[0].shape[0]))
        elif not near:
            why = f"the embedding {name!r} is saved, and the model has none to compare it with"
            hint = "save the adapter without it (save_embedding_layers=False), or give --base if it was not trained"
            self.left.append(Left(name, why, hint=hint))
        else:
            self.unnamed(name)
        return True

    def unnamed(self, module: str) -> None:
        """Note that names do not tell which embedding of the model was trained."""
        why = f"the embedding {module!r} was trained, and ids pick rows of no table of that name"
        hint = "positions are constants of a model; --base tells by weights which table it is where names do not; else"
        self.left.append(Left(module, why, hint=f"{hint} {_TRAINED}"))

    def is_linear(self, rows: PeftRows) -> bool:
        """Whether a linear, and no table, has the module's name: rows of a head were trained."""
        return self.table(rows.module) is None and len(candidates(rows.module, self.linears)[0]) == 1

    def rows(self, rows: PeftRows, copy: Float64 | None) -> None:
        """Find the table of rows that were trained; `copy` [rows, n]: the base's own, where the adapter holds it."""
        table = self.table(rows.module, copy)
        if table is None:
            self.unnamed(rows.module)
        else:
            self.take(rows, table)

    def take(self, rows: PeftRows, table: Table) -> None:
        """Note the change of a table, or why there is none.

        Raises:
            BadAdapter: rows of another width, or not finite; another weight in the base of `--base`.
        """
        count, features = table.shape
        if rows.left.ndim != 2 or rows.features != features:
            what = f"the embedding {rows.module!r} is {rows.left.shape}, the model's {table.shape}"
            if rows.right is not None or rows.ids is not None:
                what = f"the embedding {rows.module!r} has {rows.features} features, the model's {features}"
            raise BadAdapter(what, self.where, "this adapter belongs to another base")
        if rows.rows > count or (rows.ids is None and rows.rows != count):
            self.left.append(resized(rows.module, rows.rows, count))
            return
        if not table.picked:
            why = f"the embedding {rows.module!r} was trained, and only the linears of the model are compiled"
            if any(t.picked for t in self.tables):
                why = f"the embedding {rows.module!r} was trained, whose rows no token ids pick"
            self.left.append(Left(rows.module, why, hint=_HOST if "linears" in why else _TRAINED))
            return
        held = table.held()
        if held is None:
            why = f"the embedding {rows.module!r} was trained, and the model's is in a form that is not read"
            self.left.append(Left(rows.module, why, hint=_TRAINED))
            return
        weight = None if self.base is None else self.base.of(rows.module)
        if self.base is not None and weight is not None and not held.equals(weight):
            what = f"the weight of module {rows.module!r} in the base {self.base.folder} is not that of the model's embedding"
            hint = "the model was exported of another base, or of a changed one: export that base"
            raise BadAdapter(what, self.where, hint)
        change = rows.change(held.values)
        if not all(np.isfinite(v).all() for v in (change.left, change.right) if v is not None):
            raise BadAdapter(f"the embedding {rows.module!r} holds NaN or infinity", self.where, "save the adapter again")
        self.changes.append((change, table, rows.tied))

    def check_head(self, name: str, change: RowChange, tied: bool) -> None:
        """Raise `BadAdapter` for a head with a branch of its own, beside rows that were trained of the table that it shares."""
        if tied and change.ids is not None:
            what = f"linear {name!r} has a branch, and the weight of {change.module!r}, of which rows were trained"
            raise BadAdapter(what, self.where, "merge the adapter into the base before exporting")

    def heads(
        self, taken: Mapping[str, str], trained: Set[str], merge: bool, limit: int | None
    ) -> tuple[list[tuple[PeftLora, str]], list[str]]:
        """(branches of heads that share tables which change, with their linears; what to tell of heads that keep theirs).

        Args:
            taken: linears that the adapter changes itself -> its modules.
            trained: those of its modules of which rows were trained.
            merge, limit: as `PeftChange.on`.

        Raises:
            BadAdapter: a rank over the limit; as `check_head`.
        """
        found: dict[str, list[RowChange]] = {}
        notices: dict[str, str] = {}
        sizes = {name: table.shape for _, table, _ in self.changes for name in table.tied}
        for change, table, tied in self.changes:
            for name in table.tied:
                if name in taken:
                    self.check_head(name, change, tied and taken[name] not in trained)
                elif tied:
                    found.setdefault(name, []).append(change)
                else:
                    notices[name] = f"{name} has the weight of {change.module} and keeps it (no ensure_weight_tying)"
        branches = [(_branch(changes, sizes[name], merge), name) for name, changes in found.items()]
        for lora, name in branches:
            if merge:
                continue
            check_rank(f"{lora.module} ({name} has its weight)", lora.rank, limit, self.where)
            if 2 * lora.rank > min(sizes[name]):
                what = f"{name} has the weight of {lora.module}: its branch of rank {lora.rank} costs as much as the weight"
                notices[name] = f"{what}; merged (--merge) it costs nothing"
        return branches, list(notices.values())


def _branch(changes: Sequence[RowChange], shape: tuple[int, int], merge: bool) -> PeftLora:
    """The changes of a table [rows, features] as one branch of a linear that has its weight."""
    rows, features = shape
    pairs = [change.branch(rows) for change in changes]
    module, known = changes[0].module, [pair for pair in pairs if pair is not None]
    rank = sum(a.shape[1] for a, _ in known)
    if len(known) < len(pairs) or rank >= min(rows, features):
        delta = np.sum([change.of(np.arange(rows)) for change in changes], axis=0)
        return factored(module, Dense(delta.T), merge)
    a, b = (np.concatenate(own, axis=n) for own, n in zip(zip(*known, strict=True), (1, 0), strict=True))
    return PeftLora(module, a, b, 1.0, None, None)
