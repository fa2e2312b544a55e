"""Simulated cycles and MACs per second: AxLoRA's simulator, Verilator, and SCALE-Sim 3.

All 36 MiniLM linears, 128 tokens, target edge-asic. Verilator runs one linear with 16 tokens (its rate is per cycle). SCALE-Sim
runs the sizes of one layer on a systolic array of as many MACs a cycle, in an environment of its own (it needs NumPy 1);
`--no-scalesim` leaves it out: it takes minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import venv
from pathlib import Path

from axlora.isa.target import Target
from axlora.rtl.runner import Image, run_images
from axlora.sim.run import run_image
from minilm import image, linears, link_linears

TOKENS = 128
BUILD = Path(__file__).parents[1] / "build" / "scalesim"


def _line(name: str, cycles: int, macs: int, seconds: float) -> None:
    rate = f"{cycles / seconds:,.0f} | {macs / seconds:,.0f}"
    sys.stdout.write(f"| {name} | {cycles:,} | {macs:,} | {seconds:.2f} | {rate} |\n")


def _scalesim(target: Target, shapes: list[tuple[str, int, int]]) -> None:
    """SCALE-Sim 3 in its own environment: GEMMs of the same sizes, rows x columns = lanes x ports PEs."""
    if not (BUILD / "ready").exists():
        venv.create(BUILD, with_pip=True)
        subprocess.run([BUILD / "bin" / "pip", "--quiet", "install", "scalesim>=3,<4", "numpy<2", "setuptools<81"], check=True)
        (BUILD / "ready").touch()
    rows = [f"{name}, {TOKENS}, {n}, {k}," for name, k, n in shapes]
    (BUILD / "gemm.csv").write_text("Layer, M, N, K,\n" + "\n".join(rows) + "\n")
    (BUILD / "machine.cfg").write_text(
        "[general]\nrun_name = axlora\n\n[architecture_presets]\n"
        f"ArrayHeight : {target.lanes}\nArrayWidth : {target.ports}\n"
        "IfmapSramSzkB : 64\nFilterSramSzkB : 256\nOfmapSramSzkB : 64\n"
        "IfmapOffset : 0\nFilterOffset : 10000000\nOfmapOffset : 20000000\nBandwidth : 16\nDataflow : ws\n"
        "ReadRequestBuffer : 64\nWriteRequestBuffer : 64\nMemoryBanks : 1\n\n"
        "[layout]\nIfmapCustomLayout : False\nFilterCustomLayout : False\nIfmapSRAMBankBandwidth : 10\nIfmapSRAMBankNum : 10\n"
        "IfmapSRAMBankPort : 2\nFilterSRAMBankBandwidth : 10\nFilterSRAMBankNum : 10\nFilterSRAMBankPort : 2\n\n"
        "[sparsity]\nSparsitySupport : false\nSparseRep : ellpack_block\nOptimizedMapping : false\nBlockSize : 8\n"
        "RandomNumberGeneratorSeed : 40\n\n[run_presets]\nInterfaceBandwidth : CALC\nUseRamulatorTrace : False\n"
    )
    header = "Layer name,IFMAP Height Intraline Factor,IFMAP Width Intraline Factor,Filter Height Intraline Factor"
    (BUILD / "layout.csv").write_text(header + "\n" + "".join(f"{name},1,1,1\n" for name, _, _ in shapes))
    start = time.perf_counter()
    command = [
        str(BUILD / "bin" / "python"),
        "-m",
        "scalesim.scale",
        "-c",
        "machine.cfg",
        "-t",
        "gemm.csv",
        "-l",
        "layout.csv",
        "-i",
        "gemm",
        "-s",
        "N",
        "-p",
        "out",
    ]
    done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    report = BUILD / "out" / "axlora" / "COMPUTE_REPORT.csv"
    if done.returncode or not report.exists():
        sys.stdout.write(f"SCALE-Sim did not run: {(done.stderr or done.stdout).strip().splitlines()[-2:]}\n")
        return
    table = [line.split(",") for line in report.read_text().strip().splitlines()]
    column = next(n for n, title in enumerate(table[0]) if title.strip().startswith("Total Cycles"))
    cycles = int(sum(float(row[column]) for row in table[1:]))
    macs = sum(TOKENS * k * n for _, k, n in shapes)
    _line(f"SCALE-Sim 3, {len(shapes)} linears of one layer", cycles, macs, seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-scalesim", action="store_true")
    options = parser.parse_args()
    target = Target.load("edge-asic")
    parts = linears("int8 per channel")
    linked = link_linears(target, parts, TOKENS, whole_rows=False)
    memory = image(target, linked, parts, TOKENS)
    small = linears("int8 per channel", range(1))[:1]
    run_image(target, image(target, link_linears(target, small, 8, whole_rows=False), small, 8), 0)  # start-up: compile
    sys.stdout.write("| simulator | cycles | MACs | seconds | cycles/s | MACs/s |\n| --- | --- | --- | --- | --- | --- |\n")
    start = time.perf_counter()
    result = run_image(target, memory, 0)
    _line("AxLoRA simulator", result.cycles, result.counters["macs"], time.perf_counter() - start)
    linked = link_linears(target, small, 16, whole_rows=False)
    data = image(target, linked, small, 16).tobytes()
    request = Image(data, 0, {}, len(data))
    run_images(target, [Image(data[:64], 0, {}, 64)])  # builds
    start = time.perf_counter()
    found = run_images(target, [request])[0]
    _line("Verilator, one linear, 16 tokens", found.cycles, found.counters["macs"], time.perf_counter() - start)
    if not options.no_scalesim:
        _scalesim(target, [(li.name.replace(".", "_"), li.k, li.n) for li in linears("int8 per channel", range(1))])
    return 0


if __name__ == "__main__":
    sys.exit(main())
