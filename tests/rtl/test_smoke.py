"""Small programs whose results and cycles are worked out here by hand from docs/isa.md, without the simulator."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from programs import TARGETS

from axlora.isa.formats import Format, pack
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import UNIT_COUNTERS, Buffer, Opcode
from axlora.isa.target import Target
from axlora.rtl.runner import Image, RtlResult, run_images

TEST = TARGETS["test"]
WEIGHTS, ACTIVATIONS, RECORDS, SCALES, OUTPUT, SIZE = 0x1000, 0x2000, 0x2800, 0x2E00, 0x3000, 0x4000
MATMUL_DONE, VECTOR_DONE = 4, 8


def _run(target: Target, program: list[Instruction], data: dict[int, bytes] | None = None) -> RtlResult:
    memory = bytearray(SIZE)
    for address, content in {0: b"".join(i.encode() for i in program), **(data or {})}.items():
        memory[address : address + len(content)] = content
    result = run_images(target, [Image(bytes(memory), 0, {}, SIZE)])[0]
    assert result.error == 0
    for unit, names in UNIT_COUNTERS.items():
        assert sum(result.counters[name] for name in names) == result.cycles, unit
    return result


def _load(buffer: Buffer, address: int, size: int, post: int | None = None) -> Instruction:
    posts = () if post is None else (post,)
    return Instruction(Opcode.LOAD, x=address, misc=size // TEST.beat_bytes, z=1, sub=buffer, posts=posts)


def _line_bytes(codes: np.ndarray, fmt: Format) -> bytes:
    """Codes [L, P * groups] of one row block as WBUF lines: word g of bank l holds the codes of as many groups as fit."""
    lanes, columns = codes.shape
    packed = pack(codes, fmt).reshape(lanes, -1, TEST.ports)
    assert packed.shape[1] * TEST.ports * 8 == columns * fmt.storage
    return packed.transpose(1, 0, 2).tobytes()


def test_control_instructions_take_four_cycles_a_miss_the_latency_and_lines_ahead_none() -> None:
    program = [
        Instruction(Opcode.SET, misc=1, x=5),
        Instruction(Opcode.LOOP, y=1, z=3),
        Instruction(Opcode.SET, misc=1, x=7, rx=1),
        Instruction(Opcode.ENDLOOP),
        Instruction(Opcode.LOOP, y=1, z=0),
        Instruction(Opcode.SET, misc=1, x=9),
        Instruction(Opcode.ENDLOOP),
        Instruction(Opcode.HALT),
    ]
    result = _run(TEST, program)
    executed, ahead, beats = 10, 4, 64 // TEST.beat_bytes  # the instructions of the first line ask for a line each
    miss = 1 + 1 + TEST.read_latency + beats - 1  # REQ; AR in the next cycle, its beats RLAT later
    assert result.counters["instructions"] == executed
    assert result.counters["fetch_beats"] == (1 + ahead) * beats
    assert result.counters["fetch_miss"] == miss
    there = 2 + 1 + TEST.read_latency + ahead * beats  # cycles from the first hit until all lines are there: RESOLVE, AR, beats
    assert result.counters["fetch_halt"] == there - (4 * executed - 1) > 0
    assert result.cycles == 1 + miss + there + 1


def _linear(rng: np.random.Generator, fmt: Format, scaled: bool) -> tuple[list[Instruction], dict[int, bytes], np.ndarray]:
    """x [2 tokens, 16 rows] times W [16, 8 or 16]; scaled: one sum segment, two groups of a block. Returns the sums too."""
    t = TEST
    blocks, columns = 2, t.ports * max(2, 8 // fmt.storage)
    x = rng.integers(-128, 128, (t.tokens, blocks, t.lanes))
    w = rng.integers(fmt.low, fmt.high + 1, (blocks, t.lanes, columns))
    scale, zero = rng.integers(0, 256, (blocks, columns)), rng.integers(-128, 128, (blocks, columns))
    ones = np.zeros((t.lanes, t.ports), np.int64)
    ones[:, 0] = 1
    lines = b"".join(_line_bytes(w[b], fmt) for b in range(blocks))
    groups = columns // t.ports
    one_line = len(lines) // t.wbuf_line_bytes
    lines += _line_bytes(ones, Format.S8)
    product = np.einsum("tbl,blc->tbc", x, w)
    acc = ((product - zero * x.sum(axis=2)[:, :, None]) * scale).sum(axis=1) if scaled else product.sum(axis=1)
    sbuf = np.zeros((blocks, groups, t.sbuf_line_bytes), np.uint8)
    sbuf[..., : t.ports] = scale.reshape(blocks, groups, t.ports)
    sbuf[..., t.ports : 2 * t.ports] = zero.astype(np.int8).view(np.uint8).reshape(blocks, groups, t.ports)
    data = {
        WEIGHTS: lines,
        ACTIVATIONS: x.transpose(1, 0, 2).astype(np.int8).tobytes(),
        SCALES: sbuf.tobytes(),
    }
    program = [
        _load(Buffer.SBUF, SCALES, sbuf.size),
        _load(Buffer.ABUF, ACTIVATIONS, x.size),
        _load(Buffer.WBUF, WEIGHTS, len(lines), post=0),
    ]
    first = int(scaled)
    if scaled:
        program += [
            Instruction(Opcode.SEGW, sub=0, misc=Format.S8, y=one_line, z=1),
            Instruction(Opcode.SEGA, sub=0, misc=3),
        ]
    program += [
        Instruction(Opcode.SEGW, sub=first, misc=fmt, z=groups, x=1 << 16 | groups),
        Instruction(Opcode.SEGA, sub=first, y=0, z=0, x=groups, misc=int(scaled)),
        Instruction(
            Opcode.MATMUL,
            sub=1 + first,
            z=blocks,
            misc=1 | (t.tokens - 1) << 1 | int(scaled) << 4,
            waits=(0,),
            posts=(MATMUL_DONE,),
        ),
    ]
    return program, data, acc


def _requantize(columns: int) -> list[Instruction]:
    """32-bit results: multiplier 1, shift 1, so rne(acc / 2)."""
    t = TEST
    return [
        Instruction(Opcode.VCFG),
        Instruction(Opcode.VOUT, misc=2),
        Instruction(Opcode.VREQ, z=columns // t.ports, misc=t.tokens - 1, waits=(MATMUL_DONE,), posts=(VECTOR_DONE,)),
        Instruction(Opcode.STORE, x=OUTPUT, misc=columns * t.tokens * 4 // t.beat_bytes, z=1, waits=(VECTOR_DONE,)),
        Instruction(Opcode.HALT),
    ]


def _outputs(result: RtlResult, columns: int) -> np.ndarray:
    """[tokens, columns] from the region [block][token][lane]."""
    t = TEST
    data = np.frombuffer(result.memory, "<i4", columns * t.tokens, OUTPUT)
    return data.reshape(-1, t.tokens, t.lanes).transpose(1, 0, 2).reshape(t.tokens, columns)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("fmt", [Format.S2, Format.S4, Format.S8, Format.U3, Format.U8])
def test_matmul_requantize_store_equal_numpy(fmt: Format, scaled: bool) -> None:
    rng = np.random.default_rng(fmt * 2 + scaled)
    program, data, acc = _linear(rng, fmt, scaled)
    records = np.zeros((acc.shape[1], 8), np.uint8)
    records[:, 4] = 1  # m1
    records[:, 6] = 1  # shift
    data[RECORDS] = records.tobytes()
    load = _load(Buffer.PBUF, RECORDS, records.size)
    result = _run(TEST, [load, *program, *_requantize(acc.shape[1])], data)
    expected = np.rint(acc / 2).astype(np.int64)  # half to even
    np.testing.assert_array_equal(_outputs(result, acc.shape[1]), expected)
    assert result.counters["saturations"] == 0
    assert result.counters["vector_elements"] == acc.size
    t = TEST
    assert result.counters["macs"] == 2 * t.lanes * t.tokens * (acc.shape[1] + scaled * t.ports)
    assert result.counters["vector_busy"] == acc.size // t.vector_lanes + 23 - 1
    assert result.counters["rescales"] == (2 * acc.size if scaled else 0)


def test_matmul_of_zero_codes_takes_the_formula() -> None:
    """All codes zero: c = 1 everywhere; R = 2 groups of 2 blocks, so pop(2) = pop(0) + 3 and pop(3) = pop(1) + 3."""
    t = TEST
    program, data, _ = _linear(np.random.default_rng(0), Format.S8, False)
    data[WEIGHTS] = bytes(len(data[WEIGHTS]))
    result = _run(TEST, [*program, Instruction(Opcode.HALT)], data)
    first_pop = 5 + t.multiplier_latency + 1  # from g0: I(0) = g0 + 5
    last_pop = first_pop + 1 + 3
    duration = (2 + t.tokens + 1) + last_pop + t.pipe
    counters = result.counters
    assert counters["matrix_busy"] + counters["matrix_raw"] + counters["matrix_product"] == duration - 1
    assert counters["matrix_raw"] == 1
    assert counters["matrix_product"] == first_pop
    assert counters["multiplications"] == 0
    assert counters["zeros"] == counters["macs"] == 2 * 8 * t.lanes * t.tokens
    assert counters["lane_groups"] == 4 * t.lanes


def test_block_quantize_takes_two_walks_a_token_and_feeds_the_next_matmul() -> None:
    """x.W1 = U is block quantized into UBUF; U.W2 with W2 = 1 in column 0 sums the codes of a token."""
    t = TEST
    program, data, acc = _linear(np.random.default_rng(5), Format.S8, False)
    records = np.zeros((acc.shape[1], 8), np.uint8)
    records[:, 4] = 1
    records[:, 6] = 1
    data[RECORDS] = records.tobytes()
    ones = len(data[WEIGHTS]) // t.wbuf_line_bytes - 1
    program += [
        Instruction(Opcode.VCFG),
        Instruction(Opcode.VQT, z=acc.shape[1] // t.ports, y=0x8000, misc=t.tokens - 1, waits=(MATMUL_DONE,), posts=(9,)),
        Instruction(Opcode.SEGW, misc=Format.S8, y=ones, z=1),
        Instruction(Opcode.SEGA),
        Instruction(Opcode.MATMUL, sub=1, z=1, y=0x8000, misc=1 | (t.tokens - 1) << 1, waits=(9,), posts=(MATMUL_DONE,)),
    ]
    tail = _requantize(t.ports)
    tail[-2] = dataclasses.replace(tail[-2], misc=t.lanes * t.tokens * 4 // t.beat_bytes)
    result = _run(TEST, [_load(Buffer.PBUF, RECORDS, records.size), *program, *tail], data)
    value = np.rint(acc / 2)
    exponent = np.maximum([int(a).bit_length() - 7 for a in np.abs(value).max(axis=1)], 0)
    codes = np.clip(np.rint(value / 2.0 ** exponent[:, None]), -127, 127)
    found = _outputs(result, t.lanes)[:, 0]
    np.testing.assert_array_equal(found, np.rint(codes.sum(axis=1) / 2))
    walk = acc.shape[1] // t.vector_lanes + 23
    assert result.counters["vector_busy"] == 23 + t.tokens * (1 + 2 * walk) - 1 + t.tokens * t.ports // t.vector_lanes + 23 - 1


def test_empty_instructions_take_two_cycles_or_the_pipe() -> None:
    program = [
        Instruction(Opcode.LOAD),
        Instruction(Opcode.STORE),
        Instruction(Opcode.VREQ),
        Instruction(Opcode.VQT),
        Instruction(Opcode.MATMUL, sub=1),
        Instruction(Opcode.HALT),
    ]
    counters = _run(TEST, program).counters
    assert counters["load_memory"] == 1
    assert counters["store_memory"] == 1
    assert counters["vector_busy"] == (23 - 1) + (23 + 1 + 2 * 23 - 1)
    assert counters["matrix_busy"] == 2 + 1 + 1 + 1 - 1
    assert counters["matrix_product"] == 0
