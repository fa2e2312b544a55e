"""Cycles of a model by its config.json: its programs on the simulator, with drawn weights that layers share in memory."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from axlora.compiler.backend.build_image import GIB, MEMORY, Code, name_of
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.frontend.hf.config import Decoder as LlamaLike
from axlora.compiler.frontend.hf.config import Encoder
from axlora.compiler.frontend.hf.directory import CONFIG
from axlora.compiler.frontend.hf.operators import IDS
from axlora.compiler.frontend.hf.weights import read_json
from axlora.compiler.operators import Attention, Linear
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.pipelines.drawn import (
    Asked,
    Configuration,
    Given,
    cache_codes,
    configured,
    kind_of,
    lower_drawn,
    lower_given,
)
from axlora.compiler.pipelines.transformers import Generated
from axlora.compiler.rows.read_region import Region
from axlora.isa.opcodes import INSTRUCTION_BYTES, Buffer, Opcode
from axlora.isa.target import Target
from axlora.sim.control import ADDRESS, OPCODE, SUB, X
from axlora.sim.run import run_image
from axlora.timing.memory import ADDRESS as LAST

from .building import generator_program, whole_program
from .decoder import Batch, Decoder
from .energy import default_table
from .engines import Left, Start, Steps, left_of
from .layer_counters import added
from .machine import Bytes, Int64
from .program import Program
from .run import Layer, Run, run_of

_OF_LINEARS = np.isin(np.arange(max(Buffer) + 1), [Buffer.WBUF, Buffer.PBUF, Buffer.SBUF])
"""[buffer]: whether what does not change comes there for linears, where it is a linear that loads it."""


@dataclass(frozen=True)
class Drawn:
    """A model of drawn weights."""

    program: Program
    """Its memory holds shared weights once; it is no package."""
    engine: Estimator
    """Which runs it."""
    asked: Asked
    needed: int
    """Bytes of memory that it takes of a machine."""
    cache: tuple[str, ...] = ()
    """Regions of keys and values of the first sequence."""

    @property
    def given(self) -> bool:
        """Whether the weights are a directory's own."""
        return isinstance(self.asked.weights, Given)

    @property
    def beyond(self) -> str:
        """What to say where the machine does not address so much memory; "" where it does."""
        if self.needed <= MEMORY:
            return ""
        return f"needs {self.needed / GIB:.2f} GiB of memory, the machine addresses {MEMORY // GIB} GiB"


class Estimator:
    """The simulator, where addresses of weights are those of a memory in which every linear has its own."""

    view = "estimate"
    clock_mhz = None

    def __init__(self, found: Generated, target: Target) -> None:
        self._codes = {code.address: code for code in found.image.codes}
        self._content = found.image.content
        changing = sum(size for _, size in found.image.regions.values())
        self._held = 2 * len(self._content.data) + changing if found.shared and target.engine == "reuse" else 0
        """Codes, at most, of weights that linears share, and of keys and values."""
        self._constants = max(0, self._content.size - MEMORY)
        """From where on constants lie: behind all linears."""
        found_at = {name: tiling.weights[0] for name, tiling in found.image.tilings.items()}
        at = (found_at[op.name] if isinstance(op, Linear) else self._constants for op in found.region.operators)
        self._first = np.array([*at], np.int64)
        """[operators]: where the weights of a linear begin, or the constants."""

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`."""
        code = self._codes[start.function.address]
        found = run_image(
            target,
            start.memory,
            code.address,
            start.registers,
            moved=lambda walk: self._moved(code, walk),
            checked=True,
            remembered=self._held,
        )
        return left_of(found, start.trace)

    def _moved(self, code: Code, walk: Int64) -> Int64:
        """The walk with places of `Image.data` in place of addresses of read-only data.

        An address counts modulo 2**32: whose instruction it is tells which of several it is.
        """
        moved = walk.copy()
        number = (walk[:, ADDRESS] - code.address) // INSTRUCTION_BYTES
        loads = np.flatnonzero((walk[:, OPCODE] == Opcode.LOAD) & (np.array(code.areas)[number] == 0))
        owner = np.array(code.owners)[number[loads]]
        first = np.where(_OF_LINEARS[walk[loads, SUB]], self._first[owner], self._constants)
        moved[loads, X] = self._content.places(first + ((walk[loads, X] - first) & LAST))
        return moved


def config_file(path: str | Path) -> Path:
    """A config.json, or that of a directory."""
    return Path(path) / CONFIG if Path(path).is_dir() else Path(path)


def configuration(path: str | Path) -> Configuration:
    """What a config.json, or that of a directory, describes.

    Raises:
        BadModel: no such file, or as `config.described`.
    """
    file = config_file(path)
    if not file.is_file():
        raise BadModel("no such file", str(file), "give the config.json of a Hugging Face model, or its directory")
    return configured(read_json(file), str(file))


def draw(
    own: Configuration,
    target: Target,
    asked: Asked,
    shared: bool = True,
    only: Set[str] = frozenset(),
    like: Region | None = None,
) -> Drawn:
    """The model that a config.json describes.

    Args:
        all: as of `lower_drawn`; of weights that are given, `shared` and `like` do not count.

    Raises:
        axlora.Error: as `lower_drawn`, `lower_given`.
    """
    if isinstance(asked.weights, Given):
        found = lower_given(own, target, asked, asked.weights, only)
    else:
        found = lower_drawn(own, target, asked, shared, only, like)
    if found.region.starts is Starts.DECODE:
        program = generator_program(found, target, {}, None)
    else:
        names = [*(lookup.input for lookup in found.model.lookups), *([found.model.mask] if found.model.mask else [])]
        program = whole_program(found, target, dict.fromkeys(names, "int64"), {}, None)
    attentions = [f"{op.y} " for op in found.model.operators if isinstance(op, Attention)]
    cache = [name for name in program.regions if name.startswith(tuple(attentions)) and "scales" not in name]
    return Drawn(program, Estimator(found, target), asked, found.image.needed, tuple(cache))


@dataclass(frozen=True)
class Phase:
    """Starts that belong together."""

    name: str
    starts: int
    cycles: int
    tokens: int
    """Of all sequences."""

    def to_json(self, clock_mhz: int) -> dict[str, Any]:
        """As in RUN.json."""
        seconds = self.cycles / (clock_mhz * 1e6)
        return vars(self) | {"ms": 1000 * seconds, "tokens_per_second": self.tokens / seconds}


@dataclass(frozen=True)
class Estimate:
    """What a model takes."""

    drawn: Drawn
    phases: tuple[Phase, ...]
    run: Run
    """All of them, without outputs and steps."""
    notes: tuple[str, ...]
    """How much memory it needs, and what was assumed."""

    def facts(self) -> dict[str, Any]:
        """What RUN.json has of an estimate alone: `estimate`."""
        clock = self.drawn.program.target.clock_mhz
        phases = [phase.to_json(clock) for phase in self.phases]
        return {"memory_bytes": self.drawn.needed, "phases": phases, "notes": [*self.notes], "fits": []}

    def by_kind(self) -> Run:
        """The run with the operators of a kind of all layers added up."""
        kinds: dict[str, list[Layer]] = {}
        for layer in self.run.layers:
            kinds.setdefault(kind_of(layer.name), []).append(layer)
        layers = (replace(added([[layer] for layer in own])[0], name=name) for name, own in kinds.items())
        return replace(self.run, layers=tuple(layers)).with_energy(default_table())


def estimate(own: Configuration, target: Target, asked: Asked, tokens: int = 0, whole: bool = False) -> Estimate:
    """Cycles of an encoder's sequence, or of the decoding step that fills a context, with a prompt before it or without.

    Args:
        tokens: of the prompt of each sequence; 0: none.
        whole: lay memory out as that of a package with all programs, where otherwise only those are made that run.

    Raises:
        BadModel, DoesNotFit: as `draw`; a longer prompt than the context.
    """
    if not 0 <= tokens <= asked.context:
        raise BadModel(f"a prompt of {tokens} tokens in a context of {asked.context}", "--tokens", f"0 to {asked.context}")
    if isinstance(own, Encoder):
        if tokens or asked.batch > 1:
            raise BadModel("an encoder takes one sequence at a time", "--tokens, --batch", "leave them out")
        return _encoded(draw(own, target, asked), own)
    asked = asked if tokens or whole else replace(asked, chunk=1)
    drawn = draw(own, target, asked, only=frozenset() if tokens or whole else {name_of(asked.batch, asked.batch > 1)})
    program, decoder = drawn.program, drawn.program.interface
    assert isinstance(decoder, Decoder)
    batch = Batch(program, decoder, drawn.engine, trace=True)
    adapters: list[str | None] = [adapter.name for adapter in program.adapters]
    adapters = adapters or [None]
    sequences = [batch.join(adapters[n % len(adapters)]) for n in range(asked.batch)]
    running, phases, ids = batch.running, [], min(IDS, len(decoder.tables[decoder.ids]))
    if tokens:
        for sequence in sequences:
            sequence.feed([n % ids for n in range(tokens)])
        phases.append(Phase("prefill", len(running.starts), running.counters["cycles"], tokens * asked.batch))
    filled = target.engine == "reuse" and not (drawn.given and tokens >= asked.context - 1)
    if filled:
        _fill_cache(drawn, running.memory)
    for sequence in sequences:
        sequence.length = asked.context - 1
    before = len(running.starts), running.counters.get("cycles", 0)
    batch.step([(sequence, n % ids) for n, sequence in enumerate(sequences)])
    starts, cycles = len(running.starts) - before[0], running.counters["cycles"] - before[1]
    phases.append(Phase("decode", starts, cycles, asked.batch))
    lefts = [left for _, left in running.starts]
    run = run_of(program, drawn.engine, {}, {}, lefts, decoder.layers(program, running.starts))
    return _told(own, drawn, phases, run, tokens > 0 or whole, filled)


def _told(own: Configuration, drawn: Drawn, phases: Sequence[Phase], run: Run, whole: bool, filled: bool = False) -> Estimate:
    """The estimate, with what was assumed. `whole`: memory is laid out as a package's; `filled`: with drawn keys and values."""
    size = drawn.needed
    notes = [f"memory: {size / GIB:.2f} GiB" if size >= GIB else f"memory: {size / (1 << 20):.2f} MiB"]
    if drawn.beyond:
        notes.append(f"{drawn.beyond}: cycles are those of a machine with wider addresses")
    if drawn.program.target.engine == "reuse":
        kinds = {"weights": not drawn.given, "adapters": drawn.asked.rank > 0, "keys": filled, "values": filled}
        if of := [name for name, is_drawn in kinds.items() if is_drawn]:
            notes.append(f"drawn codes stand in for {', '.join(of)}: what is reused is that of normally distributed numbers")
    if not whole:
        notes.append("one program in memory: where regions begin in a burst may differ from a package's (--whole-package)")
    run = replace(run, outputs={}, codes={}, steps=Steps())
    return Estimate(drawn, tuple(phases), run, (*notes, *of_experts(own, run)))


def _encoded(drawn: Drawn, own: Configuration) -> Estimate:
    """An encoder's sequence."""
    program, names = drawn.program, [adapter.name for adapter in drawn.program.adapters]
    inputs = {name: np.ones((1, drawn.asked.context), np.int64) for name in program.interface.inputs_info(program)}
    run = program.interface.run(program, drawn.engine, inputs, names[0] if names else None, None)
    phase = Phase("sequence", 1, run.cycles, drawn.asked.context)
    return _told(own, drawn, [phase], run, True)


def _fill_cache(drawn: Drawn, memory: Bytes) -> None:
    """Put drawn codes where keys and values of all sequences are: the engine `reuse` takes as long as they have it."""
    program, decoder = drawn.program, drawn.program.interface
    assert isinstance(decoder, Decoder)
    places = [program.regions[name] for name in drawn.cache]
    for name, (address, size) in zip(drawn.cache, places, strict=True):
        memory[address : address + size] = cache_codes(name, size)
    first = min(address for address, _ in places)
    for n in range(1, decoder.together):
        to = first + n * decoder.cache
        memory[to : to + decoder.cache] = memory[first : first + decoder.cache]


def of_experts(own: Configuration, run: Run) -> list[str]:
    """What a mixture of experts takes more than its tokens need, in a sentence; none of other models."""
    if not isinstance(own, LlamaLike) or own.experts is None:
        return []
    cycles, of = sum(layer.cycles for layer in run.layers if ".experts." in layer.name), own.experts
    return [f"all {of.count} experts are computed, of which a token has {of.chosen}: {cycles:,} of the cycles are theirs"]


def fits(own: Configuration, target: Target, asked: Asked) -> str:
    """Why a model does not fit the buffers of a target; "" if it does. Two layers tell: the others are alike."""
    layers = min(2, own.layers)
    few = replace(own, layers=layers)
    if isinstance(few, LlamaLike):
        few = replace(few, windows=few.windows[:layers])
    try:
        lower_drawn(few, target, replace(asked, chunk=1))
    except DoesNotFit as error:
        return error.message
    return ""
