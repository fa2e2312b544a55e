"""Run packages on a board: the third place, beside simulator and Verilog, where the same bytes run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy.typing as npt

from axlora.isa.opcodes import COUNTERS

from .choice import AdapterChoice
from .execute import Memory, StageResult, execute
from .execute_whole import execute_whole
from .generator import Generator, Started
from .generator import Start as GeneratorStart
from .program import BadInput, Program
from .run import Run
from .whole import Whole

if TYPE_CHECKING:
    from axlora.fpga.host import Board

Progress = Callable[[int, int], None]
TIMED = frozenset(c.name for c in COUNTERS if c.unit in ("cycles", "lane-cycles"))
"""Counters that depend on the memory's timing, which only on-chip memory shares with the simulator."""


def run_board(
    program: Program | Whole,
    inputs: Mapping[str, npt.ArrayLike],
    board: Board,
    adapter: AdapterChoice = None,
    *,
    progress: Progress | None = None,
) -> Run:
    """The same run as `simulate`, on a board; `Run.view` is `board` (on-chip memory) or `board-sdram`.

    Args:
        board: open, with a bitstream of the program's target.
        progress: called with (bytes sent, bytes to send) of each start.

    Raises:
        BoardError: the board failed. BadInput, BadAdapter: as `simulate`.
    """
    if isinstance(program, Generator):
        raise BadInput("a language model generates", "run", "axlora generate OUT.axl --board ...")
    onchip: list[bool] = []

    def start(at: int, memory: Memory, registers: dict[int, int], wanted: list[tuple[int, int]]) -> StageResult:
        written = list(program.regions.values()) if isinstance(program, Whole) else wanted
        found = board.run(memory, at, registers, wanted, written, progress=progress)
        onchip.append(found.onchip)
        return StageResult(found.memory, found.counters)

    if isinstance(program, Whole):
        at, whole = program.program[0], [place for name, place in program.regions.items() if name.startswith("output ")]
        run = execute_whole(program, "board", inputs, adapter, lambda m, r: start(at, m, r, whole))
    else:
        linears = program
        run = execute(
            linears,
            "board",
            inputs,
            adapter,
            lambda stage, m, r: start(linears.start_address(stage), m, r, linears.written(stage)),
        )
    target = replace(run.target, clock_mhz=round(board.clock_mhz))
    return replace(run, target=target, view="board" if all(onchip) else "board-sdram")


def board_start(program: Generator, board: Board, progress: Progress | None = None) -> GeneratorStart:
    """Starts of a language model on a board; its cache stays in the board's memory."""
    wanted = [program.regions["output 0"]]

    def start(memory: Memory, at: int, registers: dict[int, int]) -> Started:
        found = board.run(memory, at, registers, wanted, list(program.regions.values()), progress=progress)
        return Started(found.memory, found.counters["cycles"], found.counters)

    return start


def difference(wanted: Run, found: Run) -> str:
    """One line that names the first output or counter in which a board's run is not the simulator's; empty if none.

    Of a program in SDRAM, the counters of `TIMED` are not compared.
    """
    for name, codes in wanted.codes.items():
        other = found.codes[name]
        if codes.shape != other.shape or (codes != other).any():
            return f"output {name}: {int((codes != other).sum())} of {codes.size} codes differ"
    for name, value in wanted.counters.items():
        if found.counters[name] != value and not (found.view != "board" and name in TIMED):
            return f"counter {name}: {value} in the simulator, {found.counters[name]} on the board"
    return ""
