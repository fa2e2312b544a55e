"""Walks of a program: what is fetched is what memory holds then; what was legal is looked at again with other registers."""

from __future__ import annotations

import pytest

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.opcodes import CACHE_LINE_BYTES, CBUF_BIT, INSTRUCTION_BYTES, Buffer, ErrorCode, Into
from axlora.isa.target import Target
from axlora.sim.errors import MachineError
from axlora.sim.run import run_image

T = Target.load("test")
LINE = 20
"""The line that the program writes."""
DATA = 0x2000


def _image(text: str, data: bytes = b"") -> bytes:
    code = encode_program(assemble(text))
    return (code.ljust(DATA, b"\0") + data).ljust(DATA + 0x400, b"\0")


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_line_that_a_store_writes_is_fetched_as_it_is_then(rounds: int) -> None:
    """HALT takes the place of a SET; the second and third time the line is written it is in the cache already."""
    beats, words = CACHE_LINE_BYTES // T.beat_bytes, CACHE_LINE_BYTES // T.vector_word_bytes
    text = f"""LOAD buffer={int(Buffer.CBUF)} address={DATA} rows=1 beats={beats}
VLEN valid={CACHE_LINE_BYTES}
VCON ca=1
VMAP a={CBUF_BIT} words={words} into={int(Into.OBUF)} size=2
LOOP count={rounds} body=1
STORE address={LINE * CACHE_LINE_BYTES} rows=1 beats={beats}
ENDLOOP
"""
    text += "SET rd=1 value=5\n" * (LINE * 4 + 8 - 7) + "HALT"
    new = encode_program(assemble("HALT\nSET rd=1 value=6\nSET rd=1 value=6\nSET rd=1 value=6"))
    run = run_image(T, _image(text, new), 0)
    assert run.memory[LINE * CACHE_LINE_BYTES :][: len(new)].tobytes() == new
    assert run.counters["instructions"] == LINE * 4 + 1 + 2 * (rounds - 1)
    assert run.counters["store_beats"] == rounds * beats


def test_a_program_that_ran_is_refused_with_other_registers() -> None:
    memory = _image(f"SET rd=2 value=1\nLOAD buffer={int(Buffer.CBUF)} address={DATA} rows=1 beats=1 rx=1\nHALT")
    for _ in range(2):
        assert run_image(T, memory, 0, {1: 2 * T.beat_bytes}).counters["load_beats"] == 1
        with pytest.raises(MachineError, match=f"{DATA + 1:#x} is not a multiple") as caught:
            run_image(T, memory, 0, {1: 1})
        assert (caught.value.code, caught.value.address) == (ErrorCode.ILLEGAL, INSTRUCTION_BYTES)


def test_a_fault_before_an_illegal_instruction_comes_first() -> None:
    """The walk sees both; the machine stops at the first in program order."""
    far = 1 << 20
    text = f"LOAD buffer={int(Buffer.CBUF)} address={far} rows=1 beats=1\nHALT"
    memory = bytearray(_image(text))
    memory[INSTRUCTION_BYTES] = 0x3F
    with pytest.raises(MachineError, match="memory up to") as caught:
        run_image(T, bytes(memory), 0)
    assert (caught.value.code, caught.value.address) == (ErrorCode.MEMORY_ADDRESS, 0)
