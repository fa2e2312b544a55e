"""Tiles of weights: what is remembered of them, and in how little room, changes no bit and no counter."""

from __future__ import annotations

import pytest
from programs import TARGETS, random_case

from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.target import Target
from axlora.sim import run
from axlora.sim.tiles import ROUNDS, Tiles, room_for


@pytest.mark.parametrize("name", ["test", "mac-4x2"])
def test_room_for_one_tile_is_enough(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for a code, then for the tile that asks for more; every tile but the last is forgotten."""
    rooms = []

    def small(target: Target, codes: int = 0, remembered: int = 0) -> Tiles:
        rooms.append(codes)
        found, most = room_for(target), max(codes, 8)
        return found._replace(words=found.words[: most // 8], raw=found.raw[:most], values=found.values[:most])

    for seed in range(4):
        case = random_case(seed, TARGETS[name])
        plenty = run.run_image(case.target, case.memory, 0, case.registers)
        again = run.run_image(case.target, case.memory, 0, case.registers)
        with monkeypatch.context() as patch:
            patch.setattr(run, "room_for", small)
            patch.setattr(run, "_KEPT", {})
            little = run.run_image(case.target, case.memory, 0, case.registers)
        for other in (again, little):
            assert other.counters == plenty.counters
            assert (other.memory == plenty.memory).all()
    assert len(rooms) > 4
    assert 0 in rooms


def test_codes_that_differ_in_one_place_are_another_tile() -> None:
    """The second program is the first but for a weight: counters of products are its own, whatever ran before."""
    case = random_case(1, TARGETS["test"])
    memory = bytearray(case.memory)
    first = run.run_image(case.target, bytes(memory), 0, case.registers)
    changed = []
    begin = INSTRUCTION_BYTES * len(case.program)
    for at in range(begin, len(memory), (len(memory) - begin) // 25):
        memory[at] ^= 0x55
        run._KEPT.clear()
        alone = run.run_image(case.target, bytes(memory), 0, case.registers)
        memory[at] ^= 0x55
        run.run_image(case.target, bytes(memory), 0, case.registers)
        memory[at] ^= 0x55
        after = run.run_image(case.target, bytes(memory), 0, case.registers)
        memory[at] ^= 0x55
        assert after.counters == alone.counters
        assert (after.memory == alone.memory).all()
        changed.append(alone.counters["multiplications"] != first.counters["multiplications"])
    assert any(changed)


def test_values_may_have_less_room_than_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are not there any more are decoded once more; counters and bytes stay the same."""
    again = 0
    for seed in range(4):
        case = random_case(seed, TARGETS["test"])
        plenty = run.run_image(case.target, case.memory, 0, case.registers)
        tiles = room_for(case.target)
        kept = {case.target: tiles._replace(values=tiles.values[:2048])}
        with monkeypatch.context() as patch:
            patch.setattr(run, "_KEPT", kept)
            for _ in range(2):
                little = run.run_image(case.target, case.memory, 0, case.registers)
                assert little.counters == plenty.counters
                assert (little.memory == plenty.memory).all()
        again += int(kept[case.target].now[ROUNDS])
    assert again > 0, "values had room"
