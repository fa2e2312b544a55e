"""Every weight format, with and without scale groups, and every output mode: the simulator against `isa.numerics` alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from axlora.compiler.backend.link import link
from axlora.compiler.layer import Adapter, Codes, Linear, LinearCalls, Records
from axlora.isa import numerics
from axlora.isa.assembly import encode_program
from axlora.isa.formats import Format
from axlora.isa.regions import region_bytes, region_codes, slot_values, token_words
from axlora.isa.target import Target
from axlora.sim.run import run_image

K, N, TOKENS, RANKS = 100, 45, 9, (3, 16)
TARGETS = {
    8: Target.load("test"),
    16: dataclasses.replace(Target.load("test"), activation_bits=16, accumulator_bits=48),
}


def _records(rng: np.random.Generator, n: int, wide: int) -> Records:
    return Records(rng.integers(-5000, 5000, n), rng.integers(1 << 10, 1 << 16, n), rng.integers(16 + wide, 28 + wide, n))


def _linear(rng: np.random.Generator, fmt: Format, group: int, bits: int, number: int) -> Linear:
    def codes(k: int, n: int, kind: Format) -> np.ndarray:
        return rng.integers(kind.low, kind.high + 1, (k, n))

    wide = bits - 8 + (6 if group else 0)
    adapters = tuple(
        Adapter(
            f"a{i}",
            rank,
            Codes(codes(K, rank, Format.S8), Format.S8),
            _records(rng, rank, 0),
            Codes(codes(rank, N, Format.S8), Format.S8),
            rng.integers(-5000, 5000, N),
            rng.integers(1 << 10, 1 << 16, N),
            rng.integers(0, 1 << 12, N),
        )
        for i, rank in enumerate(RANKS)
    )
    groups = -(-K // group) if group else 0
    return Linear(
        "l",
        "x",
        "l.out",
        Codes(
            codes(K, N, fmt),
            fmt,
            rng.integers(-128, 128, 16) if fmt is Format.CB4 else None,
            group,
            rng.integers(0, 256, (groups, N)) if group else None,
            rng.integers(-128, 128, (groups, N)) if group else None,
        ),
        _records(rng, N, wide),
        adapters,
        output_bits=(8, 16, 32)[number % 3],
        zero_point=(-7, 0, 100)[number % 3],
        guard=(0, 4)[number % 2],
        bias_shift=number % 4,
        bias_end=number % 5 == 4,
        token_scale=number % 3 == 1,
    )


def _reference(linear: Linear, x: np.ndarray, slots: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """The linear's results from the formulas, token by token."""
    w = linear.weight
    if w.group:
        assert w.scale is not None
        assert w.zero is not None
        acc = numerics.grouped_matmul(x, w.values(), w.scale, w.zero, w.group)
    else:
        acc = numerics.matmul(x, w.values())
    out = []
    for t, slot in enumerate(slots):
        row = slice(t, t + 1)
        r = linear.records
        bias, m1, more = r.bias, r.m1, {}
        if slot:
            a = linear.adapters[slot - 1]
            bias, m1 = a.bias, a.m1
            ar = a.a_records
            xa = numerics.matmul(x[row], a.a.values())
            u, e, _ = numerics.block_quantize(xa, ar.bias, ar.m1, ar.shift, linear.bias_shift, bits)
            more = {"acc2": numerics.matmul(u, a.b.values()), "m2": a.m2, "exponent": e}
        if linear.token_scale:
            more |= {"mantissa": scale[row, :1], "token_shift": scale[row, 1:]}
        code, _ = numerics.requantize(
            acc[row],
            bias,
            m1,
            r.shift,
            bias_shift=linear.bias_shift,
            bias_end=linear.bias_end,
            guard=linear.guard,
            zero_point=linear.zero_point,
            bits=linear.output_bits,
            **more,  # type: ignore[arg-type]
        )
        out.append(code)
    return np.concatenate(out)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("group", [0, 32, 64])
@pytest.mark.parametrize("fmt", list(Format))
def test_every_format_with_mixed_adapters(fmt: Format, group: int, bits: int) -> None:
    target = TARGETS[bits]
    number = fmt * 3 + group // 32 + bits
    rng = np.random.default_rng(number)
    linear = _linear(rng, fmt, group, bits, number)
    calls = LinearCalls((linear,), {"x": TOKENS})
    linked = link(target, calls, slots=2, prove=False)
    memory = np.zeros(linked.adapter_address + 2 * linked.adapter_size, np.uint8)

    def put(address: int, data: bytes) -> None:
        memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    put(0, encode_program(linked.program))
    put(linked.weights_address, linked.weights)
    groups = -(-TOKENS // target.tokens)
    top = 1 << (bits - 1)
    x = rng.integers(-top, top, (TOKENS, K))
    put(linked.inputs[0].address, region_bytes(target, x, linked.inputs[0].blocks, groups))
    slots = rng.integers(0, 3, TOKENS)
    scale = np.stack([rng.integers(1 << 15, 1 << 16, TOKENS), rng.integers(12, 20, TOKENS)], axis=1)
    put(linked.inputs[0].token_words, token_words(slots, scale[:, 0], scale[:, 1]))
    registers: dict[int, int] = {}
    for slot, (_, (rank, block)) in enumerate(sorted(linked.adapters.items()), 1):
        address = linked.adapter_address + (slot - 1) * linked.adapter_size
        put(address, block)
        registers |= slot_values(target, slot, address, rank)
    result = run_image(target, memory, 0, registers)
    want = _reference(linear, x, slots, scale, bits)
    for tile in linked.outputs[0].tiles:
        blocks = -(-tile.groups * target.ports // target.lanes)
        data = result.memory[tile.address : tile.address + tile.stride * groups]
        got = region_codes(target, data, linked.outputs[0].element, blocks, groups, tile.stride)[:TOKENS]
        part = want[:, tile.first * target.ports : (tile.first + tile.groups) * target.ports]
        assert (got[:, : part.shape[1]] == part).all()
    assert result.counters["rescales"] > 0 if group else result.counters["rescales"] == 0


def test_an_untimed_run_computes_the_same() -> None:
    linear = _linear(np.random.default_rng(1), Format.S4, 0, 8, 0)
    linked = link(TARGETS[8], LinearCalls((linear,), {"x": 4}), prove=False)
    memory = np.zeros(linked.adapter_address + 2 * linked.adapter_size, np.uint8)
    data = encode_program(linked.program)
    memory[: len(data)] = np.frombuffer(data, np.uint8)
    timed, untimed = run_image(TARGETS[8], memory, 0), run_image(TARGETS[8], memory, 0, timing=False)
    assert (timed.memory == untimed.memory).all()
    assert untimed.cycles == 0 < timed.cycles
    for name in ("macs", "multiplications", "zeros", "vector_elements"):
        assert timed.counters[name] == untimed.counters[name]
