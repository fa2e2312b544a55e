"""`axlora hls-test`."""

from __future__ import annotations

import argparse

from .given import run_options


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run a package in the C simulation and compare with the simulator; 1 if they differ."""
    from axlora.engines import Hls
    from axlora.extras import need
    from axlora.fpga.hls_run import headers

    from .comparing import compare

    need("fpga", "hls4ml")
    headers()
    return compare(options, "HLS C++", Hls(), " without time")
