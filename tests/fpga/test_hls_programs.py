"""The HLS C++ in C simulation against the simulator: seeded programs on every target, and what draws seldom reach."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hls_compare import compare
from matrix_programs import matrix_case
from programs import TARGETS, Case, random_case, semaphore_case
from row_programs import Chain, row_case

from axlora.fpga.hls_run import COUNTED, FLAGS, run_starts
from axlora.isa.assembly import assemble, encode_program
from axlora.isa.cpp_header import target_header
from axlora.isa.formats import Format
from axlora.isa.image import Image
from axlora.isa.opcodes import CBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row
from axlora.sim.run import run_image

SEEDS = {random_case: range(200, 205), row_case: range(300, 304), matrix_case: range(400, 405)}
"""Of each kind on each of the ten targets: 140 programs."""


def _program(*lines: str, memory: bytes = b"", at: int = 4096) -> Case:
    """Text and data as a case of target `test`."""
    program = assemble("\n".join([*lines, "HALT"]))
    image = bytearray(1 << 14)
    code = encode_program(program)
    image[: len(code)] = code
    image[at : at + len(memory)] = memory
    return Case(-1, TARGETS["test"], bytes(image), {}, tuple(program))


def _seen(case: Case) -> Counter[tuple[type, int]]:
    """Opcodes, formats, functions, ... of a program; by type, for their numbers are equal."""
    seen: list[object] = [i.opcode for i in case.program]
    for i in case.program:
        if i.opcode is Opcode.VMAP:
            seen += [Map(i.sub & 3), Reduce(i.sub >> 2), Into(i.misc >> 6 & 3)]
        elif i.opcode is Opcode.VROW:
            seen.append(Row(i.sub))
        elif i.opcode is Opcode.SEGW:
            seen.append(Format(i.misc & 15))
        elif i.opcode is Opcode.LOAD:
            seen.append(Buffer(i.sub))
        elif i.opcode is Opcode.STORE:
            seen.append(i.sub)  # bytes of a beat
    return Counter((type(what), int(what)) for what in seen)  # type: ignore[call-overload]


@pytest.mark.slow
def test_a_hundred_programs_equal_the_simulator_and_cover_the_machine() -> None:
    seen: Counter[tuple[type, int]] = Counter()
    silent = set(COUNTED)
    programs = 0
    for target in TARGETS.values():
        cases = [make(seed, target) for make, seeds in SEEDS.items() for seed in seeds]
        programs += len(cases)
        for case, sim in zip(cases, compare(cases), strict=True):
            seen.update(_seen(case))
            assert sim.trace is not None
            silent -= {name for name in COUNTED if sim.trace.total(name)}
            silent -= {name for name in silent if sim.counters.get(name)}
    assert programs >= 100
    wanted = {(kind, int(o)) for kind in (Opcode, Map, Reduce, Into, Row, Format, Buffer) for o in kind}
    wanted |= {(int, size) for size in range(5)}
    assert not {what for what in wanted if seen[what] < 5}
    assert not silent, f"never counted: {silent}"


def test_loops_clamps_and_semaphores() -> None:
    """Four nested loops with skipped ones inside; the symmetric 32-bit clamp; all semaphores many times."""
    body = ["LOOP count=0 body=1", "SET rd=1 value=9", "ENDLOOP", "SET rd=1 value=8192"]
    body.append("STORE address=0 beat=3 rows=1 beats=1 rx=1")
    for count in (3, 1, 4, 2):
        body = ["SET rd=2 value=2", f"LOOP count={count} body={len(body)}", *body, "ENDLOOP", "SET rd=3 value=3"]
    target = TARGETS["test"]
    records = np.zeros(target.ports, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "<u2")]))
    records["bias"], records["m1"], records["shift"] = [-(2**31), 2**31 - 1, -1, 1], 65535, 1
    clamp = _program(
        f"LOAD buffer=2 address=4096 beat=0 rows=1 beats={records.nbytes // target.beat_bytes} post=0",
        "VCFG",
        "VOUT size=2",
        "VREQ groups=1 wait=0 post=8",
        f"STORE address=8192 beat=0 rows=1 beats={4 * target.ports // target.beat_bytes} wait=8",
        memory=records.tobytes(),
    )
    nested, clamped, _ = compare([_program(*body), clamp, semaphore_case(target)])
    assert nested.counters["store_beats"] == 3 * 1 * 4 * 2
    found = np.asarray(clamped.memory).view("<i4")[8192 // 4 :][: target.ports]
    assert found.tolist() == [-(2**31) + 1, 2**31 - 1, -32768, 32768]


def _case(chain: Chain, data: dict[int, np.ndarray]) -> Case:
    """A chain and data by address as a case of target `test`."""
    chain.add(Opcode.HALT)
    program = chain.program()
    image = np.zeros(1 << 14, np.uint8)
    code = np.frombuffer(encode_program(program), np.uint8)
    assert code.size <= min(data)
    image[: code.size] = code
    for address, values in data.items():
        image[address : address + values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
    return Case(-1, TARGETS["test"], image.tobytes(), {}, program)


def test_scale_groups_that_do_and_do_not_divide_the_blocks() -> None:
    """Seven row blocks in scale groups of 1, 2, 3, 4, 7 and 9: the last group ends with the product."""
    target, c = TARGETS["test"], Chain()
    sizes = (1, 2, 3, 4, 7, 9)
    records = np.zeros(target.ports * len(sizes), np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "<u2")]))
    records["m1"], records["shift"] = 2, 1
    for buffer, beats in ((Buffer.WBUF, 64), (Buffer.ABUF, 32), (Buffer.SBUF, 16)):
        c.add(Opcode.LOAD, buffer=buffer, address=4096, rows=1, beats=beats)
    c.add(Opcode.LOAD, buffer=Buffer.PBUF, address=8192, rows=1, beats=records.nbytes // target.beat_bytes)
    c.add(Opcode.SEGW, segment=0, format=Format.S8, groups=1, block_stride=1)
    for number, size in enumerate(sizes):
        c.add(Opcode.SEGA, segment=0, acc=number, scaled=1, scale_stride=1, scale_line=number)
        c.add(Opcode.MATMUL, segments=1, blocks=7, first=1, per_group=size)
    c.add(Opcode.VCFG)
    c.add(Opcode.VOUT, size=2)
    c.add(Opcode.VREQ, groups=len(sizes))
    c.add(Opcode.STORE, address=12288, rows=1, beats=len(sizes) * target.ports * 2 * 4 // target.beat_bytes)
    weights = np.random.default_rng(1).integers(0, 256, 2048, np.uint8)
    (found,) = compare([_case(c, {4096: weights, 8192: records})])
    assert found.counters["rescales"] == (7 + 4 + 3 + 2 + 1 + 1) * target.ports


SQUARES = (0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 25, 36, 255, 256, 65536, 46340**2)
EDGES = (32767, 32768, 65535, 65537, 2**20, 2**24 - 1, 2**30, 2**31 - 129, 2**31 - 128, 2**31 - 2, 2**31 - 1)
"""Reductions: squares and their neighbours; powers of two and what rounds up to the next one."""


@pytest.mark.parametrize("function", list(Row))
def test_row_scalars_of_edge_values(function: Row) -> None:
    """Factor and shift of each, seen through SCALE of a large and a small word, of the value and of the value plus two.

    2^31 + 1 divides 2^62 - 1, so there the cut quotient shows its last bit; so do squares in a root.
    """
    c, values = Chain(), [*SQUARES, *EDGES]
    table = np.zeros(2 * (len(values) + 2), "<i4")  # a word of two elements each
    table[: 2 * len(values) : 2] = values
    table[-4:] = [2**31 - 1, 2**20 + 1, 3, -(2**31) + 1]
    c.add(Opcode.LOAD, buffer=Buffer.CBUF, address=12288, rows=1, beats=table.nbytes // 8)
    c.add(Opcode.VLEN, valid=2)
    c.add(Opcode.VCON, ca=1)
    place = 0
    for n, _ in enumerate(values):
        for add, adjust in ((0, 31), (2, -5)):
            c.add(Opcode.VMAP, function=Map.MAC, reduce=Reduce.SUM, a=CBUF_BIT | n, words=1)
            exponent = {"to": adjust & 255} if function is Row.TOKEN else {}
            c.add(Opcode.VROW, function=function, factor=1, add=add, rows=1, scalar=1, adjust=adjust, **exponent)
            for word in (len(values), len(values) + 1):
                at = {"a": CBUF_BIT | word, "to": place}
                c.add(Opcode.VMAP, function=Map.SCALE, words=1, into=Into.OBUF, size=2, scale=1, **at)
                place += 1
    c.add(Opcode.STORE, address=13312, rows=1, beats=place)
    compare([_case(c, {12288: table})])


def test_a_second_start_finds_the_buffers_and_settings_of_the_first() -> None:
    """As the machine: a start clears loops, cache and counters, and leaves buffers and settings."""
    target = TARGETS["test"]
    first = _program("LOAD buffer=5 address=4096 beat=0 rows=1 beats=4", "VLEN valid=3", "VCON ca=3", memory=bytes(range(32)))
    second = ("VMAP function=0 a=32768 words=2 into=3 size=2 post=8", "STORE address=8192 beat=0 rows=1 beats=2 wait=8")
    whole = _program(
        "LOAD buffer=5 address=4096 beat=0 rows=1 beats=4 post=0",
        "VLEN valid=3 wait=0",
        "VCON ca=3",
        *second,
        memory=bytes(range(32)),
    )
    images = [Image(case.memory, 0, {}, len(case.memory)) for case in (first, _program(*second))]
    _, found = run_starts(target, images)
    wanted = run_image(target, whole.memory, 0)
    assert found.memory[8192:] == wanted.memory[8192:].tobytes()
    assert any(found.memory[8192:])
    assert found.counters["instructions"] == 3
    assert found.counters["load_beats"] == 0


@pytest.mark.slow
def test_the_sanitizers_find_nothing() -> None:
    """No array is left, no signed number overflows, no shift is too wide."""
    flags = [*(f for f in FLAGS if f != "-O2"), "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags.append("-fno-sanitize=shift-base")  # ap_private.h shifts negative numbers left, as every compiler lets it
    for name in ("test", "mac-16bit"):
        compare([make(seed, TARGETS[name]) for make, seeds in SEEDS.items() for seed in seeds[:3]], flags)


def test_the_header_of_a_target_holds_its_parameters() -> None:
    lines = target_header(TARGETS["mac-16bit"]).splitlines()
    for line in ("ENGINE 0", "MULTIPLIERS 2", "ACTIVATION_BITS 16", "ACCUMULATOR_BITS 48", "BURST_BEATS 4"):
        assert f"#define AX_{line}" in lines
