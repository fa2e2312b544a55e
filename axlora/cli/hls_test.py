"""`axlora hls-test`."""

from __future__ import annotations

import argparse

from .given import adapters, inputs, run_options, save_run
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run a package in the C simulation and compare with the simulator; 1 if they differ."""
    import axlora
    from axlora.comparing import difference
    from axlora.extras import need
    from axlora.fpga.hls_run import headers
    from axlora.isa.opcodes import UNTIMED

    need("fpga", "hls4ml")
    headers()
    program = axlora.load(options.package)
    given, adapter = inputs(program, options), adapters(options.adapter)
    with progress() as shown:
        wanted = axlora.simulate(program, given, adapter, progress=shown.counted("simulating"))
        found = axlora.run_hls(program, given, adapter, progress=shown.counted("C simulation"))
    save_run(found, options)
    parted = difference(wanted, found)
    if parted:
        show(f"[bold red]C++ and simulator differ:[/] {parted}")
        return 1
    count = sum(v.size for v in found.codes.values())
    show(f"HLS C++ = simulator: {count} output codes, {len(UNTIMED)} counters without time equal")
    return 0
