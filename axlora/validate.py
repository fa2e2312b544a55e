"""What must hold between the parts of a package, beyond its hashes: sizes, addresses, names and values.

A package that passes can be simulated without reading or writing outside its memory and without hanging. What the machine
itself refuses (a local address out of range) it still refuses when it runs: `MachineError`. Here stands what every package is
checked for; each kind of interface adds its own in `validate`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.backend.memory_layout import ALIGN
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import Shape
from axlora.compiler.errors import BadPackage
from axlora.isa.formats import Format
from axlora.isa.instruction import BadInstruction, Instruction, decode
from axlora.isa.legality import IllegalProgram, executed
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS, Opcode
from axlora.isa.regions import slot_values

from .layers import Arrays, LayerInfo, read_arrays
from .machine import Function, Machine

FILE_LIMIT = 2 << 30
"""Bytes of a file."""
MEMORY_LIMIT = 1 << 32
"""Bytes of the machine's memory, which it addresses."""
REGIONS_LIMIT = 1 << 30
"""Bytes of all that a start may write."""
LINE = 64
"""Bytes of an instruction cache line, at which functions begin."""


def _positive(values: np.ndarray) -> bool:
    return bool((values > 0).all())


def _any(_: np.ndarray) -> bool:
    return True


def _below(most: int, values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values < most)).all())


class Check:
    """The checks of one package; `where` is its path."""

    def __init__(self, machine: Machine, where: str) -> None:
        self.m, self.t, self.where = machine, machine.target, where

    def need(self, good: bool, field: str, found: object, wanted: str) -> None:
        """Raise `BadPackage` unless `good`."""
        if not good:
            raise BadPackage(f"manifest.json: {field} is {str(found)[:80]}, must be {wanted}", self.where, "compile again")

    def within(self, value: float, low: float, high: float, field: str) -> None:
        """`low` <= value <= `high`."""
        self.need(low <= value <= high, field, value, f"{low} to {high}")

    def unique(self, names: Sequence[str], field: str) -> None:
        """No name twice."""
        twice = next((n for n in names if names.count(n) > 1), None)
        self.need(twice is None, field, twice, "a name used once")

    def array(
        self,
        key: str,
        value: npt.NDArray[Any] | None,
        kind: str,
        shape: tuple[int, ...],
        good: Callable[[np.ndarray], bool] = _any,
    ) -> None:
        """An array of a file: there, of this type and shape, finite, `good`."""
        if value is None or value.dtype != np.dtype(kind) or value.shape != shape:
            found = "missing" if value is None else f"{value.dtype} {value.shape}"
            self.need(False, key, found, f"{np.dtype(kind)} {shape}")
            return
        self.need(bool(np.isfinite(value).all()) and good(value), key, "out of range", "finite and in range")

    def machine(self) -> None:
        """What every package has: places in memory, functions, adapters."""
        m = self.m
        self.within(m.slots, 0, SLOTS, "slots")
        self.within(m.max_loras, m.slots, SLOTS if m.slots else 0, "max_loras")
        self.within(m.rank, 0, 1 << 16, "rank")
        self.within(m.adapter_address, len(m.image), len(m.image) + REGIONS_LIMIT, "adapter_address")
        self.need(m.adapter_address % ALIGN == 0, "adapter_address", m.adapter_address, f"a multiple of {ALIGN}")
        for name, (address, size) in m.regions.items():
            self.within(size, 0, REGIONS_LIMIT, f"bytes of region {name!r}")
            self.within(address, len(m.image), m.adapter_address - size, f"address of region {name!r}")
            good = address % self.t.beat_bytes == 0
            self.need(good, f"address of region {name!r}", address, f"a multiple of {self.t.beat_bytes}")
        self.unique([f.name for f in m.functions], "functions")
        self.need(bool(m.functions), "functions", "empty", "one or more")
        for n, f in enumerate(m.functions):
            self.within(f.address, 0, len(m.image) - f.size, f"functions[{n}].address")
            self.need(f.address % LINE == 0, f"functions[{n}].address", f.address, f"a multiple of {LINE}")
            self.need(f.size > 0 and f.size % INSTRUCTION_BYTES == 0, f"functions[{n}].size", f.size, "whole instructions")
            self.within(f.rows, 1, FILE_LIMIT, f"functions[{n}].rows")

    def region(self, name: str, least: int) -> None:
        """A region is there and has at least these many bytes."""
        size = self.m.regions.get(name, (0, 0))[1]
        self.need(size >= least, f"bytes of region {name!r}", size, f"{least} or more")

    def owners(self, owners: Mapping[str, npt.NDArray[np.int32]], counts: Sequence[int]) -> None:
        """Each instruction of a function works for one of `counts` layers or operators."""
        functions = self.m.functions
        self.need(owners.keys() == {f.name for f in functions}, "owners", list(owners), "one array a function")
        for f, most in zip(functions, counts, strict=True):
            size = (f.size // INSTRUCTION_BYTES,)
            self.array(f"owners of {f.name}", owners[f.name], "i4", size, partial(_below, most))

    def ends(self, function: Function, limit: int) -> None:
        """A function is of legal instructions and ends after at most `limit` of them, whatever a start sets registers to."""
        first, end = function.address, function.address + function.size
        words = [self.m.image[at : at + INSTRUCTION_BYTES] for at in range(first, end, INSTRUCTION_BYTES)]
        registers: dict[int, int] = {}
        for slot in range(1, self.m.slots + 1):
            registers |= slot_values(self.t, slot, self.m.adapter_address, self.m.rank)
        try:
            executed([_decoded(word) for word in words], registers, limit)
        except (BadInstruction, IllegalProgram, struct.error) as error:
            raise BadPackage(f"memory.bin: {function.name}: {error}", self.where, "compile again") from None

    # Adapters, once the layers are checked

    def adapters(self) -> None:
        """Names, ranks, pins and blocks."""
        m, names = self.m, [a.name for a in self.m.adapters]
        self.unique(names, "adapters")
        self.need(m.default_adapter is None or m.default_adapter in names, "default_adapter", m.default_adapter, "an adapter")
        self.need(bool(m.slots) or not any(a.rank for a in m.adapters), "slots", m.slots, "1 or more: the package has adapters")
        pinned = sum(a.pinned and a.rank > 0 for a in m.adapters)
        self.need(pinned <= m.max_loras, "adapters", "all pinned", f"{m.max_loras} pinned at most")
        tilings = [layer.tiling for layer in m.layers if layer.tiling.shape.slots]
        pieces = sum(adapter_offsets(self.t, tiling.shape, tiling.plan)[1] for tiling in tilings)
        size = -(-pieces // ALIGN) * ALIGN
        self.need(m.adapter_size == size, "adapter_size", m.adapter_size, f"{size}")
        for number, a in enumerate(m.adapters):
            size = m.adapter_size if a.rank else 0
            self.within(a.rank, 0 if a.rows else 1, m.rank, f"adapters[{number}].rank")
            self.need(len(a.block) == size, f"adapters[{number}]: bytes", len(a.block), f"{size}")
        total = m.adapter_address + m.adapter_size * max(1, len(names))
        self.within(total, 0, MEMORY_LIMIT, "memory of image, regions and adapters")

    # Layers

    def layer(self, info: LayerInfo, field: str, tokens: int, wanted: Mapping[str, object]) -> None:
        """A linear's numbers, those of `wanted` as the interface has them; its tiling is for at most `tokens` tokens."""
        known = info.format in Format.__members__
        self.need(known, f"{field}.format", info.format, f"one of {', '.join(Format.__members__)}")
        for name, value in wanted.items():
            self.need(getattr(info, name) == value, f"{field}.{name}", getattr(info, name), f"{value}")
        self.within(info.k, 1, FILE_LIMIT, f"{field}.k")
        self.within(info.n, 1, FILE_LIMIT, f"{field}.n")
        self.within(info.guard, 0, 31, f"{field}.guard")
        self.within(info.bias_shift, 0, 15, f"{field}.bias_shift")
        self.need(info.error is None or info.error >= 0, f"{field}.error", info.error, "not negative")
        self.within(info.scopes, 0, len(info.modules), f"{field}.scopes")
        self._tiling(info, tokens, f"{field}.tiling")

    def _tiling(self, info: LayerInfo, tokens: int, field: str) -> None:
        """The shape follows from the linear; the plan cuts it."""
        m, t, s = self.m, self.t, info.tiling.shape
        uses = m.slots if m.rank and s.slots else 0
        per = s.per_group
        self.within(s.tokens, 1, tokens, f"{field}.shape.tokens")
        self.within(per, 0, s.blocks if t.group_scales else 0, f"{field}.shape.per_group")
        self._gaps(info, f"{field}.gaps")
        fmt, gaps = Format[info.format], info.tiling.gaps
        blocks = max(-(-gaps.down.width(info.k) // t.lanes), s.blocks)
        wanted = Shape.sized(t, gaps.across.width(info.n), blocks, fmt, info.output_bits, per, s.tokens, uses, m.rank)
        unit = wanted.column_unit
        for name, value in vars(wanted).items():
            self.need(getattr(s, name) == value, f"{field}.shape.{name}", getattr(s, name), f"{value}")
        plan = info.tiling.plan
        self.within(plan.columns, 1, s.groups, f"{field}.plan.columns")
        self.within(plan.rows, 1, s.blocks, f"{field}.plan.rows")
        self.within(plan.chunk, 1, s.token_groups, f"{field}.plan.chunk")
        self.need(plan.columns % unit == 0, f"{field}.plan.columns", plan.columns, f"a multiple of {unit}")
        self.need(not per or plan.rows % per == 0, f"{field}.plan.rows", plan.rows, f"a multiple of {per}")
        size = s.groups * s.blocks * t.wbuf_line_bytes * s.storage // 8
        self.within(size, 0, len(m.image), f"{field}: bytes of weights")

    def _gaps(self, info: LayerInfo, field: str) -> None:
        """The parts hold the linear's rows and columns, each in its room; scale groups hold whole parts of one size."""
        for name, parts, size in (("rows", info.tiling.gaps.rows, info.k), ("columns", info.tiling.gaps.columns, info.n)):
            for number, (count, room) in enumerate(parts):
                self.within(count, 1, size, f"{field}.{name}[{number}][0]")
                self.within(room, count, FILE_LIMIT, f"{field}.{name}[{number}][1]")
            self.need(not parts or sum(count for count, _ in parts) == size, f"{field}.{name}", "parts", f"{size} features")
        down, per = info.tiling.gaps.down, info.tiling.shape.per_group * self.t.lanes
        whole = down.group(per) and down.grouped(down.features(per)) == per
        self.need(not per or bool(whole), f"{field}.rows", f"groups of {per} places", "groups of whole parts")

    def tiles(self) -> None:
        """Weight tiles lie in the image, one after the other."""
        end, size = 0, len(self.m.image)
        for number, info in enumerate(self.m.layers):
            s, plan = info.tiling.shape, info.tiling.plan
            field = f"layers[{number}].tiling.weights"
            cut = [(h, w) for _, w in plan.column_tiles(s) for _, h in plan.row_tiles(s)]
            self.need(len(cut) == len(info.tiling.weights), field, len(info.tiling.weights), f"{len(cut)} places")
            for (height, width), place in zip(cut, info.tiling.weights, strict=True):
                self.within(place, end, size, field)
                self.need(place % ALIGN == 0, field, place, f"a multiple of {ALIGN}")
                end = place + height * width * self.t.wbuf_line_bytes * s.storage // 8
                self.within(end, 0, size, f"{field}: end of a tile")

    def vectors(self) -> None:
        """Vectors of each linear: there, of its columns, in range."""
        arrays: Arrays = read_arrays(self.m.vectors)
        for number, info in enumerate(self.m.layers):
            per = info.tiling.shape.per_group
            rows = -(-info.tiling.shape.blocks // per) if per else 0

            def vector(name: str, kind: str, shape: tuple[int, ...], good: Callable[[np.ndarray], bool] = _any) -> None:
                key = f"{number}/{name}"  # noqa: B023  (called at once)
                self.array(f"linears.safetensors: {key}", arrays.get(key), kind, shape, good)

            vector("bias", "i4", (info.n,))
            vector("m1", "u2", (info.n,))
            vector("shift", "u1", (info.n,), lambda v: bool(((v > 0) & (v < 63)).all()))
            vector("w_scale", "f8", (info.n,), _positive)
            vector("real_bias", "f8", (info.n,))
            if f"{number}/smooth" in arrays:
                vector("smooth", "f8", (info.k - info.offset_rows,), _positive)
            if f"{number}/order" in arrays:
                vector("order", "i4", (info.n,), lambda v: np.array_equal(np.sort(v), np.arange(len(v))))
            for name, kind in (("group_scale", "u1"), ("group_zero", "i1")):
                if f"{number}/{name}" in arrays:
                    vector(name, kind, (rows, info.n))
            if Format[info.format] is Format.CB4:
                vector("codebook", "i1", (1 << Format.CB4.bits,))
            grouped = f"{number}/group_scale" in arrays
            self.need(grouped == bool(rows), f"linears.safetensors: {number}/group_scale", grouped, f"there: {bool(rows)}")

    def named(self, names: Collection[str], known: Collection[str], field: str) -> None:
        """Every name is known."""
        odd = next((n for n in names if n not in known), None)
        self.need(odd is None, field, odd, "a name of the package")


def _decoded(data: bytes) -> Instruction:
    """An instruction; zeros, which pad a function, count as HALT.

    Raises:
        BadInstruction: as `decode`.
    """
    return decode(data) if any(data) else Instruction(Opcode.HALT)
