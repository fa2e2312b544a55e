"""Language models: prefill and decode functions around a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from axlora.compiler.backend.memory_layout import FURTHER
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.positions import SLOTS as POSITION_SLOTS
from axlora.isa.positions import position_registers
from axlora.isa.regions import token_words
from axlora.isa.registers import in_window

from .choice import AdapterChoice
from .engines import Engine, Left, Progress, Start
from .inputs import BadInput, Inputs, InputsInfo, Kind, Values, checked
from .machine import Function, Int64, Machine
from .rows import Rows
from .run import Run, run_of
from .validate import FILE_LIMIT, Check


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
    together: int = 1
    """Most sequences that decode in one start."""
    cache: int = 0
    """Bytes of the cache of a sequence, where several decode together."""

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

    def check_room(self, prompt: int, new: int) -> None:
        """The context holds a prompt of these many tokens, and the new ones but for the last, which is not fed.

        Raises:
            BadInput: it does not.
        """
        if prompt + new - 1 > self.context:
            what = f"a prompt of {prompt} tokens and {new} new ones, compiled for a context of {self.context}"
            raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")

    def random_inputs(self, m: Machine, rng: np.random.Generator) -> Values:
        """Ids for a start of the largest prefill function and one of decode; two sequences where several decode together."""
        tokens = min(self.context, 1 + max(f.rows for f in m.functions if not f.batch))
        return {self.ids: rng.integers(0, len(self.tables[self.ids]), (min(2, self.together), tokens))}

    def summary(self, m: Machine) -> str:
        sizes = ", ".join(f"{f.size // INSTRUCTION_BYTES} for {f.rows}" for f in m.functions if not f.batch)
        more = ", ".join(f"{f.size // INSTRUCTION_BYTES} for {f.rows}" for f in m.functions if f.batch)
        together = f", {more} sequences" if more else ""
        return f"instructions: {sizes} tokens a start{together}, {len(m.image) / 1024:.0f} KiB of weights"

    def prove(self, _: Machine) -> None:
        """Pick a row of embeddings."""
        self.embed({self.ids: [0]})

    def sequence(self, m: Machine, engine: Engine, adapter: str | None, shared: bool = False) -> Context:
        return Context(Running(m, self, engine, shared=shared), adapter)

    def new_batch(self, m: Machine, engine: Engine) -> Batch:
        return Batch(m, self, engine)

    def run(self, m: Machine, engine: Engine, inputs: Inputs, adapter: AdapterChoice, progress: Progress | None) -> Run:
        """As `Stages.run`: prefill and decode starts of every sequence; the logits after each token."""
        ids = self.check_inputs(m, inputs)[self.ids]
        found: list[Int64] = []
        starts: list[tuple[Function, Left]] = []
        names = m.adapters_of(adapter, len(ids))
        for first in range(0, len(ids), self.together):
            part = slice(first, first + self.together)
            batch = Batch(m, self, engine, trace=True)
            found += batch.logits(names[part], ids[part])
            starts += batch.running.starts
            if progress is not None:
                progress(len(found), len(ids))
        rows = np.stack(found)
        outputs = {self.output: np.ldexp(rows.astype(np.float64), -self.output_fraction).astype(np.float32)}
        lefts = [left for _, left in starts]
        return run_of(m, engine, outputs, {self.output: rows}, lefts, self.layers(m, starts))

    def validate(self, c: Check) -> None:
        rows, together = ([f.rows for f in c.m.functions if f.batch is batch] for batch in (False, True))
        c.need(1 in rows and len(set(rows)) == len(rows), "functions", rows, "one of one row, others of more")
        c.within(self.together, 1, c.t.windows, "together")
        c.within(self.cache, 0, FILE_LIMIT, "cache")
        c.need(max(together, default=1) == self.together, "functions of batches", together, f"one of {self.together} sequences")
        c.region(FURTHER, self.cache * (self.together - 1))
        c.need(len(self.tables) == 1, "tables", list(self.tables), "one, of token ids")
        c.region("token words", 4 * max(*rows, self.together))
        c.within(self.vocabulary, 1, self.output_words * c.t.vector_lanes, "vocabulary")
        c.within(self.output_fraction, -62, 62, "output_fraction")
        self.check_rows(
            c,
            {"output 0": self.output_words * c.t.vector_word_bytes * max(*rows, self.together)},
            slots=POSITION_SLOTS if self.together > 1 else 1,
        )


class Running:
    """The memory of one or more sequences between starts, and what the starts had."""

    def __init__(self, m: Machine, decoder: Decoder, engine: Engine, *, trace: bool = False, shared: bool = False) -> None:
        """`trace`: keep what starts left. `shared`: the engine runs sequences of other memories between these starts."""
        self.counters: dict[str, int] = {}
        """Sums over the starts so far."""
        self.starts: list[tuple[Function, Left]] = []
        """With `trace`: the functions that started, and what they left but for the memory."""
        self.machine, self.decoder = m, decoder
        self._engine, self._trace = engine, trace
        self._written = list(m.regions.values())
        self._results = self._written if shared else [m.regions["output 0"]]
        self.memory = m.memory()
        """As the last start left it."""

    def start(
        self, function: Function, rows: Int64, registers: dict[int, int], slots: Sequence[int], adapters: Sequence[str]
    ) -> Int64:
        """Run a function; the logits after each row [rows, vocabulary].

        Args:
            rows: in fixed point [rows, features].
            registers: of the positions.
            slots: of each row: the number of its adapter, from 1; 0 for the base.
            adapters: those that the numbers stand for.
        """
        m, d = self.machine, self.decoder
        d.put(m, self.memory, rows)
        words = np.zeros(m.regions["token words"][1] // 4, np.int64)
        words[: len(slots)] = slots
        m.put(self.memory, "token words", token_words(words))
        registers = registers | m.registers(self.memory, adapters)
        start = Start(function, self.memory, registers, self._results, self._written, self._trace)
        left = self._engine.start(m.target, start)
        self.memory = left.memory
        self.counters = {name: self.counters.get(name, 0) + value for name, value in left.counters.items()}
        if self._trace:
            self.starts.append((function, replace(left, memory=left.memory[:0])))
        return d.read(m, self.memory, "output 0", function.rows, d.output_words)[:, : d.vocabulary]


class Context:
    """One sequence of a language model: where its cache is, and how many tokens are in it."""

    def __init__(self, running: Running, adapter: str | None, place: int = 0) -> None:
        """`place`: of its cache among those in the memory."""
        self.length = 0
        self.adapter, self.place = adapter, place
        self.running = running
        self._decoder = running.decoder

    @property
    def counters(self) -> dict[str, int]:
        """Sums over the starts of its memory so far."""
        return self.running.counters

    @property
    def cycles(self) -> int:
        """Of the starts so far."""
        return self.counters.get("cycles", 0)

    def feed(self, ids: Sequence[int]) -> Int64:
        """Append tokens; the logits after each of them, integers [tokens, vocabulary] of fraction `output_fraction`.

        Raises:
            BadInput: ids outside the vocabulary, or more tokens than the context holds.
        """
        self.check(ids)
        out, left = [np.zeros((0, self._decoder.vocabulary), np.int64)], list(ids)
        for function in self.plan(len(ids)):
            out.append(self.append(function, left[: function.rows]))
            left = left[function.rows :]
        return np.concatenate(out)

    def check(self, ids: Sequence[int]) -> None:
        """These tokens can be appended.

        Raises:
            BadInput: as `feed`.
        """
        d = self._decoder
        d.check_ids(ids, "prompt")
        if self.length + len(ids) > d.context:
            what = f"{self.length + len(ids)} tokens, compiled for a context of {d.context}"
            raise BadInput(what, "prompt", "a shorter prompt, fewer new tokens, or --max-context at compile time")

    def plan(self, tokens: int) -> list[Function]:
        """The functions that take the next `tokens` tokens in the fewest cycles; the last may have rows for more.

        A row without a token writes keys and values that the sequence's later tokens overwrite, and no row before it sees.
        """
        alone = sorted((f for f in self.running.machine.functions if not f.batch), key=lambda f: -f.rows)
        best: list[tuple[int, Function | None]] = [(0, None)]
        for left in range(1, tokens + 1):
            at = self.length + tokens - left
            fit = [f for f in alone if at % f.rows == 0 and at + f.rows <= self._decoder.context]
            best.append(min(((max(1, f.cycles) + best[max(0, left - f.rows)][0], f) for f in fit), key=lambda pair: pair[0]))
        found: list[Function] = []
        while (function := best[max(0, tokens - sum(f.rows for f in found))][1]) is not None:
            found.append(function)
        return found

    def positions(self, rows: int) -> dict[int, int]:
        """Registers of a start that appends `rows` rows."""
        d, t = self._decoder, self.running.machine.target
        first = min(self.length, d.context - rows)
        found = position_registers(t, first, rows, d.dim, d.half, d.context, self.place * d.cache)
        return {int(number): value for number, value in found.items()}

    def rows(self, ids: Sequence[int]) -> Int64:
        """The next tokens' rows in fixed point."""
        changes = self.running.machine.rows_of(self.adapter)
        return self._decoder.embed({self._decoder.ids: ids}, self.length, changes)

    def append(self, function: Function, ids: Sequence[int]) -> Int64:
        """Append tokens by a start of this function, which has rows for them; as `feed`."""
        adapters = self.running.machine.slotted(self.adapter)
        places = self.positions(function.rows)
        found = self.running.start(function, self.rows(ids), places, [len(adapters)] * function.rows, adapters)
        self.length += len(ids)
        return found[: len(ids)]


class Batch:
    """Sequences of a language model in one memory: they join and leave between starts, and decode together.

    The logits of each are those that it has alone, bit for bit.
    """

    def __init__(self, m: Machine, decoder: Decoder, engine: Engine, *, trace: bool = False) -> None:
        self.running = Running(m, decoder, engine, trace=trace)
        self._places: list[Context | None] = [None] * decoder.together
        self._functions = sorted((f for f in m.functions if f.batch), key=lambda f: f.rows)

    @property
    def full(self) -> bool:
        """Whether no sequence can join."""
        return None not in self._places

    def join(self, adapter: str | None = None) -> Context:
        """A new sequence; feed it its prompt.

        Raises:
            BadInput: the batch is full. BadAdapter: no such adapter, or more different ones than a start takes.
        """
        if self.full:
            what = f"the batch is full: {len(self._places)} sequences"
            raise BadInput(what, "batch", "let one leave, or compile with a larger --max-batch")
        self.running.machine.slot_of([*(each.adapter for each in self._places if each is not None), adapter])
        place = self._places.index(None)
        found = self._places[place] = Context(self.running, adapter, place)
        return found

    def leave(self, sequence: Context) -> None:
        """Give a sequence's place to others."""
        self._places[sequence.place] = None

    def step(self, tokens: Sequence[tuple[Context, int]]) -> list[Int64]:
        """Append a token to each of some sequences; the logits after each [vocabulary].

        Raises:
            BadInput: as `Context.feed`.
        """
        for sequence, token in tokens:
            sequence.check([token])
        if len(tokens) == 1:
            ((sequence, token),) = tokens
            return [sequence.feed([token]).reshape(-1)]
        last = max(sequence.place for sequence, _ in tokens)
        function = next(f for f in self._functions if f.rows > last)
        adapters, names = self.running.machine.slot_of([sequence.adapter for sequence, _ in tokens])
        slots, registers = [0] * function.rows, dict[int, int]()
        rows = np.zeros((function.rows, tokens[0][0].rows([0]).shape[1]), np.int64)
        for n in range(function.rows):  # a place without a token writes where the next token of its sequence will
            registers |= in_window(n, (self._places[n] or Context(self.running, None, n)).positions(1))
        for (sequence, token), name in zip(tokens, names, strict=True):
            rows[sequence.place] = sequence.rows([token])
            slots[sequence.place] = 1 + adapters.index(name) if name in adapters else 0
        found = self.running.start(function, rows, registers, slots, adapters)
        for sequence, _ in tokens:
            sequence.length += 1
        return [found[sequence.place] for sequence, _ in tokens]

    def logits(self, names: Sequence[str | None], ids: Int64) -> list[Int64]:
        """The logits after every token [tokens, vocabulary] of new sequences with these adapters; `ids`: [sequences, tokens].

        Prompts are taken sequence by sequence as far as their starts go, and the rest together.
        """
        sequences = [self.join(name) for name in names]
        found: list[list[Int64]] = [[] for _ in sequences]
        left = ids
        for function in sequences[0].plan(ids.shape[1]):
            part = left[:, : function.rows].tolist()
            if function.rows == 1:
                each = self.step([(sequence, token) for sequence, (token,) in zip(sequences, part, strict=True)])
                rows = [logits[None] for logits in each]
            else:
                rows = [sequence.append(function, own) for sequence, own in zip(sequences, part, strict=True)]
            for own, more in zip(found, rows, strict=True):
                own.append(more)
            left = left[:, function.rows :]
        return [np.concatenate(own) for own in found]
