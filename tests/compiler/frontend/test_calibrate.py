"""Samples of an input have one shape more than the input; what has another shape is refused with both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.calibrate import stacked

SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def _numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.float32)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 4))
def test_samples_are_taken_as_they_are(shape: tuple[int, ...], count: int) -> None:
    data = _numbered((count, *shape))
    assert np.array_equal(stacked("x", data, shape, "model"), data)


@settings(deadline=None)
@given(SHAPES)
def test_one_sample_needs_no_axis(shape: tuple[int, ...]) -> None:
    data = _numbered(shape)
    found = stacked("x", data, shape, "model")
    assert found.shape == (1, *shape)
    assert np.array_equal(found[0], data)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 4))
def test_where_a_batch_is_one_row_it_needs_no_axis(rest: tuple[int, ...], count: int) -> None:
    data = _numbered((count, *rest))
    found = stacked("x", data, (1, *rest), "model")
    assert found.shape == (count, 1, *rest)
    assert np.array_equal(found[:, 0], data)


@settings(deadline=None)
@given(SHAPES, SHAPES)
def test_every_other_shape_is_refused_with_the_one_that_is_expected(shape: tuple[int, ...], given_: tuple[int, ...]) -> None:
    taken = given_ == shape or (given_[1:] == shape and len(given_) > 0)
    taken |= shape[:1] == (1,) and given_[1:] == shape[1:] and len(given_) > 0
    data = _numbered(given_)
    if taken:
        assert stacked("x", data, shape, "model").shape[1:] == shape
        return
    with pytest.raises(BadModel) as error:
        stacked("x", data, shape, "model")
    assert f"calibration data of 'x' has shape {given_}" in error.value.message
    assert f"expected [{', '.join(['samples', *map(str, shape)])}]" in error.value.hint
    assert str(shape) in error.value.hint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((0, 2), np.float32), "has shape (0, 2)"),
        (np.array([[1, np.nan]]), "holds NaN or infinity"),
        (np.array([[1, -np.inf]]), "holds NaN or infinity"),
        (np.array([["a", "b"]]), "must be numbers"),
        (np.array([[1j, 2]]), "must be numbers"),
        (np.array([[None, {}]]), "must be numbers"),
    ],
    ids=["none", "nan", "infinity", "text", "complex", "objects"],
)
def test_what_is_no_number_is_refused(data: np.ndarray, words: str) -> None:
    with pytest.raises(BadModel) as error:
        stacked("x", data, (2,), "model")
    assert words in error.value.message
