"""`axlora hls` and `axlora hls-test`: the machine as C++ for high-level synthesis; each returns the exit code."""

from __future__ import annotations

import argparse
from pathlib import Path

from axlora.fpga.hls_project import emit
from axlora.fpga.hls_run import headers
from axlora.isa.opcodes import UNTIMED
from axlora.isa.target import Target

from . import api
from .commands import adapter_choice, console, given_inputs, progress_bar, save_run, watched
from .on_hls import hls_counters, hls_difference, run_hls, self_test
from .package import load


def project(options: argparse.Namespace) -> int:
    """Write the HLS project of a target."""
    target = Target.load(options.target)
    image, result = self_test(target)
    files = emit(target, Path(options.output), image, result.memory.tobytes(), hls_counters(result))
    console.print(f"{options.output}: {len(files)} files; README.md tells how to simulate and synthesize", highlight=False)
    return 0


def test(options: argparse.Namespace) -> int:
    """Run a package in the C simulation and compare with the simulator; 1 if they differ."""
    headers()
    program = load(options.package)
    inputs, adapter = given_inputs(program, options), adapter_choice(options.adapter)
    with progress_bar() as bar:
        wanted = api.simulate(program, inputs, adapter, progress=watched(bar, "simulating"))
        found = run_hls(program, inputs, adapter, progress=watched(bar, "C simulation"))
    save_run(found, options)
    parted = hls_difference(wanted, found)
    if parted:
        console.print(f"[bold red]C++ and simulator differ:[/] {parted}", highlight=False)
        return 1
    count = sum(v.size for v in found.codes.values())
    console.print(f"HLS C++ = simulator: {count} output codes, {len(UNTIMED)} counters without time equal", highlight=False)
    return 0
