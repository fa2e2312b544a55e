"""`axlora adapter`."""

from __future__ import annotations

import argparse

from .given import adapter_map, pairs
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=text)
        one.set_defaults(own_parser=one)
        one.add_argument("package", metavar="OUT.axl")
        return one

    one = action("add", "add adapters from PEFT directories")
    one.add_argument("adapters", nargs="+", metavar="NAME=DIR")
    one.add_argument("--adapter-map", metavar="FILE", help="JSON: adapter module to ONNX node")
    one.add_argument("--base", metavar="HF_DIR", help="the base of the adapter: matches its modules by equal weights")
    one.add_argument("--partial-adapters", action="store_true", help="take the part of an adapter that fits, and name the rest")
    action("list", "the adapters, their ranks and sizes")
    action("remove", "remove an adapter").add_argument("name", metavar="NAME")
    one = action("pin", "keep an adapter in a slot in every run")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--off", action="store_true", help="give the slot back")


def run(options: argparse.Namespace) -> int:
    """Add, list, remove or pin adapters of a package."""
    from axlora.adapters import add_adapter, module_rows, pin_adapter, remove_adapter
    from axlora.program import load
    from axlora.report.tables import adapter_table, module_table

    added: list[str] = []
    with progress() as shown:
        shown.phase("reading the package")
        program = load(options.package)
        if options.action == "add":
            for name, path in pairs(options.adapters, "adapter").items():
                shown.phase(f"adding {name}")
                given = adapter_map(options.adapter_map)
                program = add_adapter(program, name, path, given, options.base, options.partial_adapters)
                added.append(name)
            done = f"added {', '.join(added)}"
        elif options.action == "remove":
            program, done = remove_adapter(program, options.name), f"removed {options.name}"
        elif options.action == "pin":
            program = pin_adapter(program, options.name, not options.off)
            done = f"{'unpinned' if options.off else 'pinned'} {options.name}"
    if options.action == "list":
        show(adapter_table(program.adapters, program.max_loras, program.rank))
        show(module_table([(a.name, *row) for a in program.adapters for row in module_rows(a)]))
        return 0
    program.save(options.package)
    if options.action == "add":
        show(module_table([(a.name, *row) for a in program.adapters if a.name in added for row in module_rows(a)]))
    show(f"{options.package}: {done}")
    return 0
