"""Backend: loops, tiling, memory, and whole linears against the integer semantics through the simulator."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.backend.emit_tiles import TileEmit
from axlora.compiler.backend.link import check_accumulators, link, place_regions
from axlora.compiler.backend.plan import Plan, Shape, fits, make_plan
from axlora.compiler.backend.roll import roll
from axlora.compiler.backend.schedule import Schedule
from axlora.compiler.errors import BadModel
from axlora.compiler.layer import Adapter, Codes, Linear, LinearCalls, Records
from axlora.isa import numerics
from axlora.isa.assembly import encode_program, make
from axlora.isa.formats import Format
from axlora.isa.instruction import Instruction
from axlora.isa.legality import trace
from axlora.isa.opcodes import Opcode
from axlora.isa.regions import region_bytes, region_codes, slot_values
from axlora.isa.target import Target
from axlora.sim.run import run_image

TEST = Target.load("test")


def _round(n: int, step: int, body: int) -> list[Instruction]:
    """Round `n` of a loop of `body` instructions, whose fields go on by steps."""
    return [
        make(Opcode.LOAD, buffer=0, address=64 + 8 * step * n, beat=3 * n + b, rows=1, beats=2, posts=[b % 4])
        if b % 2
        else make(Opcode.SEGW, segment=b % 9, line=7 * n, groups=2 + b, rz=9)
        for b in range(body)
    ]


def _executed(program: list[Instruction]) -> list[Instruction]:
    """What leaves fetch for the units, with the registers added."""
    done = [i for _, i in trace([*program, make(Opcode.HALT)], {9: 5})]
    return [i for i in done if i.opcode not in (Opcode.SET, Opcode.LOOP, Opcode.ENDLOOP)]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=4))
def test_a_program_with_loops_executes_the_same(parts: list[tuple[int, int, int]]) -> None:
    plain = [i for count, step, body in parts for n in range(count) for i in _round(n, step, body)]
    rolled, places = roll(plain, [0] * len(plain))
    assert _executed(rolled) == _executed(plain)
    assert len(rolled) == len(places) <= len(plain)
    if any(count * body > 8 + 2 * body + len(parts) * 8 for count, _, body in parts):
        assert len(rolled) < len(plain)


@given(st.integers(3, 6), st.lists(st.tuples(st.integers(3, 9), st.integers(1, 4)), min_size=1, max_size=3), st.data())
def test_loops_in_a_loop_execute_the_same(rounds: int, parts: list[tuple[int, int]], data: st.DataObject) -> None:
    """Inner steps begin anew in each outer round; what stands between loops goes on by outer steps, which it may share."""
    far, near = (data.draw(st.sampled_from([0, -64, 64, 640]), label) for label in ("outer step", "inner step"))

    def instruction(outer: int, inner: int, kind: int) -> Instruction:
        address = 8192 + far * outer + near * inner
        return make(Opcode.LOAD, buffer=0, address=address, beat=(100 + 3 * inner - 5 * outer), rows=1, beats=1 + kind)

    plain = [
        i
        for outer in range(rounds)
        for n, (count, body) in enumerate(parts)
        for i in [
            instruction(outer, 0, 50 + n),
            *(instruction(outer, inner, 8 * n + b) for inner in range(count) for b in range(body)),
        ]
    ]
    rolled, places = roll(plain, [0] * len(plain))
    assert _executed(rolled) == _executed(plain)
    assert len(rolled) == len(places) <= len(plain)


def test_two_loops_in_a_loop_are_found() -> None:
    """The inner ones share a register, and the one between takes it, too."""

    def scalars(group: int, first: int) -> list[Instruction]:
        return [make(Opcode.VROW, factor=1, to=first + 4 * head + 48 * group, shift=first) for head in range(12)]

    groups = [[*scalars(g, 0), make(Opcode.STORE, beat=48 * g, rows=1, beats=48), *scalars(g, 5)] for g in range(8)]
    plain = [i for group in groups for i in group]
    rolled, _ = roll(plain, [0] * len(plain))
    assert _executed(rolled) == _executed(plain)
    assert [i.z for i in rolled if i.opcode is Opcode.LOOP] == [8, 12, 12]
    assert len(rolled) == 13
    assert sum(i.opcode is Opcode.SET for i in rolled) == 4


def test_what_does_not_repeat_stays_as_it_is() -> None:
    plain = [i for n in (0, 1, 4, 2, 9, 3, 20, 5) for i in _round(n, 1, 2)]
    assert roll(plain, list(range(len(plain)))) == (plain, list(range(len(plain))))


@given(st.integers(3, 20), st.integers(1, 6), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_an_instruction_of_a_loop_has_one_owner(count: int, body: int, owners: list[int]) -> None:
    """So each owner's instructions are as many as before."""
    plain = [i for n in range(2 * count) for i in _round(n, 1, body)]
    before = [owners[n % body] + 3 * (n >= count * body) for n in range(len(plain))]  # others in the second half
    rolled, places = roll(plain, before)
    after = [before[n] for n in places]
    own = dict.fromkeys(before, 0)
    for place, i in trace([*rolled, make(Opcode.HALT)], {9: 5}):
        if i.opcode not in (Opcode.SET, Opcode.LOOP, Opcode.ENDLOOP, Opcode.HALT):
            own[after[place]] += 1
    assert own == {owner: before.count(owner) for owner in own}


def test_fields_that_take_no_register_stay_as_they_are() -> None:
    """VCON has none; in VROW all but Z may step, and steps may go back."""
    constants = [make(Opcode.VCON, ca=n) for n in range(9)]
    assert roll(constants, [0] * len(constants))[0] == constants
    scalars = [make(Opcode.VROW, factor=1, add=40 - 4 * n, to=20 - n, shift=3) for n in range(9)]
    rolled, _ = roll(scalars, [0] * len(scalars))
    assert len(rolled) < len(scalars)
    assert _executed(rolled) == _executed(scalars)
    shifts = [make(Opcode.VROW, factor=1, shift=n) for n in range(9)]
    assert roll(shifts, [0] * len(shifts))[0] == shifts


def test_steps_beyond_the_registers_stay_as_they_are() -> None:
    plain = [
        make(Opcode.LOAD, buffer=0, address=1024 * b + 64 * (b + 1) * n, beat=2, rows=1, beats=2 + b)
        for n in range(9)
        for b in range(8)
    ]
    assert roll(plain, [0] * len(plain))[0] == plain
    fewer = [i for n, i in enumerate(plain) if n % 8 < 7]
    assert len(roll(fewer, [0] * len(fewer))[0]) < 30


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_regions_that_live_together_do_not_overlap(spans: list[tuple[int, int, int]]) -> None:
    regions = [(f"r{n}", size, min(a, b), max(a, b)) for n, (size, a, b) in enumerate(spans)]
    address, end = place_regions(regions, 128)
    for one in regions:
        assert address[one[0]] >= 128
        assert address[one[0]] + one[1] <= end
        for other in regions:
            if one[0] < other[0] and one[2] <= other[3] and other[2] <= one[3]:
                a, b = address[one[0]], address[other[0]]
                assert a + one[1] <= b or b + other[1] <= a


def _linear(rng: np.random.Generator, k: int, n: int, **changes: object) -> Linear:
    def records(count: int) -> Records:
        return Records(rng.integers(-999, 999, count), rng.integers(1 << 13, 1 << 14, count), rng.integers(18, 24, count))

    def codes(*shape: int) -> Codes:
        return Codes(rng.integers(-128, 128, shape), Format.S8)

    adapters = tuple(
        Adapter(
            name,
            rank,
            codes(k, rank),
            records(rank),
            codes(rank, n),
            rng.integers(-999, 999, n),
            rng.integers(1 << 13, 1 << 14, n),
            rng.integers(0, 1 << 12, n),
        )
        for name, rank in (("a", 5), ("b", 16))
    )
    return dataclasses.replace(Linear("l", "x", "l.out", codes(k, n), records(n), adapters, zero_point=3), **changes)  # type: ignore[arg-type]


def _reference(target: Target, linear: Linear, x: np.ndarray, name: str | None) -> np.ndarray:
    acc = numerics.matmul(x, linear.weight.values())
    r = linear.records
    keys = {"zero_point": linear.zero_point, "bits": linear.output_bits, "guard": linear.guard}
    adapter = next((a for a in linear.adapters if a.name == name), None)
    if adapter is None:
        return numerics.requantize(acc, r.bias, r.m1, r.shift, **keys)[0]
    a = adapter.a_records
    xa = numerics.matmul(x, adapter.a.values())
    u, e, _ = numerics.block_quantize(xa, a.bias, a.m1, a.shift, 0, target.activation_bits)
    acc2 = numerics.matmul(u, adapter.b.values())
    return numerics.requantize(acc, adapter.bias, adapter.m1, r.shift, acc2=acc2, m2=adapter.m2, exponent=e, **keys)[0]


@pytest.mark.parametrize("name", Target.presets())
@pytest.mark.parametrize("adapter", [None, "a", "b"])
def test_a_linear_computes_the_integer_semantics(name: str, adapter: str | None) -> None:
    target = Target.load(name)
    rng = np.random.default_rng(7)
    linear = _linear(rng, 150, 100)
    tokens = 21
    linked = link(target, LinearCalls((linear,), {"x": tokens}))
    memory = np.zeros(linked.adapter_address + 2 * linked.adapter_size, np.uint8)

    def put(address: int, data: bytes) -> None:
        memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    put(0, encode_program(linked.program))
    put(linked.weights_address, linked.weights)
    x = rng.integers(-128, 128, (tokens, 150))
    groups = -(-tokens // target.tokens)
    put(linked.inputs[0].address, region_bytes(target, x, linked.inputs[0].blocks, groups))
    registers = {}
    if adapter is not None:
        rank, block = linked.adapters[adapter]
        put(linked.adapter_address, block)
        put(linked.inputs[0].token_words, np.ones(tokens, "<u4").tobytes())
        registers = slot_values(target, 1, linked.adapter_address, rank)
    out = run_image(target, memory, 0, registers).memory
    want = _reference(target, linear, x, adapter)
    for tile in linked.outputs[0].tiles:
        blocks = -(-tile.groups * target.ports // target.lanes)
        data = out[tile.address : tile.address + tile.stride * groups]
        got = region_codes(target, data, 1, blocks, groups, tile.stride)[:tokens]
        part = want[:, tile.first * target.ports : (tile.first + tile.groups) * target.ports]
        assert (got[:, : part.shape[1]] == part).all()


def test_the_same_input_gives_the_same_program() -> None:
    programs = []
    for _ in range(2):
        linear = _linear(np.random.default_rng(3), 64, 64)
        linked = link(TEST, LinearCalls((linear,), {"x": 9}))
        programs.append((encode_program(linked.program), linked.weights, linked.adapters))
    assert programs[0] == programs[1]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 40), st.sampled_from(Target.presets()))
def test_the_chosen_plan_fits(k: int, n: int, tokens: int, name: str) -> None:
    target = Target.load(name)
    linear = Linear("l", "x", "y", Codes(np.ones((k, n), np.int64), Format.S8), Records(*(np.ones(n, np.int64),) * 3))
    shape = Shape.of(target, linear, min(tokens, target.tbuf_tokens // 2), 0, 0)
    plan = make_plan(target, linear, shape)
    assert fits(target, shape, plan.columns, plan.rows, plan.chunk)
    assert sum(c for _, c in plan.column_tiles(shape)) == shape.groups
    assert sum(c for _, c in plan.row_tiles(shape)) == shape.blocks


@pytest.mark.parametrize("name", Target.presets())
@pytest.mark.parametrize(("slots", "rank"), [(0, 0), (1, 5), (2, 33), (3, 64)])
def test_every_plan_that_fits_is_emitted(name: str, slots: int, rank: int) -> None:
    """The smallest and the largest column tiles, row tiles and chunks among those that `fits` takes."""
    target, tokens = Target.load(name), 40
    linear = dataclasses.replace(_linear(np.random.default_rng(1), 150, 100), adapters=())
    calls = LinearCalls((linear,), {"x": tokens})
    emitted = []

    def plans(shape: Shape) -> list[Plan]:
        sizes = (range(shape.column_unit, shape.groups + 1, shape.column_unit), range(1, shape.blocks + 1), range(1, 8))
        every = itertools.product(*({s[0], s[len(s) // 2], s[-1]} for s in sizes))
        return [Plan(*one, 0) for one in sorted(every) if fits(target, shape, *one)]

    for number in itertools.count():

        def planner(_: Target, linear: Linear, shape: Shape) -> Plan:
            found = plans(shape)
            emitted.append(len(found))
            return found[min(number, len(found) - 1)]  # noqa: B023 - called at once

        linked = link(target, calls, slots=slots, rank=rank, planner=planner)
        assert sum(i.opcode is Opcode.MATMUL for i in linked.program) >= 1
        if number >= emitted[-1]:
            break
    assert emitted[-1] >= 4


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    target = dataclasses.replace(Target.load("test"), activation_bits=16, beat_bytes=8)
    rows = 520  # 2**15 * 127 * 520 > 2**31
    linear = Linear("big", "x", "y", Codes(np.full((rows, 4), 127), Format.S8), Records(*(np.ones(4, np.int64),) * 3))
    with pytest.raises(BadModel, match=r"big: column 0 of the accumulator could overflow"):
        check_accumulators(target, linear)
    check_accumulators(dataclasses.replace(target, accumulator_bits=48), linear)


def test_what_fits_no_tiling_is_refused() -> None:
    target = dataclasses.replace(TEST, abuf_lines=4)
    linear = _linear(np.random.default_rng(0), 400, 16)
    with pytest.raises(BadModel, match="does not fit the buffers"):
        link(target, LinearCalls((linear,), {"x": 4}))


def test_a_setting_from_a_register_of_windows_holds_in_its_window_alone() -> None:
    schedule = Schedule()
    emit = SimpleNamespace(settings={}, _window_of={}, schedule=schedule)
    for window in (0, 0, 1):
        schedule.window = window
        TileEmit._set(emit, Opcode.VLEN, valid=1, rx=22)  # type: ignore[arg-type]
    assert [i.opcode for i in schedule.program({})] == [Opcode.VLEN, Opcode.WINDOW, Opcode.VLEN, Opcode.HALT]
