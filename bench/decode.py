"""Decode of the tiny Llama on the simulated machine: tokens a second at the target's clock, and the share of the memory bound.

    python bench/decode.py [--target zcu104] [--weight-bits 8] [--tokens 32]

The bound: every beat that the program reads from memory (weights, adapter, cache, constants, instructions), one a cycle. Wall
seconds are of this machine, one process.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import axlora

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "tiny_llama"
sys.path.insert(0, str(EXAMPLE))
PROMPT = b"import os\n\n\ndef main(argv):\n"


def measure(program: axlora.Program, adapter: str | None, tokens: int) -> dict[str, float]:
    """Cycles and beats of `tokens` decode steps behind a short prompt, greedy."""
    session = program.session(adapter)
    logits = session.feed(list(PROMPT))
    prefill = session.cycles
    before = session.counters
    began = time.monotonic()
    for _ in range(tokens):
        logits = session.feed([int(logits[-1].argmax())])
    wall = (time.monotonic() - began) / tokens
    c = {name: value - before[name] for name, value in session.counters.items()}
    cycles = c["cycles"] / tokens
    beats = (c["load_beats"] + c["fetch_beats"]) / tokens
    return {"prefill": prefill / len(PROMPT), "cycles": cycles, "beats": beats, "share": beats / cycles, "wall": wall}


def main() -> None:
    """Command line."""
    import export

    parser = argparse.ArgumentParser(description="Tokens a second of the tiny Llama, and the share of the memory bound.")
    parser.add_argument("--target", default="zcu104")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    program = axlora.compile(
        export.model(),
        options.target,
        adapters={"prose": export.ADAPTERS / "prose"},
        weight_bits=options.weight_bits,
        generate=True,
    )
    assert program.kind == "generator"
    rate = program.target.clock_mhz * 1e6
    print(f"{options.target}, W{options.weight_bits}A{program.target.activation_bits}, {program.target.clock_mhz} MHz")
    print("adapter  cycles/token  tokens/s  read beats/token  share of memory bound  prefill cycles/token  wall s/token")
    for adapter in (None, "prose"):
        m = measure(program, adapter, options.tokens)
        print(
            f"{adapter or '-':8} {m['cycles']:12,.0f} {rate / m['cycles']:9,.0f} {m['beats']:17,.0f} {m['share']:22.1%} "
            f"{m['prefill']:21,.0f} {m['wall']:13.3f}"
        )


if __name__ == "__main__":
    main()
