"""A transformer as row operations on fixed-point integers: every operator's formula, once (docs/numerics.md, transformers).

A value v with fraction f stands for v / 2**f. Linears give values whose fraction follows from their output step; the others'
come from the largest magnitude that calibration saw, with two bits to spare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    FakeQuantize,
    Linear,
    Mul,
    Norm,
    NormKind,
    PoolKind,
    Positional,
    Quantization,
    Rotary,
)
from axlora.compiler.rows.fractions import (
    CACHE_CODE,
    EXP_FRACTION,
    FACTOR_BITS,
    KEY_BITS,
    SCORE_FRACTION,
    SPARE_BITS,
    SQUARE_SHIFT,
    TABLE_FRACTION,
    fraction,
    held_zero,
    ratio,
)
from axlora.compiler.rows.layout import WITHOUT, Layout
from axlora.compiler.rows.row_operations import PLACES, Cells, Heads, Rows, in_turn
from axlora.compiler.rows.steps import Append, Attend, Close, Collect, Keep, Slide
from axlora.compiler.rows.tables import clamp_table, exp_table, function_table, steps_table
from axlora.isa.numerics import SAT32, to_fixed
from axlora.isa.opcodes import Map, Reduce, Row

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def _named(kind: str, values: Int64) -> str:
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

    def out(self, name: str, f: int) -> Cells:
        """Room for a value of fraction f."""
        self.fractions[name] = f
        self.cells[name] = self.rows.value(name, self.widths[name])
        return self.cells[name]

    def over(self, name: str, f: int, operands: Sequence[str]) -> Cells:
        """As `out`, in place over an operand whose last read this is, if there is one."""
        self.fractions[name] = f
        old = next((x for x in operands if x in self.dying), None)
        if old is None:
            self.cells[name] = self.rows.value(name, self.widths[name])
        else:
            self.dying.remove(old)
            self.cells[name] = self.rows.take_over(name, self.cells[old])
            self.cells[old] = self.cells[name]
        return self.cells[name]

    def seen(self, name: str) -> int:
        return fraction(self.largest[name])

    def layout(self, name: str) -> Layout:
        """Where a value's features lie."""
        return self.layouts.get(name, WITHOUT)

    def part(self, name: str, first: int, count: int) -> Cells:
        """Features `first` .. `first + count - 1` of a value."""
        return Cells(self.cells[name].name, *self.layout(name).span(first, count))

    def constant(self, name: str, values: Int64, like: str) -> Cells:
        """A number for each feature of the value `like`."""
        return self.rows.constant(name, self.layout(like).spread(values))

    def linear(self, op: Linear) -> None:
        if self.active != op.x:
            self.activate(op.x)
        f = -round(math.log2(self.steps[op.name]))
        if op.y in self.outputs:
            self.fractions[op.y] = f
            self.rows.logits(self.outputs[op.y], op.name)
        else:
            self.rows.linear(op.name, self.out(op.y, f))

    def activate(self, name: str) -> None:
        """Codes of a value, a scale a token."""
        x, rows, f = self.cells[name], self.rows, self.fractions[name]
        self.active = name
        if name in self.held:
            codes, zero = self.held[name], held_zero(self.held[name], self.bits)
            for _ in rows.groups():
                rows.static_codes(x, steps_table(codes, f, zero))
            return
        if name not in self.smooth:
            for _ in rows.groups():
                rows.map(Map.MAC, x, reduce=Reduce.ABSMAX)
                self.codes(x, f, self.bits - 8)
            return
        # Channels are divided first: by a constant's product, at a fraction that holds the largest quotient.
        inverse = 1 / self.smooth[name]
        fs = fraction(float(inverse.max()), 0)
        fy = max(min(self.seen(f"{name}/smooth"), f + fs), f + fs - 63)
        by = self.constant(f"{name} channels", to_fixed(inverse, fs), name)
        y = rows.temporary(f"{name} divided", x.width)
        for _ in rows.groups():
            rows.map(Map.MUL, x, by, out=y, shift=f + fs - fy, reduce=Reduce.ABSMAX)
            self.codes(y, fy, self.bits - 8)
        rows.free(y)

    def codes(self, x: Cells, f: int, up: int, heads: Heads | None = None, keys: bool = False) -> None:
        """The last ABSMAX R and x to codes: u = R / qmax 2**16, code = x 2**16 / u, scale = u / 2**(f + 16) times 2**up."""
        factor, shift = ratio(1 / ((1 << (self.bits - 1)) - 1))
        self.rows.quantize(x, factor, shift - 16, 16, f + 16 - up, heads, keys)

    def norm(self, op: Norm) -> None:
        """A norm reads its parts whole: of RMS with their gaps, whose zeros add nothing; of LAYER there are none inside."""
        n, layout = op.gain.size, self.layout(op.x)
        features = len(layout.places) if layout.parts else self.widths[op.x]
        self.out(op.y, fraction(self.largest[op.y]))
        d = self.rows.temporary(f"{op.y} less mean", n) if op.kind is NormKind.LAYER else None
        for _ in self.rows.groups():
            for first in range(0, features, n):
                x, y = self.part(op.x, first, n), self.part(op.y, first, n)
                if d is not None:
                    x, y = Cells(x.name, x.first, n), Cells(y.name, y.first, n)
                self.norm_part(op, x, y, d)
        if d is not None:
            self.rows.free(d)

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
        rows.map(Map.MUL, d, d, reduce=Reduce.SUM, shift=SQUARE_SHIFT)
        # v = mean(x^2) 2**e, an even exponent, so that 1 / sqrt is an integer power of two away.
        unit = 2 * f - SQUARE_SHIFT
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

    def add(self, op: Add) -> None:
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
        for _ in self.rows.groups():
            if far > 0:
                self.rows.map(Map.MAC, a, out=y, shift=min(63, far))
            near = y if far > 0 else a
            self.rows.map(Map.MAC, near, b, y, ca=ca, cb=cb, shift=shift)

    def mul(self, op: Mul) -> None:
        exact = self.fractions[op.a] + self.fractions[op.b]
        fy = max(min(self.seen(op.y), exact), exact - 63)
        y = self.over(op.y, fy, (op.a, op.b))
        for _ in self.rows.groups():
            self.rows.map(Map.MUL, self.cells[op.a], self.cells[op.b], y, shift=exact - fy)

    def affine(self, op: Affine) -> None:
        """x gain, which must not leave the range either, and the bias of the result's fraction."""
        gain, bias = (float(np.abs(v).max()) for v in (op.gain, op.bias))
        fg = fraction(gain, 0)
        exact = self.fractions[op.x] + fg
        fy = max(min(fraction(max(self.largest[op.y], self.largest[op.x] * gain, bias)), exact), exact - 63)
        y = self.over(op.y, fy, (op.x,))
        by = self.constant(f"{op.y} gain", to_fixed(op.gain, fg), op.y)
        plus = self.constant(f"{op.y} bias", to_fixed(op.bias, fy), op.y)
        for _ in self.rows.groups():
            self.rows.map(Map.MUL, self.cells[op.x], by, y, shift=exact - fy)
            if bias:
                self.rows.map(Map.MAC, y, plus, y, cb=1)

    def apply(self, op: Apply) -> None:
        fx, y = self.fractions[op.x], self.over(op.y, TABLE_FRACTION, (op.x,))
        table = function_table(op.function, TABLE_FRACTION, TABLE_FRACTION)
        for _ in self.rows.groups():
            x, f = self.cells[op.x], fx
            while f != TABLE_FRACTION:
                up = min(FACTOR_BITS, max(-63, TABLE_FRACTION - f))
                self.rows.map(Map.MAC, x, out=y, ca=1 << max(0, up), shift=max(0, -up))
                x, f = y, f + up
            self.rows.map(Map.TABLE, x, out=y, table=table)

    def fakequantize(self, op: FakeQuantize) -> None:
        late, own = op.y in self.late, op.x in self.dying
        fx = self.fractions[op.x]
        fy = fx if late else fraction(op.codes.largest)
        y = self.over(op.y, fy, (op.x,))
        for _ in self.rows.groups():
            if not late:
                self.rounded(op.codes, self.cells[op.x], fx, y, fy)
            elif not own:
                self.rows.map(Map.MAC, self.cells[op.x], out=y)

    def rounded(self, codes: Quantization, x: Cells, fx: int, y: Cells, fy: int, keys: Heads | None = None) -> None:
        """y = what the codes of x stand for; MAX of keys is its reduction."""
        reduce = Reduce.NONE if keys is None else Reduce.MAX
        if math.ldexp(codes.scale, fy) >= SAT32:  # nothing but 0 is that coarse and in range
            self.rows.map(Map.MAC, x, out=y, ca=0, reduce=reduce, keys=keys)
            return
        self.rows.map(Map.TABLE, x, out=y, table=steps_table(codes, fx), keys=keys)
        self.rows.map(Map.TABLE, y, out=y, table=clamp_table(codes, fy), reduce=reduce, keys=keys)

    def rotary(self, op: Rotary) -> None:
        rows, half, f = self.rows, op.cos.shape[1], self.fractions[op.x]
        self.out(op.y, f - 1)
        turning = self.layout(op.x).part(op.first, half)
        cos, sin = (self.by_position(turning.spread(to_fixed(table, 30))) for table in (op.cos, op.sin))
        t = rows.temporary(f"{op.y} turned", turning.width(half))
        rest = op.dim - 2 * half
        for _ in rows.groups():
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
        rows.free(t)

    def by_position(self, values: Int64) -> Cells:
        """A row for each position; tables that are alike are one."""
        return self.rows.by_position(_named("table", values), values)

    def positional(self, op: Positional) -> None:
        fx, table = self.fractions[op.x], float(np.abs(op.table).max())
        fy = min(fraction(max(self.largest[op.y], table)), fx + FACTOR_BITS)
        y, down = self.over(op.y, fy, (op.x,)), max(0, fx - fy)
        by = self.by_position(self.layout(op.y).spread(to_fixed(op.table, fy)))
        for _ in self.rows.groups():
            x, near = self.cells[op.x], down if down <= FACTOR_BITS else 0
            if down > near:
                self.rows.map(Map.MAC, x, out=y, shift=min(63, down))
                x = y
            self.rows.map(Map.MAC, x, by, y, ca=1 << max(0, fy - fx), cb=1 << near, shift=near)

    def keep(self, step: Keep) -> None:
        """The block's rows of a window to memory."""
        op = step.op
        total = (op.rows - 1) * op.stride + (op.taps - 1) * op.dilation + max(0, -op.before) + 1
        self.rows.keep(op.y, self.cells[op.x], max(0, op.before), total)

    def slide(self, step: Slide) -> None:
        """The block's rows of what a window makes."""
        op = step.op
        self.out(op.y, self.fractions[op.x])
        n = self.widths[op.x]
        for _ in self.rows.groups():
            for j in range(op.taps):
                self.rows.tap(op.y, self.part(op.y, j * n, n), j * op.dilation + max(0, -op.before), op.stride)

    def append(self, step: Append) -> None:
        """K and V of the block's rows to the cache."""
        op = step.op
        k, v = self.part(op.k, op.first[1], op.dim), self.part(op.v, op.first[2], op.dim)
        factor, shift = ratio(1 / CACHE_CODE)
        for _ in self.rows.sequences():
            self.rows.append(self.heads(op), k, v, factor, shift - KEY_BITS, KEY_BITS)

    def heads(self, op: Attention) -> Heads:
        """The heads as they lie."""
        places, strides = [], []
        for n, name in ((1, op.k), (2, op.v)):
            layout, first = self.layout(name), op.first[n]
            places.append(layout.span(first, op.dim)[1])
            strides.append(layout.place(first + op.stride[n]) - layout.place(first) if op.kv_heads > 1 else op.stride[n])
        return Heads(op.y, op.heads, op.kv_heads, max(places), op.causal, strides[0], strides[1], self.streams[op.k])

    def attend(self, step: Attend) -> None:
        """Each group's q with the cache."""
        op, rows, d = step.op, self.rows, step.op.dim
        heads = self.heads(op)
        fq, fk, fv = (self.fractions[name] for name in (op.q, op.k, op.v))
        most = ((1 << (self.bits - 1)) - 1) * CACHE_CODE
        self.out(op.y, fraction(self.largest[op.v]))
        once = rows.at_once(heads) if op.bias is None else 1
        e = rows.temporary(f"{op.y} scores", self.context, once)
        # q.k of codes, times scale 2**a: below 2**30. Times q's token scale: the score over the key's scale, of fraction up.
        a = min(30 - math.ceil(math.log2(d * most * op.scale)), 12 - math.ceil(math.log2(op.scale)))
        up = fraction(self.largest[op.q] * CACHE_CODE * d * op.scale)
        # The mixture of codes, times 2**b: below 2**30. Times the token scale of e v: sum of e v, of fraction mixed.
        b = min(30 - math.ceil(math.log2(self.context * most)), 12)
        mixed = fraction(self.largest[op.v] * (self.context if op.weight_codes is None else 1))
        exp = exp_table(SCORE_FRACTION, EXP_FRACTION)
        # e times the values' scales keeps all bits that the largest scale leaves.
        scales = math.ceil(math.log2(math.ldexp(max(self.largest[op.v], 2.0**-12), fv + KEY_BITS + SPARE_BITS) / CACHE_CODE))
        down = max(0, scales)
        biases = self.biases(op)

        def rounds(head: int, group: int, place: int) -> Iterator[None]:
            """One head of one group; it stops where the matrix unit has a product to find."""
            part = self.head(op.q, op.first[0] + head * op.stride[0], d, op.stride[0], once)
            out = self.head(op.y, head * d, d, d, once)
            rows.select(group, once)
            rows.map(Map.MAC, part, reduce=Reduce.ABSMAX)
            self.codes(part, fq, up - a, heads)
            rows.times_keys(heads, head, place)
            yield
            rows.select(group, once)
            rows.scores(heads, head, place, e, *ratio(math.ldexp(op.scale, a), 14), up + fk + KEY_BITS - SCORE_FRACTION)
            for n, tables in enumerate(biases):
                for table in tables:
                    rows.map(Map.MAC, e, table[head % len(table)], e, cb=1, reduce=Reduce.MAX, keys=heads)
                for codes in op.score_codes[n : n + 1]:
                    self.rounded(codes, e, SCORE_FRACTION, e, SCORE_FRACTION, heads)
            rows.scalar(Row.COPY, 2, 1, 0)
            rows.map(Map.TABLE, e, out=e, reduce=Reduce.SUM, table=exp, less=2, keys=heads)
            # The sum divides the mixture or, where weights are rounded, them.
            rows.scalar(Row.RECIPROCAL, 3, 1, 0, 0, self.fractions[op.y] - mixed + EXP_FRACTION)
            if op.weight_codes is not None:
                rows.map(Map.SCALE, e, out=e, scale=3, keys=heads)
                self.rounded(op.weight_codes, e, EXP_FRACTION, e, EXP_FRACTION, heads)
            rows.weigh(heads, head, e, down)
            self.codes(e, EXP_FRACTION + fv + KEY_BITS - down, mixed - b, heads, True)
            rows.times_values(heads, head, place)
            yield
            rows.select(group, once)
            rows.mix(heads, place, out, *ratio(2.0**b, 14))
            if op.weight_codes is None:
                rows.map(Map.SCALE, out, out=out, scale=3)

        # Keys and values that several heads read are loaded once for them all.
        alike = op.heads // op.kv_heads if rows.apart else once
        order = (
            (head, group)
            for first in range(0, op.heads, alike)
            for group in rows.sequences()
            for head in range(first, first + alike, once)
        )
        in_turn((rounds(*which, n % PLACES) for n, which in enumerate(order)), rows.ahead)
        rows.free(e)
        self.active = ""

    def head(self, name: str, first: int, count: int, stride: int, once: int) -> Cells:
        """The features of a head; those of `once` heads, each `stride` features behind the one before, are as rows."""
        cells, layout = self.part(name, first, count), self.layout(name)
        return cells if once == 1 else replace(cells, apart=layout.place(first + stride) - layout.place(first))

    def biases(self, op: Attention) -> list[list[list[Cells]]]:
        """Tables to add to the scores before each of their codes, and behind the last: of each table the cells of each head.

        What hides keys comes last: codes would make of it a score as any other.
        """
        found: list[list[list[Cells]]] = [[] for _ in range(len(op.score_codes) + 1)]
        if op.bias is None:
            return found
        hidden, last = np.isinf(op.bias), len(op.score_codes)
        parts = [(op.rounded_first, np.where(hidden, 0.0, op.bias)), (last, np.where(hidden, -np.inf, 0.0))]
        for n, part in [(last, op.bias)] if op.rounded_first == last else parts:
            values = to_fixed(part[:, : self.context, : self.context], SCORE_FRACTION)
            values = np.pad(values, ((0, 0), (0, 0), (0, self.context - values.shape[2])))
            if values.any():
                found[n].append([self.rows.by_key(_named("bias", each), each) for each in values])
        return found

    def collect(self, step: Collect) -> None:
        """What the block's rows give the one row: the first row, or their sum / 2**shift (which cannot leave 32 bits)."""
        op, rows = step.op, self.rows
        for _ in rows.groups():
            if op.kind is PoolKind.FIRST:
                rows.pick(self.cells[op.x], self.cells[op.y])
            else:
                rows.gather(self.cells[op.x], self.cells[op.y], self.halvings)

    @property
    def halvings(self) -> int:
        """Sums of all rows are kept over 2 to the power of it."""
        return math.ceil(math.log2(self.context))

    def close(self, step: Close) -> None:
        """The one row from what was collected: a sum over the number of rows that are no padding."""
        op = step.op
        y = self.cells[op.y]
        self.fractions[op.y] = self.fractions[op.x]
        if op.kind is PoolKind.MEAN:
            for _ in self.rows.groups():
                self.rows.count_rows()
                self.rows.scalar(Row.RECIPROCAL, 1, 1, 0, 0, self.halvings)
                self.rows.map(Map.SCALE, y, out=y, scale=1)
