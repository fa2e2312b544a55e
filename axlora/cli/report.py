"""`axlora report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .given import run_json, write_page
from .terminal import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Files of runs."""
    parser.add_argument("runs", nargs="+", metavar="RUN.json")
    parser.add_argument(
        "--html", metavar="PAGE.html", help="write a page that explains the run, or compares several; no network needed"
    )


def run(options: argparse.Namespace) -> int:
    """Runs side by side, or as a page."""
    runs = [(Path(path).stem, run_json(path)) for path in options.runs]
    if options.html:
        from axlora.report.page import page

        write_page(options.html, lambda library: page(runs, library))
        return 0
    from axlora.report.tables import side_by_side

    show(*side_by_side(runs))
    return 0
