"""Verilog against simulator on seeded random programs: memory, counters, and the cycles of every single instruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from matrix_programs import matrix_case
from programs import CACHES, SMALL, TARGETS, Case, fetch_case, random_case, semaphore_case

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.legality import trace
from axlora.isa.opcodes import CACHE_LINE_BYTES, COUNTERS, SEMAPHORE_MAX, SEMAPHORES, UNIT_OF, ErrorCode, Opcode, Unit
from axlora.rtl.runner import Image, run_images
from axlora.sim import timeline
from axlora.sim.control import REQUESTS, Control, Requests
from axlora.sim.errors import MachineError
from axlora.sim.run import SimResult, run_image

PUSH_SEEDS = 5
ALL_SEEDS = 26
ROW_OPCODES = {"VMAP", "VROW", "VLEN", "VPITCH", "VBANK", "VCON", "VTAB", "SPITCH", "WINDOW"}
"""Those that test_row_programs covers."""


def _compare(cases: list[Case]) -> list[SimResult]:
    found = run_images(cases[0].target, [Image(c.memory, 0, c.registers, len(c.memory), trace=True) for c in cases])
    results = []
    for case, rtl in zip(cases, found, strict=True):
        assert rtl.error == 0, f"seed {case.seed}: error {rtl.error} at {rtl.error_address:#x}"
        sim = run_image(case.target, case.memory, 0, case.registers)
        different = {k: (v, rtl.counters[k]) for k, v in sim.counters.items() if v != rtl.counters[k]}
        assert not different, f"seed {case.seed}: (simulator, Verilog) {different}"
        assert set(rtl.counters) == {c.name for c in COUNTERS}
        parted = np.flatnonzero(np.frombuffer(rtl.memory, np.uint8) != sim.memory)
        assert parted.size == 0, f"seed {case.seed}: memory parts at byte {parted[0]:#x}"
        assert sim.cycles == rtl.cycles > 0
        assert sim.trace is not None
        steps = np.stack([sim.trace.unit, sim.trace.address, sim.trace.accept, sim.trace.done], axis=1)
        assert sorted(map(tuple, steps.tolist())) == sorted(rtl.events), f"seed {case.seed}: an instruction's cycles differ"
        results.append(sim)
    return results


def _encodings(rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Instructions with one to three fields of random bits, at the edge of what is legal: every opcode, known and unknown."""
    fields = (
        (0, 5),
        (6, 10),
        (11, 15),
        (16, 20),
        (21, 25),
        (26, 31),
        (32, 36),
        (37, 41),
        (42, 46),
        (47, 50),
        (51, 54),
        (55, 63),
    )
    fields += ((64, 79), (80, 95), (96, 111), (112, 127))
    start = {Opcode.SET: 1 << 47, Opcode.LOOP: 1 << 96 | 1 << 112, Opcode.MATMUL: 1 << 26}
    posts = {Unit.LOAD: 0, Unit.MATRIX: 4, Unit.VECTOR: 8, Unit.STORE: 12}
    for _ in range(count):
        opcode = Opcode(int(rng.choice(list(Opcode))))
        word = start.get(opcode, 0) | opcode
        unit = UNIT_OF[opcode]
        if unit is not Unit.FETCH and rng.random() < 0.5:  # posts of its own: none, one, two different ones or the same twice
            a, b = (16 + posts[unit] + int(v) for v in rng.integers(0, 4, 2))
            word |= a << 16 | (b << 21 if rng.random() < 0.5 else 0)
        for low, high in (fields[int(i)] for i in rng.choice(len(fields), int(rng.integers(0, 3)), replace=False)):
            mask = (1 << (high - low + 1)) - 1
            value = int(rng.integers(0, mask + 1)) if rng.random() < 0.5 else 1 << int(rng.integers(0, high - low + 1))
            word = word & ~(mask << low) | value << low
        yield word.to_bytes(16, "little")


def test_random_encodings_are_illegal_in_both_or_neither() -> None:
    target = TARGETS["test"]
    words = list(_encodings(np.random.default_rng(3), 400))
    memories = [word + encode_program(assemble("HALT")) + bytes(992) for word in words]
    refused = 0
    found = run_images(target, [Image(m, 0, {}, len(m), watchdog=300, dump=(0, 0)) for m in memories])
    for word, memory, rtl in zip(words, memories, found, strict=True):
        try:
            run_image(target, memory, 0)
            expected: tuple[int, int, int] = (0, 0, 0)
        except MachineError as error:
            expected = (error.code, error.unit, error.address)
        refused += expected[0] == ErrorCode.ILLEGAL
        assert (rtl.error, rtl.error_unit, rtl.error_address) == expected, word[::-1].hex()
    assert 100 < refused < 300  # both sides of the edge


def test_four_nested_loops_and_skipped_ones() -> None:
    """Each level goes on after the inner loop has ended, so every entry of the loop stack is read back."""
    target = TARGETS["test"]
    body = ["LOOP count=0 body=1", "SET rd=1 value=9", "ENDLOOP", "SET rd=1 value=1"]
    for count in (3, 2, 4, 2):
        body = ["SET rd=2 value=2", f"LOOP count={count} body={len(body)}", *body, "ENDLOOP", "SET rd=3 value=3"]
    program = assemble("\n".join([*body, "HALT"]))
    data = encode_program(program)
    (result,) = _compare([Case(-2, target, data + bytes(-len(data) % 64), {}, tuple(program))])
    inner = 2
    for count in (3, 2, 4, 2):
        inner = 3 + count * (inner + 1)  # SET, LOOP, SET; the body and its ENDLOOP each pass
    assert result.counters["instructions"] == inner + 1


def test_the_32_bit_clamp_is_symmetric() -> None:
    """Records without accumulators: bias * 65535 / 2 clamps at both ends of 32 bits, and rounds half to even within."""
    target = TARGETS["test"]
    records = np.zeros(target.ports, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "<u2")]))
    records["bias"], records["m1"], records["shift"] = [-(2**31), 2**31 - 1, -1, 1], 65535, 1
    beats = records.nbytes // target.beat_bytes
    program = assemble(
        f"LOAD buffer=2 address=4096 beat=0 rows=1 beats={beats} post=0\nVCFG\nVOUT size=2\nVREQ groups=1 wait=0 post=8\n"
        f"STORE address=8192 beat=0 rows=1 beats={4 * target.ports // target.beat_bytes} wait=8\nHALT"
    )
    memory = bytearray(1 << 14)
    memory[: 16 * len(program)] = encode_program(program)
    memory[4096 : 4096 + records.nbytes] = records.tobytes()
    (result,) = _compare([Case(-3, target, bytes(memory), {}, tuple(program))])
    found = np.asarray(result.memory).view("<i4")[8192 // 4 :][: target.ports]
    assert found.tolist() == [-(2**31) + 1, 2**31 - 1, -32768, 32768]
    assert result.counters["saturations"] == 2


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL[1:])])
def test_verilog_equals_simulator(name: str) -> None:
    _compare([random_case(seed, TARGETS[name]) for seed in range(PUSH_SEEDS)])


@pytest.mark.parametrize(
    "name", [pytest.param("table-m2", marks=pytest.mark.slow), pytest.param("table-16bit", marks=pytest.mark.exhaustive)]
)
def test_tables_equal_the_simulator_on_rows_of_many_formats(name: str) -> None:
    """Short rows, rows of several classes of codes, codebooks; fills that are waited for and fills that are not."""
    target = TARGETS[name]
    _compare([matrix_case(seed, target) for seed in range(8)])


@pytest.mark.slow
def test_a_codebook_is_there_for_the_first_look_up() -> None:
    """CODEBOOK and MATMUL are accepted in consecutive cycles: the ports' copies are written just in time."""
    target = TARGETS["table-m2"]
    beat, line = target.beat_bytes, target.wbuf_line_bytes
    rng = np.random.default_rng(5)
    program = assemble(
        f"""LOAD buffer=1 address=4096 rows=1 beats={target.abuf_line_bytes // beat}
        LOAD buffer=2 address=5120 rows=1 beats={8 * target.ports // beat}
        LOAD buffer=0 address=6144 rows=1 beats={line // beat} post=0
        SEGA segment=0
        SEGW segment=0 format=8 groups=1 wait=0
        CODEBOOK half=0 e0={0x80FD0201} e4={0x0504} e6={0xFE7F}
        CODEBOOK half=1 e0={0x11E03344} e4={0x90AA} e6={0x5B6C}
        MATMUL segments=1 blocks=1 first=1 post=4
        VCFG
        VOUT size=2
        VREQ groups=1 wait=4 post=8
        STORE address=8192 rows=1 beats={4 * target.ports // beat} wait=8
        HALT"""
    )
    memory, code = np.zeros(1 << 14, np.uint8), encode_program(program)
    memory[: len(code)] = np.frombuffer(code, np.uint8)
    memory[4096 : 4096 + target.abuf_line_bytes] = rng.integers(0, 256, target.abuf_line_bytes)
    memory[5120:5152].view("<u2").reshape(-1, 4)[:, 2:] = (1 << 15, 15)  # times one
    memory[6144 : 6144 + line] = rng.integers(0, 256, line)
    (result,) = _compare([Case(-4, target, memory.tobytes(), {}, tuple(program))])
    assert result.trace is not None
    accept = dict(zip(result.trace.address.tolist(), result.trace.accept.tolist(), strict=True))
    books, matmul = ([16 * n for n, i in enumerate(program) if i.opcode is o] for o in (Opcode.CODEBOOK, Opcode.MATMUL))
    assert accept[matmul[0]] == accept[books[-1]] + 1
    assert any(result.memory[8192 : 8192 + 4 * target.ports])


def _requests(case: Case) -> Counter[Requests]:
    memory = np.frombuffer(case.memory, np.uint8)
    walk = Control(case.target, memory, 0, case.registers, memory.size).walk()
    return Counter(map(Requests, walk[:, REQUESTS].tolist()))


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(n, marks=pytest.mark.slow) for n in (SMALL[-1], *CACHES))])
def test_fetch_ahead_equals_the_simulator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is asked for when it is met or ahead, is waited for on its way, and its place may be given away meanwhile."""
    cases = [fetch_case(seed, (TARGETS | CACHES)[name]) for seed in range(40)]
    results = _compare(cases)
    asked = sum((_requests(case) for case in cases), Counter[Requests]())
    assert all(asked[r] for r in (Requests.NONE, Requests.OWN, Requests.AHEAD))
    assert sum(r.counters["fetch_halt"] > 0 for r in results) >= 10
    alone = cases[0].target.read_latency + CACHE_LINE_BYTES // cases[0].target.beat_bytes + 1
    demands = [sum(n for r, n in _requests(case).items() if r & Requests.OWN) for case in cases]
    assert any(r.counters["fetch_miss"] > n * alone for r, n in zip(results, demands, strict=True))  # waits for one on its way
    if name == "cache-8":
        monkeypatch.setattr(timeline, "FETCH_FLIGHTS", 64)
        free = [run_image(c.target, c.memory, 0, c.registers).cycles for c in cases]
        assert free != [r.cycles for r in results]  # a fifth line waited


@pytest.mark.exhaustive
def test_verilog_equals_simulator_on_every_target_and_all_is_covered() -> None:
    """260 programs; every opcode of linears, every stall cause and the wrap of every semaphore occurs."""
    opcodes: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    most_posts: Counter[int] = Counter()
    programs = 0
    for target in TARGETS.values():
        cases = [random_case(seed, target) for seed in range(100, 100 + ALL_SEEDS)]
        for case in cases:
            executed = trace(case.program, case.registers)
            assert len(case.program) >= 20
            assert len({i.unit for _, i in executed}) >= 4
            names = Counter(i.opcode for _, i in executed)
            assert names[Opcode.LOOP] >= 1
            assert names[Opcode.MATMUL] >= 4
            opcodes.update(o.name for o in names)
            posts = Counter(s for _, i in executed for s in i.posts)
            most_posts |= posts
            programs += 1
        for result in _compare(cases):
            counted.update({k: v for k, v in result.counters.items() if v})
    assert programs >= 200
    assert set(opcodes) - {"VMAP"} == {o.name for o in Opcode} - ROW_OPCODES  # of no words it waits and posts
    silent = {c.name for c in COUNTERS} - set(counted)
    assert not silent, f"never counted: {silent}"
    rings = semaphore_case(TARGETS["test"])
    _compare([rings])
    most_posts |= Counter(s for _, i in trace(rings.program) for s in i.posts)
    assert all(most_posts[s] > SEMAPHORE_MAX for s in range(SEMAPHORES))
