"""`axlora diff`."""

from __future__ import annotations

import argparse

from axlora.report.compare import first_difference

from .given import run_json
from .terminal import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Two files."""
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")


def run(options: argparse.Namespace) -> int:
    """Compare two RUN.json files; 1 if they differ."""
    difference = first_difference(run_json(options.a), run_json(options.b))
    show(difference or "equal: outputs, cycles and every counter")
    return 1 if difference else 0
