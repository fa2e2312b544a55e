"""Adapters in fewer places than there are: the same results, the least recently used one makes room, copies are counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_decoder import Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.adapters import pin_adapter
from axlora.cli import main
from axlora.comparing import TIMED
from axlora.paging import Paged, Pool
from axlora.serving import Limits, Request, serve

CONTEXT = 22
RANKS = (1, 2, 4, 8)
NAMES = [f"a{rank}" for rank in RANKS]
IDS = [5, 60, 7, 30]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paging")
    decoder = random_decoder(Sizes(layers=1, context=CONTEXT), seed=3)
    adapters = {f"a{rank}": write_peft(random_branches(decoder, rank, rank), folder / f"a{rank}") for rank in RANKS}
    made = axlora.compile(
        write_onnx(decoder, folder / "model.onnx"), "test", adapters=adapters, generate=True, max_context=CONTEXT, max_batch=2
    )
    made.save(folder / "m.axl")
    return folder / "m.axl"


@pytest.fixture(scope="module")
def program(package: Path) -> axlora.Program:
    return axlora.load(package)


class _Plain:
    """Least recently used, as a list of names by their last use."""

    def __init__(self, places: int) -> None:
        self.places, self.last, self.before = places, list[str](), set[str]()
        self.hits = self.misses = self.evictions = self.switches = 0

    def use(self, names: Sequence[str]) -> None:
        self.switches += set(names) != self.before
        self.hits += len([n for n in names if n in self.last and n not in self.before])
        new = [n for n in names if n not in self.last]
        old = [n for n in self.last if n not in names]
        self.misses += len(new)
        evicted = max(0, len(self.last) + len(new) - self.places)
        self.evictions += evicted
        self.last = [*old[evicted:], *(n for n in names if n in self.last), *new]
        self.before = set(names)


@given(st.integers(1, 5), st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5, unique=True), max_size=30))
def test_the_least_recently_used_adapter_makes_room(places: int, starts: list[list[str]]) -> None:
    pool, plain = Pool((), places, 7), _Plain(places)
    memory: dict[int, str] = {}
    for names in starts:
        names = names[:places]
        memory |= {place: name for name, place in pool.use(names).items()}
        plain.use(names)
        assert all(memory[pool.held[name]] == name for name in names)
        assert set(pool.held) == set(plain.last)
        assert set(pool.held.values()) <= set(range(places))
    counted = pool.counted
    assert (counted.hits, counted.misses, counted.evictions, counted.switches) == (
        plain.hits,
        plain.misses,
        plain.evictions,
        plain.switches,
    )
    assert counted.stall_cycles == 7 * counted.misses


def test_runs_are_those_of_a_memory_with_all_adapters(program: axlora.Program) -> None:
    paged, whole = program.session(adapter_places=2), program.session()
    seen = []
    for name in (None, "a1", "a4", "a1", "a8", "a4"):  # no place is left for a8: a4 goes, then a1
        run, wanted = (session.run({"input_ids": [IDS]}, name) for session in (paged, whole))
        assert np.array_equal(run.outputs["logits"], wanted.outputs["logits"])
        assert not [key for key in run.counters.keys() - TIMED if run.counters[key] != wanted.counters[key]]
        assert wanted.paging is None
        seen.append((run.paging.hits, run.paging.misses, run.paging.evictions))
    assert seen == [(0, 0, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 1, 1)]
    assert paged.paging.misses == 4
    assert paged.paging.bytes_copied == 4 * program.adapter_size
    assert paged.paging.stall_cycles == 4 * -(-program.adapter_size // program.target.beat_bytes)
    assert Paged.of(program, 1).memory_bytes < program.memory_bytes


def test_sequences_of_a_batch_with_an_adapter_each_share_the_places(program: axlora.Program) -> None:
    ids = np.array([[*IDS, 9], [8, *IDS]])  # the fifth tokens are decoded together
    paged, whole = program.session(adapter_places=2), program.session()
    for names in (["a1", "a2"], ["a8", None], ["a2", "a8"]):
        run, wanted = (session.run({"input_ids": ids}, names) for session in (paged, whole))
        assert np.array_equal(run.outputs["logits"], wanted.outputs["logits"])
    one = program.session(adapter_places=1)
    with pytest.raises(axlora.BadAdapter, match="2 adapters in a start, the memory has 1 places"):
        one.run({"input_ids": ids}, ["a1", "a2"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["rtl", "hls"])
def test_paged_adapters_on_other_engines(program: axlora.Program, engine: str) -> None:
    found, wanted = (program.session(engine=name, adapter_places=1) for name in (engine, "sim"))
    for name in ("a4", "a8", "a4"):
        run, sim = (session.run({"input_ids": [IDS]}, name) for session in (found, wanted))
        assert np.array_equal(run.codes["logits"], sim.codes["logits"])
        assert run.paging == sim.paging
        assert run.paging.misses == 1
        if engine == "rtl":
            assert run.counters == sim.counters


def test_pinned_adapters_keep_their_places(program: axlora.Program) -> None:
    pinned = pin_adapter(program, "a4")
    session = pinned.session(adapter_places=2)
    for name in ("a1", "a8", "a4"):
        session.run({"input_ids": [IDS]}, name)
    assert session.paging.misses == 2
    with pytest.raises(axlora.BadInput, match="1 places for adapters, 1 adapters are pinned"):
        pinned.session(adapter_places=1)


def test_the_speed_of_copies_is_what_a_user_says(program: axlora.Program) -> None:
    session = program.session("a1", adapter_places=1, page_rate=2.5)
    session.feed(IDS)
    micros = program.adapter_size / 2.5
    assert session.paging.stall_cycles == -(-int(micros * program.target.clock_mhz * 10) // 10)
    assert session.paging.misses == 1


def test_served_requests_wait_for_copies(program: axlora.Program) -> None:
    requests = [Request(str(n), 0.0, tuple(IDS), 3, name) for n, name in enumerate(["a1", "a2", "a4", "a1", "a1"])]
    few, all_ = (serve(program, requests, limits=Limits(1, 1, places)) for places in (1, None))
    assert few.paging is not None
    assert (few.paging.misses, few.paging.hits) == (4, 0)  # the last request goes on with the adapter of the one before
    busy = sum(cycles for _, cycles in few.starts.values())
    assert few.cycles == busy + few.paging.stall_cycles
    assert sum(cycles for _, cycles in all_.starts.values()) == all_.cycles
    assert [s.tokens for s in few.served] == [s.tokens for s in all_.served]
    assert all_.to_json()["paging"] is None
    assert few.to_json()["paging"]["stall_cycles"] == few.paging.stall_cycles


def test_the_commands_say_what_became_of_adapters(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "run.json"
    command = ["simulate", str(package), "--random", "1", "--adapter", "a1,a4", "--json", str(found)]
    assert main([*command, "--adapter-places", "2"]) == 0
    assert json.loads(found.read_text())["paging"]["misses"] == 2
    assert "adapters in the memory's places" in capsys.readouterr().out
    assert main(command) == 0
    assert json.loads(found.read_text())["paging"] is None
    page = tmp_path / "page.html"
    prompts = ["--prompt", "!", '"', "#", "--adapter", "a1", "a4", "a1", "--max-new-tokens", "3"]
    tokens = ["generate", str(package), *prompts, "--json", str(found)]
    assert main(tokens) == 0
    wanted = json.loads(found.read_text())["tokens"]
    assert main([*tokens, "--adapter-places", "2", "--page-rate", "50", "--html", str(page)]) == 0
    data = json.loads(found.read_text())
    assert data["tokens"] == wanted
    assert data["paging"]["misses"] == 2
    assert "2 misses" in capsys.readouterr().err
    assert f"{sum(token['cycles'] for token in wanted):,}" in page.read_text()
    for wrong, said in (
        (["--adapter-places", "0"], "0 places for adapters"),
        (["--adapter-places", "many"], "is no number"),
        (["--page-rate", "5"], "a page rate without adapter places"),
        (["--adapter-places", "2", "--page-rate", "-1"], "copied at -1.0 MB/s"),
    ):
        assert main([*command, *wrong]) == 2
        assert said in capsys.readouterr().err
