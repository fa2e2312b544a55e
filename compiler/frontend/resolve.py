"""Every module of an adapter by the linear that it changes; what is left over is named, and refused unless asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import PeftChange, PeftLora, PeftModule
from axlora.compiler.frontend.attach import ModulePath, ambiguous, candidates, check_map, mapped, module_path, nearest, paths_of
from axlora.compiler.frontend.base_weights import BaseWeights
from axlora.compiler.frontend.embeddings import Table
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.left_over import HEADS, LISTED, Left, listed, resized
from axlora.compiler.frontend.mixtures import read_mixture
from axlora.compiler.frontend.packed import INTERLEAVED, LAYOUTS, Columns, Layout, PackedPart, joined, split
from axlora.compiler.frontend.resolve_tables import Embedded
from axlora.compiler.layer import By, ModuleMatch
from axlora.compiler.row_changes import TableChanges


@dataclass(frozen=True)
class Matching:
    """How adapters find their linears."""

    adapter_map: Mapping[str, str] | None = None
    """Module -> name of a node or linear: goes first."""
    base: str | Path | None = None
    """Directory of the model that the adapters were trained on: equal weights tell where names do not."""
    partial: bool = False
    """Take the part of an adapter that fits, and say what is left out."""


@dataclass(frozen=True)
class Resolved:
    """An adapter by the linears of the model."""

    loras: tuple[tuple[PeftLora, str], ...]
    """Branches with the names of their linears."""
    modules: tuple[tuple[PeftModule, str], ...]
    """Modules that were trained whole with the names of their linears; none that equals the base's."""
    matches: tuple[ModuleMatch, ...]
    """Sorted by module."""
    notices: tuple[str, ...]
    """What is left out and why, a line each."""
    rows: TableChanges = ()
    """Changes of embeddings."""


def _beside(path: ModulePath, name: str) -> ModulePath:
    """The path of a module beside another."""
    return replace(path, rest=(*path.rest[:-1], name))


@dataclass(frozen=True)
class _Home:
    """The packed linear that holds a module."""

    linear: Candidate
    layout: Layout
    part: str
    by: By


class _Resolver:
    def __init__(self, linears: Sequence[Candidate], tables: Sequence[Table], matching: Matching, where: str) -> None:
        self.linears, self.matching, self.where = linears, matching, where
        self.base = None if matching.base is None else BaseWeights(matching.base)
        self.matches: dict[tuple[str, str], ModuleMatch] = {}
        """By linear, and of a packed one by its part."""
        self.parts: dict[str, list[tuple[_Home, PeftLora]]] = {}
        """Branches of parts by their packed linear."""
        self.left: list[Left] = []
        self.equal: list[str] = []
        own = frozenset(matching.adapter_map or ())
        self.embedded = Embedded(linears, tables, own, self.base, where, self.left, self.equal)
        check_map(matching.adapter_map, linears, where)

    def find(self, module: str) -> tuple[Candidate, By] | None:
        """The linear of a module and the evidence; None: there is none, and `left` says why."""
        if self.matching.adapter_map and module in self.matching.adapter_map:
            return mapped(module, self.linears, self.matching.adapter_map, self.where), By.MAP
        found, by = candidates(module, self.linears)
        if len(found) == 1:
            return found[0], by
        weight = self.base.of(module) if self.base is not None else None
        if weight is not None:
            equal = [x for x in self.linears if any(w.shape == x.shape and x.held().equals(w) for w in (weight.T, weight))]
            if len(equal) == 1:
                return equal[0], By.VALUES
            if equal:
                names = ", ".join(x.node for x in equal[:LISTED])
                what = f"weights of module {module!r} are those of {len(equal)} linears: {names}"
                raise BadAdapter(what, self.where, "give --adapter-map")
        if found:
            raise ambiguous(module, found, self.where)
        if self.base is not None and weight is None:
            why = f"not in the base {self.base.folder}, and by name no linear of the model"
            self.left.append(Left(module, f"module {module!r} is {why}", why, "give the base it was trained on"))
        else:
            self.left.append(self.packed(module) or self.plain(module))
        return None

    def plain(self, module: str) -> Left:
        """The module is no linear of the model; the first such one is told the nearest."""
        many, hint = "no linears of the model", ""
        if all(x.many != many for x in self.left):
            close = nearest(module, self.linears)
            near = (
                f"nearest: {', '.join(close)}" if close else f"the model has: {', '.join([x.name for x in self.linears[:3]])}"
            )
            hint = f"every component of the path must agree; {near}; --adapter-map names the linear"
        return Left(module, f"module {module!r} is no linear of the model", many, hint)

    def home(self, module: str) -> _Home | None:
        """The packed linear that holds a module among its columns; None: the model has a linear of the module, or neither."""
        if module in (self.matching.adapter_map or {}) or candidates(module, self.linears)[0]:
            return None
        wanted = module_path(module).renamed()
        last = wanted.rest[-1] if wanted.rest else ""
        for layout in LAYOUTS:
            for name in layout.packed if last in layout.parts else ():
                if (found := self.named(_beside(wanted, name))) is not None:
                    return _Home(found[0], layout, last, found[1])
        return None

    def apart(self, module: str) -> dict[str, tuple[Candidate, By]] | None:
        """The linears of all parts that a packed module holds; None: the model has one of the module, or not all parts."""
        if module in (self.matching.adapter_map or {}) or candidates(module, self.linears)[0]:
            return None
        wanted = module_path(module).renamed()
        for layout in LAYOUTS:
            if wanted.rest and wanted.rest[-1] in layout.packed:
                found = {part: self.named(_beside(wanted, part)) for part in layout.parts}
                if all(found.values()):
                    return {part: one for part, one in found.items() if one is not None}
        return None

    def packed(self, module: str) -> Left | None:
        """The module is a part of a linear that the model holds packed, and of which only branches are taken, or none."""
        home = self.home(module)
        wanted = module_path(module).renamed()
        names = () if home is not None else INTERLEAVED.get(wanted.rest[-1] if wanted.rest else "", ())
        found = next((one for name in names if (one := self.named(_beside(wanted, name))) is not None), None)
        linear = home.linear if home is not None else found[0] if found is not None else None
        if linear is None:
            return None
        why = f"of {paths_of(linear)[0][1].rest[-1]!r}, which the model holds packed as one linear"
        hint = "merge its weight into the base" if home is not None else "the order of its columns differs from model to model"
        hint += ", or export the model with separate projections"
        return Left(module, f"module {module!r} is a part {why} ({linear.name})", f"parts {why}", hint)

    def named(self, wanted: ModulePath) -> tuple[Candidate, By] | None:
        """A linear of that path, and the evidence."""
        paths = ((x, by, own) for x in self.linears for by, own in paths_of(x))
        return next(((x, by) for x, by, own in paths if own.renamed().agrees(wanted)), None)

    def loras(self, given: Sequence[PeftLora], limit: int | None) -> list[tuple[PeftLora, str]]:
        """Branches with their linears: parts of a packed linear are joined, and packed modules cut into their parts."""
        found = [one for lora in given for one in self.one_or_parts(lora)]
        for own in self.parts.values():
            linear, layout = own[0][0].linear, own[0][0].layout
            parts = [PackedPart(home.part, lora) for home, lora in own]
            found.append((joined(linear, layout, parts, limit, self.where), linear.name))
            for home, lora in own:
                self.check_columns(home, lora)
                self.take(lora.module, linear, home.by, home.part)
        return found

    def change(self, change: PeftChange, merge: bool, limit: int | None) -> PeftLora | None:
        """The change as a branch; None: the model has no linear of the module, and `left` says why."""
        module = change.module
        if (home := self.home(module)) is not None:
            linear = home.linear
            sizes = {} if change.outputs is None else {home.part: change.outputs}
            columns = home.layout.columns(sizes, linear.shape[1]) if sizes else None
            if columns is None:
                what = f"module {module!r} is a part of {linear.name!r}, and {change.tuner} does not tell which columns"
                raise BadAdapter(what, self.where, "export the model with separate projections, or merge it into the base")
            base = Columns(((linear, columns[home.part]),))
        elif (apart := self.apart(module)) is not None:
            base = Columns(tuple((linear, slice(0, linear.shape[1])) for linear, _ in apart.values()))
        else:
            found = self.find(module)
            if found is None:
                return None
            linear = found[0]
            if linear.patches and not change.spatial:
                what = f"module {module!r} is a convolution with a kernel of several places, which {change.tuner} changes"
                raise BadAdapter(what, self.where, "merge it into the base before exporting")
            base = Columns(((linear, slice(0, linear.shape[1])),))
        return change.on(base, merge, limit, self.where)

    def one_or_parts(self, lora: PeftLora) -> list[tuple[PeftLora, str]]:
        """The branch with its linear, or with those of its parts; none of a part of a packed linear, or where there is none."""
        if (home := self.home(lora.module)) is not None:
            self.parts.setdefault(home.linear.name, []).append((home, lora))
            return []
        if (apart := self.apart(lora.module)) is not None:
            layout = next(layout for layout in LAYOUTS if tuple(apart) == layout.parts)
            cut = split(lora, layout, {part: linear.shape[1] for part, (linear, _) in apart.items()}, self.where)
            for part, (linear, by) in apart.items():
                self.check_shape(cut[part], linear)
                self.take(lora.module, linear, by)
            return [(cut[part], linear.name) for part, (linear, _) in apart.items()]
        if again := self.repeated(lora.module):
            for linear in again:
                self.check_shape(lora, linear)
                self.check_base(lora.module, linear)
                self.take(lora.module, linear, By.SCOPE)
            return [(lora, linear.name) for linear in again]
        name = self.lora(lora)
        return [] if name is None else [(lora, name)]

    def repeated(self, module: str) -> list[Candidate]:
        """The linears of a module that runs more than once, as ALBERT's layers: of one path and equal weights; else none."""
        if module in (self.matching.adapter_map or {}):
            return []
        found, by = candidates(module, self.linears)
        if len(found) < 2 or by is not By.SCOPE or len({(x.modules[: x.scopes], x.shape) for x in found}) > 1:
            return []
        first = found[0].held()
        return found if all(np.array_equal(x.held().values, first.values) for x in found[1:]) else []

    def check_columns(self, home: _Home, lora: PeftLora) -> None:
        """Raise `BadAdapter` where the base of `--base` has other weights of the module than those columns."""
        weight = None if self.base is None else self.base.of(lora.module)
        columns = home.layout.columns({home.part: lora.b.shape[1]}, home.linear.shape[1])
        if weight is None or columns is None:
            return
        held, own = home.linear.held(), columns[home.part]
        part = Held(held.values[:, own], None if held.step is None else held.step[:, own])
        if not any(part.equals(w) for w in (weight.T, weight)):
            what = f"columns {own.start} to {own.stop - 1} of {home.linear.name!r} are not the base's {lora.module}"
            raise BadAdapter(what, self.where, "export the model with separate projections")

    def take(self, module: str, linear: Candidate, by: By, part: str = "") -> None:
        """Note that the module changes the linear, or a part of it."""
        for (name, other), match in self.matches.items():
            if name == linear.name and (other == part or "" in (other, part)):
                what = f"two modules mean the linear {linear.name!r}: {match.module!r} and {module!r}"
                raise BadAdapter(what, self.where, "give --adapter-map")
        self.matches[linear.name, part] = ModuleMatch(module, linear.name, by)

    def lora(self, lora: PeftLora) -> str | None:
        """The linear of a branch."""
        found = self.find(lora.module)
        if found is None:
            return None
        linear, by = found
        k, n = lora.a.shape[0], lora.b.shape[1]
        if k == linear.shape[0] and n != linear.shape[1] and lora.module.rsplit(".", 1)[-1] in HEADS:
            self.left.append(resized(lora.module, n, linear.shape[1]))
            return None
        self.check_shape(lora, linear)
        self.check_base(lora.module, linear)
        self.take(lora.module, linear, by)
        return linear.name

    def check_shape(self, lora: PeftLora, linear: Candidate) -> None:
        """Raise `BadAdapter` for a branch of another shape than its linear's."""
        k, n = lora.a.shape[0], lora.b.shape[1]
        if (k, n) != linear.shape:
            what = f"module {lora.module!r} is {k} to {n}, linear {linear.name!r} is {linear.shape[0]} to {linear.shape[1]}"
            raise BadAdapter(what, self.where, "this adapter belongs to another base")

    def check_base(self, module: str, linear: Candidate) -> None:
        """Raise `BadAdapter` where the base of `--base` has another weight of the module than the model."""
        weight = None if self.base is None else self.base.of(module)
        if self.base is None or weight is None:
            return
        held = linear.held()
        if not any(held.equals(w) for w in (weight.T, weight)):
            what = f"the weight of module {module!r} in the base {self.base.folder} is not that of linear {linear.name!r}"
            raise BadAdapter(what, self.where, "the model was exported of another base, or of a changed one: export that base")

    def whole(self, module: PeftModule, branched: bool) -> tuple[PeftModule, str] | None:
        """The linear of a module that was saved whole, and what of it differs from the base.

        Args:
            branched: the module has a branch too.
        """
        if module.weight is not None and self.embedded.whole(module):
            return None
        before = len(self.left)
        found = self.find(module.module)
        if found is None:
            equal = self.embedded.is_base(module)
            if branched or equal:
                del self.left[before:]  # its branch is named, or nothing of it is left
            self.equal += [module.module] if equal else []
            return None
        linear, by = found
        weight = module.weight
        if weight is not None:
            forms = [w for w in (weight, weight.T) if w.shape == linear.shape]
            if not forms:
                self.other_shape(module, linear)
                return None
            held = linear.held()
            if any(held.equals(w) for w in forms):
                self.equal.append(module.module)
                weight = None
            elif branched:
                what = f"module {module.module!r} has a branch, and a weight of its own that differs from the model's"
                raise BadAdapter(what, self.where, "merge the weight into the base before exporting it")
        bias = module.bias
        if weight is None and (bias is None or (module.weight is not None and abs(bias - linear.bias).max() <= 1e-6)):
            return None
        if bias is not None and bias.size != linear.shape[1]:
            what = f"module {module.module!r}: bias of {bias.size} values, linear {linear.name!r} has {linear.shape[1]}"
            raise BadAdapter(what, self.where, "this adapter belongs to another base")
        if branched:
            return None  # its bias is the branch's
        self.take(module.module, linear, by)
        return replace(module, weight=weight), linear.name

    def other_shape(self, module: PeftModule, linear: Candidate) -> None:
        """The weight fits in no direction: rows that differ alone are named, anything else is refused."""
        weight = module.weight
        assert weight is not None
        if weight.ndim == 2 and weight.shape[0] == linear.shape[0]:
            self.left.append(resized(module.module, weight.shape[1], linear.shape[1]))
            return
        what = f"module {module.module!r} is {' x '.join(map(str, weight.shape))}, linear {linear.name!r} is "
        what += " x ".join(map(str, linear.shape))
        raise BadAdapter(what, self.where, "this adapter belongs to another base")


def _refused(left: Sequence[Left], some: bool, where: str) -> BadAdapter:
    """The error that names all that is left over.

    Args:
        some: a part of the adapter fits.
    """
    groups: dict[str, list[Left]] = {}
    for x in left:
        groups.setdefault(x.many or x.one, []).append(x)
    parts = [
        g[0].one if len(g) == 1 else f"{len(g)} modules are {many}: {listed([x.module for x in g])}"
        for many, g in groups.items()
    ]
    parts = [*parts[:LISTED], *([f"{len(parts) - LISTED} more like these"] if len(parts) > LISTED else [])]
    hints = list(dict.fromkeys(group[0].hint for group in groups.values()))[:2]
    hints += ["--partial-adapters takes the part that fits"] if some else []
    return BadAdapter("; ".join(parts), where, "; ".join(hints))


def resolve(
    name: str,
    path: str | Path,
    linears: Sequence[Candidate],
    tables: Sequence[Table] = (),
    matching: Matching | None = None,
    max_lora_rank: int | None = None,
    merge: bool = False,
) -> Resolved:
    """Read an adapter and find the linear of each of its modules.

    Args:
        name: of the adapter, for messages.
        tables: embeddings of the model, which adapters may hold copies of.
        max_lora_rank: refuse wider branches.
        merge: its branches are multiplied out again, so a dense change keeps the rank that is found at once.

    Raises:
        BadAdapter: as `read_mixture`; a module that several linears may be, that two modules mean, or of another shape; unless
            `matching.partial`, a module that is no linear; nothing that changes the model.
    """
    matching = matching or Matching()
    where = f"adapter {name!r} ({path})"
    content = read_mixture(path, max_lora_rank)
    r = _Resolver(linears, tables, matching, where)
    copies = {module.module: module.weight for module in content.modules}
    heads = [r.embedded.is_linear(rows) for rows in content.embeddings]
    trained = [rows.of_linear() for rows, head in zip(content.embeddings, heads, strict=True) if head]
    changes = (*content.changes, *trained)
    changed = [x for change in changes if (x := r.change(change, merge, max_lora_rank)) is not None]
    loras = tuple(r.loras([*content.loras, *changed], max_lora_rank))
    wide = [] if merge else [x for x in changed if 2 * x.rank > min(x.a.shape[0], x.b.shape[1])]
    branched = {lora.module for lora in content.loras} | {change.module for change in changes}
    embedded = {rows.module for rows in content.embeddings}
    saved = [module for module in content.modules if module.module not in embedded]
    found = (r.whole(module, module.module in branched) for module in saved)
    modules = tuple(one for one in found if one is not None)
    for rows, head in zip(content.embeddings, heads, strict=True):
        if not head:
            copy = copies.get(rows.module)
            r.embedded.rows(rows, None if copy is None else copy.T)
    taken = {linear: match.module for (linear, _), match in r.matches.items()}
    branches, kept = r.embedded.heads(taken, {x.module for x in trained}, merge, max_lora_rank)
    for lora, own in branches:
        r.take(lora.module, next(x for x in linears if x.name == own), By.VALUES)
    loras = (*loras, *branches)
    some = bool(loras or modules or r.embedded.changes)
    if r.left and not (matching.partial and some):
        raise _refused(r.left, some, where)
    if not some:
        raise BadAdapter("nothing in it differs from the base", where, "train or save the adapter again")
    notices = [f"adapter {name!r}: {notice}" for notice in content.notices]
    if wide:
        most = max(x.rank for x in wide)
        tuners = " and ".join(sorted({x.tuner for x in changes if x.module in {w.module for w in wide}}))
        what = f"changes of {len(wide)} modules by {tuners} have ranks up to {most}, and cost as much as their weights"
        notices.append(f"adapter {name!r}: {what}; merged (--merge) they cost nothing")
    if r.equal:
        what = "equals the base's and is" if len(r.equal) == 1 else "equal the base's and are"
        notices.append(f"adapter {name!r}: {listed(r.equal)} {what} left out")
    notices += [f"adapter {name!r}: {notice}" for notice in kept]
    if r.left:
        notices.append(f"adapter {name!r}: left out, as no linear of the model fits: {listed([x.module for x in r.left])}")
    matches = tuple(sorted(r.matches.values(), key=lambda m: m.module))
    rows_of = tuple((change, table.name) for change, table, _ in r.embedded.changes)
    return Resolved(loras, modules, matches, tuple(notices), rows_of)
