"""One way to run every package, on any engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .choice import AdapterChoice
from .decoder import Batch, Context
from .engines import NAMED, Engine, OnBoard, Progress
from .inputs import BadInput, Inputs
from .interface import Interface
from .machine import Int64, Machine
from .paging import Paged, Paging
from .run import Run

if TYPE_CHECKING:
    from axlora.fpga.host import Board


def engine_of(engine: str | Engine | Board) -> Engine:
    """The engine that a user names: `sim`, `rtl`, `hls`; an `engines.Engine`; or an open board.

    Raises:
        BadInput: another name.
    """
    match engine:
        case str():
            if engine not in NAMED:
                raise BadInput(f"no engine {engine!r}", "engine", f"{', '.join(NAMED)}, or an open board")
            return NAMED[engine]()
        case Engine():
            return engine
        case _:
            return OnBoard(engine)


class Session:
    """A package on an engine. `run` takes inputs to outputs; `prefill`, `decode` and `feed` go on with one sequence.

    Every `run` begins anew. The sequence of a session is of language models: it holds the machine's memory with its cache.
    """

    def __init__(self, machine: Machine, interface: Interface, engine: Engine, adapter: AdapterChoice = None) -> None:
        """`machine`: a `Paged` one keeps its adapters in places from run to run."""
        self.engine, self.adapter = engine, adapter
        self.machine, self.interface = machine, interface
        self._context: Context | None = None
        machine.slot_of(adapter)  # what it does not have is told at once

    def run(self, inputs: Inputs, adapter: AdapterChoice = None, *, progress: Progress | None = None) -> Run:
        """Run the model; a language model gives the logits after each token of the sequences of its ids [sequences, tokens].

        Args:
            inputs: input name to array of the compiled shape.
            adapter: a name; or a name or None (the base) for each batch row. None: the session's adapter; without one the base,
                or the LoRA in the model itself.
            progress: called with (done, in all) after each start, or sequence of a language model.

        Raises:
            BadInput: wrong names, shapes or values. BadAdapter: no such adapter, too many for the slots.
        """
        adapter = self.adapter if adapter is None else adapter
        before = self.paging
        run = self.interface.run(self.machine, self.engine, inputs, adapter, progress)
        after = self.paging
        return run if before is None or after is None else replace(run, paging=after.since(before))

    @property
    def paging(self) -> Paging | None:
        """What became of adapters so far; None: the memory holds all of them."""
        return replace(self.machine.pool.counted) if isinstance(self.machine, Paged) else None

    @property
    def sequence(self) -> Context:
        """The session's sequence; it begins at the first use.

        Raises:
            BadInput: no language model. BadAdapter: no such adapter.
        """
        if self._context is None:
            (name,) = self.machine.adapters_of(self.adapter, 1)
            self._context = self.interface.sequence(self.machine, self.engine, name)
        return self._context

    @property
    def counters(self) -> dict[str, int]:
        """Of the sequence's starts so far."""
        return {} if self._context is None else self._context.counters

    @property
    def cycles(self) -> int:
        """Of the sequence's starts so far."""
        return 0 if self._context is None else self._context.cycles

    def feed(self, ids: Sequence[int]) -> Int64:
        """Append tokens; the logits after each of them, integers [tokens, vocabulary] of fraction `output_fraction`.

        Raises:
            BadInput: no language model; ids outside the vocabulary, or more tokens than the context holds.
        """
        return self.sequence.feed(ids)

    def batch(self) -> Batch:
        """New sequences of a language model that decode together, each with an adapter of its own.

        Raises:
            BadInput: no language model.
        """
        return self.interface.new_batch(self.machine, self.engine)

    def prefill(self, ids: Sequence[int]) -> Int64:
        """A new sequence that begins with these tokens; as `feed`."""
        self._context = None
        return self.feed(ids)

    def decode(self, token: int) -> Int64:
        """Append a token; the logits after it [vocabulary]; as `feed`."""
        return self.feed([token]).reshape(-1)
