"""Run a model of whole sequences: a start of the machine for each sequence of the batch, whichever view the machine is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from .choice import AdapterChoice
from .execute import StageResult, joined
from .machine import Bytes, Int64
from .run import Run
from .shares import added
from .whole import Whole

Start = Callable[[Bytes, dict[int, int]], StageResult]
"""(memory, registers) -> what a start leaves."""


def execute_whole(
    program: Whole,
    view: str,
    inputs: Mapping[str, npt.ArrayLike],
    adapter: AdapterChoice,
    start: Start,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run the sequences of a batch one after another; arguments as `execute.execute`."""
    given = program.check_inputs(inputs)
    names = program.adapters_of(adapter)
    results: list[StageResult] = []
    rows: dict[str, list[Int64]] = {r.name: [] for r in program.results}
    for n, name in enumerate(names):
        memory, registers, order = program.ready({key: value[n] for key, value in given.items()}, name)
        results.append(start(memory, registers))
        for r in program.results:
            found = program.read_rows(results[-1].memory, r.region, r.rows, r.words)[:, : r.width]
            back = np.empty_like(found)
            back[order if r.rows == program.tokens else slice(None)] = found
            rows[r.name].append(back)
        if progress is not None:
            progress(n + 1, len(names))
    counters = {key: sum(r.counters[key] for r in results) for key in results[0].counters}
    codes = {key: np.concatenate(value) for key, value in rows.items()}
    return Run(
        program.target,
        view,
        dict(program.outputs_of({key: np.stack(value) for key, value in rows.items()})),
        codes,
        counters["cycles"],
        counters,
        added([r.layers for r in results]),
        joined(results),
        program.host_macs,
    )
