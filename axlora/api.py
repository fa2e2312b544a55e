"""open, simulate, run_rtl, run_hls: what the command line and users call on a compiled model."""

from __future__ import annotations

from pathlib import Path

from .choice import AdapterChoice
from .engines import Progress, Simulator, Verilator
from .inputs import Inputs
from .program import Program, load
from .run import Run


def open(package: str | Path | Program) -> Program:
    """A package, by its path or as `axlora.compile` gave it, to run: `axlora.open("m.axl").session(engine="rtl").run(inputs)`.

    Raises:
        BadPackage: as `axlora.load`.
    """
    return load(package) if isinstance(package, str | Path) else package


def simulate(
    program: Program,
    inputs: Inputs,
    adapter: AdapterChoice = None,
    *,
    timing: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Run on the simulator, to the bit and to the cycle.

    Args:
        program: compiled.
        inputs: input name to float array of the compiled shape.
        adapter: name; or a name or None (the base) for each batch row. None is the base, or the LoRA in the model itself.
        timing: False computes outputs only.
        progress: called with (done, in all) after each start.

    Raises:
        BadInput: wrong names, shapes or values. BadAdapter: no such adapter, too many for the slots.
    """
    return program.session(engine=Simulator(timing)).run(inputs, adapter, progress=progress)


def run_rtl(
    program: Program,
    inputs: Inputs,
    adapter: AdapterChoice = None,
    *,
    waves: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """The same run in Verilator, from the same bytes; needs the extra `rtl`.

    Args:
        waves: write a VCD file of all signals there; of the last start, if the program has several.
        progress: as `simulate`.
    """
    return program.session(engine=Verilator(waves)).run(inputs, adapter, progress=progress)


def run_hls(program: Program, inputs: Inputs, adapter: AdapterChoice = None, *, progress: Progress | None = None) -> Run:
    """The same run in the HLS C++, from the same bytes, without time (`axlora.engines.Hls`); needs g++ and the extra `fpga`.

    Raises:
        HlsFailed: g++ or the ap_int headers are missing. BadInput, BadAdapter: as `simulate`.
    """
    return program.session(engine="hls").run(inputs, adapter, progress=progress)
