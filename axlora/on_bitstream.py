"""A run at the clock and with the area of a bitstream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from axlora.fpga.bitstream import read_result
from axlora.fpga.identity import target_id

from .energy import default_table
from .inputs import BadInput
from .run import Run


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
    return replace(run, target=target, fpga=area).with_energy(default_table())
