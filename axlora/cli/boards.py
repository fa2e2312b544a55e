"""The board that --board and --port name, for the commands that run on one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from axlora.fpga import boards
from axlora.fpga.bitstream import read_result
from axlora.fpga.host import Board
from axlora.fpga.link import BAUDS, BoardError, Link
from axlora.isa.target import Target

from .given import bad
from .terminal import Phases


@contextmanager
def open_board(options: argparse.Namespace, target: Target, shown: Phases) -> Iterator[Board]:
    """The board at --port; `sim` is one in Verilator that lasts as long as the command."""
    wanted = boards.board(options.board)
    if options.patience <= 0:
        raise bad(f"--patience {options.patience}", "--patience", "seconds, above 0")
    with ExitStack() as stack:
        if options.port == "sim":
            from axlora.extras import need
            from axlora.fpga.simulated import SimulatedBoard

            need("rtl")
            shown.phase("building the simulated board")
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
