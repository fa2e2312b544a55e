"""What adapters add to rows of embeddings, which the host picks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

PART = 1 << 12
"""Rows of a table that are worked on together."""
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class TableInfo:
    """What a package keeps of a table that rows are picked from, for adapters that come later."""

    name: str
    """Of the model's tensor: inputs may pick rows of one table."""
    modules: tuple[str, ...]
    """Dotted paths, one for each place that picks rows of it; none: names do not tell."""
    scale: float
    """What the rows that are picked are times the model's (Gemma multiplies its embeddings)."""
    tied: tuple[str, ...] = ()
    """Linears that have the table's weight."""


@dataclass(frozen=True)
class RowChange:
    """The change of a table [rows, n]: some of its rows get others, or all get a product of low rank."""

    module: str
    """Of the adapter: dotted path in the model that it was trained on."""
    left: Floats
    """[m, r]; without `right` [m, n], the change itself."""
    right: Floats | None = None
    """[r, n]."""
    ids: npt.NDArray[np.int64] | None = None
    """[m], ascending: the rows that change; None: all, in order."""

    @property
    def features(self) -> int:
        """Of a row."""
        return int((self.left if self.right is None else self.right).shape[1])

    @property
    def size(self) -> str:
        """In words."""
        if self.right is not None:
            return f"rank {len(self.right)}"
        return "all rows" if self.ids is None else f"{len(self.ids)} rows"

    def branch(self, rows: int) -> tuple[Floats, Floats] | None:
        """The same change of a weight [n, rows] that holds the table, as its factors; None: of all rows, it has none."""
        if self.right is not None:
            return self.right.T, self.left.T
        if self.ids is None or len(self.ids) >= self.features:
            return None
        return self.left.T, (self.ids[:, None] == np.arange(rows)).astype(np.float64)

    def of(self, ids: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """What is added to these rows [ids, n]; ids of the table."""
        places = np.asarray(ids, np.int64)
        known = np.ones(places.shape, bool)
        if self.ids is not None:
            wanted, places = places, np.minimum(np.searchsorted(self.ids, places), len(self.ids) - 1)
            known = self.ids[places] == wanted
        found = self.left[places].astype(np.float64)
        found = found if self.right is None else found @ self.right.astype(np.float64)
        return np.where(known[:, None], found, 0.0)

    def times(self, factor: float) -> RowChange:
        """Scaled."""
        if self.right is None:
            return replace(self, left=self.left * factor)
        return replace(self, right=self.right * factor)

    def stored(self) -> RowChange:
        """In single precision, as packages hold it."""
        right = None if self.right is None else self.right.astype(np.float32)
        return replace(self, left=self.left.astype(np.float32), right=right)


TableChanges = tuple[tuple[RowChange, str], ...]
"""Changes with the names of the tables that they are of (`TableInfo.name`)."""


def changed(table: npt.NDArray[np.float64], changes: Iterable[RowChange], factor: float = 1.0) -> npt.NDArray[np.float64]:
    """A table [rows, n] with changes, times a factor, added; a copy, made in parts."""
    made = table.copy()
    for change in changes:
        rows = np.arange(len(table)) if change.ids is None else change.ids
        for part in (rows[first : first + PART] for first in range(0, len(rows), PART)):
            made[part] += factor * change.of(part)
    return made
