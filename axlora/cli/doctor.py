"""`axlora doctor`."""

from __future__ import annotations

import argparse
import shutil

from rich.markup import escape
from rich.table import Table

from axlora.extras import EXTRAS, version

from .terminal import show

_BASE = ("numpy", "numba", "onnx", "onnxscript", "apache-tvm", "networkx", "threadpoolctl", "safetensors", "rich", "scipy")
_TOOLS = ("g++", "make", "perl")


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(_: argparse.Namespace) -> int:
    """List packages and tools; 1 when one is missing of what is installed: an extra of which nothing is there is a choice."""
    table = Table("what", "package", "version", "how to get it")
    missing, chosen = False, {name for name, packages in EXTRAS.items() if any(map(version, packages))}
    for what, packages in {"": _BASE, **EXTRAS}.items():
        for name in packages:
            found = version(name)
            missing |= found is None and (not what or what in chosen)
            absent = "missing" if not what or what in chosen else "not installed"
            fix = "" if found else f"pip install 'axlora{f'[{what}]' if what else ''}'"
            table.add_row(what or "compiler and simulator", name, found or absent, escape(fix))
    for tool in _TOOLS:
        path = shutil.which(tool)
        missing |= path is None and "rtl" in chosen
        table.add_row("rtl", tool, "found" if path else "missing", "" if path else f"install {tool} with the system's packages")
    show(table)
    return 1 if missing else 0
