"""Checks a package's linears: their numbers, tilings, tiles and vectors fit each other and the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from axlora.compiler.backend.link import ALIGN
from axlora.compiler.backend.plan import Shape
from axlora.compiler.errors import BadPackage
from axlora.isa.formats import Format
from axlora.isa.opcodes import SLOTS
from axlora.isa.target import Target

from .layers import Arrays, LayerInfo, read_arrays
from .program import Program

MEMORY_LIMIT = 2 << 30
"""Bytes of the machine's memory: a run holds it twice."""


@dataclass(frozen=True)
class Linears:
    """What a package of a whole transformer keeps of its linears: the fields that `_Check` reads of a program."""

    target: Target
    layers: tuple[LayerInfo, ...]
    vectors: bytes
    weights: bytes
    """The machine's memory image, in which the tiles lie."""
    slots: int
    rank: int


class LinearChecks:
    """What programs of both kinds are checked for: tilings, tiles and vectors of linears; `where` is the package."""

    def __init__(self, p: Program | Linears, where: str) -> None:
        self.held, self.where = p, where
        self.t: Target = p.target

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

    def tiling(self, info: LayerInfo, tokens: int, field: str) -> None:
        """The shape follows from the linear; the plan cuts it."""
        p, t, s = self.held, self.t, info.tiling.shape
        uses = p.slots if p.rank and s.slots else 0
        per = s.per_group
        self.within(s.tokens, 1, tokens, f"{field}.shape.tokens")
        self.within(per, 0, s.blocks if t.group_scales else 0, f"{field}.shape.per_group")
        fmt = Format[info.format]
        blocks = max(-(-info.k // t.lanes), s.blocks)
        wanted = Shape.sized(t, info.n, blocks, fmt, info.output_bits, per, s.tokens, uses, p.rank)
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
        self.within(size, 0, len(p.weights), f"{field}: bytes of weights")

    def tiles(self) -> None:
        """Weight tiles lie in the weights, one after the other; column tiles of outputs cover them."""
        end = 0
        for number, info in enumerate(self.held.layers):
            s, plan = info.tiling.shape, info.tiling.plan
            field = f"layers[{number}].tiling.weights"
            cut = [(h, w) for _, w in plan.column_tiles(s) for _, h in plan.row_tiles(s)]
            self.need(len(cut) == len(info.tiling.weights), field, len(info.tiling.weights), f"{len(cut)} places")
            for (height, width), place in zip(cut, info.tiling.weights, strict=True):
                self.within(place, end, len(self.held.weights), field)
                self.need(place % ALIGN == 0, field, place, f"a multiple of {ALIGN}")
                end = place + height * width * self.t.wbuf_line_bytes * s.storage // 8
                self.within(end, 0, len(self.held.weights), f"{field}: end of a tile")
            self.output(info, number)

    def output(self, info: LayerInfo, number: int) -> None:
        """Where a linear's result lies; nothing of a whole transformer's is in the manifest."""

    def vectors(self, arrays: Arrays) -> None:
        """Vectors of each linear: there, of its columns, in range."""
        for number, info in enumerate(self.held.layers):
            self.within(info.scopes, 0, len(info.modules), f"layers[{number}].scopes")
            rows = -(-info.tiling.shape.blocks // info.tiling.shape.per_group) if info.tiling.shape.per_group else 0
            self.vector(arrays, f"{number}/bias", "i4", (info.n,), lambda v: True)
            self.vector(arrays, f"{number}/m1", "u2", (info.n,), lambda v: True)
            self.vector(arrays, f"{number}/shift", "u1", (info.n,), lambda v: bool(((v > 0) & (v < 63)).all()))
            self.vector(arrays, f"{number}/w_scale", "f8", (info.n,), lambda v: bool((v > 0).all()))
            self.vector(arrays, f"{number}/real_bias", "f8", (info.n,), lambda v: True)
            for name, kind, shape in (("smooth", "f8", (info.k - info.offset_rows,)), ("group_scale", "i8", (rows, info.n)),
                                      ("group_zero", "i8", (rows, info.n))):  # fmt: skip
                if f"{number}/{name}" in arrays:
                    self.vector(arrays, f"{number}/{name}", kind, shape, self._in_range(name))
            grouped = f"{number}/group_scale" in arrays
            self.need(grouped == bool(rows), f"linears.safetensors: {number}/group_scale", grouped, f"there: {bool(rows)}")

    @staticmethod
    def _in_range(name: str) -> Callable[[np.ndarray], bool]:
        if name == "smooth":
            return lambda v: bool((v > 0).all())
        low, high = (0, 255) if name == "group_scale" else (-128, 127)
        return lambda v: bool(((v >= low) & (v <= high)).all())

    def vector(self, arrays: Arrays, key: str, kind: str, shape: tuple[int, ...], good: Callable[[np.ndarray], bool]) -> None:
        """One vector."""
        where = f"linears.safetensors: {key}"
        value = arrays.get(key)
        if value is None or value.dtype != np.dtype(kind) or value.shape != shape:
            found = "missing" if value is None else f"{value.dtype} {value.shape}"
            self.need(False, where, found, f"{np.dtype(kind)} {shape}")
            return
        self.need(bool(np.isfinite(value).all()) and good(value), where, "out of range", "finite and in range")


class _CheckLinears(LinearChecks):
    """The checks of linears alone: every one takes rows with a scale each and gives 32 bits."""

    def all(self) -> None:
        """Every check, the cheap ones first."""
        self.within(self.held.slots, 0, SLOTS, "slots")
        self.within(self.held.rank, 0, 1 << 16, "rank")
        for number, info in enumerate(self.held.layers):
            field = f"layers[{number}]"
            known = info.format in Format.__members__
            self.need(known, f"{field}.format", info.format, f"one of {', '.join(Format.__members__)}")
            self.within(info.k, 1, MEMORY_LIMIT, f"{field}.k")
            self.within(info.n, 1, MEMORY_LIMIT, f"{field}.n")
            same = (
                ("x_bits", info.x_bits, self.t.activation_bits),
                ("output_bits", info.output_bits, 32),
                ("offset_rows", info.offset_rows, 0),
                ("token_scale", info.token_scale, True),
                ("bias_end", info.bias_end, True),
            )
            for name, found, wanted in same:
                self.need(found == wanted, f"{field}.{name}", found, f"{wanted}")
            self.within(info.guard, 0, 31, f"{field}.guard")
            self.within(info.bias_shift, 0, 15, f"{field}.bias_shift")
            self.need(info.bias_step > 0, f"{field}.bias_step", info.bias_step, "positive")
            self.tiling(info, self.t.tokens, f"{field}.tiling")
        self.tiles()
        self.vectors(read_arrays(self.held.vectors))


def validate_linears(linears: Linears, where: str) -> None:
    """Check the linears of a whole transformer that was read from a package.

    Raises:
        BadPackage: names the field, what it holds, and what it must be.
    """
    _CheckLinears(linears, where).all()
