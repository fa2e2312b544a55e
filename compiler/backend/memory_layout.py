"""Where a transformer's data lies: memory, and the rooms of the machine's buffers."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from axlora.compiler.backend.schedule import Span
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.isa.target import Target

Int64 = npt.NDArray[np.int64]
ALIGN = 64
FURTHER = "caches of further sequences"
"""Region behind the cache of the first, of programs that decode several."""


class Ring:
    """Places of a buffer taken one after another, from the start again at the end: as many loads ahead as it holds."""

    def __init__(self, name: str, size: int, first: int = 0) -> None:
        self.name, self.size, self.first, self.next = name, size, first, first
        self.step = 1
        """What is taken begins at a multiple of this many places."""
        self.held: dict[object, Span] = {}
        """What was loaded under a key and is still there."""

    def take(self, count: int, unit: int = 1, key: object = None, keep: Iterable[Span] = ()) -> Span:
        """`count` places side by side, the first a multiple of `unit`; what is in them can be asked for under `key`.

        Args:
            keep: places that are still needed together with these.

        Raises:
            BadModel: more than there are beside those.
        """
        span = self._beside(self.next, count, unit, keep) or self._beside(self.first, count, unit, keep)
        if span is None:
            raise DoesNotFit(
                f"needs {count} places of {self.name}, {self.size - self.first} are there", "target", "larger buffers"
            )
        self.next = self.first + -(-(span.stop - self.first) // self.step) * self.step
        self.held = {k: s for k, s in self.held.items() if s.stop <= span.first or span.stop <= s.first}
        if key is not None:
            self.held[key] = span
        return span

    def goes_around(self, counts: Iterable[int]) -> bool:
        """Whether so many places, taken one after another and each side by side, do not reach the first of them again."""
        at, over = self.next, 0
        for count in counts:
            if at + count > self.size:
                at, over = self.first, over + self.size - at
            at, over = at + count, over + count
        return over <= self.size - self.first

    def window(self, parts: int, count: int, end: int) -> None:
        """Turn in room for `parts` of `count` places each, or as many as lie before `end`; go on behind what was taken last."""
        size = min(parts, end // count) * count
        if (self.size - self.first, self.step) == (size, count) and self.size <= end:
            return
        first = self.next % count if self.next % count + size <= end else 0
        self.first, self.size, self.step = first, first + size, count
        self.next = first + -(-(self.next - first) // count) * count

    def _beside(self, start: int, count: int, unit: int, keep: Iterable[Span]) -> Span | None:
        """The first place from `start` on that touches none of `keep`, up to the end."""
        span = Span(self.name, 0, 0)
        for after in sorted({start, *(s.stop for s in keep if s.stop > start)}):
            first = -(-after // unit) * unit
            span = Span(self.name, first, first + count)
            if span.stop <= self.size and all(s.stop <= span.first or span.stop <= s.first for s in keep):
                return span
        return None


class Pool:
    """Words of VBUF for values; freed ones are used again (one unit reads and writes them, in order)."""

    def __init__(self, size: int, from_ends: bool = False) -> None:
        """`from_ends`: of all places take the one that leaves the widest room, at an end if it can be; else the first."""
        self.size, self.from_ends = size, from_ends
        self.taken: dict[str, tuple[int, int]] = {}

    def take(self, name: str, count: int) -> int:
        """First word of a room of `count`.

        Raises:
            BadModel: no such room.
        """
        rooms = [(first, stop) for first, stop in self._rooms() if stop - first >= count]
        if not rooms:
            held = sum(stop - first for first, stop in self.taken.values())
            raise DoesNotFit(
                f"{name!r} needs {count} words of VBUF, {self.size - held} of {self.size} are free",
                "target",
                "a target with more vbuf_words or fewer tokens",
            )
        starts = [start for first, stop in rooms for start in (first, stop - count)]
        start = min(starts, key=lambda place: self._cost(place, count)) if self.from_ends else starts[0]
        self.taken[name] = (start, start + count)
        return start

    def _rooms(self) -> list[tuple[int, int]]:
        """(first, end) of what is free, in order."""
        edges = [(0, 0), *sorted(self.taken.values()), (self.size, self.size)]
        return [(stop, first) for (_, stop), (first, _) in itertools.pairwise(edges)]

    def _cost(self, start: int, count: int) -> tuple[int, bool]:
        """Less is better: how narrow the widest room is that a place leaves, and whether it lies between others."""
        rooms = self._rooms()
        widest = max(max(min(stop, start) - first, stop - max(first, start + count)) for first, stop in rooms)
        return -widest, 0 < start < self.size - count

    def keep(self, name: str, count: int) -> int:
        """First word of a room at the end that is never given back.

        Raises:
            BadModel: no such room.
        """
        if self.taken or count > self.size:
            raise DoesNotFit(f"{name!r} needs {count} words of VBUF, {self.size} are there", "target", "more vbuf_words")
        self.size -= count
        return self.size

    def free(self, name: str) -> None:
        """Give a room back."""
        self.taken.pop(name, None)


class Content:
    """Read-only data as it comes, each piece at a multiple of `ALIGN`."""

    def __init__(self, shared: bool = False) -> None:
        """`shared`: what comes again is kept once, so that addresses are no places in `data`."""
        self.data = bytearray()
        self.size = 0
        """Bytes of addresses."""
        self._shared = shared
        self._starts, self._moves = [0], [0]

    def append(self, content: bytes) -> int:
        """Its address."""
        self._move(self.size - len(self.data))
        place = self.size
        self.data += content
        self.data += bytes(-len(content) % ALIGN)
        self.size += len(content) + -len(content) % ALIGN
        return place

    def again(self, first: int, stop: int) -> int:
        """The address of what lies at `first` .. `stop` - 1, which came in a row, once more."""
        if not self._shared:
            return self.append(bytes(self.data[first:stop]))
        self._move(self.size - int(self.places(np.array([first]))[0]))
        place = self.size
        self.size += stop - first
        return place

    def cut(self, data: int, size: int, moves: int) -> None:
        """Forget what came after `data` had so many bytes, addresses that size, and so many moves."""
        del self.data[data:], self._starts[moves:], self._moves[moves:]
        self.size = size

    @property
    def moves(self) -> int:
        """Stretches of addresses that lie side by side in `data`."""
        return len(self._moves)

    def _move(self, move: int) -> None:
        """From the end on, places are that much less than addresses."""
        if self._moves[-1] != move:
            self._starts.append(self.size)
            self._moves.append(move)

    def places(self, addresses: Int64) -> Int64:
        """Where in `data` addresses [n] lie."""
        return np.asarray(addresses - np.array(self._moves)[np.searchsorted(self._starts, addresses, "right") - 1])


@dataclass
class Memory:
    """Regions of the machine's memory: read-only data laid out as it comes, then what changes."""

    data: Content = field(default_factory=Content)
    regions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What changes while it runs: name -> offset behind the data, bytes."""
    starts: list[int] = field(default_factory=list)
    """Offsets of the regions, in their order."""
    size: int = 0
    known: dict[bytes, int] = field(default_factory=dict)

    def put(self, content: bytes) -> int:
        """Offset of read-only `content`; the same content is kept once."""
        if content not in self.known:
            self.known[content] = self.data.append(content)
        return self.known[content]

    def room(self, name: str, size: int) -> int:
        """Offset behind the read-only data of a region of `size` bytes that runs write."""
        if name not in self.regions:
            self.regions[name] = (self.size, size)
            self.starts.append(self.size)
            self.size += -(-size // ALIGN) * ALIGN
        return self.regions[name][0]

    @contextmanager
    def tried(self) -> Iterator[None]:
        """What is put where it ends in an error is forgotten."""
        data, (regions, known, size) = self.data, (len(self.regions), len(self.known), self.size)
        held = len(data.data), data.size, data.moves
        try:
            yield
        except BadModel:
            data.cut(*held)
            for made, count in ((self.regions, regions), (self.known, known)):
                while len(made) > count:
                    made.popitem()
            del self.starts[regions:]
            self.size = size
            raise

    def region_at(self, offset: int) -> int:
        """Number of the region that holds the byte at `offset` behind the data."""
        return bisect.bisect_right(self.starts, offset) - 1


def words_of(target: Target, values: Int64) -> bytes:
    """Rows [rows, n] of s32 as CBUF words, each row padded to whole words and beats."""
    unit = max(target.vector_lanes, target.beat_bytes // 4)
    rows = np.zeros((values.shape[0], -(-values.shape[1] // unit) * unit), "<i4")
    rows[:, : values.shape[1]] = values
    return rows.tobytes()
