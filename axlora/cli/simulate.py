"""`axlora simulate`."""

from __future__ import annotations

import argparse

from .given import adapters, bad, inputs, run_options, save_run
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)
    parser.add_argument("--no-timing", action="store_true", help="outputs only")
    parser.add_argument("--bitstream", metavar="DIR", help="of axlora bitstream: report at its clock, with its area")


def run(options: argparse.Namespace) -> int:
    """Simulate and print the report."""
    import axlora
    from axlora.report.tables import run_tables

    if options.no_timing and options.json:
        raise bad("--json needs timing", "--no-timing", "leave one of them out")
    with progress() as shown:
        shown.phase("reading the package")
        program = axlora.load(options.package)
        given = inputs(program, options)
        found = axlora.simulate(
            program, given, adapters(options.adapter), timing=not options.no_timing, progress=shown.simulating()
        )
    if options.bitstream:
        from axlora.on_bitstream import on_bitstream

        found = on_bitstream(found, options.bitstream)
    save_run(found, options)
    if options.no_timing:
        show("outputs: " + ", ".join(f"{name} {value.shape}" for name, value in found.outputs.items()))
        return 0
    show(*run_tables(found))
    return 0
