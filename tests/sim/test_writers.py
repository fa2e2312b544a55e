"""Which STORE wrote a place: the last in program order, whatever its bytes are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.target import Target
from axlora.sim.writers import writers

T = Target.load("test")
DATA, BEATS = 0x400, 16


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, BEATS - 1), st.integers(1, 4)), max_size=5), st.integers(0, 255))
def test_the_last_store_to_a_place_is_named(stores: list[tuple[int, int]], before: int) -> None:
    """The stores write zeros; 0 and 255 before them are what those bytes and their opposite are."""
    lines = [f"STORE address={DATA + beat * T.beat_bytes} rows=1 beats={beats}" for beat, beats in stores]
    memory = np.full(DATA + (BEATS + 4) * T.beat_bytes, before, np.uint8)
    code = encode_program(assemble("\n".join([*lines, "HALT"])))
    memory[: len(code)] = np.frombuffer(code, np.uint8)
    places = np.arange(DATA, memory.size)
    number, address = writers(T, memory, 0, {}, places)
    wanted = np.full(places.size, -1)
    for n, (beat, beats) in enumerate(stores):
        wanted[beat * T.beat_bytes : (beat + beats) * T.beat_bytes] = n
    assert number.tolist() == wanted.tolist()
    assert address[number >= 0].tolist() == (INSTRUCTION_BYTES * wanted[wanted >= 0]).tolist()
