"""Other simulators on the same linears, each in an environment of its own: SCALE-Sim 3 (it needs NumPy 1) and ZigZag.

Both get an array of lanes x ports multiply-accumulates a cycle that holds weights, 64 + 256 + 64 KiB of buffers, and a beat of
memory a cycle. (The machine's lanes work on T tokens at once.)
"""

from __future__ import annotations

import json
import subprocess
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axlora.isa.target import Target

BUILD = Path(__file__).parents[1] / "build"
KIB = 8192
"""Bits of it."""


@dataclass(frozen=True)
class Gemm:
    """tokens x k times k x n."""

    name: str
    tokens: int
    k: int
    n: int

    @property
    def macs(self) -> int:
        """Products."""
        return self.tokens * self.k * self.n


@dataclass(frozen=True)
class Peer:
    """What another simulator says of all linears together."""

    name: str
    cycles: int
    seconds: float
    """Of its whole process."""


def _environment(name: str, packages: Sequence[str]) -> Path:
    """Folder of a virtual environment with these packages."""
    folder = BUILD / name
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "--quiet", "install", *packages], check=True)
        (folder / "ready").touch()
    return folder


def _run(name: str, folder: Path, arguments: Sequence[str]) -> tuple[str, float]:
    """What it writes, and its seconds.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    done = subprocess.run([folder / "bin" / "python", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout, time.perf_counter() - start


def scalesim(target: Target, linears: Sequence[Gemm]) -> Peer:
    """SCALE-Sim 3, cycle by cycle. Errors as those of `_run`."""
    folder = _environment("scalesim", ["scalesim>=3,<4", "numpy<2", "setuptools<81"])
    rows = [f"{g.name}, {g.tokens}, {g.n}, {g.k}," for g in linears]
    (folder / "gemm.csv").write_text("Layer, M, N, K,\n" + "\n".join(rows) + "\n")
    (folder / "machine.cfg").write_text(
        "[general]\nrun_name = axlora\n\n[architecture_presets]\n"
        f"ArrayHeight : {target.lanes}\nArrayWidth : {target.ports}\n"
        "IfmapSramSzkB : 64\nFilterSramSzkB : 256\nOfmapSramSzkB : 64\n"
        f"IfmapOffset : 0\nFilterOffset : 10000000\nOfmapOffset : 20000000\nBandwidth : {target.beat_bytes}\nDataflow : ws\n"
        "ReadRequestBuffer : 64\nWriteRequestBuffer : 64\nMemoryBanks : 1\n\n"
        "[layout]\nIfmapCustomLayout : False\nFilterCustomLayout : False\nIfmapSRAMBankBandwidth : 10\nIfmapSRAMBankNum : 10\n"
        "IfmapSRAMBankPort : 2\nFilterSRAMBankBandwidth : 10\nFilterSRAMBankNum : 10\nFilterSRAMBankPort : 2\n\n"
        "[sparsity]\nSparsitySupport : false\nSparseRep : ellpack_block\nOptimizedMapping : false\nBlockSize : 8\n"
        "RandomNumberGeneratorSeed : 40\n\n[run_presets]\nInterfaceBandwidth : CALC\nUseRamulatorTrace : False\n"
    )
    header = "Layer name,IFMAP Height Intraline Factor,IFMAP Width Intraline Factor,Filter Height Intraline Factor"
    (folder / "layout.csv").write_text(header + "\n" + "".join(f"{g.name},1,1,1\n" for g in linears))
    files = ["-c", "machine.cfg", "-t", "gemm.csv", "-l", "layout.csv", "-i", "gemm", "-s", "N", "-p", "out"]
    _, seconds = _run("SCALE-Sim", folder, ["-m", "scalesim.scale", *files])
    report = (folder / "out" / "axlora" / "COMPUTE_REPORT.csv").read_text()
    table = [line.split(",") for line in report.strip().splitlines()]
    column = next(n for n, title in enumerate(table[0]) if title.strip().startswith("Total Cycles"))
    return Peer("SCALE-Sim 3", int(sum(float(row[column]) for row in table[1:])), seconds)


_ZIGZAG = """
from zigzag.api import get_hardware_performance_zigzag
found = get_hardware_performance_zigzag(
    "linears.yaml", "array.yaml", "mapping.yaml", opt="latency", dump_folder="out", loma_show_progress_bar=False)
print(int(found[1]))
"""


def _memory(size: int, served: Sequence[str], **ports: tuple[int, str]) -> dict[str, Any]:
    """A memory of ZigZag; ports: name -> (bits a cycle, what passes: operand and direction, several separated by a comma)."""
    kinds = {"r": "read", "w": "write", "rw": "read_write"}
    made = [
        {
            "name": name, "type": kinds[name.partition("_")[0]], "bandwidth_min": 8, "bandwidth_max": bits,
            "allocation": [each.replace(" ", ", ") for each in passes.split(", ")],
        }
        for name, (bits, passes) in ports.items()
    ]  # fmt: skip
    operands = sorted({each.split(", ")[0] for port in made for each in port["allocation"]})
    costs = dict.fromkeys(["r_cost", "w_cost", "area"], 0)
    return {"size": size, "latency": 1, "operands": operands, "ports": made, "served_dimensions": [*served]} | costs


def zigzag(target: Target, linears: Sequence[Gemm]) -> Peer:
    """ZigZag 3 (Mei et al., arXiv:2007.11360): its cost model's best mapping in time. Errors as those of `_run`."""
    folder = _environment("zigzag", ["zigzag-dse>=3.9,<4", "six"])  # six: imported, and not named among its dependencies
    rows, columns, beat = target.lanes, target.ports, 8 * target.beat_bytes
    both = ("D1", "D2")
    memories = {
        "weights": _memory(8, (), r_port_1=(8, "I2 tl"), w_port_1=(8, "I2 fh")),
        "sums": _memory(
            32, ("D1",), r_port_1=(32, "O tl"), r_port_2=(32, "O th"), w_port_1=(32, "O fh"), w_port_2=(32, "O fl")
        ),
        "inputs": _memory(64 * KIB, both, r_port_1=(8 * rows, "I1 tl"), w_port_1=(beat, "I1 fh")),
        "filters": _memory(256 * KIB, both, r_port_1=(8 * rows * columns, "I2 tl"), w_port_1=(beat, "I2 fh")),
        "outputs": _memory(
            64 * KIB, both, r_port_1=(32 * columns, "O tl"), r_port_2=(beat, "O th"),
            w_port_1=(32 * columns, "O fl"), w_port_2=(beat, "O fh"),
        ),
        "dram": _memory(1 << 40, both, rw_port_1=(beat, "I1 fh, I1 tl, I2 fh, I2 tl, O fh, O tl, O fl, O th")),
    }  # fmt: skip
    units = {"input_precision": [8, 8], "unit_energy": 0, "unit_area": 0, "dimensions": [*both], "sizes": [rows, columns]}
    mapping = {"name": "default", "spatial_mapping": {"D1": [f"K, {rows}"], "D2": [f"N, {columns}"]}}
    work = [
        {
            "id": n, "name": g.name, "operator_type": "Gemm", "equation": "O[m][n]+=I[m][k]*W[k][n]",
            "loop_dims": ["M", "N", "K"], "loop_sizes": [g.tokens, g.n, g.k],
            "operand_precision": {"I": 8, "W": 8, "O": 32, "O_final": 32}, "operand_source": {"I": n, "W": n},
        }
        for n, g in enumerate(linears)
    ]  # fmt: skip
    files: dict[str, Any] = {
        "array": {"name": "array", "operational_array": units, "memories": memories},
        "mapping": [mapping | {"memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}],
        "linears": work,
    }
    for name, data in files.items():
        (folder / f"{name}.yaml").write_text(json.dumps(data))  # JSON is YAML
    said, seconds = _run("ZigZag", folder, ["-c", _ZIGZAG])
    return Peer("ZigZag 3", int(said.split()[-1]), seconds)
