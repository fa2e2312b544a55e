"""Traces for Perfetto, read back with its protobufs: what they show is what the counters of the run say."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto
from tiny_decoder import Sizes, random_decoder
from tiny_onnx import write_onnx

import axlora
from axlora import Program, Run, extras
from axlora.cli import main
from axlora.engines import Engine
from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS, Opcode, Unit
from axlora.sim.timeline import UNITS
from axlora.tracing import OTHERS, SEVERAL, Started, Traced

CONTEXT = 12
WHOLE, INSTRUCTIONS_MERGED, LAYERS_MERGED = 1_000_000, 1_500, 150
"""Limits under which the run's trace is whole, has merged instructions, has merged layers too."""


@dataclass
class Slice:
    track: str
    names: tuple[str, ...]
    """Of what it is in, and its own."""
    begin: int
    end: int = -1
    args: dict[str, int] = field(default_factory=dict)
    inner: int = 0
    """Cycles of the slices right in it."""

    @property
    def cycles(self) -> int:
        return self.end - self.begin


class Read:
    """A trace: slices properly nested, the ends of its arrows, points of its counters."""

    def __init__(self, data: bytes) -> None:
        self.slices: list[Slice] = []
        self.leaving: dict[int, list[Slice]] = defaultdict(list)
        self.arriving: dict[int, list[Slice]] = defaultdict(list)
        self.counters: dict[str, list[tuple[int, float]]] = defaultdict(list)
        names, args, tracks = dict[int, str](), dict[int, str](), dict[int, str]()
        stacks: dict[int, list[Slice]] = defaultdict(list)
        for packet in proto.Trace.FromString(data).packet:
            names |= {e.iid: e.name for e in packet.interned_data.event_names}
            args |= {e.iid: e.name for e in packet.interned_data.debug_annotation_names}
            if packet.HasField("track_descriptor"):
                tracks[packet.track_descriptor.uuid] = packet.track_descriptor.name
            if not packet.HasField("track_event"):
                continue
            event, stack, track = (
                packet.track_event,
                stacks[packet.track_event.track_uuid],
                tracks[packet.track_event.track_uuid],
            )
            match event.type:
                case proto.TrackEvent.TYPE_SLICE_BEGIN:
                    own = {args[a.name_iid]: a.int_value for a in event.debug_annotations}
                    outer = stack[-1].names if stack else ()
                    stack.append(Slice(track, (*outer, names[event.name_iid]), packet.timestamp, args=own))
                    self.slices.append(stack[-1])
                    for number in event.flow_ids:
                        self.leaving[number].append(stack[-1])
                    for number in event.terminating_flow_ids:
                        self.arriving[number].append(stack[-1])
                case proto.TrackEvent.TYPE_SLICE_END:
                    done = stack.pop()
                    done.end = packet.timestamp
                    if stack:
                        assert stack[-1].begin <= done.begin
                        stack[-1].inner += done.cycles
                case proto.TrackEvent.TYPE_COUNTER:
                    self.counters[track].append((packet.timestamp, event.double_counter_value))
        assert not any(stacks.values())
        assert all(s.inner <= s.cycles for s in self.slices)

    def on(self, track: str, depth: int) -> list[Slice]:
        return [s for s in self.slices if s.track == track and len(s.names) == depth + 1]

    def cycles(self, unit: Unit) -> Counter[tuple[str, str]]:
        """(layer, cause) -> cycles of a unit: of slices of that name; the rest of instructions accepts or is busy."""
        found = Counter[tuple[str, str]]()
        causes = [name.partition("_")[2] for name in UNIT_COUNTERS[unit]]
        for s in self.slices:
            if s.track == unit.name.lower() and len(s.names) > 1:
                if s.names[-1] in causes:
                    found[s.names[0], s.names[-1]] += s.cycles
                else:
                    found[s.names[0], "idle"] += s.args["accepting"]
                    found[s.names[0], "busy"] += s.cycles - s.inner - s.args["accepting"]
        return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A language model: a run of it has several starts, of two functions."""
    folder = tmp_path_factory.mktemp("decoder")
    model = write_onnx(random_decoder(Sizes(layers=1, context=CONTEXT), 2), folder / "m.onnx")
    return axlora.compile(model, "test", generate=True, max_context=CONTEXT)


@pytest.fixture(scope="module")
def ran(program: Program) -> tuple[Run, list[Started]]:
    engine = Traced()
    assert isinstance(engine, Engine)
    run = program.session(engine=engine).run(program.random_inputs(0))
    assert len(engine.starts) > 1
    return run, engine.starts


Tracing = Callable[..., Read]


@pytest.fixture(scope="module")
def traced(program: Program, ran: tuple[Run, list[Started]]) -> Tracing:
    def read(limit: int = WHOLE, layers: tuple[str, ...] = ("*",)) -> Read:
        engine = Traced(layers, limit)
        engine.starts.extend(ran[1])
        found = Read(engine.trace(program))
        assert len(found.slices) <= limit
        return found

    return read


@pytest.mark.parametrize("limit", [WHOLE, INSTRUCTIONS_MERGED, LAYERS_MERGED])
def test_slices_add_up_to_the_counters(limit: int, traced: Tracing, ran: tuple[Run, list[Started]]) -> None:
    """Those of units over all causes and, unless layers are merged, for each layer; those of layers to their cycles."""
    run, read = ran[0], traced(limit)
    names = {s.names[-1] for s in read.slices}
    assert ("instructions" in names, SEVERAL in names) == (limit != WHOLE, limit == LAYERS_MERGED)
    for unit in UNITS:
        track, cycles = unit.name.lower(), read.cycles(unit)
        total = Counter[str]()
        for (_, cause), value in cycles.items():
            total[cause] += value
        assert total == Counter(run.stalls[track])
        outer = read.on(track, 0)
        assert [s.begin for s in outer] == [0, *(s.end for s in outer[:-1])]
        assert outer[-1].end == run.cycles
        if limit != LAYERS_MERGED:
            assert cycles == Counter({(x.name, c): n for x in run.layers for c, n in x.stalls[track].items()})
            macs = Counter[str]()
            for s in read.on(track, 1):
                macs[s.names[0]] += s.args.get("macs", 0)
            assert macs == Counter({x.name: x.macs if unit is Unit.MATRIX else 0 for x in run.layers})
    layers = Counter[str]()
    for s in read.on("layers", 0):
        layers[s.names[0]] += s.cycles
    assert layers.total() == run.cycles
    if limit != LAYERS_MERGED:
        assert layers == Counter({x.name: x.cycles for x in run.layers})


def test_a_start_of_linears_is_of_the_linears_of_its_stage() -> None:
    """Of a model whose linears follow each other, with the host between them."""
    rng = np.random.default_rng(0)
    shapes = {"w": (16, 24), "v": (24, 8)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype("f4"), n) for n, s in shapes.items()]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, n]) for name, n in (("x", 16), ("y", 8)))
    graph = helper.make_graph(nodes, "two", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    program = axlora.compile(model, "test", operators="linears", activation="token8")
    engine = Traced()
    run = program.session(engine=engine).run(program.random_inputs(0))
    read = Read(engine.trace(program))
    assert len(read.on("starts", 0)) == len(run.layers) == 2
    for start, layer in zip(read.on("starts", 0), run.layers, strict=True):
        inside = [s for s in read.slices if start.begin <= s.begin < start.end and s.track not in ("starts", "layers")]
        assert {s.names[0] for s in inside if len(s.names) > 1} == {layer.name}
        assert sum(s.args.get("macs", 0) for s in inside) == layer.macs


def test_starts_follow_each_other_and_have_all_counters(traced: Tracing, ran: tuple[Run, list[Started]]) -> None:
    starts = traced().on("starts", 0)
    assert [s.names[0] for s in starts] == [start.function.name for start in ran[1]]
    assert [s.begin for s in starts] == [0, *(s.end for s in starts[:-1])]
    assert sum((Counter(s.args) for s in starts), Counter()) == Counter(ran[0].counters)


@pytest.mark.parametrize("limit", [WHOLE, INSTRUCTIONS_MERGED, LAYERS_MERGED])
def test_arrows_have_both_ends_and_go_forward(limit: int, traced: Tracing, ran: tuple[Run, list[Started]]) -> None:
    read = traced(limit)
    assert read.leaving
    assert set(read.leaving) == set(read.arriving)
    for number, (one,) in read.leaving.items():
        (other,) = read.arriving[number]
        assert one.begin < other.begin
        assert {len(one.names), len(other.names)} == {2}
        if limit == WHOLE:
            assert one.end <= other.begin or one.end == ran[0].cycles
    if limit == WHOLE:
        assert len(read.leaving) == sum(len(start.trace.signals) for start in ran[1])


def test_waits_end_when_an_instruction_posts(traced: Tracing) -> None:
    """Matrix waits for weights until load has done something, and only then for others; idle comes before both."""
    read = traced()
    ends = {u: {s.end for s in read.on(u.name.lower(), 1) if s.names[-1] in Opcode.__members__} for u in UNITS}
    waits = Counter[str]()
    for unit in UNITS:
        for s in read.on(unit.name.lower(), 1):
            waits[s.names[-1]] += 1
            posts = {"weights": [Unit.LOAD], "semaphore": [u for u in UNITS if u is not unit]}.get(s.names[-1])
            assert posts is None or any(s.end in ends[u] for u in posts), s
            assert s.names[-1] != "idle" or s.begin in ends[unit] or s.begin in {x.begin for x in read.on("starts", 0)}
    assert all(waits[cause] for cause in ("idle", "weights", "semaphore"))


def test_instructions_are_those_of_steps(traced: Tracing, program: Program, ran: tuple[Run, list[Started]]) -> None:
    found = [s for u in UNITS for s in traced().on(u.name.lower(), 1) if s.names[-1] in Opcode.__members__]
    steps = [(s.args.get("first instruction", 0), s.track, s.begin, s.end) for s in found]
    assert sorted(steps) == sorted((s.index, s.unit, s.accept, s.done) for s in ran[0].steps)
    for (index, *_), s in zip(steps, found, strict=True):
        assert Opcode(program.image[INSTRUCTION_BYTES * index] & 63).name == s.names[-1]


def test_layers_that_are_not_chosen_are_one_slice(traced: Tracing, ran: tuple[Run, list[Started]]) -> None:
    run = ran[0]
    name = max(run.layers, key=lambda layer: layer.macs).name
    whole, read = traced(), traced(layers=(name[:-1] + "?",))
    for unit in UNITS:
        cycles, all_cycles = read.cycles(unit), whole.cycles(unit)
        assert {layer for layer, _ in cycles} <= {name, OTHERS}
        assert all(cycles[key] == value for key, value in all_cycles.items() if key[0] == name)
        assert cycles.total() == run.cycles
    assert len(read.slices) < len(whole.slices)


def test_counters_integrate_to_those_of_the_run(traced: Tracing, ran: tuple[Run, list[Started]]) -> None:
    run, read = ran[0], traced()
    beat = run.target.beat_bytes
    wanted = {"MACs a cycle": run.counters["macs"], "multiplications a cycle": run.counters["multiplications"]}
    wanted |= {"vector elements a cycle": run.counters["vector_elements"]}
    wanted |= {
        "bytes read a cycle": beat * run.counters["load_beats"],
        "bytes written a cycle": beat * run.counters["store_beats"],
    }
    wanted |= {f"{u.name.lower()} busy, %": 100 * run.counters[f"{u.name.lower()}_busy"] for u in UNITS}
    assert set(read.counters) == set(wanted)
    for name, points in read.counters.items():
        times, values = np.array(points).T
        assert times[0] == 0
        assert values[-1] == 0
        assert np.isclose((values * np.diff(times, append=run.cycles)).sum(), wanted[name], rtol=1e-9, atol=0), name
        assert values.max() <= 100 * (1 + 1e-9) or "busy" not in name


def test_generation_has_a_start_for_the_prompt_and_one_for_each_token(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every cycle that the command counts is in the trace; with a board there is none."""
    program.save(tmp_path / "m.axl")
    (tmp_path / "prompt").write_bytes(bytes([1, 2, 3]))
    line = ["generate", str(tmp_path / "m.axl"), "--prompt", f"@{tmp_path / 'prompt'}", "--max-new-tokens", "4"]
    assert main([*line, "--trace", str(tmp_path / "m.pftrace"), "--json", str(tmp_path / "m.json")]) == 0
    cycles = [token["cycles"] for token in json.loads((tmp_path / "m.json").read_text())["tokens"]]
    read = Read((tmp_path / "m.pftrace").read_bytes())
    starts = read.on("starts", 0)
    assert [s.names[0] for s in starts[-3:]] == ["decode"] * 3
    assert [s.cycles for s in starts[-3:]] == cycles[1:]
    assert sum(s.cycles for s in starts[:-3]) == cycles[0]
    assert starts[0].names[0].startswith("prefill")
    for unit in UNITS:
        assert read.on(unit.name.lower(), 0)[-1].end == sum(cycles)
    assert main([*line, "--trace", str(tmp_path / "b.pftrace"), "--board", "ulx3s", "--port", "sim"]) == 2
    assert "leave --board out" in capsys.readouterr().err


def test_the_command_writes_a_trace_and_says_what_it_merged(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program.save(tmp_path / "m.axl")
    line = ["simulate", str(tmp_path / "m.axl"), "--random", "0"]
    trace = ["--trace", str(tmp_path / "m.pftrace")]
    assert main([*line, *trace, "--trace-limit", str(INSTRUCTIONS_MERGED)]) == 0
    assert f"notice: to have at most {INSTRUCTIONS_MERGED} slices the trace has one for" in capsys.readouterr().err
    assert Read((tmp_path / "m.pftrace").read_bytes()).on("starts", 0)

    def refused(*arguments: str) -> str:
        assert main([*line, *arguments]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        return str(error)

    assert "--no-timing" in refused(*trace, "--no-timing")
    assert "--trace FILE" in refused("--trace-layers", "x")
    assert "no layer is 'nope*'" in refused(*trace, "--trace-layers", "nope*")
    assert "1 or more" in refused(*trace, "--trace-limit", "0")
    assert "or more" in refused(*trace, "--trace-limit", "3")
    assert "no folder" in refused("--trace", str(tmp_path / "no" / "m.pftrace"))
    monkeypatch.setattr(extras, "version", lambda _: None)
    assert "pip install 'axlora[trace]'" in refused(*trace)
