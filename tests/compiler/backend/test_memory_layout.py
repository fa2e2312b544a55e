"""Rooms of VBUF: where values lie, and when there is no room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.backend.memory_layout import Pool
from axlora.compiler.errors import DoesNotFit

SIZE = 40


@settings(deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 7), st.integers(1, 12)), max_size=40))
def test_values_lie_apart_and_are_refused_only_where_no_room_is(from_ends: bool, asked: list[tuple[int, int]]) -> None:
    """Against a row of words; a value that is there is given back instead."""
    pool, words = Pool(SIZE, from_ends), [""] * SIZE
    for number, count in asked:
        name = str(number)
        if name in words:
            pool.free(name)
            words = ["" if word == name else word for word in words]
            continue
        free = "".join("." if word == "" else "#" for word in words)
        if "." * count not in free:
            with pytest.raises(DoesNotFit, match=f"{free.count('.')} of {SIZE} are free"):
                pool.take(name, count)
            continue
        start = pool.take(name, count)
        assert words[start : start + count] == [""] * count
        assert from_ends or start == free.index("." * count)
        words[start : start + count] = [name] * count


def test_from_the_ends_a_value_leaves_the_middle_free() -> None:
    """What is taken beside another, which goes, would cut the room in two."""
    pool = Pool(SIZE, True)
    assert pool.take("sum", 10) == 0
    assert pool.take("norm", 10) == 30
    pool.free("sum")
    assert pool.take("wide", 30) == 0
