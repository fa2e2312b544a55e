"""Verilog against simulator on many random programs: `python tests/rtl/many_programs.py --state FILE [--count 100000]`.

Programs of linears, of rows and of control, on every machine, in shares of one kind and machine. A share that was found equal
is a line of the state file; a run that was stopped goes on behind the last one, and a larger `--count` continues. A changed
machine begins anew. What parts is printed with the seeds that show it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from programs import TARGETS, Case, fetch_case, random_case
from row_programs import row_case
from test_random_programs import _compare

import axlora.isa
import axlora.rtl
import axlora.sim
import axlora.timing
from axlora.isa.target import Target

KINDS: dict[str, Callable[[int, Target], Case]] = {"linears": random_case, "rows": row_case, "control": fetch_case}
SEED = 1_000_000
"""Of the first program of each kind and machine: the tests' own are below."""
Share = tuple[str, str, int, int]
"""Kind, machine, first seed, programs."""


def shares(count: int, share: int) -> Iterator[Share]:
    """The shares of `count` programs: kinds and machines in turn."""
    left = count
    for turn in itertools.count():
        for name, kind in itertools.product(TARGETS, KINDS):
            if not left:
                return
            size = min(share, left)
            yield kind, name, SEED + turn * share, size
            left -= size


@cache
def compared() -> str:
    """Hash of what is compared: Verilog, simulator and their description."""
    own = hashlib.sha256()
    for package in (axlora.isa, axlora.timing, axlora.sim, axlora.rtl):
        for file in sorted(Path(package.__path__[0]).glob("*.*")):
            own.update(file.read_bytes())
    return own.hexdigest()


def done(state: Path) -> dict[Share, int]:
    """Shares that were equal on the machine as it is -> their cycles."""
    records = [json.loads(line) for line in (state.read_text().splitlines() if state.exists() else [])]
    return {(*r["share"],): r["cycles"] for r in records if r["compared"] == compared()}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Random programs in Verilog and in the simulator, until a count is reached.")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE", help="what was done, a line of JSON a share")
    parser.add_argument("--count", type=int, default=100_000, metavar="N", help="programs in all, earlier runs' among them")
    parser.add_argument("--share", type=int, default=50, metavar="N", help="programs of one simulator's start")
    options = parser.parse_args()
    known, began = done(options.state), time.monotonic()
    for share in shares(options.count, options.share):
        if share in known:
            continue
        kind, name, first, size = share
        try:
            results = _compare([KINDS[kind](seed, TARGETS[name]) for seed in range(first, first + size)])
        except AssertionError as error:
            print(f"{kind} on {name}, seeds {first} to {first + size - 1}: {error}")
            return 1
        known[share] = sum(result.cycles for result in results)
        with options.state.open("a") as file:
            file.write(json.dumps({"compared": compared(), "share": share, "cycles": known[share]}) + "\n")
        print(f"{sum(s[3] for s in known):,} equal, {time.monotonic() - began:,.0f} s: {kind} on {name}", flush=True)
    machines, programs = len({name for _, name, _, _ in known}), sum(share[3] for share in known)
    print(f"{programs:,} programs on {machines} machines, {sum(known.values()):,} cycles: every counter and byte equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
