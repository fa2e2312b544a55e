"""Simulated cycles and MACs per second: AxLoRA's simulator, Verilator, SCALE-Sim 3 and ZigZag 3, and their ratios.

All 36 MiniLM linears, 128 tokens, target edge-asic. Verilator runs one linear with 16 tokens (its rate is per cycle). SCALE-Sim
and ZigZag (`peers.py`) take the six linears of a layer; `--no-peers` leaves them out: they take minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from axlora.isa.target import Target
from axlora.rtl.runner import Image, run_images
from axlora.sim.run import run_image
from minilm import image, linears, link_linears
from peers import Gemm, scalesim, zigzag

TOKENS = 128
FORM = "int8 per channel"
T = TypeVar("T")


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def _line(name: str, cycles: int, macs: int, seconds: float) -> None:
    rate = f"{cycles / seconds:,.0f} | {macs / seconds:,.0f}"
    sys.stdout.write(f"| {name} | {cycles:,} | {macs:,} | {seconds:.2f} | {rate} |\n")
    sys.stdout.flush()


def main() -> int:
    """Print the table, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    target = Target.load("edge-asic")
    parts, layer = linears(FORM), linears(FORM, range(1))
    memory, of_layer = (image(target, link_linears(target, x, TOKENS, whole_rows=False), x, TOKENS) for x in (parts, layer))
    small = layer[:1]
    run_image(target, image(target, link_linears(target, small, 8, whole_rows=False), small, 8), 0)  # start-up: compile
    sys.stdout.write("| simulator | cycles | MACs | seconds | cycles/s | MACs/s |\n| --- | --- | --- | --- | --- | --- |\n")
    for name in ("cold", "again"):
        result, seconds = _timed(lambda: run_image(target, memory, 0))
        macs = result.counters["macs"]
        _line(f"AxLoRA, {len(parts)} linears, {name}", result.cycles, macs, seconds)
        if name == "cold":
            cold, rate = seconds / macs, result.cycles / seconds
    result, seconds = _timed(lambda: run_image(target, of_layer, 0))
    _line(f"AxLoRA, {len(layer)} linears of one layer, again", result.cycles, result.counters["macs"], seconds)
    data = image(target, link_linears(target, small, 16, whole_rows=False), small, 16).tobytes()
    run_images(target, [Image(data[:64], 0, {}, 64)])  # builds
    (found,), seconds = _timed(lambda: run_images(target, [Image(data, 0, {}, len(data))]))
    _line("Verilator, one linear, 16 tokens", found.cycles, found.counters["macs"], seconds)
    ratios = [f"Verilator: {rate * seconds / found.cycles:,.0f} times its cycles a second"]
    gemms = [Gemm(each.name.replace(".", "_"), TOKENS, each.k, each.n) for each in layer]
    for run in () if options.no_peers else (zigzag, scalesim):
        peer, macs = run(target, gemms), sum(g.macs for g in gemms)
        _line(f"{peer.name}, {len(gemms)} linears of one layer", peer.cycles, macs, peer.seconds)
        ratios.append(f"{peer.name}: {peer.seconds / macs / cold:,.0f} times as fast on the same linears")
    sys.stdout.write("\nAxLoRA, cold, beside\n" + "".join(f"- {ratio}\n" for ratio in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
