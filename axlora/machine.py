"""What every program of a whole transformer holds: the machine's memory, the adapters' blocks, the linears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.layer import Linear, Placement
from axlora.isa.opcodes import SLOTS
from axlora.isa.regions import slot_values, token_words
from axlora.isa.target import Target

from .choice import AdapterInfo, adapter_infos
from .layers import LayerInfo, layer_info, layer_vectors, read_arrays, stored_linear

if TYPE_CHECKING:
    from axlora.compiler.transformer.pipeline import Generated

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
PAGE = 4096


@dataclass(frozen=True)
class Machine:
    """A transformer in the machine's memory for one target. `save` writes the package, `axlora.load` reads it."""

    target: Target
    image: bytes
    """Read-only data and the programs, from address 0."""
    regions: dict[str, tuple[int, int]]
    """What runs write: name -> (address, bytes)."""
    adapters: tuple[AdapterInfo, ...]
    adapter_address: int
    adapter_size: int
    slots: int
    """Adapters in one start: 1, or 0 for a program without adapters."""
    max_loras: int
    """Most different adapters in one batch, whose sequences are starts of their own."""
    rank: int
    context: int
    """Most tokens of a sequence."""
    dim: int
    """Features of a head."""
    half: int
    """Elements of a row of the tables by position; 0 without."""
    input_fraction: int
    input_words: int
    positions: npt.NDArray[np.float32] | None
    """[tokens, features], added to the rows."""
    layers: tuple[LayerInfo, ...]
    vectors: bytes
    placement: tuple[Placement, ...]
    default_adapter: str | None
    sources: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write the package directory; replaces a package of that name, leaves nothing half-written."""
        from .machine_package import save

        save(self, Path(path))

    @property
    def host_macs(self) -> int:
        """MACs of the operators that stay on the host."""
        return sum(row.macs for row in self.placement if row.where == "host")

    def linears(self) -> tuple[Linear, ...]:
        """The linears again, without adapters, read from the weights."""
        arrays = read_arrays(self.vectors)
        return tuple(stored_linear(self.target, layer, i, arrays, self.image) for i, layer in enumerate(self.layers))

    @property
    def memory_bytes(self) -> int:
        """Of the machine's memory."""
        size = self.adapter_address + max(1, len(self.adapters)) * self.adapter_size
        return -(-size // PAGE) * PAGE

    def memory(self, adapter: str | None, rows: int) -> tuple[Bytes, dict[int, int]]:
        """Memory before a start, and the registers that name the adapter of all `rows` rows.

        Raises:
            BadAdapter: no such adapter.
        """
        memory = np.zeros(self.memory_bytes, np.uint8)
        put(memory, 0, self.image)
        registers: dict[int, int] = {}
        if adapter is not None:
            number = next((n for n, a in enumerate(self.adapters) if a.name == adapter), None)
            if number is None:
                known = ", ".join(a.name for a in self.adapters) or "none"
                raise BadAdapter(f"no adapter {adapter!r} in the package", "adapter", f"it has: {known}")
            address = self.adapter_address + number * self.adapter_size
            put(memory, address, self.adapters[number].block)
            registers = slot_values(self.target, 1, address, self.adapters[number].rank)
        put(memory, self.regions["token words"][0], token_words(np.full(rows, int(adapter is not None))))
        return memory, registers

    def put_rows(self, memory: Bytes, rows: Int64) -> None:
        """Rows of embeddings, fixed point, into the input's region."""
        words = np.zeros((len(rows), self.input_words * self.target.vector_lanes), "<i4")
        words[:, : rows.shape[1]] = rows
        put(memory, self.regions["input"][0], words.tobytes())

    def read_rows(self, memory: Bytes, output: int, rows: int, words: int) -> Int64:
        """Rows of an output, s32 [rows, padded features]."""
        address, width = self.regions[f"output {output}"][0], words * self.target.vector_lanes
        return memory[address : address + 4 * width * rows].view("<i4").reshape(rows, width).astype(np.int64)


def put(memory: Bytes, address: int, data: bytes) -> None:
    """Bytes into memory."""
    memory[address : address + len(data)] = np.frombuffer(data, np.uint8)


def machine_fields(found: Generated, target: Target, sources: dict[str, str], max_loras: int | None) -> dict[str, Any]:
    """The fields of `Machine` for what the compiler found."""
    image, linears = found.image, found.lowered.linears
    positions = found.model.positions
    return {
        "target": target,
        "image": image.data,
        "regions": dict(image.regions),
        "adapters": adapter_infos(found.blocks, found.lowered),
        "adapter_address": image.adapter_address,
        "adapter_size": image.adapter_size,
        "slots": image.slots,
        "max_loras": (SLOTS if max_loras is None else max_loras) if image.slots else 0,
        "rank": image.rank,
        "context": found.tokens,
        "dim": image.dim,
        "half": image.half,
        "input_fraction": image.input_fraction,
        "input_words": image.input_words,
        "positions": None if positions is None else positions[: found.tokens].astype(np.float32),
        "layers": tuple(layer_info(li, target.activation_bits, 0, image.tilings[li.name], None) for li in linears),
        "vectors": layer_vectors(linears),
        "placement": found.lowered.placement,
        "default_adapter": found.lowered.default_adapter,
        "sources": sources,
    }
