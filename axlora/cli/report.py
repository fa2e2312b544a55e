"""`axlora report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .given import run_json
from .terminal import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Files of runs."""
    parser.add_argument("runs", nargs="+", metavar="RUN.json")


def run(options: argparse.Namespace) -> int:
    """Runs side by side."""
    from axlora.report.tables import side_by_side

    show(*side_by_side([(Path(path).stem, run_json(path)) for path in options.runs]))
    return 0
