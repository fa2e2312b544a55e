"""`axlora rtl-test`."""

from __future__ import annotations

import argparse

from .given import adapters, inputs, run_options, save_run
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)
    parser.add_argument("--waves", metavar="FILE.vcd", help="write the waves of the Verilog")


def run(options: argparse.Namespace) -> int:
    """Run in Verilator and compare with the simulator; 1 if they differ."""
    import axlora
    from axlora.extras import need
    from axlora.report.compare import first_difference

    need("rtl")
    program = axlora.load(options.package)
    given, adapter = inputs(program, options), adapters(options.adapter)
    with progress() as shown:
        wanted = axlora.simulate(program, given, adapter, progress=shown.counted("simulating"))
        found = axlora.run_rtl(program, given, adapter, waves=options.waves, progress=shown.counted("Verilog"))
    save_run(found, options)
    difference = first_difference(wanted.to_json(), found.to_json())
    if difference:
        show(f"[bold red]Verilog and simulator differ:[/] {difference}")
        return 1
    count = sum(v.size for v in found.codes.values())
    show(f"Verilog = simulator: {count} output codes, {found.cycles} cycles, all {len(found.counters)} counters equal")
    return 0
