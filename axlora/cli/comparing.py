"""What rtl-test and hls-test have in common: a run on an engine beside that of the simulator."""

from __future__ import annotations

import argparse

import axlora
from axlora.comparing import compared, difference
from axlora.engines import Engine, MachineStopped

from .given import adapters, inputs, places, save_run
from .terminal import progress, show


def compare(options: argparse.Namespace, name: str, engine: Engine, kind: str = "") -> int:
    """Run the package on both, say whether they are equal; 1 if they differ. `kind` is said of the counters."""
    program = axlora.load(options.package)
    given, adapter = inputs(program, options), adapters(options.adapter)
    with progress() as shown:
        wanted = program.session(**places(options)).run(given, adapter, progress=shown.simulating())
        try:
            found = program.session(engine=engine, **places(options)).run(given, adapter, progress=shown.counted(name))
        except MachineStopped as error:
            show(f"[bold red]{name} does not end as the simulator:[/] {error}")
            return 1
    save_run(found, options)
    parted = difference(wanted, found)
    if parted:
        show(f"[bold red]{name} and simulator differ:[/] {parted}")
        return 1
    count = sum(v.size for v in found.codes.values())
    counters = f"{len(compared(found.view))} counters{kind} equal"
    show(f"{name} = simulator: {count} output codes, {f'{found.cycles} cycles, all ' if found.cycles else ''}{counters}")
    return 0
