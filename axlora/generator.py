"""A compiled language model: prefill and decode programs around a cache, and the token loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from axlora.isa.numerics import to_fixed
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.positions import position_registers
from axlora.isa.target import Target
from axlora.sim.run import run_image

from .machine import Bytes, Int64, Machine
from .program import BadInput, Listed


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
class Generator(Machine):
    """A language model for one target; `context` is most tokens of prompt and answer."""

    programs: dict[int, tuple[int, int]]
    """Rows of a start -> (address, bytes) of its program."""
    output_fraction: int
    output_words: int
    vocabulary: int
    embedding: npt.NDArray[np.float32]
    """[vocabulary, features]."""

    @property
    def summary(self) -> str:
        """Sizes, in words."""
        sizes = ", ".join(f"{size // INSTRUCTION_BYTES} for {rows}" for rows, (_, size) in sorted(self.programs.items()))
        return f"instructions: {sizes} tokens a start, {len(self.image) / 1024:.0f} KiB of weights"

    def listing(self) -> list[Listed]:
        """The programs, for a disassembly."""
        return [
            (f"start of {rows} tokens", self.image[first : first + size], {})
            for rows, (first, size) in sorted(self.programs.items())
        ]

    def rows(self, ids: Sequence[int], first: int) -> Int64:
        """Embeddings of tokens at positions `first` ..., as the machine takes them: s32 [tokens, features]."""
        rows = self.embedding[list(ids)].astype(np.float64)
        if self.positions is not None:
            rows = rows + self.positions[first : first + len(ids)]
        return to_fixed(rows, self.input_fraction)

    def session(self, adapter: str | None = None, start: Start | None = None) -> Session:
        """An empty context.

        Args:
            adapter: its name; None is the base, or the LoRA that the model itself holds.
            start: runs the machine; default the simulator.

        Raises:
            BadAdapter: no such adapter.
        """
        return Session(self, self.default_adapter if adapter is None else adapter, start or simulated(self.target))


def simulated(target: Target) -> Start:
    """Starts on the simulator."""

    def start(memory: Bytes, program: int, registers: dict[int, int]) -> Started:
        result = run_image(target, memory, program, registers)
        return Started(result.memory, result.cycles, result.counters)

    return start


class Session:
    """One sequence: the machine's memory with its cache, and how many tokens are in it."""

    def __init__(self, generator: Generator, adapter: str | None, start: Start) -> None:
        self.generator, self.start, self.length, self.cycles = generator, start, 0, 0
        self.counters: dict[str, int] = {}
        self.memory, self.registers = generator.memory(adapter, max(generator.programs))

    def feed(self, ids: Sequence[int]) -> Int64:
        """Append tokens; logits after each of them, integers [tokens, vocabulary] of fraction `output_fraction`.

        Raises:
            BadInput: ids outside the vocabulary, or more tokens than the context holds.
        """
        g = self.generator
        if any(not 0 <= i < len(g.embedding) for i in ids):
            bad = next(i for i in ids if not 0 <= i < len(g.embedding))
            raise BadInput(f"token id {bad} is not in the vocabulary", "prompt", f"0 to {len(g.embedding) - 1}")
        if self.length + len(ids) > g.context:
            what = f"{self.length + len(ids)} tokens, compiled for a context of {g.context}"
            raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")
        out = []
        done = 0
        while done < len(ids):
            rows = max(n for n in g.programs if self.length % n == 0 and len(ids) - done >= n)
            out.append(self._start(ids[done : done + rows]))
            done += rows
        return np.concatenate(out) if out else np.zeros((0, g.vocabulary), np.int64)

    def _start(self, ids: Sequence[int]) -> Int64:
        """One start of the machine with as many tokens as a program takes."""
        g, t, count = self.generator, self.generator.target, len(ids)
        g.put_rows(self.memory, g.rows(ids, self.length))
        positions = position_registers(t, self.length, count, g.dim, g.half)
        left = self.start(self.memory, g.programs[count][0], {int(k): v for k, v in positions.items()} | self.registers)
        self.memory, self.length, self.cycles = left.memory, self.length + count, self.cycles + left.cycles
        self.counters = {name: self.counters.get(name, 0) + value for name, value in left.counters.items()}
        return g.read_rows(self.memory, 0, count, g.output_words)[:, : g.vocabulary]


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
