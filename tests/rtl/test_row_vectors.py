"""Every vector function of rows in Verilog against the simulator: 10^5 random elements, and the ends of all ranges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from programs import BASE, Case
from row_bench import EVERY, Program, random_words
from test_random_programs import _compare

from axlora.isa.opcodes import CBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row

V, B, WORD = BASE.vector_lanes, BASE.beat_bytes, BASE.vector_word_bytes
WORDS, ROWS = BASE.cbuf_words, 8
OUT, SIZE = 0x200000, 0x380000
ENDS = [0, 1, -1, 2, 2**15, -(2**15), 2**30, -(2**30), 2**31 - 1, -(2**31) + 1, -(2**31), 127, 128, -128, 32767, -32769]


def _ends() -> np.ndarray:
    """Each end of each range beside each other: words [n, V] of a, then as many of b."""
    pairs = np.array(list(itertools.product(ENDS, ENDS)))
    return np.stack([pairs[:, 0], pairs[:, 1]]).reshape(2, -1, V)


def _scalars(c: Program, rng: np.random.Generator) -> None:
    """Scalars 0..3 of every row from reductions of random rows of CBUF."""
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.pitch(a=int(rng.integers(1, 40)))
    for scalar, function in enumerate((Row.COPY, Row.RECIPROCAL, Row.RSQRT, Row.COPY)):
        reduce = Reduce(int(rng.integers(1, 4)))
        first = CBUF_BIT | int(rng.integers(0, 1000))
        c.add(Opcode.VMAP, function=Map.MAC, a=first, words=3, rows=ROWS, reduce=reduce)
        adjust = int(rng.integers(-10, 40)) if function is not Row.COPY else 0
        c.add(Opcode.VROW, function=function, factor=1, rows=ROWS, scalar=scalar, adjust=adjust)


def _map_case(function: Map, seed: int, rounds: int) -> Case:
    """Rounds of 4096 elements, each with settings of its own; the first rounds go through the ends of the ranges."""
    rng = np.random.default_rng(100 * function + seed)
    c = Program(BASE, 0x10000, OUT, SIZE)
    ends = _ends()
    place = 0
    for n in range(rounds):
        if seed == 0 and n < 3:
            half = ends.shape[1]
            data = random_words(rng, WORDS, V)
            data[:half], data[WORDS // 2 : WORDS // 2 + half] = ends
        else:
            data = random_words(rng, WORDS, V)
        c.words(data)
        c.load(Buffer.FBUF, random_words(rng, 64, 2).astype("<i4").tobytes())
        _scalars(c, rng)
        shift = int(rng.choice([0, 1, 16, 31, 46, 63])) if n else 0
        ca, cb = (int(v) for v in rng.choice([1, -1, 2**15 - 1, -(2**15), int(rng.integers(-(2**15), 2**15))], 2))
        c.add(Opcode.VCON, ca=ca, cb=cb, shift=shift)
        step = int(rng.choice([0, 31, int(rng.integers(20, 31))]))
        low = int(rng.choice([-(2**31), 2**31 - 1, int(rng.integers(-(2**30), 2**30))]))
        first = int(rng.integers(0, 32))
        fields = {"first": first, "last": int(rng.integers(0, 64 - first)), "shift": int(rng.choice([0, step, 40]))}
        c.add(Opcode.VTAB, low=low, step=step, **fields)
        rows = ROWS if n % 2 else 1
        each = WORDS // rows
        c.add(Opcode.VLEN, valid=EVERY if n % 3 else each * V - 3, step=n % 2)
        c.pitch(a=each, b=each // 2, to=each * WORD // B)
        b = 0 if rows == ROWS else CBUF_BIT  # rows of b overlap, half a row apart
        settings = {"scale": n % 4, "less": (n + 1) % 4, "subtract": int(rng.integers(0, 2)), "reduce": n % 4}
        to = {"into": Into.OBUF, "size": 2, "to": 0}
        c.add(Opcode.VMAP, function=function, a=CBUF_BIT, b=CBUF_BIT | b, words=each, rows=rows, **settings, **to)
        c.store(WORDS * WORD // B, place)
        place += WORDS * WORD
        c.add(Opcode.VROW, function=Row.COPY, factor=1, rows=ROWS, to=0, write=1)  # what was reduced
        c.store(ROWS, place)
        place += ROWS * B
    return c.case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("function", list(Map))
def test_elements(function: Map) -> None:
    """28672 elements of each of the four functions: 114688 in all."""
    cases = [_map_case(function, seed, 4 if seed == 0 else 3) for seed in range(2)]
    results = _compare(cases)
    assert sum(r.counters["vector_elements"] for r in results) >= 28672
    assert sum(r.counters["saturations"] for r in results) > 100


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1])
def test_elements_are_clamped_to_bytes_and_halves(size: int) -> None:
    rng = np.random.default_rng(size)
    c = Program(BASE, 0x10000, OUT, SIZE)
    data = random_words(rng, WORDS, V)
    data[: _ends().shape[1]] = _ends()[0]
    c.words(data)
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.add(Opcode.VMAP, a=CBUF_BIT, words=WORDS, into=Into.OBUF, size=size)
    beats = WORDS * V * (1 << size) // B
    c.store(beats)
    if size == 0:
        c.add(Opcode.VMAP, a=CBUF_BIT, words=WORDS, into=Into.OBUF, tiled=1)
        c.store(BASE.obuf_beats // 2, beats * B)
    _compare([c.case()])


REDUCED = ("random", "equal", "zero", "ends", "masked", "one")


def _row_case(function: Row, seed: int) -> Case:
    """Rows of every kind, reduced in every way, with settings at their ends and between; scalars are seen through SCALE."""
    rng = np.random.default_rng(1000 + 10 * function + seed)
    c = Program(BASE, 0x40000, OUT, SIZE)
    records = np.zeros(BASE.ports, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "u1"), ("zero", "u1")]))
    records["bias"], records["m1"], records["shift"] = 123456789, 1024, 10
    c.load(Buffer.PBUF, records.tobytes())
    place = 0
    for n in range(90):
        kind, reduce = REDUCED[n % len(REDUCED)], Reduce(1 + n // len(REDUCED) % 3)
        words = 8
        data = random_words(rng, ROWS, words * V)
        if kind == "equal":
            data[:] = random_words(rng, ROWS, 1)
        elif kind == "zero":
            data[:] = 0
        elif kind == "ends":
            data = rng.choice([2**31 - 1, -(2**31), -(2**31) + 1], (ROWS, words * V))
        elif kind == "one":
            data[:, 1:] = 0
        c.words(data.reshape(-1, V))
        c.add(Opcode.VLEN, valid=0 if kind == "masked" else EVERY, step=int(rng.integers(0, 2)))
        c.pitch(a=words, to=words * WORD // B)
        squares = n % 2 and kind != "ends"
        c.add(Opcode.VCON, ca=1, shift=int(rng.integers(0, 40)) if squares else 0)
        a = CBUF_BIT
        c.add(Opcode.VMAP, function=Map.MUL if squares else Map.MAC, a=a, b=a, words=words, rows=ROWS, reduce=reduce)
        factor, shift = int(rng.choice([1, 65535, 0, int(rng.integers(1, 65536))])), int(rng.choice([0, 1, 30, 63]))
        token = function is Row.TOKEN
        add = 8 * (n % (BASE.tbuf_tokens // ROWS)) if token else int(rng.choice([0, 65535, int(rng.integers(0, 65536))]))
        fields = {"to": int(rng.integers(0, 256)) if token else 2000, "write": 0 if token else 1}
        adjust = int(rng.choice([0, -128, 127, int(rng.integers(-40, 60))]))
        c.add(
            Opcode.VROW,
            function=function,
            factor=factor,
            shift=shift,
            add=add,
            adjust=adjust,
            rows=ROWS,
            scalar=n % 4,
            **fields,
        )
        c.add(Opcode.VLEN, valid=EVERY)
        c.add(Opcode.VMAP, function=Map.SCALE, a=a, words=words, rows=ROWS, scale=n % 4, into=Into.OBUF, size=2)
        c.store(ROWS * words * WORD // B, place)
        place += ROWS * words * WORD
        if not token:
            c.add(Opcode.STORE, address=OUT + place, beat=2000, beats=ROWS, rows=1)
            place += ROWS * B
        else:  # token scales are seen through a requantization of accumulators that are 0: the bias
            c.add(Opcode.VCFG, token_scale=1, row_scale=1)
            c.add(Opcode.VOUT, size=2)
            for first in range(0, ROWS, BASE.tokens):
                c.add(Opcode.VREQ, token=add + first, groups=1, tokens=BASE.tokens, to=2000)
                beats = BASE.lanes * BASE.tokens * 4 // B
                c.add(Opcode.STORE, address=OUT + place, beat=2000, beats=beats, rows=1)
                place += beats * B
    return c.case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("function", list(Row))
def test_scalars(function: Row) -> None:
    """720 rows of each function: random, all equal, all zero (RSQRT of a variance of 0), at the ends, masked, one element."""
    (result,) = _compare([_row_case(function, 0)])
    assert result.counters["vector_elements"] >= 90 * 2 * ROWS * 8 * V
