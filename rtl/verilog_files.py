"""Where the machine's Verilog lies; needs no tool."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def sources(rtl: Path | None = None) -> list[Path]:
    """Verilog files of the machine, without the test bench; or those of another folder."""
    return sorted((rtl or FOLDER).glob("*.v"))
