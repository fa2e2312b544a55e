"""`axlora zynq`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .terminal import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Target and folder."""
    parser.add_argument("target", metavar="TARGET", help="a preset such as zcu104, or a TOML file")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument("--force", action="store_true", help="replace files of an earlier call")


def run(options: argparse.Namespace) -> int:
    """Write the project for a Zynq board."""
    from axlora.fpga.zynq import emit
    from axlora.isa.target import Target

    target, out = Target.load(options.target), Path(options.output)
    count = len(emit(target, out, force=options.force))
    show(f"{count} files in {out}; README.md there says how to build and use them (needs Vivado)")
    return 0
