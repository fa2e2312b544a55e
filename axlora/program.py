"""A compiled program: bytes for the machine, and what its inputs, outputs and adapters mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.boundary import Quantized, token_rows
from axlora.compiler.errors import BadAdapter, Error
from axlora.compiler.layer import Host, Linear, Placement, Tensor
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.regions import region_bytes, region_codes, slot_values, token_words
from axlora.isa.target import Target

from .choice import AdapterChoice, AdapterInfo, chosen
from .layers import LayerInfo, read_arrays, stored_linear

if TYPE_CHECKING:
    from axlora.compiler.host import HostPart

Int64 = npt.NDArray[np.int64]


Listed = tuple[str, bytes, dict[int, str]]
"""Title of a program (empty for the only one), its bytes, and instruction -> what begins there."""


class BadInput(Error):
    """An input array is missing, unknown, or has the wrong shape or type."""


@dataclass(frozen=True)
class InputInfo:
    """What a linear reads: the tensor and its place in memory (docs/isa.md, regions)."""

    tensor: Tensor
    address: int
    token_words: int
    blocks: int
    stage: int


@dataclass(frozen=True)
class TileInfo:
    """One column tile of an output in memory."""

    first: int
    groups: int
    address: int
    stride: int


@dataclass(frozen=True)
class OutputInfo:
    """A linear's result: the tensor and the places of its column tiles."""

    tensor: Tensor
    element: int
    tiles: tuple[TileInfo, ...]
    stage: int


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
    starts: tuple[int, ...]
    """First instruction of each stage; the host part runs before, between and after them."""
    host: Host
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
    vectors: bytes
    """Vectors of the linears as safetensors, see `axlora.layers.Arrays`."""
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
    def summary(self) -> str:
        """Sizes, in words."""
        return f"{len(self.program) // INSTRUCTION_BYTES} instructions, {len(self.weights) / 1024:.0f} KiB of weights"

    def listing(self) -> list[Listed]:
        """The program, for a disassembly."""
        return [("", self.program, {layer.first: layer.name for layer in self.layers})]

    @property
    def host_macs(self) -> int:
        """MACs of the operators that stay on the host."""
        return sum(row.macs for row in self.placement if row.where == "host")

    def linears(self) -> tuple[Linear, ...]:
        """The linears again, without adapters, read from the weights."""
        arrays = read_arrays(self.vectors)
        rows = enumerate(self.layers)
        return tuple(stored_linear(self.target, layer, i, arrays, self.weights) for i, layer in rows)

    def slot_of(self, adapter: AdapterChoice) -> tuple[list[str], list[str | None]]:
        """(adapters by slot, adapter of each batch row) for an `adapter` argument; errors as `choice.chosen`."""
        return chosen(self.adapters, self.default_adapter, self.slots, adapter)

    @property
    def max_loras(self) -> int:
        """Most different adapters in one batch."""
        return self.slots

    @property
    def inputs_info(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each of the model's inputs."""
        found = {}
        for value in self.host.model.graph.input:
            if value.name in self.host.inputs:
                kind = value.type.tensor_type
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                found[value.name] = (tuple(d.dim_value for d in kind.shape.dim), np.dtype(dtype))
        return found

    @cached_property
    def host_part(self) -> HostPart:
        """The compiled host graph; compiled at the first use."""
        from axlora.compiler.host import HostPart

        return HostPart(self.host)

    def check_inputs(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """The inputs in the model's types.

        Raises:
            BadInput: missing, unknown, wrong shape, not numbers, not finite, out of the type's range.
        """
        known = self.inputs_info
        for name in inputs:
            if name not in known:
                raise BadInput(f"unknown input {name!r}", "input", f"the model has: {', '.join(known)}")
        return {name: _checked(name, inputs.get(name), *info) for name, info in known.items()}

    @property
    def memory_bytes(self) -> int:
        """Of the machine's memory."""
        size = self.adapter_address + self.adapter_size * max(1, len(self.adapters))
        return -(-size // 4096) * 4096

    def memory(self) -> npt.NDArray[np.uint8]:
        """The machine's memory with program, weights and adapters."""
        memory = np.zeros(self.memory_bytes, np.uint8)
        _put(memory, 0, self.program)
        _put(memory, self.weights_address, self.weights)
        for number, one in enumerate(self.adapters):
            _put(memory, self.adapter_address + number * self.adapter_size, one.block)
        return memory

    def start_address(self, stage: int) -> int:
        """Byte address of a stage's first instruction."""
        return self.starts[stage] * INSTRUCTION_BYTES

    def read_stage(self, stage: int) -> list[InputInfo]:
        """What the linears of a stage read."""
        return [info for info in self.inputs if info.stage == stage]

    def put_stage(
        self,
        memory: npt.NDArray[np.uint8],
        stage: int,
        codes: Mapping[str, Quantized],
        adapter: AdapterChoice,
    ) -> None:
        """Write a stage's codes and token words into the memory."""
        t = self.target
        used, rows = self.slot_of(adapter)
        slots = [0 if name is None else used.index(name) + 1 for name in rows]
        for info in self.read_stage(stage):
            found = codes[info.tensor.name]
            groups = -(-info.tensor.tokens // t.tokens)
            _put(memory, info.address, region_bytes(t, found.codes, info.blocks, groups))
            each = token_rows(info.tensor, len(rows))
            if not each:
                raise BadAdapter(
                    f"{len(rows)} adapters named for {info.tensor.shape[0]} batch rows", "adapter", "one, or one per batch row"
                )
            scale = () if found.mantissa is None or found.shift is None else (found.mantissa[:, 0], found.shift[:, 0])
            words = token_words(np.repeat(slots, each), *scale)
            _put(memory, info.token_words, words + bytes(4 * groups * t.tokens - len(words)))

    def registers(self, adapter: AdapterChoice = None) -> dict[int, int]:
        """What the host writes so that slots name the adapters of a run."""
        registers: dict[int, int] = {}
        names = [a.name for a in self.adapters]
        for slot, name in enumerate(self.slot_of(adapter)[0], 1):
            number = names.index(name)
            address = self.adapter_address + number * self.adapter_size
            registers |= slot_values(self.target, slot, address, self.adapters[number].rank)
        return registers

    def read_codes(self, memory: npt.NDArray[np.uint8], stage: int) -> dict[str, Int64]:
        """Result codes [tokens, n] of a stage's linears, from the memory after its run."""
        return {info.tensor.name: self._codes(memory, info) for info in self.outputs if info.stage == stage}

    def written(self, stage: int) -> list[tuple[int, int]]:
        """(address, bytes) of the memory that a stage's results lie in."""
        count = self.target.tokens
        return [
            (tile.address, tile.stride * -(-info.tensor.tokens // count))
            for info in self.outputs
            if info.stage == stage
            for tile in info.tiles
        ]

    def _codes(self, memory: npt.NDArray[np.uint8], info: OutputInfo) -> Int64:
        t = self.target
        groups = -(-info.tensor.tokens // t.tokens)
        columns = max(tile.first + tile.groups for tile in info.tiles) * t.ports
        full = np.zeros((groups * t.tokens, columns), np.int64)
        for tile in info.tiles:
            blocks = -(-tile.groups * t.ports // t.lanes)
            data = memory[tile.address : tile.address + tile.stride * groups]
            values = region_codes(t, data, info.element, blocks, groups, tile.stride)
            width = tile.groups * t.ports
            full[:, tile.first * t.ports : tile.first * t.ports + width] = values[:, :width]
        return full[: info.tensor.tokens, : info.tensor.columns]


def _put(memory: npt.NDArray[np.uint8], address: int, data: bytes) -> None:
    memory[address : address + len(data)] = np.frombuffer(data, np.uint8)


def _checked(name: str, given: npt.ArrayLike | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if given is None:
        raise BadInput(f"input {name!r} is missing", "input", f"shape {shape}, type {dtype}")
    value = np.asarray(given)
    if value.shape != shape:
        hint = "--shape at compile time sets it"
        raise BadInput(f"input {name!r} has shape {value.shape}, compiled for {shape}", "input", hint)
    if value.dtype.kind not in "fiub":
        raise BadInput(f"input {name!r} has type {value.dtype}, must be numbers", "input", str(dtype))
    if not np.isfinite(value).all():
        raise BadInput(f"input {name!r} holds NaN or infinity", "input", f"finite {dtype} values")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value.astype(dtype)
    if not np.isfinite(cast).all() or (dtype.kind in "iub" and (cast != value).any()):
        raise BadInput(f"input {name!r} holds values that are no {dtype}", "input", f"{dtype} values")
    return np.asarray(cast, order="C")
