"""Seeded random programs: linears with random shapes, formats, adapters and tilings, compiled by the backend to bytes.

Each program is a whole memory image with registers. The tilings are random (not the planner's), so shapes that divide by
nothing, partial tiles and every double buffer occur.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from axlora.compiler.backend.link import link
from axlora.compiler.backend.plan import Plan, Shape, fits
from axlora.compiler.errors import BadModel
from axlora.compiler.layer import Adapter, Codes, Linear, LinearCalls, Records
from axlora.isa.assembly import assemble, encode_program
from axlora.isa.formats import Format
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.opcodes import CACHE_LINE_BYTES, Opcode
from axlora.isa.regions import region_bytes, slot_values, token_words
from axlora.isa.target import Target

BASE = Target.load("test")


def _variant(name: str, **changes: object) -> Target:
    return dataclasses.replace(BASE, name=name, **changes)  # type: ignore[arg-type]


TARGETS = {
    t.name: t
    for t in (
        BASE,
        _variant(
            "mac-4x2",
            engine="mac",
            lanes=4,
            ports=2,
            tokens=1,
            multiplier_latency=1,
            fifo_depth=5,
            beat_bytes=4,
            vector_lanes=1,
            read_latency=3,
            write_latency=2,
            outstanding=1,
            index_entries=128,
        ),
        _variant(
            "reuse-m2",
            lanes=4,
            ports=4,
            multipliers=2,
            tokens=4,
            multiplier_latency=2,
            fifo_depth=7,
            group_scales=False,
            group_words=4,
            read_latency=25,
            write_latency=100,
            burst_beats=8,
            vector_lanes=4,
        ),
        _variant(
            "reuse-16x8",
            lanes=16,
            ports=8,
            tokens=1,
            multiplier_latency=5,
            fifo_depth=16,
            index_entries=128,
            beat_bytes=16,
            vector_lanes=8,
            read_latency=40,
            outstanding=4,
            tbuf_tokens=8,
        ),
        _variant(
            "mac-16bit",
            engine="mac",
            multipliers=2,
            activation_bits=16,
            accumulator_bits=48,
            beat_bytes=16,
            ports=8,
            vector_lanes=8,
            burst_beats=4,
            outstanding=3,
        ),
        _variant(
            "reuse-16bit",
            ports=2,
            tokens=4,
            activation_bits=16,
            accumulator_bits=48,
            multiplier_latency=4,
            fifo_depth=9,
            vector_lanes=1,
            icache_lines=4,
        ),
        _variant(
            "reuse-2x16",
            lanes=2,
            ports=16,
            multipliers=4,
            tokens=8,
            multiplier_latency=1,
            fifo_depth=5,
            vector_lanes=1,
            write_latency=20,
            wbuf_lines=2048,
            tbuf_tokens=256,
            ubuf_lines=256,
        ),
        _variant(
            "mac-m16",
            engine="mac",
            lanes=16,
            multipliers=16,
            multiplier_latency=2,
            fifo_depth=6,
            outstanding=8,
            read_latency=60,
            ports=16,
            vector_lanes=16,
            wbuf_lines=1024,
        ),
        _variant(
            "table-m2",
            engine="table",
            lanes=4,
            multipliers=2,
            tokens=4,
            multiplier_latency=1,
            fifo_depth=5,
            read_latency=5,
        ),
        _variant(
            "table-16bit",
            engine="table",
            activation_bits=16,
            accumulator_bits=48,
            ports=8,
            tokens=1,
            beat_bytes=16,
            vector_lanes=8,
        ),
    )
}
"""The elaborations of the random tests."""

CACHES = {
    t.name: t
    for t in (
        _variant("cache-2", icache_lines=2, read_latency=60, beat_bytes=16, ports=8),
        _variant("cache-8", icache_lines=8, read_latency=200, beat_bytes=16, ports=8),
    )
}
"""Small instruction caches behind slow memories."""

SMALL = ("test", "mac-4x2", "reuse-m2", "table-m2", "reuse-16bit")
"""Those of every push; the first also of make test-fast: each simulator takes half a minute to build."""


@dataclass(frozen=True)
class Case:
    """One random program, ready to run."""

    seed: int
    target: Target
    memory: bytes
    registers: dict[int, int]
    program: tuple[Instruction, ...]


def _records(rng: np.random.Generator, n: int, target: Target) -> Records:
    low, high = (14, 26) if target.activation_bits == 8 else (22, 36)
    return Records(rng.integers(-5000, 5000, n), rng.integers(1, 1 << 16, n), rng.integers(low, high, n))


def _codes(rng: np.random.Generator, k: int, n: int, fmt: Format) -> np.ndarray:
    style = rng.integers(4)
    if style == 0:
        return rng.integers(fmt.low, fmt.high + 1, (k, n))
    if style == 1:
        return np.full((k, n), fmt.low)
    spread = max(1.0, (fmt.high - fmt.low) / (6 if style == 2 else 20))
    middle = 0 if fmt.signed else (fmt.low + fmt.high) / 2
    return np.clip(np.rint(rng.normal(middle, spread, (k, n))), fmt.low, fmt.high).astype(np.int64)


def _formats(target: Target) -> list[Format]:
    return [f for f in Format if f is not Format.U8 or target.index_entries == 256]


def random_linear(rng: np.random.Generator, target: Target, name: str, k: int, ranks: list[int], index: int) -> Linear:
    """One linear; `index` walks through the formats so that each occurs."""
    t = target
    n = int(rng.integers(2 * t.ports, 9 * t.ports))
    formats = _formats(t)
    fmt = formats[index % len(formats)]
    group = int(rng.choice([0, 32, 64])) if t.group_scales and 32 % t.lanes == 0 and rng.random() < 0.6 else 0
    groups = -(-k // group) if group else 0
    adapters = tuple(
        Adapter(
            f"a{i}",
            rank,
            Codes(_codes(rng, k, rank, Format.S8), Format.S8),
            _records(rng, rank, t),
            Codes(_codes(rng, rank, n, Format.S8), Format.S8),
            rng.integers(-5000, 5000, n),
            rng.integers(1, 1 << 16, n),
            rng.integers(0, 1 << 12, n),
        )
        for i, rank in enumerate(ranks)
    )
    return Linear(
        name,
        "x",
        f"{name}.out",
        Codes(
            _codes(rng, k, n, fmt),
            fmt,
            rng.integers(-128, 128, 16) if fmt is Format.CB4 else None,
            group,
            rng.integers(0, 256, (groups, n)) if group else None,
            rng.integers(-128, 128, (groups, n)) if group else None,
        ),
        _records(rng, n, t),
        adapters,
        output_bits=int(rng.choice([8, 16, 32])),
        zero_point=int(rng.integers(-128, 128)),
        guard=int(rng.choice([0, 0, 3, 8])),
        bias_shift=int(rng.integers(0, 4)),
        bias_end=bool(rng.random() < 0.3),
        token_scale=bool(rng.random() < 0.4),
    )


def random_case(seed: int, target: Target) -> Case:
    """The program of a seed: one or two linears, two tiles each way, loops, up to three adapters mixed in the batch."""
    rng = np.random.default_rng(seed)
    t = target
    k = int(rng.integers(2 * t.lanes, 12 * t.lanes))
    slots = int(rng.choice([0, 1, 1, 2, 3]))
    ranks = [int(r) for r in rng.choice([1, 2, 4, 7, 8, 16, 33, 64], slots)] if slots else []
    tokens = int(rng.integers(5 * t.tokens, 8 * t.tokens + 1))
    while ranks and -(-tokens // t.tokens) * (max(ranks) + t.ports) // t.lanes > t.ubuf_lines:
        ranks = [max(1, r // 2) for r in ranks]
    linears = tuple(random_linear(rng, t, f"l{i}", k, ranks, seed + i) for i in range(int(rng.integers(1, 3))))

    def planner(target: Target, linear: Linear, shape: Shape) -> Plan:
        unit, step = shape.column_unit, shape.per_group or 1
        grid = [
            Plan(columns, rows, chunk, 0)
            for columns in range(unit, shape.groups + 1, unit)
            for rows in {step, *range(step, shape.blocks + 1, 3 * step), shape.blocks}
            for chunk in (1, 2, 3)
            if columns < shape.groups and rows < shape.blocks and fits(target, shape, columns, rows, chunk)
        ]
        if not grid:
            raise BadModel(f"seed {seed}: no tiling with two tiles each way")
        return grid[int(rng.integers(len(grid)))]

    bits = t.activation_bits
    calls = LinearCalls(linears, {"x": tokens})
    try:
        linked = link(t, calls, slots=slots, rank=max(ranks, default=0), planner=planner, prove=False)
    except BadModel:
        return random_case(seed + 1_000_000, target)  # too small for two tiles, or too large for the buffers: another draw
    if not any(i.opcode is Opcode.LOOP for i in linked.program):
        return random_case(seed + 1_000_000, target)  # every program has a loop
    size = linked.adapter_address + linked.adapter_size * max(1, slots)
    memory = np.zeros(-(-size // 64) * 64, np.uint8)

    def put(address: int, data: bytes) -> None:
        memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    put(0, encode_program(linked.program))
    put(linked.weights_address, linked.weights)
    place = linked.inputs[0]
    groups = -(-tokens // t.tokens)
    top = 1 << (bits - 1)
    x = rng.integers(-top, top, (tokens, k)) if rng.random() < 0.7 else rng.choice([-top, top - 1, 0], (tokens, k))
    put(place.address, region_bytes(t, x, place.blocks, groups))
    words = rng.integers(0, slots + 1, groups * t.tokens)
    shift = rng.integers(10, 22, words.size)
    put(place.token_words, token_words(words, rng.integers(1 << 15, 1 << 16, words.size), shift))
    registers: dict[int, int] = {}
    for slot, (_, (rank, block)) in enumerate(sorted(linked.adapters.items()), 1):
        address = linked.adapter_address + (slot - 1) * linked.adapter_size
        put(address, block)
        registers |= slot_values(t, slot, address, rank)
    return Case(seed, t, memory.tobytes(), registers, linked.program)


def _walk(rng: np.random.Generator, length: int, depth: int) -> list[str]:
    """Settings, loads, and loops of 0 to 3 passes, nested to `depth`; no unit waits for another."""
    lines: list[str] = []
    while len(lines) < length:
        kind = rng.random()
        if depth and kind < 0.15:
            body = _walk(rng, int(rng.integers(1, 24)), depth - 1)
            lines += [f"LOOP count={int(rng.integers(0, 4))} body={len(body)}", *body, "ENDLOOP"]
        elif kind < 0.25:
            beats = int(rng.integers(0, 24))
            lines.append(f"LOAD buffer=1 address=0 beat=0 rows=1 beats={beats}")
        elif kind < 0.5:
            lines.append(f"SEGA segment={int(rng.integers(0, 9))}")
        else:
            lines.append(f"SET rd=1 value={int(rng.integers(0, 100))}")
    return lines


def fetch_case(seed: int, target: Target) -> Case:
    """A program for the instruction cache: loops shorter and longer than it, skipped ones, loads that share the bus, and
    0 to 4 lines of memory behind HALT."""
    rng = np.random.default_rng(seed)
    program = assemble("\n".join([*_walk(rng, int(rng.integers(20, 160)), 3), "HALT"]))
    data = encode_program(program)
    padding = -len(data) % CACHE_LINE_BYTES + CACHE_LINE_BYTES * int(rng.integers(0, 5))
    least = 24 * target.beat_bytes  # what loads read
    return Case(seed, target, data + bytes(max(padding, least - len(data))), {}, tuple(program))


def semaphore_case(target: Target, rounds: int = 40) -> Case:
    """Four rings load -> matrix -> vector -> store -> load that use all sixteen semaphores `rounds` times each."""
    body, start = [], []
    for ring in range(4):
        start.append(f"STORE post={12 + ring}")
        body += [
            f"LOAD buffer={ring} address=4096 beat={ring} rows=1 beats={5 + ring} wait={12 + ring} post={ring}",
            f"SEGA segment={ring} wait={ring} post={4 + ring}",
            f"VOUT size={ring % 3} wait={4 + ring} post={8 + ring}",
            f"STORE address=8192 beat={ring} rows=1 beats={3 * ring} wait={8 + ring} post={12 + ring}",
        ]
    program = assemble("\n".join([*start, f"LOOP count={rounds} body={len(body)}", *body, "ENDLOOP", "HALT"]))
    check_program(program)
    memory = bytearray(np.random.default_rng(5).bytes(1 << 14))
    data = encode_program(program)
    memory[: len(data)] = data
    return Case(-1, target, bytes(memory), {}, tuple(program))
