"""`axlora simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .given import (
    adapters,
    bad,
    inputs,
    page_place,
    places,
    run_options,
    save_run,
    trace_options,
    tracer,
    write,
    write_page,
)
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)
    parser.add_argument("--html", metavar="PAGE.html", help="write a page that explains the run; no network needed")
    parser.add_argument("--no-timing", action="store_true", help="outputs only")
    parser.add_argument("--bitstream", metavar="DIR", help="of axlora bitstream: report at its clock, with its area")
    parser.add_argument("--energy", metavar="FILE.toml", help="another table of energies (docs/energy.md)")
    parser.add_argument("--baselines", action="store_true", help="cycles of machines with multipliers instead (docs/energy.md)")
    trace_options(parser)


def run(options: argparse.Namespace) -> int:
    """Simulate and print the report."""
    import axlora
    from axlora.baselines import Compared, machines
    from axlora.energy import default_table, load_table
    from axlora.engines import Engine, Simulator
    from axlora.report.tables import run_tables

    for option in ("json", "html", "trace", "energy", "baselines"):
        if options.no_timing and vars(options)[option]:
            raise bad(f"--{option} needs timing", "--no-timing", "leave one of them out")
    page_place(options.html)
    table = load_table(options.energy) if options.energy else default_table()
    with progress() as shown:
        shown.phase("reading the package")
        program = axlora.load(options.package)
        traced = tracer(program, options)
        given = inputs(program, options)
        engine: Engine = traced or Simulator(not options.no_timing)
        others = Compared(engine, machines(program.target)) if options.baselines else None
        session = program.session(engine=others or engine, **places(options))
        found = session.run(given, adapters(options.adapter), progress=shown.simulating())
    found = found if others is None else others.compared(found)
    if options.bitstream:
        from axlora.on_bitstream import on_bitstream

        found = on_bitstream(found, options.bitstream)
    found = found.with_energy(table)
    save_run(found, options)
    if options.html:
        from axlora.report.page import page

        name = f"{Path(options.package).stem} {options.adapter or ''}".strip()
        write_page(options.html, lambda library: page([(name, found.to_json())], library))
    if traced is not None:
        write(options.trace, traced.trace(program))
    if options.no_timing:
        show("outputs: " + ", ".join(f"{name} {value.shape}" for name, value in found.outputs.items()))
        return 0
    show(*run_tables(found))
    return 0
