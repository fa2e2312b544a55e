"""`axlora doctor`."""

from __future__ import annotations

import argparse
import shutil

from rich.table import Table

from axlora.extras import EXTRAS, version

from .terminal import show

_BASE = ("numpy", "numba", "onnx", "onnxscript", "apache-tvm", "networkx", "safetensors", "rich")
_TOOLS = ("g++", "make", "perl")


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(_: argparse.Namespace) -> int:
    """List packages and tools; 0 when all are there, 1 when something is missing."""
    table = Table("what", "package", "version", "how to get it")
    missing = False
    for what, packages in {"": _BASE, **EXTRAS}.items():
        for name in packages:
            found = version(name)
            missing |= found is None
            fix = "" if found else f"pip install 'axlora{f'[{what}]' if what else ''}'"
            table.add_row(what or "compiler and simulator", name, found or "missing", fix)
    for tool in _TOOLS:
        path = shutil.which(tool)
        missing |= path is None
        table.add_row("rtl", tool, "found" if path else "missing", "" if path else f"install {tool} with the system's packages")
    show(table)
    return 1 if missing else 0
