"""Language models: prefill and decode functions around a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.positions import position_registers

from .choice import AdapterChoice
from .engines import Engine, Left, Progress, Start
from .inputs import BadInput, Inputs, InputsInfo, Kind, Values, checked
from .machine import Function, Int64, Machine
from .rows import Rows
from .run import Run, run_of
from .validate import Check


@dataclass(frozen=True)
class Decoder(Rows):
    """Functions of one row (decode) and of more (prefill) around a cache; sequences are memories of their own."""

    kind: ClassVar[Kind] = Kind.GENERATOR
    output: str
    """Name of the logits."""
    output_fraction: int
    output_words: int
    vocabulary: int
    """Logits of a token."""

    @property
    def ids(self) -> str:
        """The input of token ids."""
        return next(iter(self.tables))

    def inputs_info(self, _: Machine) -> InputsInfo:
        """One sequence as long as the context; a run takes any number of sequences, and shorter ones."""
        return {self.ids: ((1, self.context), np.dtype(np.int64))}

    def check_inputs(self, m: Machine, inputs: Inputs) -> Values:
        """As `Stages.check_inputs`: ids [sequences, tokens]."""
        given = np.asarray(inputs.get(self.ids, 0))
        taken = given.ndim == 2 and given.size and given.shape[1] <= self.context
        ids = checked(inputs, {self.ids: (given.shape, np.dtype(np.int64))} if taken else self.inputs_info(m))[self.ids]
        if ids.dtype.kind not in "iu":
            raise BadInput(f"input {self.ids!r} has type {ids.dtype}, must be integers", "input", "token ids")
        for row in ids:
            self.check_ids(row.tolist(), "input")
        return {self.ids: ids.astype(np.int64)}

    def check_ids(self, ids: Sequence[int], where: str) -> None:
        """Ids that the table has.

        Raises:
            BadInput: one is not in it.
        """
        most = len(self.tables[self.ids])
        bad = next((i for i in ids if not 0 <= i < most), None)
        if bad is not None:
            raise BadInput(f"token id {bad} is not in the vocabulary", where, f"0 to {most - 1}")

    def random_inputs(self, m: Machine, rng: np.random.Generator) -> Values:
        """Ids of a sequence for which every function starts once, where the context holds them."""
        tokens = min(self.context, sum(f.rows for f in m.functions))
        return {self.ids: rng.integers(0, len(self.tables[self.ids]), (1, tokens))}

    def summary(self, m: Machine) -> str:
        sizes = ", ".join(f"{f.size // INSTRUCTION_BYTES} for {f.rows}" for f in m.functions)
        return f"instructions: {sizes} tokens a start, {len(m.image) / 1024:.0f} KiB of weights"

    def prove(self, _: Machine) -> None:
        """Pick a row of embeddings."""
        self.embed({self.ids: [0]})

    def sequence(self, m: Machine, engine: Engine, adapter: str | None, shared: bool = False) -> Context:
        return Context(m, self, engine, adapter, shared=shared)

    def run(self, m: Machine, engine: Engine, inputs: Inputs, adapter: AdapterChoice, progress: Progress | None) -> Run:
        """As `Stages.run`: prefill and decode starts of every sequence; the logits after each token."""
        ids = self.check_inputs(m, inputs)[self.ids]
        found, starts = [], []
        for n, name in enumerate(m.adapters_of(adapter, len(ids))):
            one = Context(m, self, engine, name, trace=True)
            found.append(one.feed(ids[n].tolist()))
            starts += one.starts
            if progress is not None:
                progress(n + 1, len(ids))
        rows = np.stack(found)
        outputs = {self.output: np.ldexp(rows.astype(np.float64), -self.output_fraction).astype(np.float32)}
        lefts = [left for _, left in starts]
        return run_of(m, engine, outputs, {self.output: rows}, lefts, self.layers(m, starts))

    def validate(self, c: Check) -> None:
        rows = [f.rows for f in c.m.functions]
        c.need(1 in rows and len(set(rows)) == len(rows), "functions", rows, "one of one row, others of more")
        c.need(len(self.tables) == 1, "tables", list(self.tables), "one, of token ids")
        c.region("token words", 4 * max(rows))
        c.within(self.vocabulary, 1, self.output_words * c.t.vector_lanes, "vocabulary")
        c.within(self.output_fraction, -62, 62, "output_fraction")
        self.check_rows(c, {"output 0": self.output_words * c.t.vector_word_bytes * max(rows)})


class Context:
    """One sequence of a language model: the machine's memory with its cache, and how many tokens are in it."""

    def __init__(
        self,
        m: Machine,
        decoder: Decoder,
        engine: Engine,
        adapter: str | None,
        *,
        trace: bool = False,
        shared: bool = False,
    ) -> None:
        self.length = 0
        self.counters: dict[str, int] = {}
        """Sums over the starts so far."""
        self.starts: list[tuple[Function, Left]] = []
        """With `trace`: the functions that started, and what they left but for the memory."""
        self._machine, self._decoder, self._engine, self._trace = m, decoder, engine, trace
        self._written = list(m.regions.values())
        self._results = self._written if shared else [m.regions["output 0"]]
        self._memory, self._registers = decoder.begin(m, adapter)

    @property
    def cycles(self) -> int:
        """Of the starts so far."""
        return self.counters.get("cycles", 0)

    def check_room(self, prompt: int, new: int) -> None:
        """The context holds a prompt of these many tokens, and the new ones but for the last, which is not fed.

        Raises:
            BadInput: it does not.
        """
        if prompt + new - 1 > self._decoder.context:
            most = self._decoder.context
            what = f"a prompt of {prompt} tokens and {new} new ones, compiled for a context of {most}"
            raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")

    def feed(self, ids: Sequence[int]) -> Int64:
        """Append tokens; the logits after each of them, integers [tokens, vocabulary] of fraction `output_fraction`.

        Raises:
            BadInput: ids outside the vocabulary, or more tokens than the context holds.
        """
        d, functions = self._decoder, self._machine.functions
        d.check_ids(ids, "prompt")
        if self.length + len(ids) > d.context:
            what = f"{self.length + len(ids)} tokens, compiled for a context of {d.context}"
            raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")
        out, done = [np.zeros((0, d.vocabulary), np.int64)], 0
        while done < len(ids):
            fit = [f for f in functions if self.length % f.rows == 0 and len(ids) - done >= f.rows]
            function = max(fit, key=lambda f: f.rows)
            out.append(self._start(function, ids[done : done + function.rows]))
            done += function.rows
        return np.concatenate(out)

    def _start(self, function: Function, ids: Sequence[int]) -> Int64:
        m, d, count = self._machine, self._decoder, len(ids)
        d.put(m, self._memory, d.embed({d.ids: ids}, self.length))
        places = {int(k): v for k, v in position_registers(m.target, self.length, count, d.dim, d.half, d.context).items()}
        start = Start(function, self._memory, places | self._registers, self._results, self._written, self._trace)
        left = self._engine.start(m.target, start)
        self._memory, self.length = left.memory, self.length + count
        self.counters = {name: self.counters.get(name, 0) + value for name, value in left.counters.items()}
        if self._trace:
            self.starts.append((function, replace(left, memory=left.memory[:0])))
        return d.read(m, self._memory, "output 0", count, d.output_words)[:, : d.vocabulary]
