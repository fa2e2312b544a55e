"""vector_element against `numerics.requantize`: random and boundary operands, one element a cycle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import simulate

import axlora.rtl.runner as machine
from axlora.isa.numerics import requantize

FILES = ("vector_element.v", "round_shift.v", "saturate32.v")
ELEMENTS = 400
BATCHES = 12


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 48])
def test_an_element_is_requantize(bits: int) -> None:
    """Accumulators of `bits`; |acc1 + bias| m1 and the adapter's term stay below 2^61, as the compiler proves."""
    rng = np.random.default_rng(bits)
    top = 1 << min(bits - 1, 43)
    job, expected = [], []
    for batch in range(BATCHES):
        out = (8, 16, 32)[batch % 3]
        bias_end, token_scale = bool(batch & 1), bool(batch & 2)
        guard, bias_shift = int(rng.choice([0, 1, 8, 31])), int(rng.integers(0, 16))
        zero_point = int(rng.choice([-32768, -1, 0, 5, 32767]))
        acc, acc2 = (rng.integers(-top, top, ELEMENTS) >> rng.integers(0, 40, ELEMENTS) for _ in range(2))
        acc[:4] = [-top, top - 1, 0, -1]
        bias = rng.integers(-(1 << 27), 1 << 27, ELEMENTS) >> rng.integers(0, 28, ELEMENTS)
        bias[:2] = 0
        m1, m2, mantissa = (rng.choice([0, 1, 2, 3, 1 << 15, 65535, 40000], ELEMENTS) for _ in range(3))
        shift, token_shift = rng.integers(1, 63, ELEMENTS), rng.integers(1, 63, ELEMENTS)
        shift[::3] = rng.integers(1, 20, shift[::3].size)  # ties and saturation
        token_shift[::2] = rng.integers(1, 18, token_shift[::2].size)
        adapter = rng.random(ELEMENTS) < 0.5
        exponent = rng.integers(0, 26, ELEMENTS)
        exponent = np.minimum(exponent, np.maximum(0, 60 - np.frexp(np.abs(acc2 * m2).astype(float))[1]))
        code, changed = requantize(
            acc, bias, m1, shift, acc2=acc2, m2=np.where(adapter, m2, 0), exponent=exponent,
            mantissa=mantissa if token_scale else None, token_shift=token_shift if token_scale else None,
            bias_shift=bias_shift, bias_end=bias_end, guard=guard, zero_point=zero_point, bits=out,
        )  # fmt: skip
        expected.append([(int(c) & 0xFFFFFFFF, int(d)) for c, d in zip(code, changed, strict=True)])
        high = (1 << (out - 1)) - 1
        configuration = {
            "i_bias_end": int(bias_end), "i_bias_shift": bias_shift, "i_token_scale": int(token_scale), "i_guard": guard,
            "i_zero_point": zero_point & 0xFFFF, "i_low": ~high & 0xFFFFFFFF, "i_high": high,
        }  # fmt: skip
        ports = {
            "i_acc1": acc & ((1 << bits) - 1), "i_acc2": acc2 & ((1 << bits) - 1), "i_bias": bias & 0xFFFFFFFF, "i_m1": m1,
            "i_m2": m2, "i_shift": shift, "i_adapter": adapter, "i_exponent": exponent, "i_mantissa": mantissa,
            "i_token_shift": token_shift,
        }  # fmt: skip
        job.append((configuration, [{name: int(v[n]) for name, v in ports.items()} for n in range(ELEMENTS)]))
    folder = machine.sources()[0].parent
    sources = [*(folder / name for name in FILES), Path(__file__).with_name("vector_element_tb.v")]
    found = simulate("vector_element_tb", sources, {"BITS": bits}, "bench_vector", job)
    assert found == expected
    changed_share = np.mean([d for batch in expected for _, d in batch])
    assert 0.05 < changed_share < 0.95
