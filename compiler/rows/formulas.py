"""A transformer as row operations on fixed-point integers: every operator's formula, once (docs/numerics.md, transformers).

A value v with fraction f stands for v / 2**f. Linears give values whose fraction follows from their output step; the others'
come from the largest magnitude that calibration saw, with two bits to spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Beside,
    FakeQuantize,
    Linear,
    Mul,
    Norm,
    NormKind,
    PoolKind,
    Positional,
    Quantization,
    Rotary,
    Slice,
)
from axlora.compiler.rows.fractions import (
    FACTOR_BITS,
    SQUARE_SHIFT,
    TABLE_FRACTION,
    fraction,
    held_zero,
    ratio,
)
from axlora.compiler.rows.layout import WITHOUT, Layout
from axlora.compiler.rows.row_operations import Cells, Heads, Rows
from axlora.compiler.rows.steps import Append, Close, Collect, Keep, Slide, Step, reads
from axlora.compiler.rows.tables import clamp_table, function_table, nearest_fraction, steps_table
from axlora.isa.numerics import SAT32, to_fixed
from axlora.isa.opcodes import Map, Reduce, Row

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Body = Callable[[], None]
"""What is done to the group of rows that is selected."""


def named(kind: str, values: Int64) -> str:
    """The name of a table, which is that of its values."""
    return f"{kind} {values.shape} {blake2b(values.tobytes(), digest_size=8).hexdigest()}"


@dataclass
class Formulas:
    """Carries out steps on rows; the state of one walk over them."""

    rows: Rows
    largest: Mapping[str, float]
    """Value -> largest magnitude seen."""
    steps: Mapping[str, float]
    """Linear -> value of an output code, a power of two."""
    widths: Mapping[str, int]
    """Value -> places of a row of it."""
    bits: int
    context: int
    smooth: Mapping[str, Float64]
    """Value -> what its channels are divided by for linears."""
    fractions: dict[str, int] = field(default_factory=dict)
    cells: dict[str, Cells] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    """Value that is an output and that nothing reads -> number of the output."""
    held: Mapping[str, Quantization] = field(default_factory=dict)
    """Value -> its codes, of values that are rounded to codes of one scale."""
    late: frozenset[str] = frozenset()
    """Of these, values that are not rounded before the codes of linears are made, which alone read them."""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    """Value -> its layout, of values that have gaps."""
    dying: set[str] = field(default_factory=set)
    """What the operator reads for the last time, and whose room no result has taken over."""
    active: str = ""
    """The value whose codes linears read."""
    streams: Mapping[str, int] = field(default_factory=dict)
    """Value -> number of its stream."""
    local: Set[str] = frozenset()
    """Values that need room for the rows of one group only."""
    released: list[Cells] = field(default_factory=list)
    """Temporary values of the bodies at hand."""

    def out(self, name: str, f: int) -> Cells:
        """Room for a value of fraction f."""
        self.fractions[name] = f
        make = self.rows.temporary if name in self.local else self.rows.value
        self.cells[name] = make(name, self.widths[name])
        return self.cells[name]

    def over(self, name: str, f: int, operands: Sequence[str]) -> Cells:
        """As `out`, in place over an operand whose last read this is, if there is one."""
        enough = self.dying if name in self.local else self.dying - self.local
        old = next((x for x in operands if x in enough), None)
        if old is None:
            return self.out(name, f)
        self.fractions[name] = f
        self.dying.remove(old)
        self.cells[name] = self.cells[old] = self.rows.take_over(name, self.cells[old])
        return self.cells[name]

    def seen(self, name: str) -> int:
        return fraction(self.largest[name])

    def layout(self, name: str) -> Layout:
        """Where a value's features lie."""
        return self.layouts.get(name, WITHOUT)

    def features(self, name: str) -> int:
        """Features of a value, without gaps."""
        layout = self.layout(name)
        return len(layout.places) if layout.parts else self.widths[name]

    def part(self, name: str, first: int, count: int) -> Cells:
        """Features `first` .. `first + count - 1` of a value."""
        return Cells(self.cells[name].name, *self.layout(name).span(first, count))

    def constant(self, name: str, values: Int64, like: str) -> Cells:
        """A number for each feature of the value `like`."""
        return self.rows.constant(name, self.layout(like).spread(values))

    def everywhere(self, body: Body, step: Step) -> None:
        """Do what a step does to every group, of one sequence if it looks at positions; temporary values are given back."""
        groups = self.rows.sequences() if isinstance(step, Append) else self.rows.groups()
        if isinstance(step, Add | Affine | Apply | Beside | FakeQuantize | Mul | Slice):
            groups = self.rows.strips(max(self.widths[name] for name in (*reads(step), step.y)))
        for _ in groups:
            body()
        self.release()

    def release(self) -> None:
        """Give back temporary values."""
        for cells in self.released:
            self.rows.free(cells)
        self.released.clear()

    def passing(self, name: str, width: int, least: int = 1) -> Cells:
        """Room for a temporary value of a body, of `least` rows at least."""
        self.released.append(self.rows.temporary(name, width, least))
        return self.released[-1]

    def linear(self, op: Linear) -> None:
        """A linear of all groups."""
        if self.active != op.x:
            self.coded(op.x)
        if op.y in self.outputs:
            self.fractions[op.y] = self.fraction_of(op)
            self.rows.logits(self.outputs[op.y], op.name)
        else:
            self.rows.linear(op.name, self.out(op.y, self.fraction_of(op)))

    def coded(self, name: str) -> None:
        """Codes of a value, of all groups."""
        body = self.activation(name)
        for _ in self.rows.groups() if self.released else self.rows.strips(self.widths[name]):
            body()
        self.release()

    def fraction_of(self, op: Linear) -> int:
        """The fraction of a linear's result."""
        return -round(math.log2(self.steps[op.name]))

    def activation(self, name: str) -> Body:
        """Codes of a value, a scale a token."""
        x, rows, f = self.cells[name], self.rows, self.fractions[name]
        self.active = name
        if name in self.held:
            codes = steps_table(self.held[name], f, held_zero(self.held[name], self.bits))
            return lambda: rows.static_codes(x, codes)
        if name not in self.smooth:

            def plain() -> None:
                rows.map(Map.MAC, x, reduce=Reduce.ABSMAX)
                self.codes(x, f, self.bits - 8)

            return plain
        # Channels are divided first: by a constant's product, at a fraction that holds the largest quotient.
        inverse = 1 / self.smooth[name]
        fs = fraction(float(inverse.max()), 0)
        fy = max(min(self.seen(f"{name}/smooth"), f + fs), f + fs - 63)
        by = self.constant(f"{name} channels", to_fixed(inverse, fs), name)
        y = self.passing(f"{name} divided", x.width)

        def divided() -> None:
            rows.map(Map.MUL, x, by, out=y, shift=f + fs - fy, reduce=Reduce.ABSMAX)
            self.codes(y, fy, self.bits - 8)

        return divided

    def codes(self, x: Cells, f: int, up: int, heads: Heads | None = None, keys: bool = False) -> None:
        """The last ABSMAX R and x to codes: u = R / qmax 2**16, code = x 2**16 / u, scale = u / 2**(f + 16) times 2**up."""
        factor, shift = ratio(1 / ((1 << (self.bits - 1)) - 1))
        self.rows.quantize(x, factor, shift - 16, 16, f + 16 - up, heads, keys)

    def norm(self, op: Norm) -> Body:
        """A norm reads its parts whole: of RMS with their gaps, whose zeros add nothing; of LAYER there are none inside."""
        n, features = op.gain.size, self.features(op.x)
        alike = self.widths[op.x] == self.widths[op.y] and self.layout(op.x) == self.layout(op.y)
        self.over(op.y, fraction(self.largest[op.y]), (op.x,) if alike else ())
        d = self.passing(f"{op.y} less mean", n) if op.kind is NormKind.LAYER else None

        def each() -> None:
            for first in range(0, features, n):
                x, y = self.part(op.x, first, n), self.part(op.y, first, n)
                if d is not None:
                    x, y = Cells(x.name, x.first, n), Cells(y.name, y.first, n)
                self.norm_part(op, x, y, d)

        return each

    def norm_part(self, op: Norm, x: Cells, y: Cells, less: Cells | None) -> None:
        """One norm of as many features as the gain has; `less` is room for x less its mean."""
        rows, n, f = self.rows, op.gain.size, self.fractions[op.x]
        layout = WITHOUT if less is not None else self.layout(op.x).part(0, n)
        mean_factor, mean_shift = ratio(1 if op.kind is NormKind.UNIT else 1 / n)
        d = x
        if less is not None:
            d = less
            rows.map(Map.MAC, x, reduce=Reduce.SUM)
            rows.scalar(Row.COPY, 0, mean_factor, mean_shift)
            rows.map(Map.MAC, x, out=d, less=0)
        # What a linear writes may have fewer bits than its magnitude leaves: its squares keep as many.
        square = max(0, SQUARE_SHIFT - 2 * max(0, self.seen(op.x) - f))
        rows.map(Map.MUL, d, d, reduce=Reduce.SUM, shift=square)
        # v = mean(x^2) 2**e, an even exponent, so that 1 / sqrt is an integer power of two away.
        unit = 2 * f - square
        extra = min(mean_shift, 14)
        extra -= (unit + extra) & 1
        while extra > mean_shift - 60 and math.ldexp(op.eps, unit + extra) > 65535:
            extra -= 2
        add = min(65535, round(math.ldexp(op.eps, unit + extra)))
        middle = 29 - math.ceil(math.log2(math.sqrt(n) + 1))
        rows.scalar(Row.RSQRT, 1, mean_factor, mean_shift - extra, add, middle - f + (unit + extra) // 2)
        rows.map(Map.SCALE, d, out=y, scale=1)
        gain_fraction = 29 - math.ceil(math.log2(max(float(np.abs(op.gain).max()), 2.0**-12)))
        gain = rows.constant(f"{op.y} gain", layout.spread(to_fixed(op.gain, gain_fraction)))
        rows.map(Map.MUL, y, gain, out=y, shift=middle + gain_fraction - self.fractions[op.y])
        if op.bias is not None and op.bias.any():
            bias = rows.constant(f"{op.y} bias", layout.spread(to_fixed(op.bias, self.fractions[op.y])))
            rows.map(Map.MAC, y, bias, out=y, cb=1)

    def add(self, op: Add) -> Body:
        """The finer operand is brought within 14 bits of the other's fraction first, if it is not."""
        fine, coarse = sorted((op.a, op.b), key=lambda name: -self.fractions[name])
        fa, fb = self.fractions[fine], self.fractions[coarse]
        fy = min(self.seen(op.y), fb + FACTOR_BITS)
        far = fa - fb - FACTOR_BITS
        y = self.out(op.y, fy) if far > 0 else self.over(op.y, fy, (op.a, op.b))
        a, b = self.cells[fine], self.cells[coarse]
        if far > 0:
            fa = fb + FACTOR_BITS
        shift = max(0, fa - fy, fb - fy)
        ca, cb = 1 << (fy - fa + shift), 1 << (fy - fb + shift)
        ca, cb = (op.sign * ca, cb) if fine == op.b else (ca, op.sign * cb)

        def each() -> None:
            if far > 0:
                self.rows.map(Map.MAC, a, out=y, shift=min(63, far))
            near = y if far > 0 else a
            self.rows.map(Map.MAC, near, b, y, ca=ca, cb=cb, shift=shift)

        return each

    def mul(self, op: Mul) -> Body:
        exact = self.fractions[op.a] + self.fractions[op.b]
        fy = max(min(self.seen(op.y), exact), exact - 63)
        y = self.over(op.y, fy, (op.a, op.b))

        def each() -> None:
            self.rows.map(Map.MUL, self.cells[op.a], self.cells[op.b], y, shift=exact - fy)

        return each

    def affine(self, op: Affine) -> Body:
        """x gain, which must not leave the range either, and the bias of the result's fraction."""
        gain, bias = (float(np.abs(v).max()) for v in (op.gain, op.bias))
        fg = fraction(gain, 0)
        exact = self.fractions[op.x] + fg
        fy = max(min(fraction(max(self.largest[op.y], self.largest[op.x] * gain, bias)), exact), exact - 63)
        y = self.over(op.y, fy, (op.x,))
        by = self.constant(f"{op.y} gain", to_fixed(op.gain, fg), op.y)
        plus = self.constant(f"{op.y} bias", to_fixed(op.bias, fy), op.y)

        def each() -> None:
            self.rows.map(Map.MUL, self.cells[op.x], by, y, shift=exact - fy)
            if bias:
                self.rows.map(Map.MAC, y, plus, y, cb=1)

        return each

    def apply(self, op: Apply) -> Body:
        """A table for x as it lies, where its fraction is one that the table takes."""
        fx, y = self.fractions[op.x], self.over(op.y, TABLE_FRACTION, (op.x,))
        taken = nearest_fraction(op.function, fx)
        table = function_table(op.function, taken, TABLE_FRACTION)

        def each() -> None:
            x, f = self.cells[op.x], fx
            while f != taken:
                up = min(FACTOR_BITS, max(-63, taken - f))
                self.rows.map(Map.MAC, x, out=y, ca=1 << max(0, up), shift=max(0, -up))
                x, f = y, f + up
            self.rows.map(Map.TABLE, x, out=y, table=table)

        return each

    def fakequantize(self, op: FakeQuantize) -> Body:
        late, fx = op.y in self.late, self.fractions[op.x]
        fy = fx if late else fraction(op.codes.largest)
        y = self.over(op.y, fy, (op.x,))

        def each() -> None:
            if not late:
                self.rounded(op.codes, self.cells[op.x], fx, y, fy)
            elif y is not self.cells[op.x]:
                self.rows.map(Map.MAC, self.cells[op.x], out=y)

        return each

    def rounded(self, codes: Quantization, x: Cells, fx: int, y: Cells, fy: int, keys: Heads | None = None) -> None:
        """y = what the codes of x stand for; MAX of keys is its reduction."""
        reduce = Reduce.NONE if keys is None else Reduce.MAX
        if math.ldexp(codes.scale, fy) >= SAT32:  # nothing but 0 is that coarse and in range
            self.rows.map(Map.MAC, x, out=y, ca=0, reduce=reduce, keys=keys)
            return
        self.rows.map(Map.TABLE, x, out=y, table=steps_table(codes, fx), keys=keys)
        self.rows.map(Map.TABLE, y, out=y, table=clamp_table(codes, fy), reduce=reduce, keys=keys)

    def rotary(self, op: Rotary) -> Body:
        rows, half, f = self.rows, op.cos.shape[1], self.fractions[op.x]
        self.out(op.y, f - 1)
        turning = self.layout(op.x).part(op.first, half)
        cos, sin = (self.by_position(turning.spread(to_fixed(table, 30))) for table in (op.cos, op.sin))
        t = self.passing(f"{op.y} turned", turning.width(half))
        rest = op.dim - 2 * half

        def each() -> None:
            for head in range(op.heads):
                at, to = op.first + head * op.stride, head * op.dim
                first, second = (self.part(op.x, at + side * half, half) for side in (0, 1))
                for a, b, side, sign in ((first, second, 0, -1), (second, first, 1, 1)):
                    out = self.part(op.y, to + side * half, half)
                    rows.map(Map.MUL, a, cos, out, shift=30)
                    rows.map(Map.MUL, b, sin, t, shift=30)
                    rows.map(Map.MAC, out, t, out, cb=sign, shift=1)
                if rest:
                    still = self.part(op.y, to + 2 * half, rest)
                    rows.map(Map.MAC, self.part(op.x, at + 2 * half, rest), out=still, shift=1)

        return each

    def slice(self, op: Slice) -> Body:
        """The features as they are; parts that lie side by side are one."""
        self.out(op.y, self.fractions[op.x])
        count, dim = (1, op.heads * op.dim) if op.stride == op.dim else (op.heads, op.dim)

        def each() -> None:
            for n in range(count):
                x, y = self.part(op.x, op.first + n * op.stride, dim), self.part(op.y, n * dim, dim)
                self.rows.map(Map.MAC, x, out=y)

        return each

    def by_position(self, values: Int64) -> Cells:
        """A row for each position; tables that are alike are one."""
        return self.rows.by_position(named("table", values), values)

    def positional(self, op: Positional) -> Body:
        fx, table = self.fractions[op.x], float(np.abs(op.table).max())
        fy = min(fraction(max(self.largest[op.y], table)), fx + FACTOR_BITS)
        y, down = self.over(op.y, fy, (op.x,)), max(0, fx - fy)
        x, near = self.cells[op.x], down if down <= FACTOR_BITS else 0
        by = self.by_position(self.layout(op.y).spread(to_fixed(op.table, fy)))

        def each() -> None:
            if down > near:
                self.rows.map(Map.MAC, x, out=y, shift=min(63, down))
            self.rows.map(Map.MAC, y if down > near else x, by, y, ca=1 << max(0, fy - fx), cb=1 << near, shift=near)

        return each

    def beside(self, op: Beside) -> Body:
        """Both at one fraction, within 14 bits of the coarser."""
        fy = min(self.seen(op.y), min(self.fractions[op.a], self.fractions[op.b]) + FACTOR_BITS)
        self.out(op.y, fy)

        def each() -> None:
            first = 0
            for name in (op.a, op.b):
                out, up = self.part(op.y, first, self.features(name)), fy - self.fractions[name]
                self.rows.map(Map.MAC, self.cells[name], out=out, ca=1 << max(0, up), shift=min(63, max(0, -up)))
                first += self.features(name)

        return each

    def keep(self, step: Keep) -> None:
        """The block's rows of a window to memory."""
        self.rows.keep(step.op.x, self.cells[step.op.x])

    def slide(self, step: Slide) -> None:
        """The block's rows of what a window makes."""
        op = step.op
        self.out(op.y, self.fractions[op.x])
        n = self.features(op.x)
        self.rows.slide(op.x, [self.part(op.y, j * n, n) for j in range(op.taps)], op.index)

    def collect(self, step: Collect) -> Body:
        """What the block's rows give the one row: the first row, or their sum / 2**shift (which cannot leave 32 bits)."""
        op, rows = step.op, self.rows

        def each() -> None:
            if op.kind is PoolKind.FIRST:
                rows.pick(self.cells[op.x], self.cells[op.y])
            else:
                rows.gather(self.cells[op.x], self.cells[op.y], self.halvings)

        return each

    @property
    def halvings(self) -> int:
        """Sums of all rows are kept over 2 to the power of it."""
        return math.ceil(math.log2(self.context))

    def close(self, step: Close) -> Body:
        """The one row from what was collected: a sum over the number of rows that are no padding."""
        op = step.op
        y = self.cells[op.y]
        self.fractions[op.y] = self.fractions[op.x]

        def each() -> None:
            if op.kind is PoolKind.MEAN:
                self.rows.count_rows()
                self.rows.scalar(Row.RECIPROCAL, 1, 1, 0, 0, self.halvings)
                self.rows.map(Map.SCALE, y, out=y, scale=1)

        return each
