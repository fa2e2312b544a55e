"""Adapters in fewer places of the machine's memory than there are: the least recently used one makes room for the next.

A start's slots hold addresses, so that an adapter whose block lies in the memory costs a start nothing but three registers. One
that does not is copied there first, from where the host keeps all of them; meanwhile the machine waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from axlora.compiler.errors import BadAdapter

from .inputs import BadInput
from .machine import Bytes, Machine

if TYPE_CHECKING:
    from axlora.compiler.host import HostPart


@dataclass
class Paging:
    """What became of the adapters that starts asked for."""

    places: int
    """Adapters that the memory holds at once."""
    hits: int = 0
    """Uses of an adapter that began with its block in the memory. A use goes on from start to start."""
    misses: int = 0
    """Uses whose block was copied first."""
    evictions: int = 0
    """Blocks that made room for one."""
    switches: int = 0
    """Starts whose adapters are others than those of the start before."""
    bytes_copied: int = 0
    stall_cycles: int = 0
    """What the machine waited for copies: no part of a run's `cycles`."""

    def since(self, before: Paging) -> Paging:
        """What came after `before`."""
        later = {name: value - vars(before)[name] for name, value in vars(self).items()}
        return Paging(**later | {"places": self.places})

    def to_json(self) -> dict[str, int]:
        """As in RUN.json."""
        return asdict(self)


@dataclass
class Pool:
    """The places, and which adapter each holds."""

    pinned: Sequence[str]
    """Adapters that keep their places."""
    places: int
    copy_cycles: int
    """Of a block."""
    counted: Paging = field(init=False)
    _held: dict[str, int] = field(init=False)
    """Adapter -> its place; the least recently used comes first."""
    _used: frozenset[str] = field(default=frozenset(), init=False)
    """Of the start before."""

    def __post_init__(self) -> None:
        """Pinned adapters are there from the beginning."""
        self.counted = Paging(self.places)
        self._held = {name: place for place, name in enumerate(self.pinned)}

    @property
    def held(self) -> dict[str, int]:
        """Adapter -> its place."""
        return dict(self._held)

    def use(self, names: Sequence[str]) -> dict[str, int]:
        """The places of a start's adapters; those that are not there get one.

        Returns:
            The adapters whose blocks must be copied -> their places.

        Raises:
            BadAdapter: more than there are places, or than pinned ones leave.
        """
        counted, copied = self.counted, dict[str, int]()
        kept = {*names, *self.pinned}
        if len(kept) > self.places:
            pinned = f" beside {len(self.pinned)} pinned ones" if self.pinned else ""
            what = f"{len(names)} adapters in a start{pinned}, the memory has {self.places} places"
            raise BadAdapter(what, "adapter", "a larger --adapter-places")
        counted.switches += frozenset(names) != self._used
        for name in names:
            if name in self._held:
                counted.hits += name not in self._used
                self._held[name] = self._held.pop(name)
        for name in names:
            if name not in self._held:
                counted.misses += 1
                counted.stall_cycles += self.copy_cycles
                self._held[name] = copied[name] = self._room(kept)
        self._used = frozenset(names)
        return copied

    def _room(self, kept: Set[str]) -> int:
        """A place, if need be that of the least recently used adapter that is not kept."""
        if len(self._held) < self.places:
            return min(set(range(self.places)) - set(self._held.values()))
        self.counted.evictions += 1
        return self._held.pop(next(name for name in self._held if name not in kept))


@dataclass(frozen=True)
class Paged(Machine):
    """A machine whose memory has fewer places for adapters than there are adapters."""

    whole: Machine
    pool: Pool

    @classmethod
    def of(cls, m: Machine, places: int, mb_per_second: float | None = None) -> Paged:
        """A machine with so many places.

        Args:
            mb_per_second: how fast blocks are copied, 10**6 bytes a second; None: a beat of the machine's memory a cycle.

        Raises:
            BadInput: no place for an adapter beside the pinned ones, or no speed.
        """
        pinned = [a.name for a in m.adapters if a.pinned and a.rank]
        if places < (least := min(len(m.adapters), len(pinned) + 1)) or places < 1:
            beside = f", {len(pinned)} adapters are pinned" if pinned else ""
            raise BadInput(f"{places} places for adapters{beside}", "adapter-places", f"{max(1, least)} or more")
        if mb_per_second is not None and not (math.isfinite(mb_per_second) and mb_per_second > 0):
            raise BadInput(f"blocks are copied at {mb_per_second} MB/s", "page-rate", "more than 0")
        cycles = m.adapter_size / m.target.beat_bytes
        if mb_per_second is not None:
            cycles = m.adapter_size * m.target.clock_mhz / mb_per_second
        pool = Pool(pinned, places, math.ceil(cycles))
        return cls(**{f.name: getattr(m, f.name) for f in fields(Machine)}, whole=m, pool=pool)

    @property
    def adapter_places(self) -> int:
        return self.pool.places

    @property
    def host_part(self) -> HostPart:
        return self.whole.host_part

    def adapters_in_memory(self) -> dict[str, int]:
        return self.pool.held

    def hold(self, memory: Bytes, names: Sequence[str]) -> list[int]:
        self.pool.counted.bytes_copied += len(self.pool.use(names)) * self.adapter_size
        held = self.pool.held
        for name in names:  # of sequences with memories of their own, this one may not have what another one brought
            self.put_adapter(memory, name, held[name])
        return [held[name] for name in names]
