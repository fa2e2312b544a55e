"""Held-out passages through a compiled MiniLM: which class the base and the adapter give, and what it cost.

    python examples/minilm/answer.py PACKAGE.axl [--count N]

The class is the nearest prototype (cosine), prototypes of the base for the base and of the adapter for the adapter.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import axlora
from tasks import TASKS, Int, held_out, load_prototypes, normalized, tokenizer


def feed(texts: list[str], length: int) -> list[tuple[str, dict[str, Int]]]:
    """The texts that fill at most `length` tokens, each a batch of one."""
    made = tokenizer()
    found = []
    for text in texts:
        ids = made.encode(text).ids
        if len(ids) <= length:
            row = np.zeros((2, 1, length), np.int64)
            row[0, 0, : len(ids)], row[1, 0, : len(ids)] = ids, 1
            found.append((text, {"input_ids": row[0], "attention_mask": row[1]}))
    return found


def answer(program: axlora.Program, task: str, adapter: str | None, inputs: dict[str, Int]) -> tuple[str, int]:
    """Class and cycles under an adapter or the base."""
    run = axlora.simulate(program, inputs, adapter)
    of = load_prototypes(task)["adapter" if adapter else "base"]
    return tuple(TASKS[task].files)[int((normalized(run.outputs["embedding"]) @ of.T).argmax())], run.cycles


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Classify held-out passages with a compiled MiniLM, base and adapters.")
    parser.add_argument("package", type=Path)
    parser.add_argument("--count", type=int, default=4, help="passages a task")
    options = parser.parse_args()
    program = axlora.load(options.package)
    length = program.inputs_info["input_ids"][0][1]
    table = Table(
        "passage", "task", "is", "base says", "cycles", "adapter says", "cycles", title="answers of the simulated machine"
    )
    for task in TASKS:
        truth = {p.text: p.label for p in held_out(task)}
        passages = feed(list(truth), length)
        for text, inputs in passages[:: max(1, len(passages) // options.count)][: options.count]:
            cells = []
            for name in (None, task):
                said, cycles = answer(program, task, name, inputs)
                cells += [f"[{'green' if said == truth[text] else 'red'}]{said}", f"{cycles:,}"]
            table.add_row(" ".join(text.split())[:40], task, truth[text], *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
