"""Every `ax_*` operator, compiled by LLVM, is `isa.numerics` bit for bit: random, boundary and tie values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.passes import ax_boundary, ax_ops
from axlora.compiler.passes.ax_ops import Requantize
from axlora.isa import numerics

M, N = 6, 40


def run(function: Any, *arrays: np.ndarray, results: int = 1) -> list[np.ndarray]:
    name = str(function.attrs["global_symbol"])
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    tvm.compile(tvm.IRModule({name: function}), target="llvm")[name](*tensors)
    return [t.numpy().astype(np.int64) for t in tensors[-results:]]


def wide(value: np.ndarray) -> np.ndarray:
    return value.astype(np.int64)


def edges(random: np.random.Generator, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random integers in [low, high], a third of them at or near the ends and zero."""
    value = random.integers(low, high, shape, endpoint=True)
    special = np.array([low, low + 1, high, high - 1, 0, 1])
    special = special[(special >= low) & (special <= high)]
    return np.where(random.random(shape) < 0.33, random.choice(special, shape), value)


@pytest.mark.parametrize(
    ("x_type", "w_type", "acc"),
    [("int8", "int8", "int32")] + [(x, w, "int64") for x in ("int8", "int16") for w in ("int8", "int16")],
)
def test_matmul_is_exact(x_type: str, w_type: str, acc: str) -> None:
    random = np.random.default_rng(1)
    x = edges(random, np.iinfo(x_type).min, np.iinfo(x_type).max, (M, 70)).astype(x_type)
    w = edges(random, np.iinfo(w_type).min, np.iinfo(w_type).max, (70, N)).astype(w_type)
    function = ax_ops.ax_matmul(M, 70, N, x_type, w_type, acc)
    assert np.array_equal(run(function, x, w, np.zeros((M, N), acc))[0], wide(x) @ wide(w))


def test_matmul_int32_holds_the_largest_row_of_a_real_model() -> None:
    """K = 65536 rows of -128 * -128 = 2^30: the int32 form is right up to the bound that `accumulator_type` sets."""
    x, w = np.full((1, 65536), -128, np.int8), np.full((65536, 1), -128, np.int8)
    assert run(ax_ops.ax_matmul(1, 65536, 1, "int8", "int8", "int32"), x, w, np.zeros((1, 1), np.int32))[0] == 1 << 30


@pytest.mark.parametrize(("k", "rows"), [(64, 32), (70, 32), (33, 64)])
def test_grouped_matmul_is_the_sum_over_groups(k: int, rows: int) -> None:
    random = np.random.default_rng(2)
    x, w = edges(random, -128, 127, (M, k)).astype(np.int8), edges(random, 0, 255, (k, N)).astype(np.int16)
    groups = -(-k // rows)
    scale, zero = edges(random, 0, 255, (groups, N)).astype(np.uint8), edges(random, -128, 127, (groups, N)).astype(np.int8)
    function = ax_ops.ax_grouped_matmul(M, k, N, rows, "int8", "int16")
    got = run(function, x, w, scale, zero, np.zeros((M, N), np.int64))[0]
    assert np.array_equal(got, numerics.grouped_matmul(wide(x), wide(w), wide(scale), wide(zero), rows))


@st.composite
def specs(draw: st.DrawFn) -> Requantize:
    bits = draw(st.sampled_from([8, 16, 32]))
    zero = draw(st.integers(-128, 127)) if bits == 8 else 0
    booleans = [draw(st.booleans()) for _ in range(3)]
    return Requantize(bits, zero, draw(st.integers(0, 31)), draw(st.integers(0, 15)), *booleans)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(specs(), st.integers(0, 1 << 30))
def test_requantize_is_numerics(spec: Requantize, seed: int) -> None:
    random = np.random.default_rng(seed)
    acc = edges(random, -(1 << 40), 1 << 40, (M, N)) >> random.integers(0, 40, (M, N))
    bias, m1 = edges(random, -(1 << 31), (1 << 31) - 1, (N,)), edges(random, 0, 65535, (N,))
    shift = edges(random, 1, 62, (N,))
    arrays = [acc, bias.astype(np.int32), m1.astype(np.uint16), shift.astype(np.uint8)]
    branch: dict[str, Any] = {}
    if spec.lora:
        acc2, m2, e = edges(random, -(1 << 20), 1 << 20, (M, N)), edges(random, 0, 65535, (N,)), edges(random, 0, 25, (M, 1))
        arrays += [acc2, m2.astype(np.uint16), e.astype(np.uint8)]
        branch |= {"acc2": acc2, "m2": m2, "exponent": e}
    if spec.token_scale:
        mantissa, token_shift = edges(random, 0, 65535, (M, 1)), edges(random, 1, 62, (M, 1))
        arrays += [mantissa.astype(np.uint16), token_shift.astype(np.uint8)]
        branch |= {"mantissa": mantissa, "token_shift": token_shift}
    got = run(ax_ops.ax_requantize(M, N, "int64", spec), *arrays, np.zeros((M, N), f"int{spec.bits}"))[0]
    expected, _ = numerics.requantize(
        acc, bias, m1, shift, bias_shift=spec.bias_shift, bias_end=spec.bias_end, guard=spec.guard,
        zero_point=spec.zero_point, bits=spec.bits, **branch,
    )  # fmt: skip
    assert np.array_equal(got, expected)


def test_requantize_rounds_ties_to_even() -> None:
    """acc * 1 >> 1 over -9..9: every odd value is a tie."""
    acc = np.arange(-9, 10, dtype=np.int64).reshape(1, -1)
    n = acc.shape[1]
    one = np.ones(n, np.int64)
    arrays = [acc, np.zeros(n, np.int32), one.astype(np.uint16), one.astype(np.uint8), np.zeros((1, n), np.int8)]
    got = run(ax_ops.ax_requantize(1, n, "int64", Requantize()), *arrays)[0]
    assert np.array_equal(got, np.rint(acc / 2).astype(np.int64))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("spread", [0, 3, 8, 20, 36])
@pytest.mark.parametrize("bias_shift", [0, 5])
def test_block_quantize_is_numerics(bits: int, spread: int, bias_shift: int) -> None:
    """From all zeros through exponent 0 to values that the 32-bit clamp cuts."""
    random = np.random.default_rng(spread)
    acc = edges(random, -(1 << spread) + 1, (1 << spread) - 1, (M, N)) if spread else np.zeros((M, N), np.int64)
    bias = edges(random, -9, 9, (N,)) if spread else np.zeros(N, np.int64)
    m1, shift = edges(random, 0, 65535, (N,)), edges(random, 1, 20, (N,))
    function = ax_ops.ax_block_quantize(M, N, "int64", bias_shift, bits)
    arrays = [acc, bias.astype(np.int32), m1.astype(np.uint16), shift.astype(np.uint8)]
    codes, exponent = run(function, *arrays, np.zeros((M, N), f"int{bits}"), np.zeros((M, 1), np.uint8), results=2)
    expected, e, _ = numerics.block_quantize(acc, bias, m1, shift, bias_shift, bits)
    assert np.array_equal(codes, expected)
    assert np.array_equal(exponent, e)


@pytest.mark.parametrize("power", range(0, 31))
def test_block_quantize_exponent_at_every_power_of_two(power: int) -> None:
    """A peak of 2^p - 1, 2^p and 2^p + 1: the exponent's steps are where `bit_length` has them."""
    acc = np.array([[(1 << power) - 1, 0], [1 << power, 1], [(1 << power) + 1, -1]], np.int64) * 2
    arrays = [acc, np.zeros(2, np.int32), np.ones(2, np.uint16), np.ones(2, np.uint8)]
    function = ax_ops.ax_block_quantize(3, 2, "int64", 0, 8)
    codes, exponent = run(function, *arrays, np.zeros((3, 2), np.int8), np.zeros((3, 1), np.uint8), results=2)
    one = np.ones(2, np.int64)
    expected, e, _ = numerics.block_quantize(acc, one * 0, one, one, 0, 8)
    assert np.array_equal(codes, expected)
    assert np.array_equal(exponent, e)


@pytest.mark.parametrize("bits", [8, 16])
def test_quantize_is_numerics(bits: int) -> None:
    random = np.random.default_rng(7)
    x = (random.normal(0, 1, (200, 9)) * np.exp2(random.integers(-60, 60, (200, 1)))).astype(np.float32)
    x[:9] = (random.integers(-600, 600, (9, 9)) / 2).astype(np.float32)  # ties at scale 1
    for scale, zero in ((1.0, 0), (0.013, 3), (1e-30, -(1 << (bits - 1)))):
        given = np.array([scale], np.float32), np.array([zero], np.int64)
        got = run(ax_boundary.ax_quantize(200, 9, bits), x, *given, np.zeros(x.shape, f"int{bits}"))[0]
        with np.errstate(over="ignore"):
            assert np.array_equal(got, numerics.quantize_real(x, scale, zero, bits)[0]), scale


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("offset_columns", [0, 3])
def test_quantize_tokens_is_numerics(bits: int, offset_columns: int) -> None:
    """Over every exponent of float32, subnormal and greatest numbers, ties, rows of one sign and of zeros."""
    random = np.random.default_rng(8)
    x = (random.normal(0, 1, (400, 17)) * np.exp2(random.integers(-140, 120, (400, 1)))).astype(np.float32)
    x[:5] = np.array([[0], [1], [127 / 8], [1e-45], [-3e38]], np.float32)
    x[5:7] = np.abs(x[5:7])
    x[7:9] = -np.abs(x[7:9])
    x[9:50] = random.integers(-254, 255, (41, 17)) / 2
    x[9:50, 0] = 127
    results = [np.zeros((400, 17 + offset_columns), f"int{bits}"), np.zeros((400, 1), np.uint16), np.zeros((400, 1), np.uint8)]
    got = run(ax_boundary.ax_quantize_tokens(400, 17, bits, offset_columns), x, *results, results=3)
    codes, offset, mantissa, shift = numerics.quantize_tokens(x, bits, offset_columns > 0)
    wanted = np.hstack([codes, np.repeat(offset, offset_columns, axis=1)]), mantissa, shift
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
