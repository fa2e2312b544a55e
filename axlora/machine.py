"""What the machine holds of a compiled model: memory, functions, regions, adapters, linears; and the host part beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.layer import Host, Linear, Placement
from axlora.isa.regions import slot_registers, slot_values
from axlora.isa.target import Target

from .choice import AdapterChoice, AdapterInfo, chosen, find
from .choice import Rows as RowsOf
from .layers import LayerInfo, read_arrays, stored_linear

if TYPE_CHECKING:
    from axlora.compiler.host import HostPart

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
PAGE = 4096


@dataclass(frozen=True)
class Function:
    """A program in the machine's memory, which one start runs from its first instruction to HALT."""

    name: str
    rows: int
    """Tokens that a start takes."""
    address: int
    size: int
    """Bytes."""
    batch: bool = False
    """Whether the rows are of a sequence each; else they are of one, and follow each other."""
    cycles: int = 0
    """About how many a start takes; 0: not known."""


@dataclass(frozen=True)
class Machine:
    """Everything of a package but how inputs become starts and results become outputs (`interface.Interface`)."""

    target: Target
    image: bytes
    """Programs and read-only data, from address 0."""
    functions: tuple[Function, ...]
    regions: dict[str, tuple[int, int]]
    """What starts and the host write: name -> (address, bytes)."""
    adapters: tuple[AdapterInfo, ...]
    adapter_address: int
    """Of the first adapter's block; blocks follow each other."""
    adapter_size: int
    slots: int
    """Adapters in one start."""
    max_loras: int
    """Most different adapters in one batch."""
    rank: int
    """Largest of an adapter."""
    layers: tuple[LayerInfo, ...]
    vectors: bytes
    """Vectors of the linears as safetensors, see `axlora.layers.Arrays`."""
    placement: tuple[Placement, ...]
    default_adapter: str | None
    """The adapter that the model itself contains: what a run means when no adapter is named."""
    sources: dict[str, str]
    """SHA-256 of the model and adapter files that the package was made from."""
    host: Host | None
    """The operators that run on the host between starts; None: nothing but picking embeddings is left to it."""

    @property
    def host_macs(self) -> int:
        """MACs of the operators that stay on the host."""
        return sum(row.macs for row in self.placement if row.where == "host")

    def linears(self) -> tuple[Linear, ...]:
        """The linears again, without adapters, read from the weights."""
        arrays = read_arrays(self.vectors)
        return tuple(stored_linear(self.target, layer, i, arrays, self.image) for i, layer in enumerate(self.layers))

    @cached_property
    def host_part(self) -> HostPart:
        """The compiled host graph; compiled at the first use."""
        from axlora.compiler.host import HostPart  # TVM takes seconds, and most packages have no host part

        assert self.host is not None
        return HostPart(self.host)

    @property
    def adapter_places(self) -> int:
        """Adapters that the machine's memory holds at once."""
        return len(self.adapters)

    @property
    def memory_bytes(self) -> int:
        """Of the machine's memory."""
        size = self.adapter_address + max(1, self.adapter_places) * self.adapter_size
        return -(-size // PAGE) * PAGE

    def memory(self) -> Bytes:
        """The machine's memory before the first start, with the adapters that it holds."""
        memory = np.zeros(self.memory_bytes, np.uint8)
        memory[: len(self.image)] = np.frombuffer(self.image, np.uint8)
        for name, place in self.adapters_in_memory().items():
            self.put_adapter(memory, name, place)
        return memory

    def adapters_in_memory(self) -> dict[str, int]:
        """Adapter -> its place among the blocks."""
        return {a.name: number for number, a in enumerate(self.adapters)}

    def put_adapter(self, memory: Bytes, name: str, place: int) -> None:
        """An adapter's block to a place."""
        at, block = self.adapter_address + place * self.adapter_size, find(self.adapters, name).block
        memory[at : at + len(block)] = np.frombuffer(block, np.uint8)

    def hold(self, memory: Bytes, names: Sequence[str]) -> list[int]:
        """The places of adapters, all of which lie in the memory afterwards."""
        held = self.adapters_in_memory()
        return [held[name] for name in names]

    def put(self, memory: Bytes, region: str, data: bytes) -> None:
        """Bytes to the begin of a region."""
        address = self.regions[region][0]
        memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def slot_of(self, adapter: AdapterChoice) -> tuple[list[str], list[str | None]]:
        """(adapters that need slots, pinned ones first; adapter of each row that is named); errors as `choice.chosen`."""
        return chosen(self.adapters, self.default_adapter, self.max_loras, adapter)

    def slotted(self, adapter: str | None) -> list[str]:
        """The adapters that need slots, where this one runs alone."""
        return [] if adapter is None or not find(self.adapters, adapter).rank else [adapter]

    def rows_of(self, adapter: str | None) -> RowsOf:
        """What an adapter adds to the rows that inputs of ids pick."""
        return {} if adapter is None else find(self.adapters, adapter).rows

    def adapters_of(self, adapter: AdapterChoice, batch: int) -> list[str | None]:
        """The adapter of each sequence of a batch whose sequences are starts of their own.

        Raises:
            BadAdapter: no such adapter, more different ones than `max_loras`, or not one for each.
        """
        _, names = self.slot_of(adapter)
        if adapter is None or isinstance(adapter, str):
            names *= batch
        if len(names) != batch:
            raise BadAdapter(f"{len(names)} adapters named for {batch} batch rows", "adapter", "one, or one per batch row")
        return names

    def registers(self, memory: Bytes, names: Sequence[str]) -> dict[int, int]:
        """What the host writes so that slots 1, 2 .. hold these adapters, whose blocks come into `memory`, and others none."""
        registers = {number: 0 for slot in range(1, self.slots + 1) for number in slot_registers(slot)}
        for slot, (name, place) in enumerate(zip(names, self.hold(memory, names), strict=True), 1):
            address = self.adapter_address + place * self.adapter_size
            registers |= slot_values(self.target, slot, address, find(self.adapters, name).rank)
        return registers
