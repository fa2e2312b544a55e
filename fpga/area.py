"""`axlora area`: what a lane, each unit and the whole machine take of an ECP5, and in gates. Yosys alone, no place and route.

A lane is synthesized by itself, and the machine around its lanes with lanes that are empty; whole is lanes times the lane, and
that. So a machine that no device holds has an area too, and one lane's time is not spent on each.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from axlora.isa.target import Target

from .bitstream import Progress, run_tool
from .lanes import YOSYS, compared_lanes, lane_key, luts, mapped_script, read_script, results_folder, verilog

_UNITS = {
    "fetch": "fetch",
    "load": "load",
    "matrix": "matrix, without lanes",
    "vector_unit": "vector",
    "store": "store",
    "beat_ram": "buffers",
    "token_buffer": "buffers",
    "result_ram": "buffers",
}
"""Module in the core -> what it is told as; all others are the rest."""
_REST = "queues, semaphores, counters, registers"
_GATES = """proc
{flatten}
opt -full
tee -q -o memories.json stat -json
wreduce
peepopt
opt_clean
alumacc
share
opt
memory -nomap
opt -fast
techmap
opt
simplemap
dfflegalize -cell $_DFF_P_ 01
abc -script "+strash;dc2;map" -g AND,NAND,OR,NOR,XOR,XNOR,MUX,AOI3,OAI3
opt_clean
tee -q -o stat.json stat -tech cmos -json
"""
_TRANSISTORS = 4
"""Of a NAND gate of two inputs."""


@dataclass(frozen=True)
class Area:
    """What a part takes.

    Attributes:
        lut, ff, dsp, bram: of an ECP5: LUTs as `axlora bitstream` counts them, flip-flops, MULT18X18D, DP16KD.
        gates: Yosys' estimate of transistors, flip-flops included and memories not, over the 4 of a NAND gate.
        memory_bits: of memories, block RAM and LUT RAM alike.
    """

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram: int = 0
    gates: int = 0
    memory_bits: int = 0

    def __add__(self, other: Area) -> Area:
        return Area(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def times(self, count: int) -> Area:
        """Of as many parts."""
        return Area(**{name: value * count for name, value in asdict(self).items()})


@dataclass(frozen=True)
class MachineArea:
    """The area of a machine; `whole` is the sum of `units`."""

    target: str
    engine: str
    lanes: int
    lane: Area
    lane_lut_without_dsp: int
    """LUTs of a lane whose multipliers are LUTs too: by these lanes of different engines compare."""
    units: dict[str, Area]
    """Unit to its area; `lanes` are all of them."""

    @property
    def whole(self) -> Area:
        """Of all units."""
        return sum(self.units.values(), Area())

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "whole": asdict(self.whole)}


def machine_area(target: Target, progress: Progress) -> MachineArea:
    """Synthesize the parts of a machine; each part once for what it is made of.

    Args:
        progress: called with what is being done.

    Raises:
        BuildFailed: Yosys is not installed, or failed.
    """
    lane = _mapped(target, "lane", progress)[""] + _gates(target, "lane", progress)[""]
    without = synthesized_luts(target, progress)
    mapped, gates = _mapped(target, "axlora_top", progress), _gates(target, "axlora_top", progress)
    units = {"lanes": lane.times(target.lanes)} | {name: mapped[name] + gates[name] for name in mapped}
    return MachineArea(target.name, target.engine, target.lanes, lane, without, units)


def synthesized_luts(target: Target, progress: Progress) -> int:
    """LUTs of a lane without DSP blocks; raises as `machine_area`."""
    return _mapped(target, "lane", progress, "-nodsp")[""].lut


def _mapped(target: Target, top: str, progress: Progress, how: str = "") -> dict[str, Area]:
    """ECP5: unit to its area; of a lane the one of "" alone."""

    def area(of: Mapping[str, Any]) -> Area:
        c = of["num_cells_by_type"]
        return Area(luts(c), c.get("TRELLIS_FF", 0), c.get("MULT18X18D", 0), c.get("DP16KD", 0))

    name = f"{target.engine}, {'a lane' if top == 'lane' else 'around the lanes'}, ECP5"
    (modules,) = _run(mapped_script(target, top, how), top, name, ("stat",), progress)
    return _by_unit(modules, {name: area(of) for name, of in modules.items()}, top)


def _gates(target: Target, top: str, progress: Progress) -> dict[str, Area]:
    """Gates and bits of memories: as `_mapped`."""
    script = read_script(target, top) + _GATES.format(flatten="flatten" if top == "lane" else "")
    name = f"{target.engine}, {'a lane' if top == 'lane' else 'around the lanes'}, gates"
    modules, memories = _run(script, top, name, ("stat", "memories"), progress)
    inclusive = {module: int(of.get("estimated_num_transistors", "0").rstrip("+")) for module, of in modules.items()}
    areas = {}
    for module, whole in inclusive.items():
        own = whole - sum(inclusive[name] * count for name, count in _inside(modules, module))
        areas[module] = Area(gates=own // _TRANSISTORS, memory_bits=memories[module]["num_memory_bits"])
    return _by_unit(modules, areas, top)


def _by_unit(modules: Mapping[str, Any], areas: Mapping[str, Area], top: str) -> dict[str, Area]:
    """What each unit of the core takes, with all that is in it."""

    @cache
    def whole(module: str) -> Area:
        return sum((whole(name).times(count) for name, count in _inside(modules, module)), areas[module])

    named = {_base(module): module for module in modules}
    if top == "lane":
        return {"": whole(named["lane"])}
    units: dict[str, Area] = {}
    core = named["axlora_core"]
    for module, count in _inside(modules, core):
        unit = _UNITS.get(_base(module), _REST)
        units[unit] = units.get(unit, Area()) + whole(module).times(count)
    beside = [whole(module).times(count) for module, count in _inside(modules, named["axlora_top"]) if module != core]
    units[_REST] = sum([areas[core], areas[named["axlora_top"]], *beside], units[_REST])
    return units


def _inside(modules: Mapping[str, Any], module: str) -> Iterable[tuple[str, int]]:
    """Modules of which it has instances, and how many."""
    for name, count in modules[module]["num_cells_by_type"].items():
        yield from ((found, count) for found in (name, f"\\{name}") if found in modules)


def _base(module: str) -> str:
    """`lane` of `\\lane`, `$paramod$HASH\\lane` and `$paramod\\lane\\PORTS=..`."""
    return module.split("\\")[1]


def _run(script: str, top: str, name: str, results: tuple[str, ...], progress: Progress) -> list[dict[str, Any]]:
    """Run a script, once; the modules of each of its JSON files."""
    folder = results_folder(script)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            files = verilog(top)
            for file, data in files.items():
                (folder / file).write_bytes(data)
            (folder / "area.ys").write_text(script)
            run_tool(YOSYS, ["area.ys"], folder, name, progress)
            for file in files:
                os.unlink(folder / file)
            (folder / "done").touch()
    return [json.loads((folder / f"{result}.json").read_text())["modules"] for result in results]


def record() -> None:
    """Write lanes.json: of every preset the lanes that it is compared with, and the one of tables."""
    found = {}
    for target in map(Target.load, Target.presets()):
        for lane in (*compared_lanes(target), replace(target, engine="table", multipliers=1)):
            found[lane_key(lane)] = synthesized_luts(lane, lambda _: None)
    path = Path(__file__).parent / "lanes.json"
    path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    record()
