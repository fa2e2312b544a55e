"""`axlora hls`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Target and folder."""
    parser.add_argument("target", metavar="TARGET", help="preset or TOML file")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")


def run(options: argparse.Namespace) -> int:
    """Write the HLS project of a target."""
    from axlora.fpga.hls_project import emit
    from axlora.isa.target import Target
    from axlora.on_hls import hls_counters, self_test

    target = Target.load(options.target)
    with progress() as shown:
        shown.phase("simulating the self-test")
        image, result = self_test(target)
    files = emit(target, Path(options.output), image, result.memory.tobytes(), hls_counters(result))
    show(f"{options.output}: {len(files)} files; README.md tells how to simulate and synthesize")
    return 0
