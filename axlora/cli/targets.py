"""`axlora targets`."""

from __future__ import annotations

import argparse
import sys

from rich.table import Table

from axlora.isa.target import Target

from .terminal import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A target, or none."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a preset, or the path of a TOML file")


def run(options: argparse.Namespace) -> int:
    """All presets in a table, or one as TOML."""
    if options.name:
        sys.stdout.write(Target.load(options.name).to_toml())
        return 0
    table = Table("target", "engine", "lanes", "ports", "multipliers", "tokens", "activations", "clock MHz")
    for name in Target.presets():
        t = Target.load(name)
        values = (t.lanes, t.ports, t.multipliers, t.tokens, f"{t.activation_bits} bits", t.clock_mhz)
        table.add_row(name, t.engine, *map(str, values))
    show(table)
    return 0
