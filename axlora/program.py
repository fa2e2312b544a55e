"""A compiled program: bytes for the machine, and what its inputs, outputs and adapters mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter, Error
from axlora.compiler.layer import Placement, Tensor
from axlora.isa import numerics
from axlora.isa.regions import region_bytes, region_codes, slot_values
from axlora.isa.target import Target

Int64 = npt.NDArray[np.int64]


class BadInput(Error):
    """An input array is missing, unknown, or has the wrong shape or type."""


@dataclass(frozen=True)
class LayerInfo:
    """One linear of the program."""

    name: str
    operator: str
    input: str
    output: str
    k: int
    n: int
    first: int
    """Index of its first instruction."""


@dataclass(frozen=True)
class InputInfo:
    """An input: the tensor and its place in memory (docs/isa.md, regions)."""

    tensor: Tensor
    address: int
    token_words: int
    blocks: int


@dataclass(frozen=True)
class TileInfo:
    """One column tile of an output in memory."""

    first: int
    groups: int
    address: int
    stride: int


@dataclass(frozen=True)
class OutputInfo:
    """An output: the tensor and the places of its column tiles."""

    tensor: Tensor
    element: int
    tiles: tuple[TileInfo, ...]


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter's block for the machine."""

    name: str
    rank: int
    block: bytes


@dataclass(frozen=True)
class Image:
    """Everything a run of the machine needs."""

    memory: npt.NDArray[np.uint8]
    registers: dict[int, int]
    program: int = 0


@dataclass(frozen=True)
class Program:
    """A compiled model for one target. `save` writes the package, `axlora.load` reads it."""

    target: Target
    program: bytes
    weights_address: int
    weights: bytes
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    adapters: tuple[AdapterInfo, ...]
    adapter_address: int
    adapter_size: int
    slots: int
    rank: int
    layers: tuple[LayerInfo, ...]
    placement: tuple[Placement, ...]
    default_adapter: str | None
    """The adapter that the model itself contains: what a run means when no adapter is named."""
    sources: dict[str, str]
    """SHA-256 of the model and adapter files that the package was made from."""

    def save(self, path: str | Path) -> None:
        """Write the package directory; replaces a package of that name, leaves nothing half-written."""
        from .package import save

        save(self, Path(path))

    @property
    def host_macs(self) -> int:
        """MACs of the operators that stay on the host."""
        return sum(row.macs for row in self.placement if row.where == "host")

    def slot_of(self, adapter: str | Sequence[str | None] | None) -> tuple[list[str], list[str | None]]:
        """(adapters by slot, adapter of each batch row) for an `adapter` argument.

        Raises:
            BadAdapter: no such adapter, or more different ones than slots.
        """
        if adapter is None:
            adapter = self.default_adapter
        rows = [adapter] if adapter is None or isinstance(adapter, str) else list(adapter)
        known = {a.name for a in self.adapters}
        for name in rows:
            if name is not None and name not in known:
                raise BadAdapter(
                    f"no adapter {name!r} in the package", "adapter", f"it has: {', '.join(sorted(known)) or 'none'}"
                )
        used = list(dict.fromkeys(name for name in rows if name is not None))
        if len(used) > self.slots:
            raise BadAdapter(
                f"{len(used)} different adapters in one batch, the package has {self.slots} slots",
                "adapter",
                "compile with a larger --max-loras",
            )
        return used, rows

    def quantize(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Int64]:
        """Float inputs of the model's shapes to codes [tokens, k].

        Raises:
            BadInput: missing, unknown, wrong shape, not numbers, not finite.
        """
        names = [i.tensor.name for i in self.inputs]
        for name in inputs:
            if name not in names:
                raise BadInput(f"unknown input {name!r}", "input", f"the model has: {', '.join(names)}")
        codes = {}
        for info in self.inputs:
            tensor = info.tensor
            if tensor.name not in inputs:
                raise BadInput(f"input {tensor.name!r} is missing", "input", f"shape {tensor.shape}")
            value = np.asarray(inputs[tensor.name])
            if value.shape != tensor.shape:
                raise BadInput(
                    f"input {tensor.name!r} has shape {value.shape}, compiled for {tensor.shape}",
                    "input",
                    "--shape at compile time sets it",
                )
            if value.dtype.kind not in "fiu":
                raise BadInput(f"input {tensor.name!r} has type {value.dtype}, must be numbers", "input", "float32")
            if not np.isfinite(value).all():
                raise BadInput(f"input {tensor.name!r} holds NaN or infinity", "input", "finite float32 values")
            codes[tensor.name] = numerics.quantize_real(
                value.astype(np.float32).reshape(tensor.tokens, tensor.columns),
                tensor.scale,
                tensor.zero_point,
                tensor.bits,
            )
        return codes

    def image(self, codes: Mapping[str, Int64], adapter: str | Sequence[str | None] | None = None) -> Image:
        """Memory and registers for a run on `codes` (as `quantize` returns)."""
        t = self.target
        used, rows = self.slot_of(adapter)
        size = self.adapter_address + self.adapter_size * max(1, len(self.adapters))
        memory = np.zeros(-(-size // 4096) * 4096, np.uint8)

        def put(address: int, data: bytes) -> None:
            memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

        put(0, self.program)
        put(self.weights_address, self.weights)
        for number, one in enumerate(self.adapters):
            put(self.adapter_address + number * self.adapter_size, one.block)
        for info in self.inputs:
            groups = -(-info.tensor.tokens // t.tokens)
            put(info.address, region_bytes(t, codes[info.tensor.name], info.blocks, groups))
            words = np.zeros(groups * t.tokens, "<u4")
            if info.tensor.tokens % len(rows):
                raise BadAdapter(
                    f"{len(rows)} adapters named for {info.tensor.shape[0]} batch rows",
                    "adapter",
                    "one, or one per batch row",
                )
            slots = [0 if name is None else used.index(name) + 1 for name in rows]
            words[: info.tensor.tokens] = np.repeat(slots, info.tensor.tokens // len(rows))
            put(info.token_words, words.tobytes())
        registers: dict[int, int] = {}
        names = [a.name for a in self.adapters]
        for slot, name in enumerate(used, 1):
            number = names.index(name)
            address = self.adapter_address + number * self.adapter_size
            registers |= slot_values(t, slot, address, self.adapters[number].rank)
        return Image(memory, registers)

    def read_codes(self, memory: npt.NDArray[np.uint8]) -> dict[str, Int64]:
        """Output codes [tokens, n] from the memory after a run."""
        t = self.target
        out = {}
        for info in self.outputs:
            groups = -(-info.tensor.tokens // t.tokens)
            columns = max(tile.first + tile.groups for tile in info.tiles) * t.ports
            full = np.zeros((groups * t.tokens, columns), np.int64)
            for tile in info.tiles:
                blocks = -(-tile.groups * t.ports // t.lanes)
                data = memory[tile.address : tile.address + tile.stride * groups]
                values = region_codes(t, data, info.element, blocks, groups, tile.stride)
                width = tile.groups * t.ports
                full[:, tile.first * t.ports : tile.first * t.ports + width] = values[:, :width]
            out[info.tensor.name] = full[: info.tensor.tokens, : info.tensor.columns]
        return out

    def dequantize(self, codes: Mapping[str, Int64]) -> dict[str, npt.NDArray[np.float32]]:
        """Output codes to float arrays of the model's shapes."""
        return {
            info.tensor.name: numerics.dequantize(codes[info.tensor.name], info.tensor.scale, info.tensor.zero_point).reshape(
                info.tensor.shape
            )
            for info in self.outputs
        }
