"""`axlora simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .given import adapters, bad, folder, inputs, page_place, places, run_options, save_run, write, write_page
from .terminal import progress, show

if TYPE_CHECKING:
    from axlora import Program
    from axlora.tracing import Traced


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)
    parser.add_argument("--html", metavar="PAGE.html", help="write a page that explains the run; no network needed")
    parser.add_argument("--no-timing", action="store_true", help="outputs only")
    parser.add_argument("--bitstream", metavar="DIR", help="of axlora bitstream: report at its clock, with its area")
    parser.add_argument("--energy", metavar="FILE.toml", help="another table of energies (docs/energy.md)")
    parser.add_argument("--baselines", action="store_true", help="cycles of machines with multipliers instead (docs/energy.md)")
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("--trace-layers", metavar="NAME[,NAME...]", help="shown one by one; * and ? match (all)")
    parser.add_argument("--trace-limit", type=int, metavar="N", help="most slices of a trace; more are merged (200000)")


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
        traced = _traced(program, options)
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


def _traced(program: Program, options: argparse.Namespace) -> Traced | None:
    """The engine that keeps what --trace writes; what cannot be written is refused here, before anything runs.

    Raises:
        BadInput: a place, a layer, a number. MissingExtra: the extra `trace` is not installed.
    """
    if not options.trace:
        if options.trace_layers is not None or options.trace_limit is not None:
            raise bad("--trace-layers and --trace-limit say what a trace shows", "--trace", "give --trace FILE too")
        return None
    from axlora.extras import need

    need("trace")
    from axlora.tracing import LIMIT, Traced, chosen_layers

    folder(options.trace)
    layers = ("*",) if options.trace_layers is None else tuple(options.trace_layers.split(","))
    chosen_layers(program, layers)
    limit = LIMIT if options.trace_limit is None else options.trace_limit
    if limit < 1:
        raise bad(f"--trace-limit {limit}: a trace has slices", "--trace-limit", "1 or more")
    return Traced(layers, limit)
