"""`axlora bitstream`, `axlora zynq` and `axlora run`: to a board and on it; each returns the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from axlora.fpga import boards
from axlora.fpga.bitstream import BLOCK_BYTES, Bitstream, BuildFailed, build, read_result
from axlora.fpga.host import SCRUB_BYTES, Board
from axlora.fpga.identity import target_id
from axlora.fpga.link import BAUDS, BoardError, Link
from axlora.fpga.simulated import SimulatedBoard
from axlora.fpga.zynq import emit
from axlora.isa.target import ENGINES, Target

from . import api
from .commands import adapter_choice, console, given_inputs, progress_bar, save_run, watched
from .on_board import TIMED, difference, run_board
from .package import load, load_any
from .program import BadInput
from .run import Run

_LEAST_ONCHIP = 16 * 1024


def bitstream(options: argparse.Namespace) -> int:
    """Build the bitstream of a package or a target; 1 if it does not fit or is too slow."""
    board = boards.board(options.board)
    target, need = _machine(options.machine)
    onchip = _onchip(options.onchip, need, board)
    clock = target.clock_mhz if options.clock is None else options.clock
    engines = ENGINES if options.engines else (target.engine,)
    found: list[Bitstream] = []
    failed: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        for engine in engines:
            own = replace(target, engine=engine)
            out = Path(options.output) / engine if options.engines else Path(options.output)

            def tell(text: str, engine: str = engine) -> None:
                bar.update(task, description=f"{engine}: {text}")

            try:
                found.append(build(own, board, out, onchip_bytes=onchip, clock_mhz=clock, progress=tell))
            except BuildFailed as error:
                failed.append(f"axlora bitstream: {engine}: {error}\n")
    sys.stderr.write("".join(failed))
    if found:
        console.print(bitstream_table(found))
    for one in found:
        console.print(
            f"{one.engine}: slowest path {one.path_ns} ns from {one.path_from} to {one.path_to}; serial line {one.baud} baud",
            highlight=False,
        )
    return 1 if failed else 0


def _machine(text: str) -> tuple[Target, int]:
    """The target, and the bytes of memory that a package needs (0: only a target is given)."""
    if (Path(text) / "manifest.json").is_file():
        program = load_any(text)
        return program.target, program.memory_bytes
    return Target.load(text), 0


def _onchip(given: int | None, need: int, board: boards.Board) -> int:
    """Bytes of on-chip memory: what the package needs if it fits there, else little, for it runs from SDRAM."""
    if given is not None:
        if given <= 0 or given % BLOCK_BYTES:
            raise BadInput(f"--onchip {given} is not a multiple of {BLOCK_BYTES}", "--onchip", "bytes of on-chip memory")
        return given
    if need == 0:
        return 4 * _LEAST_ONCHIP
    size = -(-(need + SCRUB_BYTES) // BLOCK_BYTES) * BLOCK_BYTES
    return size if size <= board.onchip_bytes else _LEAST_ONCHIP


def bitstream_table(rows: list[Bitstream]) -> Table:
    """What each build uses of the device, and its clock."""
    table = Table("target", "engine", "LUT", "DSP", "block RAM", "MHz reached", "MHz of the clock", title="bitstreams")
    for b in rows:
        cells = (
            f"{used:,} of {there:,} ({100 * used / there:.0f} %)"
            for used, there in ((b.lut, b.lut_available), (b.dsp, b.dsp_available), (b.bram, b.bram_available))
        )
        table.add_row(b.target, b.engine, *cells, f"{b.mhz:.1f}", f"{b.clock_mhz:g}")
    return table


def on_bitstream(run: Run, folder: str) -> Run:
    """The run with the area and at the clock of the bitstream in a folder.

    Raises:
        BadInput: the bitstream is of another machine.
    """
    found = read_result(Path(folder))
    if found.target_id != target_id(run.target):
        raise BadInput(f"the bitstream in {folder} is of target {found.target!r}", "--bitstream", "axlora bitstream PACKAGE")
    target = replace(run.target, clock_mhz=int(found.clock_mhz))
    area = {"lut": found.lut, "dsp": found.dsp, "bram": found.bram, "mhz": found.mhz}
    return replace(run, target=target, fpga=area)


def run(options: argparse.Namespace) -> int:
    """Run on a board and compare with the simulator; 1 if they differ."""
    program = load(options.package)
    inputs, adapter = given_inputs(program, options), adapter_choice(options.adapter)
    with open_board(options, program.target) as board, progress_bar() as bar:
        found = run_board(program, inputs, board, adapter, progress=watched(bar, "sending"))
        resent = board.link.resent
    if options.bitstream:
        found = on_bitstream(found, options.bitstream)
    save_run(found, options)
    count = sum(v.size for v in found.codes.values())
    ms = found.cycles / board.clock_mhz / 1000
    console.print(f"{count} output codes, {found.cycles} cycles, {ms:.3f} ms at {board.clock_mhz:g} MHz", highlight=False)
    if resent:
        console.print(f"{resent} requests were sent again: the line loses bytes", highlight=False)
    if options.no_check:
        return 0
    with progress_bar() as bar:
        wanted = api.simulate(program, inputs, adapter, progress=watched(bar, "simulating"))
    parted = difference(wanted, found)
    if parted:
        console.print(f"[bold red]board and simulator differ:[/] {parted}", highlight=False)
        return 1
    counted = len(found.counters) - (0 if found.view == "board" else len(TIMED))
    memory = "on-chip memory" if found.view == "board" else "SDRAM, where cycles are its own"
    console.print(f"board = simulator: all codes and {counted} counters equal; {memory}", highlight=False)
    return 0


def zynq(options: argparse.Namespace) -> int:
    """Write the project for a Zynq board."""
    target, out = Target.load(options.target), Path(options.output)
    count = len(emit(target, out, force=options.force))
    console.print(f"{count} files in {out}; README.md there says how to build and use them (needs Vivado)", highlight=False)
    return 0


@contextmanager
def open_board(options: argparse.Namespace, target: Target) -> Iterator[Board]:
    """The board at --port; `sim` is one in Verilator that lasts as long as the command."""
    wanted = boards.board(options.board)
    if options.patience <= 0:
        raise BadInput(f"--patience {options.patience}", "--patience", "seconds, above 0")
    with ExitStack() as stack:
        if options.port == "sim":
            with progress_bar() as bar:
                bar.add_task("building the simulated board", total=None)
                simulated = stack.enter_context(SimulatedBoard(target, wanted.onchip_bytes, wanted.sdram_bytes))
            link = stack.enter_context(Link(simulated.port, simulated.baud, max(options.patience, 30.0)))
            yield Board(link, target)
            return
        link = _listening(options, stack)
        yield Board(link, target)


def _listening(options: argparse.Namespace, stack: ExitStack) -> Link:
    """A link at the rate that the board answers at: --baud, or the first of the usual ones."""
    rates: tuple[int, ...] = BAUDS
    if options.baud or options.bitstream:
        rates = (options.baud or read_result(Path(options.bitstream)).baud,)
    for baud in rates[:-1]:
        link = Link(options.port, baud, options.patience)
        try:
            link.hello()
        except BoardError:
            link.close()
        else:
            return stack.enter_context(link)
    return stack.enter_context(Link(options.port, rates[-1], options.patience))
