"""Multiplications removed and matrix cycles saved on the real MiniLM rows: `reuse` beside `mac`, one multiplier a lane each.

16 lanes, 8 ports, latency 3, FIFO depth 8, rows uncut, one token. The counters are the simulator's;
tests/rtl/test_reuse_claims.py reads the same ones from the Verilog.
"""

from __future__ import annotations

import dataclasses
import sys

from axlora.isa.target import Target
from axlora.sim.run import run_image
from minilm import QUANTIZATIONS, image, linears, link_linears

TARGET = dataclasses.replace(
    Target.load("edge-asic"), name="claims", tokens=1, group_scales=False, group_words=4, index_entries=128
)


def matrix_cycles(counters: dict[str, int]) -> int:
    """Cycles in which the matrix unit executes."""
    return counters["matrix_busy"] + counters["matrix_raw"] + counters["matrix_product"]


def main() -> int:
    """Print one line a quantization."""
    sys.stdout.write(
        "| weights | multiplications removed | mac cycles | reuse cycles | ratio |\n| --- | --- | --- | --- | --- |\n"
    )
    for how in QUANTIZATIONS:
        parts = linears(how)
        spent = {}
        for engine in ("mac", "reuse"):
            target = dataclasses.replace(TARGET, engine=engine)
            linked = link_linears(target, parts, 1, whole_rows=True)
            counters = run_image(target, image(target, linked, parts, 1), 0).counters
            spent[engine] = matrix_cycles(counters)
        removed = 1 - counters["multiplications"] / counters["macs"]
        ratio = spent["mac"] / spent["reuse"]
        sys.stdout.write(f"| {how} | {removed:.1%} | {spent['mac']:,} | {spent['reuse']:,} | {ratio:.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
