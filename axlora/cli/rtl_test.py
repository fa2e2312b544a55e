"""`axlora rtl-test`."""

from __future__ import annotations

import argparse

from .given import run_options


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)
    parser.add_argument("--waves", metavar="FILE.vcd", help="write the waves of the Verilog")


def run(options: argparse.Namespace) -> int:
    """Run in Verilator and compare with the simulator; 1 if they differ."""
    from axlora.engines import Verilator
    from axlora.extras import need

    from .comparing import compare

    need("rtl")
    return compare(options, "Verilog", Verilator(options.waves))
