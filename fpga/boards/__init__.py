"""The boards: what is on them, and where their files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from axlora.isa.errors import Error

FOLDER = Path(__file__).resolve().parent


class BadBoard(Error):
    """No such board."""


@dataclass(frozen=True)
class Board:
    """An FPGA board.

    Attributes:
        name: of the board, and of its folder here.
        device, package: options of nextpnr-ecp5.
        top: module that has the pins.
        oscillator_mhz: what the PLL gets.
        onchip_bytes: most on-chip memory for programs; less is taken when the machine's buffers need the block RAM.
        sdram_bytes: of the board's SDRAM.
        luts, dsps, brams: what the device has.
    """

    name: str
    device: str
    package: str
    top: str
    oscillator_mhz: int
    onchip_bytes: int
    sdram_bytes: int
    luts: int
    dsps: int
    brams: int

    @property
    def constraints(self) -> Path:
        """Pins."""
        return FOLDER / self.name / f"{self.name}.lpf"

    @property
    def sources(self) -> list[Path]:
        """Verilog of the board around the machine."""
        return [*sorted(FOLDER.glob("*.v")), *sorted((FOLDER / self.name).glob("*.v"))]


BOARDS = {
    "ulx3s": Board("ulx3s", "85k", "CABGA381", "ulx3s_top", 25, 196608, 1 << 25, 83640, 156, 208),
}
_ALIASES = {"ulx3s-85f": "ulx3s"}


def board(name: str) -> Board:
    """A board by name.

    Raises:
        BadBoard: none of that name.
    """
    found = BOARDS.get(_ALIASES.get(name, name))
    if found is None:
        raise BadBoard(f"no board {name!r}", "--board", f"boards: {', '.join(BOARDS)}")
    return found
