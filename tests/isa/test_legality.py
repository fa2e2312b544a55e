"""Legality: waits met in program order, counts bounded whatever the timing."""

from __future__ import annotations

import pytest

from axlora.isa.assembly import assemble
from axlora.isa.legality import IllegalProgram, check_program, executed

LOAD = "LOAD buffer=0 address=0 beat=0 rows=1 beats=8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LOAD}", "runs past its end"),
        (f"{LOAD} wait=4\nSEGA post=4\nHALT", "wait for semaphore 4 is not met"),
        (f"{LOAD} post=0\nSEGA wait=0\n{LOAD} post=0\nVOUT wait=0\nHALT", "two units"),
        ("LOOP count=16 body=1\n" + LOAD + " post=0\nENDLOOP\nHALT", "may pass 15"),
        ("ENDLOOP\nHALT", "without LOOP"),
        ("LOOP count=2 body=9\n" * 5 + "HALT", "nested loops"),
        # load may run 16 ahead of matrix: nothing holds it back
        ("LOOP count=20 body=2\n" + LOAD + " post=0\nSEGA wait=0\nENDLOOP\nHALT", "may pass 15"),
    ],
)
def test_illegal_programs_are_refused(text: str, words: str) -> None:
    with pytest.raises(IllegalProgram, match=words):
        check_program(assemble(text))


def test_credits_bound_the_count() -> None:
    text = f"SEGA post=4\nSEGA post=4\nLOOP count=200 body=2\n{LOAD} wait=4 post=0\nSEGA wait=0 post=4\nENDLOOP\nHALT"
    check_program(assemble(text))


def test_loop_count_zero_skips_the_body() -> None:
    check_program(assemble(f"LOOP count=0 body=1\n{LOAD} wait=4\nENDLOOP\nHALT"))


@pytest.mark.parametrize(("register", "count"), [(0, 3), (8, 8), (9, 3 + 0xFFFF - 3), (1, 0xFFFF), (31, 0xFFFF)])
def test_a_count_that_the_host_sets_is_the_largest_unless_it_is_known(register: int, count: int) -> None:
    """SET writes R1, the host R31 to what it likes; R8 and R9 are given."""
    program = assemble(f"LOOP count=3 body=1 rz={register}\n{LOAD}\nENDLOOP\nHALT")
    known = {8: 5, 9: 0xFFFF - 3}
    assert executed(program, known, 3 * 0xFFFF) == 2 + 2 * count
    with pytest.raises(IllegalProgram, match="executes more"):
        executed(program, known, 1 + 2 * count)
