"""`axlora run`."""

from __future__ import annotations

import argparse

from .given import adapters, board_options, inputs, places, run_options, save_run
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package, its inputs, a board."""
    run_options(parser)
    board_options(parser, required=True)
    parser.add_argument("--no-check", action="store_true", help="do not simulate the run to compare")


def run(options: argparse.Namespace) -> int:
    """Run on a board and compare with the simulator; 1 if they differ."""
    import axlora
    from axlora.comparing import compared, difference
    from axlora.engines import OnBoard
    from axlora.extras import need
    from axlora.on_bitstream import on_bitstream

    need("fpga", "pyserial")
    from .boards import open_board

    program = axlora.load(options.package)
    given, adapter = inputs(program, options), adapters(options.adapter)
    with progress() as shown, open_board(options, program.target, shown) as board:
        engine = OnBoard(board, shown.counted("sending"))
        found = program.session(engine=engine, **places(options)).run(given, adapter)
        resent = board.link.resent
    if options.bitstream:
        found = on_bitstream(found, options.bitstream)
    save_run(found, options)
    count = sum(v.size for v in found.codes.values())
    ms = found.cycles / board.clock_mhz / 1000
    show(f"{count} output codes, {found.cycles} cycles, {ms:.3f} ms at {board.clock_mhz:g} MHz")
    if resent:
        show(f"{resent} requests were sent again: the line loses bytes")
    if options.no_check:
        return 0
    with progress() as shown:
        wanted = program.session(**places(options)).run(given, adapter, progress=shown.counted("simulating"))
    parted = difference(wanted, found)
    if parted:
        show(f"[bold red]board and simulator differ:[/] {parted}")
        return 1
    memory = "on-chip memory" if found.view == "board" else "SDRAM, where cycles are its own"
    show(f"board = simulator: all codes and {len(compared(found.view))} counters equal; {memory}")
    return 0
