"""Integer semantics against exact rationals and against NumPy where the two must agree."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.isa import numerics
from axlora.isa.formats import Format, pack, unpack

WIDE = st.integers(-(2**61), 2**61)


def _array(values: object) -> np.ndarray:
    return np.array(values, np.int64)


@given(WIDE, st.integers(0, 62))
def test_rounding_shift_is_half_even_of_the_exact_quotient(value: int, shift: int) -> None:
    got = int(numerics.rounding_shift(_array([value]), shift)[0])
    assert got == round(Fraction(value, 1 << shift))  # Fraction rounds half to even


@given(st.integers(-(2**62), 2**62), st.sampled_from([8, 16, 32, 48, 64]))
def test_wrap_is_two_s_complement(value: int, bits: int) -> None:
    got = int(numerics.wrap(_array([value]), bits)[0])
    assert (got - value) % (1 << bits) == 0
    assert -(1 << (bits - 1)) <= got < 1 << (bits - 1)


@given(st.integers(0, 2**63 - 1))
def test_bit_length(value: int) -> None:
    assert numerics.bit_length(value) == value.bit_length()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_matmul_is_exact_on_both_paths(seed: int, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    top = 1 << (40 if wide else 8)
    x, w = rng.integers(-top, top, (3, 17)), rng.integers(-128, 128, (17, 5))
    exact = [[sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) for column in w.T] for row in x]
    assert numerics.matmul(x, w).tolist() == exact


@given(st.integers(0, 2**32 - 1))
def test_grouped_matmul_is_the_dequantized_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.integers(-128, 128, (2, 70)), rng.integers(0, 16, (70, 3))
    scale, zero = rng.integers(0, 256, (3, 3)), rng.integers(-128, 128, (3, 3))
    rows = np.arange(70) // 32
    assert (numerics.grouped_matmul(x, w, scale, zero, 32) == x @ ((w - zero[rows]) * scale[rows])).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16, 32]))
def test_requantize_is_within_half_a_step_of_the_real_value(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    n = 6
    acc, acc2 = rng.integers(-(2**24), 2**24, (3, n)), rng.integers(-(2**20), 2**20, (3, n))
    bias, m1 = rng.integers(-(2**20), 2**20, n), rng.integers(1 << 13, 1 << 14, n)
    m2, shift, e = rng.integers(0, 1 << 16, n), rng.integers(10, 40, n), rng.integers(0, 10, (3, 1))
    code, changed = numerics.requantize(acc, bias, m1, shift, acc2=acc2, m2=m2, exponent=e, zero_point=3, bits=bits)
    for t in range(3):
        for c in range(n):
            wide = (int(acc[t, c]) + int(bias[c])) * int(m1[c]) + (int(acc2[t, c]) * int(m2[c]) << int(e[t, 0]))
            exact = Fraction(wide, 1 << int(shift[c])) + 3
            if not changed[t, c]:
                assert abs(exact - int(code[t, c])) <= Fraction(1, 2)
            else:
                assert int(code[t, c]) in (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) or abs(exact) >= 2**31 - 1


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16]))
def test_block_quantize_uses_the_whole_range_and_stays_within_half_a_step(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2 ** int(rng.integers(1, 30))), 2 ** int(rng.integers(1, 30)), (4, 5))
    bias, m1, shift = np.zeros(5, np.int64), np.full(5, 1 << 14), np.full(5, 14)
    code, e, changed = numerics.block_quantize(acc, bias, m1, shift, 0, bits)
    high = (1 << (bits - 1)) - 1
    assert not changed.any()
    assert np.abs(code).max() <= high
    clamped = np.abs(acc) > (high << e)  # the one value that rounds up to 2**(bits-1)
    assert (np.abs((code << e) - acc) <= np.where(clamped, 1 << e, (1 << e) // 2)).all()
    used = np.abs(acc).max(axis=1) > high
    assert (np.abs(code).max(axis=1)[used] > high // 2).all()


@pytest.mark.parametrize("fmt", list(Format))
def test_pack_unpack_every_code(fmt: Format) -> None:
    codes = np.resize(np.arange(fmt.low, fmt.high + 1), (3, 512))
    assert (unpack(pack(codes, fmt), fmt) == codes).all()
    assert pack(codes, fmt).shape == (3, 512 * fmt.storage // 8)


@given(st.floats(1e-12, 32767))
def test_quantize_scale_error(scale: float) -> None:
    mantissa, shift = numerics.quantize_scale(scale)
    assert abs(mantissa / 2.0**shift - scale) <= scale * 2.0**-16
    assert 1 <= shift <= 62
    assert 0 < mantissa < 1 << 16


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 2.0**15])
def test_quantize_scale_refuses(scale: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        numerics.quantize_scale(scale)


def test_saturation_is_symmetric_at_32_bits() -> None:
    assert numerics.saturate32(_array([-(2**40), 2**40])).tolist() == [-(2**31) + 1, 2**31 - 1]


def test_matmul_with_nothing_to_sum_is_zero() -> None:
    for m, k, n in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        got = numerics.matmul(np.ones((m, k), np.int64), np.ones((k, n), np.int64))
        assert (got == np.zeros((m, n))).all()
        assert got.shape == (m, n)


@pytest.mark.parametrize("top", [2**31, 2**32])
def test_matmul_keeps_every_bit_about_the_float_limit(top: int) -> None:
    """x*w just below, at and above 2**53, with a sum that float64 would round."""
    for over in (-1, 0, 1):
        x, w = _array([[top + over, 1]]), _array([[2**53 // top], [1]])
        assert numerics.matmul(x, w).tolist() == [[(top + over) * (2**53 // top) + 1]]


def _round(value: int, shift: int) -> int:
    return round(Fraction(value, 1 << shift))


def _clamp(value: int, low: int, high: int) -> tuple[int, bool]:
    return min(max(value, low), high), not low <= value <= high


@given(st.data())
def test_requantize_is_the_formula_of_the_isa_page(data: st.DataObject) -> None:
    """One element by Python integers, every option and its default; codes and the clamp flag."""
    draw = data.draw
    acc, bias = draw(st.integers(-(2**34), 2**34)), draw(st.integers(-(2**20), 2**20))
    m1, shift = draw(st.integers(0, 65535)), draw(st.integers(1, 62))
    options: dict[str, int] = {}
    for name, values in {
        "bias_shift": st.integers(0, 7),
        "bias_end": st.booleans(),
        "guard": st.integers(0, 12),
        "zero_point": st.integers(-128, 127),
        "bits": st.sampled_from([8, 16, 32]),
    }.items():
        if draw(st.booleans()):
            options[name] = draw(values)
    adapter = (draw(st.integers(-(2**20), 2**20)), draw(st.integers(0, 65535)), draw(st.integers(0, 20)))
    token = (draw(st.integers(0, 65535)), draw(st.integers(1, 40)))
    with_adapter, with_token = draw(st.booleans()), draw(st.booleans())
    arrays = {}
    if with_adapter:
        arrays |= dict(zip(("acc2", "m2", "exponent"), (_array([[v]]) for v in adapter), strict=True))
    if with_token:
        arrays |= dict(zip(("mantissa", "token_shift"), (_array([[v]]) for v in token), strict=True))
    code, changed = numerics.requantize(_array([[acc]]), _array([bias]), _array([m1]), _array([shift]), **arrays, **options)

    shifted = bias * 2 ** options.get("bias_shift", 0)
    late = options.get("bias_end", False)
    wide = (acc + (0 if late else shifted)) * m1 + (adapter[0] * adapter[1] * 2 ** adapter[2] if with_adapter else 0)
    value, any_clamp = _clamp(_round(wide, shift), -(2**31) + 1, 2**31 - 1)
    if with_token:
        value, clamped = _clamp(_round(value * token[0], token[1]), -(2**31) + 1, 2**31 - 1)
        any_clamp |= clamped
    value = _round(value + (shifted if late else 0), options.get("guard", 0)) + options.get("zero_point", 0)
    half = 2 ** (options.get("bits", 8) - 1)
    value, clamped = _clamp(value, -half, half - 1)
    assert (int(code[0, 0]), bool(changed[0, 0])) == (value, any_clamp or clamped)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(-(2**36), 2**36), min_size=1, max_size=4), st.integers(0, 40), st.sampled_from([8, 16]))
def test_block_quantize_is_the_formula_of_the_isa_page(acc: list[int], down: int, bits: int) -> None:
    acc = [a >> down for a in acc]
    n = len(acc)
    code, e, changed = numerics.block_quantize(_array([acc]), np.full(n, 3), np.full(n, 5), np.full(n, 2), 2, bits)
    rounded = [_round((a + (3 << 2)) * 5, 2) for a in acc]
    clamped = [_clamp(v, -(2**31) + 1, 2**31 - 1) for v in rounded]
    exponent = max(0, max(abs(v) for v, _ in clamped).bit_length() - (bits - 1))
    high = 2 ** (bits - 1) - 1
    assert int(e[0, 0]) == exponent
    assert code[0].tolist() == [_clamp(_round(v, exponent), -high, high)[0] for v, _ in clamped]
    assert changed[0].tolist() == [c for _, c in clamped]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("zero_point", [0, 5, -9])
def test_quantize_real_rounds_adds_the_zero_point_and_clamps(bits: int, zero_point: int) -> None:
    top = 1 << (bits - 1)
    steps = [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 7.25, -7.75, 0.49, float(top - 1), float(-top), 1e9, -1e9]
    got, clamped = numerics.quantize_real(np.array(steps, np.float32) * np.float32(0.25), 0.25, zero_point, bits)
    assert got.tolist() == [min(max(round(s) + zero_point, -top), top - 1) for s in steps]  # round: half to even
    assert clamped.tolist() == [not -top <= round(s) + zero_point < top for s in steps]


def test_dequantize_is_the_distance_from_the_zero_point() -> None:
    assert numerics.dequantize(_array([-128, 0, 5, 127]), 0.25, 5).tolist() == [-33.25, -1.25, 0.0, 30.5]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, (1 << 15, 15)),
        (0.75, (49152, 16)),
        (32767.0, (65534, 1)),
        (65535.5 / 65536, (1 << 15, 15)),  # the mantissa would round to 2**16
        (2.0**-47, (1 << 15, 62)),
        (2.0**-48, (1 << 14, 62)),  # smaller ones lose bits of the mantissa
        (2.0**-62, (1, 62)),
        (2.0**-64, (0, 62)),
    ],
)
def test_quantize_scale_at_its_ends(scale: float, expected: tuple[int, int]) -> None:
    assert numerics.quantize_scale(scale) == expected


@given(
    st.lists(st.floats(2.0**-40, 2.0**12), min_size=1, max_size=20),
    st.sampled_from([8, 16]),
    st.integers(0, 2**32 - 1),
)
def test_quantize_tokens_keeps_each_row_within_half_a_step(peaks: list[float], bits: int, seed: int) -> None:
    """The row's own peak takes the greatest code, and the token word's scale is absmax / (2^(bits-1) - 1) to 2^-16."""
    rng = np.random.default_rng(seed)
    value = rng.uniform(-1, 1, (len(peaks), 9)).astype(np.float32) * np.array(peaks, np.float32)[:, None]
    value[:, 4] = np.array(peaks, np.float32)
    codes, offset, mantissa, shift = numerics.quantize_tokens(value, bits)
    assert not offset.any()
    high = (1 << (bits - 1)) - 1
    scale = np.ldexp(mantissa.astype(float), -(shift + bits - 8))
    assert mantissa.shape == shift.shape == (len(peaks), 1)
    assert ((mantissa >= 1 << 15) & (mantissa < 1 << 16) & (shift >= 1) & (shift <= 62)).all()
    assert np.allclose(scale[:, 0], np.abs(value).max(axis=1).astype(float) / high, rtol=2.0**-16, atol=0)
    assert (codes[:, 4] == high).all()
    assert (np.abs(codes) <= high).all()
    assert (np.abs(codes * scale - value) <= scale * (0.5 + high * 2.0**-16)).all()


def test_quantize_tokens_at_the_ends() -> None:
    """A row of zeros has codes 0; a peak that no token word holds clamps; tiny peaks lose mantissa bits, never the sign."""
    value = np.array([[0, 0], [1e30, -1e30], [1e-12, -3e-13]], np.float32)
    codes, _, mantissa, shift = numerics.quantize_tokens(value, 8)
    assert codes.tolist()[:2] == [[0, 0], [127, -127]]
    assert (mantissa[1, 0], shift[1, 0]) == (65535, 1)
    assert (mantissa[0, 0], shift[0, 0]) == (1, 16)
    assert (shift[2, 0], mantissa[2, 0]) == (62, round(1e-12 / 127 * 2**62))
    assert codes[2].tolist() == [127, -38]


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(2.0**-20, 100)), min_size=1, max_size=20),
    st.sampled_from([8, 16]),
    st.integers(0, 2**32 - 1),
)
def test_an_offset_gives_all_codes_to_the_range_that_a_row_has(rows: list[tuple[float, float]], bits: int, seed: int) -> None:
    """Codes of a row and of zero fill +-high; zero is -offset, exactly; half a step off at most, one at the range's ends."""
    rng = np.random.default_rng(seed)
    least, width = np.array(rows).T[:, :, None]
    value = (least + width * rng.uniform(0, 1, (len(rows), 9))).astype(np.float32)
    codes, offset, mantissa, shift = numerics.quantize_tokens(value, bits, offset=True)
    high = (1 << (bits - 1)) - 1
    scale = np.ldexp(mantissa.astype(float), -(shift + bits - 8))
    most, least = np.maximum(value.max(axis=1), 0).astype(float), np.minimum(value.min(axis=1), 0).astype(float)
    assert np.allclose(scale[:, 0], (most - least) / (2 * high), rtol=2.0**-16, atol=0)
    assert (np.abs(offset) <= high).all()
    assert (np.abs(codes) <= high).all()
    wrong = np.abs((codes + offset) * scale - value)
    assert (wrong <= scale * (0.5 + high * 2.0**-15) + (np.abs(codes) == high) * scale * 0.5).all()
    inside = np.rint(value / scale) - offset
    assert np.array_equal(codes, np.clip(inside, -high, high))
    zero, middle, _, _ = numerics.quantize_tokens(np.hstack([value, np.zeros((len(rows), 1), np.float32)]), bits, offset=True)
    assert np.array_equal(zero[:, -1:], -middle)


@given(st.lists(st.floats(2.0**-62, 32767.0), min_size=1, max_size=30))
def test_quantize_scales_is_quantize_scale_of_each(scales: list[float]) -> None:
    mantissa, shift = numerics.quantize_scales(np.array(scales))
    for one, m, s in zip(scales, mantissa, shift, strict=True):
        wanted = numerics.quantize_scale(one)
        assert (int(m), int(s)) == (max(1, wanted[0]), wanted[1])
