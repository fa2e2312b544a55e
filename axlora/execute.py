"""Run a program: host part and starts of the machine in turn, whichever view the machine is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.boundary import quantize, restore
from axlora.compiler.errors import BadModel

from .choice import AdapterChoice
from .program import Program
from .run import Layer, Run, Step

Memory = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StageResult:
    """What one start of the machine left."""

    memory: Memory
    counters: dict[str, int]
    steps: tuple[Step, ...] = ()
    layers: tuple[Layer, ...] = ()


Start = Callable[[int, Memory, dict[int, int]], StageResult]
"""(stage, memory, registers) -> what the start left."""


def execute(
    program: Program,
    view: str,
    inputs: Mapping[str, npt.ArrayLike],
    adapter: AdapterChoice,
    start: Start,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run the whole model.

    Args:
        view: `sim` or `rtl`.
        inputs: input name to array of the compiled shape.
        adapter: one for all batch rows, or one each.
        start: runs the machine once.
        progress: called with (starts done, starts in all).

    Raises:
        BadInput, BadAdapter: as `simulate`.
    """
    given = program.check_inputs(inputs)
    registers = program.registers(adapter)
    memory = program.memory()
    tensors = {info.tensor.name: info.tensor for info in program.outputs}
    results: list[StageResult] = []
    codes: dict[str, npt.NDArray[np.int64]] = {}
    saturated = 0

    def machine(stage: int, values: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        nonlocal memory, saturated
        read = {i.tensor.name: quantize(i.tensor, values[i.tensor.source]) for i in program.read_stage(stage)}
        saturated += sum(q.saturated for q in read.values())
        program.put_stage(memory, stage, read, adapter)
        results.append(start(stage, memory, registers))
        if progress is not None:
            progress(stage + 1, len(program.starts))
        memory = results[-1].memory
        found = program.read_codes(memory, stage)
        codes.update(found)
        return {tensors[name].source: restore(tensors[name], value) for name, value in found.items()}

    outputs = program.host_part.run(given, machine)
    for name, value in outputs.items():
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise BadModel(f"output {name!r} holds NaN", f"output {name!r}", "check the model's inputs and weights")
    counters = {name: sum(r.counters[name] for r in results) for name in results[0].counters}
    return Run(
        program.target,
        view,
        outputs,
        codes,
        counters["cycles"],
        counters,
        tuple(layer for r in results for layer in r.layers),
        joined(results),
        program.host_macs,
        saturated,
    )


def joined(results: Sequence[StageResult]) -> tuple[Step, ...]:
    """The steps of all starts, each start's cycles after those before."""
    steps: list[Step] = []
    base = 0
    for result in results:
        steps += [replace(s, accept=s.accept + base, done=s.done + base) for s in result.steps]
        base += result.counters["cycles"]
    return tuple(steps)
