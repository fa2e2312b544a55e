"""Row operations on the simulator: where elements come from and go to, against `isa.numerics` on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_bench import EVERY, OVERLAP_FIRST, OVERLAP_WORDS, Program, overlapping_map, random_words

from axlora.isa import numerics
from axlora.isa.formats import Format
from axlora.isa.opcodes import CBUF_BIT, UBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row
from axlora.isa.target import Target
from axlora.sim.run import run_image

T = Target.load("test")
V, B, L, P = T.vector_lanes, T.beat_bytes, T.lanes, T.ports
WORD = 4 * V


def _program() -> Program:
    return Program(T)


def _run(c: Program) -> np.ndarray:
    """Memory from the results on."""
    case = c.case()
    return np.array(run_image(T, case.memory, 0, timing=False).memory[c.out :])


def _places(rows: int, bank: int, pitch: int, apart: int) -> np.ndarray:
    """Where each row begins: rows of a bank a pitch apart."""
    number = np.arange(rows)
    return number % bank * pitch + number // bank * apart


def _rows(memory: np.ndarray, first: int, places: np.ndarray, words: int) -> np.ndarray:
    """[rows, words * V] of a memory of words [n, V]."""
    at = first + places[:, None] + np.arange(words)[None]
    return memory[at].reshape(len(places), -1)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(Map)), st.sampled_from(["VBUF", "OBUF 4", "OBUF 2", "OBUF 1", "tiled"]))
def test_vmap_is_the_formula_on_rows_a_pitch_apart(seed: int, function: Map, into: str) -> None:
    """Banks of rows of a and b in CBUF, valid elements by a step a row, scalars of rows or of rows of banks, results a pitch
    apart; nothing else is written."""
    rng = np.random.default_rng(seed)
    rows, bank, words = int(rng.integers(1, 9)), int(rng.integers(1, T.tokens + 1)), int(rng.integers(1, 9))
    first = [int(v) for v in rng.integers(0, 10, 2)]
    pitch, apart = ([int(v) for v in rng.integers(0, 12, 2)] for _ in range(2))
    cbuf, table = random_words(rng, 128, V), random_words(rng, 16, 2)
    ca, cb, shift = (int(v) for v in (*rng.integers(-(2**15), 2**15, 2), rng.choice([0, 1, 20, 40, 63])))
    low, step, slope, entries = (
        int(random_words(rng, 1)[0]),
        int(rng.integers(0, 32)),
        int(rng.integers(0, 64)),
        int(rng.integers(1, 9)),
    )
    start = int(rng.integers(0, 16 - entries + 1))
    valid, more, subtract = int(rng.integers(0, words * V + 3)), int(rng.integers(0, 2)), int(rng.integers(0, 2))
    to_pitch, to = words * WORD // B + int(rng.integers(0, 3)), int(rng.integers(0, 5))
    to_apart = bank * to_pitch + int(rng.integers(0, 3))
    shared = int(rng.integers(0, 2))
    own = np.arange(rows) % bank if shared else np.arange(rows)

    c = _program()
    c.words(cbuf)
    c.load(Buffer.FBUF, table.astype("<i4").tobytes())
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.pitch(a=1)
    c.add(Opcode.VMAP, a=CBUF_BIT | 100, words=1, rows=rows, reduce=Reduce.SUM)
    for scalar, kind in ((1, Row.COPY), (2, Row.RECIPROCAL)):
        c.add(Opcode.VROW, function=kind, factor=3, shift=1, rows=rows, scalar=scalar, adjust=5)
    c.add(Opcode.VLEN, valid=valid, step=more)
    c.add(Opcode.VPITCH, a=pitch[0], b=pitch[1], to=to_pitch)
    c.add(Opcode.VBANK, a=apart[0], b=apart[1], to=to_apart, rows=bank)
    c.add(Opcode.VCON, ca=ca, cb=cb, shift=shift)
    c.add(Opcode.VTAB, low=low, first=start, last=entries - 1, step=step, shift=slope)
    where = {"VBUF": (Into.VBUF, 2), "OBUF 4": (Into.OBUF, 2), "OBUF 2": (Into.OBUF, 1)}.get(into, (Into.OBUF, 0))
    fields = {"into": where[0], "size": where[1], "tiled": int(into == "tiled"), "scale": 2, "less": 1, "subtract": subtract}
    fields["shared"] = shared
    a, b = (CBUF_BIT | f for f in first)
    c.add(Opcode.VMAP, function=function, a=a, b=b, to=to, words=words, rows=rows, **fields)
    c.vbuf(128) if into == "VBUF" else c.store(128)
    got = _run(c)

    ones = numerics.saturate32(_rows(cbuf, 100, np.arange(rows), 1))
    sums = numerics.reduce_rows(Reduce.SUM, ones, np.ones(ones.shape, bool))
    less = np.array([[numerics.row_scalar(Row.COPY, int(s), 3, 0, 1).factor] for s in sums])
    scale = [numerics.row_scalar(Row.RECIPROCAL, int(s), 3, 0, 1, 5) for s in sums]
    by = np.array([[s.shift] for s in scale])[own] if function is Map.SCALE else slope if function is Map.TABLE else shift
    y, _ = numerics.map_rows(
        function,
        *(_rows(cbuf, first[n], _places(rows, bank, pitch[n], apart[n]), words) for n in (0, 1)),
        ca=ca,
        cb=cb,
        shift=by,
        factor=np.array([[s.factor] for s in scale])[own],
        less=less[own] * subtract,
        low=low,
        step=step,
        table=table[start : start + entries],
    )
    y = np.where(np.arange(words * V)[None] < valid + more * (np.arange(rows) % bank)[:, None], y, 0)
    size = 1 << where[1]
    expected = np.zeros(128 * B, np.uint8)
    for r, place in enumerate(to + _places(rows, bank, to_pitch, to_apart)):
        codes = numerics.clamp_bytes(y[r], size).astype(f"<i{size}")
        if into == "tiled":
            for n, code in enumerate(codes):
                at = (place + n // P) * B + n % P
                expected[at : at + B : P] = code.view(np.uint8)
        else:
            at = place * (WORD if into == "VBUF" else B)
            expected[at : at + codes.nbytes] = codes.view(np.uint8)
    assert np.array_equal(got[: 128 * B], expected)


def _identity_products(c: Program, blocks: int) -> None:
    """Lines of UBUF through a unit matrix into OBUF: [block][token][column] of 4 bytes."""
    unit = np.zeros((L // P, L, P), np.int8)
    for n in range(L):
        unit[n // P, n, n % P] = 1
    c.load(Buffer.WBUF, unit.tobytes())
    records = np.zeros(L, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "u1"), ("zero", "u1")]))
    records["m1"], records["shift"] = 2, 1
    c.load(Buffer.PBUF, records.tobytes())
    c.add(Opcode.SEGW, segment=0, format=Format.S8, line=0, groups=L // P, group_stride=1)
    c.add(Opcode.SEGA, segment=0)
    for b in range(blocks):
        c.add(Opcode.MATMUL, segments=1, line=UBUF_BIT | b, blocks=1, first=1, tokens=T.tokens, acc=b * L // P)
    c.add(Opcode.VCFG)
    c.add(Opcode.VOUT, size=2)
    beats = L * T.tokens * 4 // B
    for b in range(blocks):
        c.add(Opcode.VREQ, acc=b * L // P, groups=L // P, tokens=T.tokens, to=b * beats)
    c.store(blocks * beats)


@pytest.mark.parametrize(("rows", "banks"), [(1, 1), (T.tokens, 1), (T.tokens, 3), (1, 3)])
@pytest.mark.parametrize("valid", [0, 1, L, 2 * L + 3, EVERY])
def test_codes_into_ubuf_are_what_the_matrix_unit_reads(rows: int, banks: int, valid: int) -> None:
    """Element (r, n) of bank b is element n mod L of token r in line n / L of the bank's lines."""
    rng = np.random.default_rng(rows + valid)
    blocks = 3 // banks
    cbuf = rng.integers(-300, 300, (banks * rows * blocks * L // V, V))
    c = _program()
    c.words(cbuf)
    c.add(Opcode.VLEN, valid=valid)
    c.add(Opcode.VCON, ca=1)
    c.add(Opcode.VPITCH, a=blocks * L // V)
    c.add(Opcode.VBANK, a=rows * blocks * L // V, to=blocks, rows=rows)
    to = {"into": Into.UBUF, "size": T.activation_bits // 16}
    c.add(Opcode.VMAP, a=CBUF_BIT, words=blocks * L // V, rows=banks * rows, **to)
    _identity_products(c, banks * blocks)
    got = _run(c)[: banks * blocks * T.tokens * L * 4].view("<i4").reshape(banks * blocks, T.tokens, L)
    codes = np.clip(cbuf.reshape(banks * rows, blocks * L), -127, 127)
    codes = np.where(np.arange(blocks * L)[None] < valid, codes, 0)
    expected = np.zeros((banks * blocks, T.tokens, L), np.int64)
    expected[:, :rows] = codes.reshape(banks, rows, blocks, L).transpose(0, 2, 1, 3).reshape(banks * blocks, rows, L)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("distance", [-3, 0, 1, 2, 5, 15, 16, 17, 18, 19, 30])
@pytest.mark.parametrize("rows", [1, 3])
def test_overlapping_vmap_reads_what_words_seventeen_before_wrote(distance: int, rows: int) -> None:
    """VBUF word i + distance = VBUF word i + 1, a word a cycle: a chain of additions from 17 words on."""
    words, first, pitch = OVERLAP_WORDS, OVERLAP_FIRST, OVERLAP_WORDS
    start = np.arange(128 * V).reshape(128, V) * 1000
    to = first + distance
    got = _run(overlapping_map(T, distance, rows))[: 128 * WORD].view("<i4").reshape(128, V)

    state, other = start.copy(), start.copy()
    other[0] = 1
    order = [(r, w) for r in range(rows) for w in range(words)]
    written: list[np.ndarray] = []
    for q, (r, w) in enumerate(order):
        if q >= 17:
            before = order[q - 17]
            state[to + before[0] * pitch + before[1]] = written[q - 17]
        written.append(state[first + r * pitch + w] + other[w])
    for (r, w), value in list(zip(order, written, strict=True))[-17:]:
        state[to + r * pitch + w] = value
    assert np.array_equal(got, state)


@pytest.mark.parametrize("function", [Row.COPY, Row.RECIPROCAL, Row.RSQRT])
def test_row_values_fill_their_beats(function: Row) -> None:
    """VROW's value goes to beat Y + r, as often as it fits, whatever scalar it makes of it."""
    rng = np.random.default_rng(function)
    rows = 7
    cbuf = random_words(rng, rows * 4, V)
    c = _program()
    c.words(cbuf)
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.pitch(a=4)
    c.add(Opcode.VMAP, a=CBUF_BIT, words=4, rows=rows, reduce=Reduce.ABSMAX)
    c.add(Opcode.VROW, function=function, factor=777, add=9, shift=12, rows=rows, to=3, write=1)
    c.store(12)
    got = _run(c)[: 12 * B].view("<i4").reshape(12, B // 4)
    peaks = np.abs(numerics.saturate32(cbuf.reshape(rows, -1))).max(axis=1)
    expected = np.zeros((12, B // 4), np.int64)
    expected[3 : 3 + rows] = [[numerics.row_scalar(function, int(p), 777, 9, 12).value] for p in peaks]
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("keys", [1, P - 1, P, 3 * P + 2])
@pytest.mark.parametrize("beats", [1, 2, 5])
def test_wkey_is_a_load_of_the_transposed_matrix(keys: int, beats: int) -> None:
    """Keys row by row in memory, read as columns of weights: the products are x K^T, and those of a plain LOAD of K^T."""
    rng = np.random.default_rng(keys * beats)
    codes = rng.integers(-128, 128, (keys, beats * B))
    blocks, groups = -(-beats * B // L), -(-keys // P)
    x = rng.integers(-128, 128, (T.tokens, blocks * L))
    x[:, beats * B :] = 0

    def products(transposed: bool) -> np.ndarray:
        c = _program()
        if transposed:
            lines = np.zeros((groups, blocks, L, P), np.int8)
            for r in range(keys):
                for e in range(beats * B):
                    lines[r // P, e // L, e % L, r % P] = codes[r, e]
            c.load(Buffer.WBUF, lines.tobytes(), beat=7 * T.wbuf_line_beats)
        else:
            c.load(Buffer.WKEY, codes.astype(np.int8).tobytes(), beat=7, beats=beats, rows=keys)
        c.load(Buffer.ABUF, x.reshape(T.tokens, blocks, L).transpose(1, 0, 2).astype(np.int8).tobytes())
        records = np.zeros(groups * P, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "u1"), ("zero", "u1")]))
        records["m1"], records["shift"] = 2, 1
        c.load(Buffer.PBUF, records.tobytes())
        c.add(Opcode.SEGW, segment=0, format=Format.S8, line=7, groups=groups, block_stride=1, group_stride=blocks)
        c.add(Opcode.SEGA, segment=0)
        c.add(Opcode.MATMUL, segments=1, blocks=blocks, first=1, tokens=T.tokens)
        c.add(Opcode.VCFG)
        c.add(Opcode.VOUT, size=2)
        c.add(Opcode.VREQ, groups=groups, tokens=T.tokens)
        lines_out = -(-groups * P // L)
        c.store(lines_out * L * T.tokens * 4 // B)
        region = _run(c)[: lines_out * L * T.tokens * 4].view("<i4").reshape(lines_out, T.tokens, L)
        return region.transpose(1, 0, 2).reshape(T.tokens, -1)[:, :keys]

    assert np.array_equal(products(False), x[:, : beats * B] @ codes.T)
    assert np.array_equal(products(False), products(True))


@pytest.mark.parametrize("sub", range(B.bit_length()))
def test_a_store_of_some_bytes_leaves_the_others_alone(sub: int) -> None:
    """Of each beat 2^(sub-1) bytes, from the address's own place in a beat on; sub 0 takes all."""
    beats = 6
    width = B if sub == 0 else 1 << (sub - 1)
    for offset in range(0, B, width):
        c = _program()
        values = np.random.default_rng(sub).integers(1, 255, (beats, B), np.uint8)
        c.words(values.view("<i4"))
        c.memory[c.out : c.out + beats * B] = 255
        c.add(Opcode.VLEN, valid=EVERY)
        c.add(Opcode.VCON, ca=1)
        c.add(Opcode.VMAP, a=CBUF_BIT, words=beats * B // WORD, into=Into.OBUF, size=2, to=4)
        c.add(Opcode.STORE, address=c.out + offset, beat=4, beats=beats, rows=1, bytes=sub)
        got = _run(c)[: beats * B].reshape(beats, B)
        expected = np.full((beats, B), 255, np.uint8)
        expected[:, offset : offset + width] = values[:, offset : offset + width]
        assert np.array_equal(got, expected)


@given(
    st.integers(0, B.bit_length()),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 3 * B),
    st.integers(0, 3 * B),
    st.integers(0, B - 1),
)
def test_a_store_puts_rows_and_parts_where_spitch_says(sub: int, rows: int, beats: int, row: int, part: int, at: int) -> None:
    """Byte by byte as in docs/isa.md; later beats over earlier ones."""
    c, width = _program(), B if sub == 0 else 1 << (sub - 1)
    at -= at % width
    values = np.random.default_rng(sub).integers(1, 255, (16, B), np.uint8)
    c.words(values.view("<i4"))
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.add(Opcode.VMAP, a=CBUF_BIT, words=16 * B // WORD, into=Into.OBUF, size=2)
    c.add(Opcode.SPITCH, row=row, part=part)
    c.add(Opcode.STORE, address=c.out + at, beat=2, beats=beats, rows=rows, bytes=sub)
    expected = np.zeros(64 * B, np.uint8)
    for r in range(rows):
        for i in range(beats):
            one = values[2 + r * beats + i]
            if sub == 0:
                place = at + r * (row or beats * B)
                place = place // B * B + i * B
                expected[place : place + B] = one
                continue
            place = at + r * (row or beats * (part or B)) + i * (part or B)
            end = min(place % B + width, B)
            expected[place : place + end - place % B] = one[place % B : end]
    assert np.array_equal(_run(c)[: 64 * B], expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["OBUF", "UBUF", "VBUF"]))
def test_a_vreq_over_banks_is_one_of_each_bank(seed: int, into: str) -> None:
    """ACC words and results of a bank are as far from those of the one before as VBANK says, its scales follow theirs."""
    got = []
    for together in (True, False):
        rng = np.random.default_rng(seed)
        banks, tokens, groups = int(rng.integers(2, 5)), int(rng.integers(1, T.tokens + 1)), int(rng.integers(1, 4))
        acc, apart, to, to_apart = (int(v) for v in (rng.integers(8, 12), rng.integers(-2, 5), *rng.integers(0, 4, 2)))
        c = _program()
        c.load(Buffer.ABUF, rng.bytes(4 * T.abuf_line_beats * B))
        c.load(Buffer.WBUF, rng.bytes(32 * T.wbuf_line_bytes))
        records = np.zeros(4 * P, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "u1"), ("zero", "u1")]))
        records["bias"], records["m1"], records["shift"] = rng.integers(-99, 99, 4 * P), rng.integers(1, 999, 4 * P), 9
        c.load(Buffer.PBUF, records.tobytes())
        c.load(Buffer.TBUF, (rng.integers(1, 1 << 16, T.tbuf_tokens) << 16 | 16 << 10).astype("<u4").tobytes())
        c.add(Opcode.SEGW, segment=0, format=Format.S8, groups=30, block_stride=1, group_stride=1)
        c.add(Opcode.SEGA, segment=0)
        c.add(Opcode.MATMUL, segments=1, blocks=2, first=1, tokens=T.tokens)
        c.add(Opcode.VCFG, token_scale=1)
        size = {"OBUF": 1, "UBUF": T.activation_bits // 16, "VBUF": 2}[into]
        c.add(Opcode.VOUT, size=size, ubuf=int(into == "UBUF"), vbuf=int(into == "VBUF"))
        c.add(Opcode.VPITCH, to=3 * P // V)
        c.add(Opcode.VBANK, a=apart & 0xFFFF, to=to_apart)
        fields = {"groups": groups, "tokens": tokens}
        if together:
            c.add(Opcode.VREQ, acc=acc, token=3, to=to, banks=banks, **fields)
        else:
            for n in range(banks):
                c.add(Opcode.VREQ, acc=acc + n * apart, token=3 + n * tokens, to=to + n * to_apart, **fields)
        match into:
            case "OBUF":
                c.store(64)
            case "VBUF":
                c.vbuf(64)
            case _:
                _identity_products(c, 8)
        run = run_image(T, c.case().memory, 0, timing=False)
        got.append((run.memory[c.out :], run.counters["vector_elements"], run.counters["saturations"]))
    assert np.array_equal(got[0][0], got[1][0])
    assert got[0][1:] == got[1][1:]
    assert got[0][0].any()


@pytest.mark.parametrize("row_scale", [0, 1])
def test_vreq_takes_the_row_scale_or_the_token_words(row_scale: int) -> None:
    """The same accumulators and records: VROW's TOKEN leaves TBUF alone and is taken with row_scale only."""
    rng = np.random.default_rng(3)
    token, n = 6, 2 * P
    cbuf = rng.integers(1, 10**6, (T.tokens * 2, V))
    bias = rng.integers(-(10**6), 10**6, n)
    records = np.zeros(n, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "u1"), ("zero", "u1")]))
    records["bias"], records["m1"], records["shift"] = bias, 1 << 10, 12
    words = np.zeros(T.tbuf_tokens, np.int64)
    words[token : token + T.tokens] = [40000 << 16 | 17 << 10, 65535 << 16 | 20 << 10]
    c = _program()
    c.words(cbuf)
    c.load(Buffer.PBUF, records.tobytes())
    c.load(Buffer.TBUF, words.astype("<u4").tobytes())
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.add(Opcode.VPITCH, a=2)
    c.add(Opcode.VMAP, a=CBUF_BIT, words=2, rows=T.tokens, reduce=Reduce.ABSMAX)
    c.add(Opcode.VROW, function=Row.TOKEN, factor=9, shift=2, rows=T.tokens, add=token, to=20)
    c.add(Opcode.VCFG, token_scale=1, row_scale=row_scale)
    c.add(Opcode.VOUT, size=2)
    c.add(Opcode.VREQ, token=token, groups=2, tokens=T.tokens)
    c.store(n * T.tokens * 4 // B)
    got = _run(c)[: n * T.tokens * 4].view("<i4").reshape(-1, T.tokens, L)[0]
    peaks = cbuf.reshape(T.tokens, -1).max(axis=1)
    found = [numerics.row_scalar(Row.TOKEN, int(p), 9, 0, 2, 0, 20) for p in peaks]
    scale = [(s.mantissa, s.token_shift) for s in found] if row_scale else [(40000, 17), (65535, 20)]
    mantissa, shift = (np.array(v)[:, None] for v in zip(*scale, strict=True))
    zero = np.zeros((T.tokens, n), np.int64)
    wanted, _ = numerics.requantize(
        zero,
        bias,
        records["m1"].astype(np.int64),
        records["shift"].astype(np.int64),
        mantissa=mantissa,
        token_shift=shift,
        bits=32,
    )
    assert np.array_equal(got, wanted)
    assert (wanted != 0).all()


def test_saturations_count_the_elements_that_a_clamp_changed() -> None:
    """Of the valid ones: those over a byte, and of those over 32 bits too, each once."""
    cbuf = np.array([[200, 5], [-128, 127], [2**30, -127], [300, 300]])
    c = _program()
    c.words(cbuf)
    c.add(Opcode.VLEN, valid=6)
    c.add(Opcode.VCON, ca=4)
    c.add(Opcode.VMAP, a=CBUF_BIT, words=4, into=Into.OBUF, size=0)
    counters = run_image(T, c.case().memory, 0).counters
    assert counters["saturations"] == 5  # 4 * 5 is 20
    assert counters["vector_elements"] == 8
