"""Ensembles: one input under several adapters, and how far their outputs lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .inputs import BadInput, Inputs
from .program import Program
from .run import Run
from .session import Session

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ensemble:
    """What the adapters made of one input."""

    adapters: tuple[str | None, ...]
    runs: tuple[Run, ...]
    """One of all adapters, or one each."""
    outputs: dict[str, npt.NDArray[Any]]
    """Output -> [adapters, *shape of one input's]."""

    @property
    def mean(self) -> dict[str, Floats]:
        """Output -> its mean over the adapters."""
        return {name: value.mean(axis=0) for name, value in self.outputs.items()}

    @property
    def spread(self) -> dict[str, Floats]:
        """Output -> its standard deviation over the adapters (divided by their number)."""
        return {name: value.std(axis=0) for name, value in self.outputs.items()}

    @property
    def cycles(self) -> int:
        """Of all runs."""
        return sum(run.cycles for run in self.runs)


def ensemble(program: Program, inputs: Inputs, adapters: Sequence[str | None], *, session: Session | None = None) -> Ensemble:
    """Run one input under several adapters.

    A package that was compiled for a batch of as many rows as there are adapters takes them in one run, whose starts share what
    they share in a mixed batch: of linears, of rows that nothing mixes and of language models (`max_batch`), weights are read
    and multiplied in one start, and each adapter's columns for its own rows. Else each adapter is a run of its own.

    Args:
        program: compiled, with these adapters.
        inputs: as `axlora.simulate`; with one batch row, where one run takes all.
        adapters: names, None for the base.
        session: of the program, on another engine for example; None: on the simulator.

    Raises:
        BadInput: no adapter, or inputs that the package does not take. BadAdapter: no such adapter, more than the slots.
    """
    if not adapters:
        raise BadInput("no adapters", "adapters", "one or more; None is the base")
    session = session or program.session()
    given = {name: np.asarray(value) for name, value in inputs.items()}
    rows = {shape[0] if shape else 0 for shape, _ in program.inputs_info.values()}
    ones = all(value.ndim and len(value) == 1 for value in given.values())
    if ones and len(adapters) > 1 and (rows == {len(adapters)} or any(f.batch for f in program.functions)):
        run = session.run({name: np.repeat(value, len(adapters), axis=0) for name, value in given.items()}, list(adapters))
        mixed = next((name for name, value in run.outputs.items() if value.shape[:1] != (len(adapters),)), None)
        if mixed is not None:
            what = f"output {mixed!r} of shape {run.outputs[mixed].shape} has no row for each of {len(adapters)} adapters"
            raise BadInput(what, "adapters", "compile for a batch of one")
        return Ensemble(tuple(adapters), (run,), {name: value[:, None] for name, value in run.outputs.items()})
    count = max((len(value) for value in given.values() if value.ndim), default=1)
    runs = tuple(session.run(given, [name] * count) for name in adapters)
    return Ensemble(tuple(adapters), runs, {name: np.stack([run.outputs[name] for run in runs]) for name in runs[0].outputs})
