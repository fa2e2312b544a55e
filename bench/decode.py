"""Decode of the tiny Llama on the simulated machine: tokens a second at the target's clock, and the share of the memory bound.

    python bench/decode.py [--target zcu104] [--weight-bits 8] [--tokens 32] [--batch 8]

The bound: every beat that the program reads from memory (weights, adapter, cache, constants, instructions), one a cycle. Wall
seconds are of this machine, one process. Of a batch, a quarter of the sequences has an adapter, a quarter has another (the same
weights under a second name: a program knows no difference), and the others have none; the ratio is that of tokens a second to
those of the one sequence without an adapter of the first table.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
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


def together(program: axlora.Program, names: Sequence[str | None], tokens: int) -> tuple[float, float]:
    """Cycles and beats of a start that decodes a token of each sequence, over `tokens` of them behind a short prompt."""
    batch = program.session().batch()
    sequences = [batch.join(name) for name in names]
    logits = [sequence.feed(list(PROMPT))[-1] for sequence in sequences]
    before = batch.running.counters
    for _ in range(tokens):
        logits = batch.step([(s, int(each.argmax())) for s, each in zip(sequences, logits, strict=True)])
    c = {name: value - before[name] for name, value in batch.running.counters.items()}
    return c["cycles"] / tokens, (c["load_beats"] + c["fetch_beats"]) / tokens


def main() -> None:
    """Command line."""
    import export

    parser = argparse.ArgumentParser(description="Tokens a second of the tiny Llama, and the share of the memory bound.")
    parser.add_argument("--target", default="zcu104")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    compiled = {"model": export.model(), "target": options.target, "weight_bits": options.weight_bits, "generate": True}
    prose = export.ADAPTERS / "prose"
    program = axlora.compile(**compiled, adapters={"prose": prose})
    assert program.kind == "generator"
    rate = program.target.clock_mhz * 1e6
    print(f"{options.target}, W{options.weight_bits}A{program.target.activation_bits}, {program.target.clock_mhz} MHz")
    print("adapter  cycles/token  tokens/s  read beats/token  share of memory bound  prefill cycles/token  wall s/token")
    alone = 0.0
    for adapter in (None, "prose"):
        m = measure(program, adapter, options.tokens)
        alone = alone or m["cycles"]
        print(
            f"{adapter or '-':8} {m['cycles']:12,.0f} {rate / m['cycles']:9,.0f} {m['beats']:17,.0f} {m['share']:22.1%} "
            f"{m['prefill']:21,.0f} {m['wall']:13.3f}"
        )
    count = options.batch
    mixed = [("prose", "other", None, None)[n % 4] for n in range(count)]
    print("sequences together    cycles/start  tokens/s  read beats/start  share of memory bound  against one")
    for label, adapters, names in (("base", {}, [None] * count), ("two adapters", {"prose": prose, "other": prose}, mixed)):
        program = axlora.compile(**compiled, adapters=adapters, max_batch=count, max_loras=len(adapters))
        cycles, beats = together(program, names, options.tokens)
        print(
            f"{count:2}, {label:17} {cycles:12,.0f} {rate * count / cycles:9,.0f} {beats:17,.0f} {beats / cycles:22.1%} "
            f"{count * alone / cycles:11.2f}x"
        )


if __name__ == "__main__":
    main()
