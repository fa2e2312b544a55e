"""A compiled language model: prefill and decode programs around a cache, and the token loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.layer import Linear, Placement
from axlora.compiler.transformer.positions import position_registers
from axlora.isa.regions import slot_values, token_words
from axlora.isa.target import Target
from axlora.sim.run import run_image

from .layers import LayerInfo, read_arrays, stored_linear
from .program import AdapterInfo, BadInput

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Token(NamedTuple):
    """A generated token and the machine's cycles for it (the first: for the prompt too)."""

    token: int
    cycles: int


class Started(NamedTuple):
    """What one start of the machine left."""

    memory: Bytes
    cycles: int
    counters: Mapping[str, int]


Start = Callable[[Bytes, int, dict[int, int]], Started]
"""(memory, program's address, registers) -> what a start leaves."""


@dataclass(frozen=True)
class Generator:
    """A language model for one target. `save` writes the package, `axlora.load` reads it."""

    target: Target
    image: bytes
    """Read-only data and the programs, from address 0."""
    programs: Mapping[int, tuple[int, int]]
    """Rows of a start -> (address, bytes) of its program."""
    regions: Mapping[str, tuple[int, int]]
    """What runs write: name -> (address, bytes)."""
    adapters: tuple[AdapterInfo, ...]
    adapter_address: int
    adapter_size: int
    slots: int
    rank: int
    context: int
    """Most tokens of prompt and answer."""
    dim: int
    """Features of a head."""
    half: int
    """Elements of a row of the tables by position; 0 without."""
    input_fraction: int
    output_fraction: int
    input_words: int
    output_words: int
    vocabulary: int
    embedding: npt.NDArray[np.float32]
    """[vocabulary, features]."""
    positions: npt.NDArray[np.float32] | None
    """[context, features], added to the rows."""
    layers: tuple[LayerInfo, ...]
    vectors: bytes
    placement: tuple[Placement, ...]
    default_adapter: str | None
    sources: Mapping[str, str]

    def save(self, path: str | Path) -> None:
        """Write the package directory; replaces a package of that name, leaves nothing half-written."""
        from .generator_package import save

        save(self, Path(path))

    @property
    def host_macs(self) -> int:
        """MACs of the operators that stay on the host."""
        return sum(row.macs for row in self.placement if row.where == "host")

    def linears(self) -> tuple[Linear, ...]:
        """The linears again, without adapters, read from the weights."""
        arrays = read_arrays(self.vectors)
        return tuple(stored_linear(self.target, layer, i, arrays, self.image) for i, layer in enumerate(self.layers))

    def rows(self, ids: Sequence[int], first: int) -> Int64:
        """Embeddings of tokens at positions `first` ..., as the machine takes them: s32 [tokens, features]."""
        rows = self.embedding[list(ids)].astype(np.float64)
        if self.positions is not None:
            rows = rows + self.positions[first : first + len(ids)]
        return np.clip(np.rint(np.ldexp(rows, self.input_fraction)), -(2**31) + 1, 2**31 - 1).astype(np.int64)

    def session(self, adapter: str | None = None, start: Start | None = None) -> Session:
        """An empty context.

        Args:
            adapter: its name; None is the base, or the LoRA that the model itself holds.
            start: runs the machine; default the simulator.

        Raises:
            BadAdapter: no such adapter.
        """
        return Session(self, self.default_adapter if adapter is None else adapter, start or simulated(self.target))


def simulated(target: Target, *, timing: bool = True) -> Start:
    """Starts on the simulator."""

    def start(memory: Bytes, program: int, registers: dict[int, int]) -> Started:
        result = run_image(target, memory, program, registers, timing=timing)
        return Started(result.memory, result.cycles, result.counters)

    return start


class Session:
    """One sequence: the machine's memory with its cache, and how many tokens are in it."""

    def __init__(self, generator: Generator, adapter: str | None, start: Start) -> None:
        self.generator, self.start, self.length, self.cycles = generator, start, 0, 0
        self.counters: dict[str, int] = {}
        g, t = generator, generator.target
        self.memory = np.zeros(-(-(g.adapter_address + max(1, len(g.adapters)) * g.adapter_size) // 4096) * 4096, np.uint8)
        self._put(0, g.image)
        self.registers: dict[int, int] = {}
        if adapter is not None:
            number = next((n for n, a in enumerate(g.adapters) if a.name == adapter), None)
            if number is None:
                known = ", ".join(a.name for a in g.adapters) or "none"
                raise BadAdapter(f"no adapter {adapter!r} in the package", "adapter", f"it has: {known}")
            address = g.adapter_address + number * g.adapter_size
            self._put(address, g.adapters[number].block)
            self.registers = slot_values(t, 1, address, g.adapters[number].rank)
        self._put(g.regions["token words"][0], token_words(np.full(t.tokens, int(adapter is not None))))

    def _put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def feed(self, ids: Sequence[int]) -> Int64:
        """Append tokens; logits after each of them, integers [tokens, vocabulary] of fraction `output_fraction`.

        Raises:
            BadInput: ids outside the vocabulary, or more tokens than the context holds.
        """
        g, t = self.generator, self.generator.target
        if any(not 0 <= i < len(g.embedding) for i in ids):
            bad = next(i for i in ids if not 0 <= i < len(g.embedding))
            raise BadInput(f"token id {bad} is not in the vocabulary", "prompt", f"0 to {len(g.embedding) - 1}")
        if self.length + len(ids) > g.context:
            what = f"{self.length + len(ids)} tokens, compiled for a context of {g.context}"
            raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")
        out = []
        done = 0
        while done < len(ids):
            rows = t.tokens if self.length % t.tokens == 0 and len(ids) - done >= t.tokens else 1
            out.append(self._start(ids[done : done + rows]))
            done += rows
        return np.concatenate(out) if out else np.zeros((0, g.vocabulary), np.int64)

    def _start(self, ids: Sequence[int]) -> Int64:
        """One start of the machine with as many tokens as a program takes."""
        g, t, count = self.generator, self.generator.target, len(ids)
        rows = g.rows(ids, self.length)
        words = np.zeros((count, g.input_words * t.vector_lanes), "<i4")
        words[:, : rows.shape[1]] = rows
        self._put(g.regions["input"][0], words.tobytes())
        positions = position_registers(t, self.length, count, g.dim, g.half)
        left = self.start(self.memory, g.programs[count][0], {int(k): v for k, v in positions.items()} | self.registers)
        self.memory, self.length, self.cycles = left.memory, self.length + count, self.cycles + left.cycles
        self.counters = {name: self.counters.get(name, 0) + value for name, value in left.counters.items()}
        width = g.output_words * t.vector_lanes
        address = g.regions["output"][0]
        logits = self.memory[address : address + 4 * width * count].view("<i4").reshape(count, width)
        return logits[:, : g.vocabulary].astype(np.int64)


def generate(
    program: Generator,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 64,
    adapter: str | None = None,
    eos: int | None = None,
    start: Start | None = None,
) -> Iterator[Token]:
    """Greedy generation on the simulated machine, ties to the lowest id.

    Args:
        program: compiled with `generate=True`.
        prompt: token ids, at least one.
        max_new_tokens: stop after these many.
        adapter: its name; None is the base.
        eos: stop after this token.
        start: runs the machine; default the simulator.

    Yields:
        Each token as it comes, and its cycles.

    Raises:
        BadInput: an empty prompt, ids outside the vocabulary, or a context that is too short. BadAdapter: no such adapter.
    """
    if not len(prompt):
        raise BadInput("the prompt is empty", "prompt", "at least one token")
    if len(prompt) + max_new_tokens - 1 > program.context:
        what = f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones, compiled for a context of {program.context}"
        raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")
    session = program.session(adapter, start)
    ids: Sequence[int] = prompt
    for _ in range(max_new_tokens):
        before = session.cycles
        token = int(np.argmax(session.feed(ids)[-1]))
        yield Token(token, session.cycles - before)
        if token == eos:
            return
        ids = [token]
