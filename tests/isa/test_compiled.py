"""Functions that hold for arrays and for one element, and what is kept of them when they are compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from axlora.isa import compiled, numerics
from axlora.isa.assembly import assemble, encode_program
from axlora.isa.kept import cache_folder
from axlora.isa.target import Target
from axlora.sim.run import run_image

_ELEMENT = njit(numerics.requantize_element)
SUM = st.one_of(st.sampled_from([2**47 - 1, -(2**47), 0, 1, -1]), st.integers(-(2**40), 2**40))
BIAS = st.one_of(st.sampled_from([2**31 - 1, -(2**31), 0]), st.integers(-(2**31), 2**31 - 1))
FACTOR = st.one_of(st.sampled_from([0, 1, 65535]), st.integers(0, 65535))


@settings(deadline=None, max_examples=300)  # the first call compiles
@given(st.data())
def test_requantize_of_an_element_is_that_of_arrays(data: st.DataObject) -> None:
    acc, acc2, bias = data.draw(SUM), data.draw(SUM), data.draw(BIAS)
    m1, m2, mantissa = data.draw(FACTOR) >> 4, data.draw(FACTOR) >> 4, data.draw(FACTOR)
    shift, token_shift, exponent = data.draw(st.integers(1, 62)), data.draw(st.integers(1, 62)), data.draw(st.integers(0, 3))
    scaled, bias_end = data.draw(st.booleans()), data.draw(st.booleans())
    bias_shift, guard, zero = data.draw(st.integers(0, 15)), data.draw(st.integers(0, 31)), data.draw(BIAS) >> 16
    bits = data.draw(st.sampled_from([8, 16, 32]))

    def column(value: int) -> np.ndarray:
        return np.array([[value]], np.int64)

    token = {"mantissa": column(mantissa), "token_shift": column(token_shift)} if scaled else {}
    codes, changed = numerics.requantize(
        column(acc),
        column(bias),
        column(m1),
        column(shift),
        acc2=column(acc2),
        m2=column(m2),
        exponent=column(exponent),
        bias_shift=bias_shift,
        bias_end=bias_end,
        guard=guard,
        zero_point=zero,
        bits=bits,
        **token,  # type: ignore[arg-type]
    )
    rest = (scaled, mantissa, token_shift, bias_shift, bias_end, guard, zero, bits)
    assert _ELEMENT(acc, bias, m1, shift, acc2, m2, exponent, *rest) == (codes[0, 0], changed[0, 0])


def _twice(value: int) -> int:
    return 2 * value


def test_compiled_functions_are_kept_by_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    kept = compiled.cached(_twice)
    assert kept(21) == 42
    (folder,) = cache_folder("compiled").iterdir()
    assert [path.suffix for path in sorted(folder.rglob("*.nb?"))] == [".nbc", ".nbi"]
    monkeypatch.setattr(compiled, "_STAMP", "of other sources")
    compiled.cached(_twice)(21)
    assert len(list(cache_folder("compiled").iterdir())) == 2


def test_whether_the_simulator_was_compiled_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_image(Target.load("test"), encode_program(assemble("HALT")), 0)
    assert compiled.kept()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled.config, "CACHE_DIR", "")
    assert not compiled.kept()
