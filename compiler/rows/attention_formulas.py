"""Attention as row operations, a head of a group of rows at a time: round by round, and rounds under way together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from axlora.compiler.operators import Attention
from axlora.compiler.rows.formulas import Body, named
from axlora.compiler.rows.fractions import CACHE_CODE, EXP_FRACTION, KEY_BITS, SCORE_FRACTION, SPARE_BITS, fraction, ratio
from axlora.compiler.rows.gate_formulas import GateFormulas
from axlora.compiler.rows.row_operations import PLACES, Cells, Heads
from axlora.compiler.rows.steps import Append, Attend
from axlora.compiler.rows.tables import cap_table, exp_table
from axlora.isa.numerics import to_fixed
from axlora.isa.opcodes import Map, Reduce, Row


def in_turn(rounds: Iterable[Iterator[None]], ahead: bool) -> Iterator[None]:
    """Carry out rounds of three parts, and stop behind each: one after the other or, `ahead`, several under way.

    The first part of a round comes before the last part of the round two before it, and then the second part of the
    round before it.
    """
    under_way: deque[Iterator[None]] = deque()
    for each in rounds:
        next(each)
        over = len(under_way) == PLACES - 1
        if over:
            next(under_way.popleft(), None)
        if under_way:
            next(under_way[-1])
        under_way.append(each)
        if not ahead:
            list(under_way.pop())
        if over or not ahead:
            yield
    while under_way:
        list(under_way.popleft())
        yield


class AttentionFormulas(GateFormulas):
    """Adds attention."""

    def append(self, step: Append) -> Body:
        """K and V of the block's rows to the cache."""
        op = step.op
        k, v = self.part(op.k, op.first[1], op.dim), self.part(op.v, op.first[2], op.dim)
        factor, shift = ratio(1 / CACHE_CODE)

        def each() -> None:
            self.rows.append(self.heads(op), k, v, factor, shift - KEY_BITS, KEY_BITS)

        return each

    def heads(self, op: Attention) -> Heads:
        """The heads as they lie."""
        places, strides = [], []
        for n, name in ((1, op.k), (2, op.v)):
            layout, first = self.layout(name), op.first[n]
            places.append(layout.span(first, op.dim)[1])
            strides.append(layout.place(first + op.stride[n]) - layout.place(first) if op.kv_heads > 1 else op.stride[n])
        k, v = strides
        return Heads(op.y, op.heads, op.kv_heads, max(places), op.causal, k, v, self.streams[op.k], op.one_scale)

    def attend(self, step: Attend) -> None:
        """Each group's q with the cache, head by head: keys and values are loaded once."""
        op, rows = step.op, self.rows
        once, rounds = self.rounds(step)
        # Keys and values that several heads read are loaded once for them all.
        alike = op.heads // op.kv_heads if rows.apart else once
        order = (
            (head, group)
            for first in range(0, op.heads, alike)
            for group in rows.sequences()
            for head in range(first, first + alike, once)
        )
        for _ in in_turn(rounds(order), rows.ahead):
            pass
        self.release()

    def attend_in_groups(self, step: Attend, groups: Sequence[int]) -> Body:
        """As `attend`, but all heads of a group, whose turn it is among `groups`, and the beginning of the next group's."""
        once, rounds = self.rounds(step)
        heads = range(0, step.op.heads, once)
        turns = in_turn(rounds((head, group) for group in groups for head in heads), self.rows.ahead)

        def each() -> None:
            for _ in heads:
                next(turns)

        return each

    def rounds(self, step: Attend) -> tuple[int, Callable[[Iterable[tuple[int, int]]], Iterator[Iterator[None]]]]:
        """(heads of a round, what makes rounds of (head, group)); a round stops where the matrix unit has a product to find."""
        op, rows, d = step.op, self.rows, step.op.dim
        heads = self.heads(op)
        fq, fk, fv = (self.fractions[name] for name in (op.q, op.k, op.v))
        most = ((1 << (self.bits - 1)) - 1) * CACHE_CODE
        self.out(op.y, fraction(self.largest[op.v]))
        once = rows.at_once(heads) if op.bias is None else 1
        e = self.passing(f"{op.y} scores", self.context, once)
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
        capped = cap_table(op.cap, SCORE_FRACTION, SCORE_FRACTION) if op.cap else None

        def one(head: int, group: int, place: int) -> Iterator[None]:
            part = self.head(op.q, op.first[0] + head * op.stride[0], d, op.stride[0], once)
            out = self.head(op.y, head * d, d, d, once)
            rows.select(group, once)
            rows.map(Map.MAC, part, reduce=Reduce.ABSMAX)
            self.codes(part, fq, up - a, heads)
            rows.times_keys(heads, head, place)
            yield
            rows.select(group, once)
            rows.scores(heads, head, place, e, *ratio(math.ldexp(op.scale, a), 14), up + fk + KEY_BITS - SCORE_FRACTION)
            if capped is not None:
                rows.map(Map.TABLE, e, out=e, reduce=Reduce.MAX, table=capped, keys=heads)
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

        self.active = ""
        return once, lambda order: (one(*which, n % PLACES) for n, which in enumerate(order))

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
                found[n].append([self.rows.by_key(named("bias", each), each) for each in values])
        return found
