"""The row side of the vector unit, Verilog against simulator, on seeded random programs; and that they cover all of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from programs import SMALL, TARGETS
from row_bench import followed_maps, overlapping_map
from row_programs import row_case
from test_random_programs import ROW_OPCODES, _compare

from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import POSTED, READ_AFTER, STORE_STEP, Into, Map, Opcode, Reduce, Row, Unit

PUSH_SEEDS = 6
ALL_SEEDS = 40


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL[1:])])
def test_rows_in_verilog_equal_the_simulator(name: str) -> None:
    _compare([row_case(seed, TARGETS[name]) for seed in range(PUSH_SEEDS)])


def test_a_vmap_reads_its_own_words_from_the_same_distance_on() -> None:
    """READ_AFTER words and one less or more, within a row and over three."""
    target = TARGETS["test"]
    distances = (READ_AFTER - 1, READ_AFTER, READ_AFTER + 1)
    _compare([overlapping_map(target, distance, rows).case() for distance in distances for rows in (1, 3)])


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL[1:])])
def test_what_follows_a_vmap_may_begin_before_its_last_word_is_written(name: str) -> None:
    _compare([followed_maps(TARGETS[name]).case()])


@pytest.mark.exhaustive
def test_rows_on_every_target_and_every_function_is_covered() -> None:
    seen: Counter[object] = Counter()
    for target in TARGETS.values():
        cases = [row_case(seed, target) for seed in range(100, 100 + ALL_SEEDS)]
        for case in cases:
            pitch = Instruction(Opcode.SPITCH)
            vector = [i for i in case.program if i.unit is Unit.VECTOR]
            early = [pair for pair in pairwise(vector) if pair[0].opcode is Opcode.VMAP and not pair[0].sub >> 2]
            seen.update(("behind", after.opcode) for _, after in early)
            for i in case.program:
                seen[i.opcode.name] += 1
                if i.opcode is Opcode.VMAP:
                    seen.update([("map", i.sub & 3), ("reduce", i.sub >> 2), ("into", i.misc >> 6 & 3)])
                    seen.update([("tiled", i.misc >> 15 & 1), ("shared", i.misc >> 16)])
                elif i.opcode is Opcode.VREQ:
                    seen["banks", i.misc >> 3 > 0] += 1
                elif i.opcode is Opcode.VROW:
                    turns = -(-((i.misc & 63) + 1) // target.vector_lanes)
                    seen.update([("row", i.sub), ("write", i.misc >> 8), ("turns", min(turns, 3)), ("row by register", i.rx)])
                elif i.opcode is Opcode.STORE:
                    seen.update([("bytes", i.sub), ("rows", i.z > 1)])
                    seen.update([("pitch", i.sub > 0, pitch.x > 0, i.sub > 0 and pitch.y > 0) for _ in range(i.z > 1)])
                    waiting = i.sub > 0 and i.misc * i.z > POSTED and target.write_latency > POSTED * STORE_STEP
                    seen.update(["posted"] if waiting else [])
                elif i.opcode is Opcode.SPITCH:
                    pitch = i
        _compare(cases)
    wanted = (
        [("map", m) for m in Map] + [("reduce", r) for r in Reduce] + [("into", i) for i in Into] + [("row", r) for r in Row]
    )
    wanted += [("tiled", 1), ("shared", 1), ("banks", True), ("write", 1), ("row by register", 1)]
    wanted += [("turns", n) for n in (1, 2, 3)] + [("bytes", b) for b in range(6)]
    wanted += [("rows", True), "posted", ("pitch", False, False, False), ("pitch", False, True, False)]
    wanted += [("pitch", True, row, part) for row in (False, True) for part in (False, True)]
    wanted += [("behind", o) for o in (Opcode.VMAP, Opcode.VROW, Opcode.VCFG, Opcode.VLEN)]
    wanted += ROW_OPCODES
    assert all(seen[w] > 20 for w in wanted), seen
