"""What the lowering of a transformer is written in: row operations, which a reference carries out and an emitter writes down.

One lowering drives both, so they cannot drift; what each does with an operation is its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import Map, Reduce, Row

Int64 = npt.NDArray[np.int64]
PLACES = 3
"""Places for sums of attention."""


@dataclass(frozen=True)
class Cells:
    """Features `first` .. `first + width - 1` of every row of a value, of a constant, or of a table by position."""

    name: str
    first: int
    width: int
    apart: int = 0
    """Places from these features to those that are as another row (`Rows.at_once`); 0: rows are rows."""


@dataclass(frozen=True)
class Table:
    """A function as straight lines (TABLE of VMAP)."""

    name: str
    low: int
    step: int
    shift: int
    records: Int64
    """[entries, 2]: base, slope."""


@dataclass(frozen=True)
class Heads:
    """The integers of one attention operator."""

    name: str
    heads: int
    kv_heads: int
    dim: int
    """Places of a key, or of a value where those are more."""
    causal: bool
    k_stride: int
    """Places from a head of k to the next."""
    v_stride: int
    stream: int
    """Of keys and values."""
    one_scale: bool
    """Keys of all heads have one scale a token, and values have one: they lie side by side."""

    def scaled(self, head: int) -> int:
        """The head, of k and v, whose scales the keys and values of a head are codes of."""
        return 0 if self.one_scale else head

    def own(self, head: int) -> int:
        """The head of k and v that a head of q reads."""
        return head // (self.heads // self.kv_heads)


@dataclass(frozen=True)
class MapRow:
    """VMAP on all rows (docs/isa.md)."""

    function: Map
    a: Cells
    b: Cells | None
    out: Cells | None
    reduce: Reduce
    ca: int
    cb: int
    shift: int
    table: Table | None
    scale: int | None
    """Slot of the scalars that multiply."""
    less: int | None
    """Slot of the scalars that are taken off."""
    keys: Heads | None
    """Elements are keys, and a row may not see all."""

    @classmethod
    def same(cls, a: Cells) -> MapRow:
        """Goes through the elements of a, and does nothing."""
        return cls(Map.MAC, a, None, None, Reduce.NONE, 1, 0, 0, None, None, None, None)


class MapsRows(Protocol):
    """The one method that all rows share: fields to a `MapRow`."""

    def map(
        self,
        function: Map,
        a: Cells,
        b: Cells | None = None,
        out: Cells | None = None,
        *,
        reduce: Reduce = Reduce.NONE,
        ca: int = 1,
        cb: int = 0,
        shift: int = 0,
        table: Table | None = None,
        scale: int | None = None,
        less: int | None = None,
        keys: Heads | None = None,
    ) -> None:
        """VMAP on all rows: `mapped` with these fields."""
        self.mapped(MapRow(function, a, b, out, reduce, ca, cb, shift, table, scale, less, keys))

    @abstractmethod
    def mapped(self, row: MapRow) -> None:
        """VMAP on all rows."""


class Chains(Protocol):
    """Linears whose weights stay on the chip together, so that each group of rows may go through them by itself."""

    def beside(self, names: Sequence[str], heads: Heads | None, split: bool) -> bool:
        """Whether the weights of some linears stay, beside the keys and values of an attention.

        split: of the first linear the last rows of weights are enough.
        """

    def leads(self, names: Sequence[str], heads: Heads | None, split: bool, name: str) -> bool:
        """Whether the first rows of one more linear's weights stay too, which begins the next chain."""

    def begin(self, names: Sequence[str], heads: Heads | None, split: bool, ahead: str) -> None:
        """Room for the sums of these linears; with `split` all rows of the first one's weights are done but the last."""

    def product(self, name: str) -> None:
        """The selected group's sums of a linear: of one that goes ahead, of the first rows of its weights."""

    def results(self, name: str, out: Cells) -> None:
        """They become values."""

    def end(self) -> None:
        """Give the room back."""


class Rows(MapsRows, Protocol):
    """Streams of rows, one a token, on which the lowering works: a block of one at a time, and within it groups."""

    def blocks(self, stream: int, rows: int) -> Sequence[tuple[int, int]]:
        """(first row, rows) of each block of a stream: as many rows as fit at once; `rows`: of a stream that windows make."""

    def block(self, stream: int, first: int, count: int) -> None:
        """Work on these rows of a stream from now on; values are theirs."""

    def groups(self) -> Iterator[int]:
        """Select each group of the block's rows in turn: what is done then is done to it. Linears take the whole block.

        Yields the group's number, for `select`.
        """

    def strips(self, width: int) -> Iterator[int]:
        """As `groups`, of several at once where rows of `width` features are short: for maps, and codes that linears read."""

    def sequences(self) -> Iterator[int]:
        """As `groups`, of rows of one sequence: what is done then may look at positions and the cache."""

    def select(self, number: int, heads: int = 1) -> None:
        """Select again what `groups` or `sequences` gave last; `heads`: of a row, so many are as rows of their own."""

    def at_once(self, heads: Heads) -> int:
        """Heads that read the same keys and are worked on as rows, because there is one row."""

    @property
    def apart(self) -> bool:
        """Whether every row is of another sequence."""

    @property
    def chains(self) -> Chains | None:
        """What does steps group by group; None: each step is done to all groups at once."""

    @property
    def parks(self) -> bool:
        """Whether values are kept in memory while wider ones are worked on."""

    @property
    def ahead(self) -> bool:
        """Whether `PLACES` heads or groups of an attention may be under way at once."""

    def operator(self, number: int) -> None:
        """Count what follows as operator `number` of the model."""

    def value(self, name: str, width: int) -> Cells:
        """Allocate a value of `width` features for the block's rows."""

    def temporary(self, name: str, width: int, least: int = 1) -> Cells:
        """Allocate a value of `width` features for the rows of one group, and `least` at least."""

    def one_row(self, name: str, width: int) -> Cells:
        """Allocate a value of one row that all blocks add to; it begins as zeros."""

    def take_over(self, name: str, cells: Cells) -> Cells:
        """Allocate `name` in place over `cells`, whose last read this is; both have one width."""

    def free(self, cells: Cells) -> None:
        """Give back the cells of a value that is not read again."""

    def spill(self, cells: Cells) -> None:
        """Keep the block's rows of a value in memory, for when the block is worked on again; gives its room back."""

    def restore(self, name: str, width: int) -> Cells:
        """Allocate a value that was spilled and read the block's rows of it from memory."""

    def forget(self, name: str) -> None:
        """No block of the value is restored again."""

    def read_input(self, cells: Cells) -> None:
        """The stream's first rows into their value."""

    def write_output(self, number: int, cells: Cells) -> None:
        """An output of the model from its value."""

    def constant(self, name: str, values: Int64) -> Cells:
        """One row [n] of s32 for all tokens."""

    def by_position(self, name: str, values: Int64) -> Cells:
        """A row [positions, n] of s32 for each position."""

    def by_key(self, name: str, values: Int64) -> Cells:
        """A row [positions, keys] of s32 for each position, an element a key."""

    def scalar(self, function: Row, slot: int, factor: int, shift: int, add: int = 0, adjust: int = 0) -> None:
        """VROW on all rows."""

    def quantize(self, x: Cells, factor: int, shift: int, adjust: int, token: int, heads: Heads | None, keys: bool) -> None:
        """The last ABSMAX becomes a scale a token, and x its codes: the activation that linears read.

        heads: it is attention's own, of one group. keys: elements are keys, as in `map`.
        """

    def static_codes(self, x: Cells, table: Table) -> None:
        """x through a table to codes of one scale, clamped to a symmetric range: the activation that linears read."""

    def linear(self, name: str, out: Cells) -> None:
        """The activation through a linear with its adapters."""

    def logits(self, number: int, name: str) -> None:
        """The activation through a linear that is an output, to memory: there may be more logits than a value holds."""

    def keep(self, name: str, x: Cells) -> None:
        """The block's rows of a value to memory under a name."""

    def slide(self, name: str, outs: Sequence[Cells], index: Int64) -> None:
        """Of what was kept the rows index[r], one to each of `outs`, for every row r of the block; zeros where it is -1.

        Args:
            index: [rows of the stream, outs].
        """

    def pick(self, x: Cells, out: Cells) -> None:
        """The first row of all, when its block is worked on; `out` has one row."""

    def gather(self, x: Cells, out: Cells, shift: int) -> None:
        """out = out + x / 2**shift, rounded a row, over the group's rows that are no padding; `out` has one row."""

    def count_rows(self) -> None:
        """The number of the stream's rows that are no padding, as the reduction of one row."""

    def append(self, heads: Heads, k: Cells, v: Cells, factor: int, shift: int, adjust: int) -> None:
        """K and V of every row to codes and scales in the cache, a head at a time: u = rne(absmax * factor, shift)."""

    def times_keys(self, heads: Heads, head: int, place: int) -> None:
        """Sums of the activation (the head's q) and every key, with the token scale of q, to a place."""

    def scores(self, heads: Heads, head: int, place: int, out: Cells, m1: int, m1_shift: int, key_shift: int) -> None:
        """Scores with every key up to the row's own, from the sums at a place; MAX is their reduction.

        v = sat32(rne(sum m1, m1_shift)), times the token scale of q, times the key's scale, / 2**key_shift.
        """

    def weigh(self, heads: Heads, head: int, e: Cells, shift: int) -> None:
        """e times the values' scales, / 2**shift, in place; ABSMAX is its reduction."""

    def times_values(self, heads: Heads, head: int, place: int) -> None:
        """Sums of the activation (weights of the values) and V, with the token scale of the weights, to a place."""

    def mix(self, heads: Heads, place: int, out: Cells, m1: int, m1_shift: int) -> None:
        """The mixture of values from the sums at a place: v = sat32(rne(sum m1, m1_shift)) times the token scale."""


class OneGroup:
    """What `Rows` of references have in common: all rows are one group, they have room, and nothing is counted."""

    parks = False
    chains = None
    apart = False

    @property
    def ahead(self) -> bool:
        """Attention takes the machine's order."""
        return True

    def groups(self) -> Iterator[int]:
        """The one group."""
        yield 0

    def strips(self, width: int) -> Iterator[int]:
        """The one group."""
        yield 0

    def sequences(self) -> Iterator[int]:
        """The one group, of one sequence."""
        yield 0

    def select(self, number: int, heads: int = 1) -> None:
        """It is selected."""

    def at_once(self, heads: Heads) -> int:
        """One after the other."""
        return 1

    def operator(self, number: int) -> None:
        """Nothing is counted."""

    def free(self, cells: Cells) -> None:
        """There is room."""

    def spill(self, cells: Cells) -> None:
        """It stays."""

    def restore(self, name: str, width: int) -> Cells:
        """It stayed."""
        return Cells(name, 0, width)

    def forget(self, name: str) -> None:
        """There is room."""
