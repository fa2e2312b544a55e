"""Cycles of whole models on every target and engine, with unit shares and the distance from the floors; one table.

    python bench/machines.py [--target zcu104 --target edge-asic] [--against REVISION]

`--against` runs the same measurements with the checkout of an earlier revision, in a process of its own, and shows its cycles
beside. Floors, in cycles: MACs over what all lanes take at once, beats of memory that were moved, words that the vector unit
went through. No order of the work beats any of them; the largest is shown. MiniLM runs on 64 tokens with calibration, the tiny
Llama on a prompt of 28 tokens, then a token.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("zcu104", "zcu104-dsp", "edge-asic", "ulx3s-85f")
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "reuse": {"engine": "reuse", "multipliers": 1},
    "mac": {"engine": "mac", "multipliers": 1},
    "table": {"engine": "table", "multipliers": 1},
}
"""Beside each target's own."""
TOKENS, SAMPLES = 64, 8


def figures(target: Any, counters: Mapping[str, int]) -> dict[str, float]:
    """Cycles, busy shares of the units, floors."""
    c, columns = counters, target.multipliers if target.engine == "mac" else target.ports
    floors = {
        "MACs": c["macs"] / (target.lanes * columns * target.tokens),
        "beats": float(max(c["load_beats"] + c["fetch_beats"], c["store_beats"])),
        "words": c["vector_elements"] / target.vector_lanes,
    }
    shares = {unit: c[f"{unit}_busy"] / c["cycles"] for unit in ("load", "matrix", "vector", "store")}
    return {"cycles": c["cycles"], **shares, **floors}


def measured(names: list[str]) -> Iterator[dict[str, Any]]:
    """A row a target, engine and model; what does not fit is left out with the reason."""
    for place in ("examples/minilm", "examples/tiny_llama"):
        sys.path.insert(0, str(ROOT / place))
    import numpy as np

    import axlora
    import encoder
    import export
    from build import passages

    logging.disable(logging.WARNING)
    ids = passages(SAMPLES + 1, TOKENS)
    feed = {"input_ids": ids[SAMPLES:], "attention_mask": np.ones_like(ids[SAMPLES:])}
    calibration = {"input_ids": ids[:SAMPLES, None], "attention_mask": np.ones_like(ids[:SAMPLES])[:, None]}
    with tempfile.TemporaryDirectory() as name:
        encoder.build(Path(name), {key: value[:, 0] for key, value in calibration.items()})
        for target in map(axlora.Target.load, names):
            machines = {"own": target} | {
                engine: dataclasses.replace(target, **own) for engine, own in ENGINES.items() if engine != target.engine
            }
            for machine in machines.values():
                row = {"target": target.name, "engine": f"{machine.engine}, {machine.multipliers}"}
                try:
                    program = axlora.compile(
                        Path(name) / "minilm.onnx",
                        machine,
                        shapes={"batch": 1, "sequence": TOKENS},
                        calibration=calibration,
                        operators="all",
                    )
                    yield row | {"model": "MiniLM"} | figures(machine, axlora.simulate(program, feed).counters)
                    session = axlora.compile(export.model(), machine, generate=True).session()
                    session.feed(list(b"import os\n\n\ndef main(argv):\n"))
                    first = session.counters
                    yield row | {"model": "Llama, prompt"} | figures(machine, first)
                    session.feed([0])
                    later = {name: value - first[name] for name, value in session.counters.items()}
                    yield row | {"model": "Llama, a token"} | figures(machine, later)
                except axlora.Error as error:
                    yield row | {"model": "left out", "why": str(error)}


def earlier(revision: str, names: list[str]) -> list[dict[str, Any]]:
    """The rows of this file's measurements with the sources of a revision."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), revision], cwd=ROOT, check=True, capture_output=True)
        try:
            given = [item for each in names for item in ("--target", each)]
            code = f"import sys; sys.path[:0] = [{str(tree)!r}, {str(ROOT / 'bench')!r}]; import machines; machines.main()"
            command = [sys.executable, "-c", code]
            found = subprocess.run([*command, *given, "--json"], cwd=name, check=True, capture_output=True, text=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)
    return [json.loads(line) for line in found.stdout.splitlines()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cycles of whole models on every target and engine.")
    parser.add_argument("--target", action="append", metavar="NAME", help=f"several may be given ({', '.join(TARGETS)})")
    parser.add_argument("--against", metavar="REVISION", help="cycles of an earlier revision beside")
    parser.add_argument("--json", action="store_true", help="a line of JSON a row")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    old = {} if options.against is None else {_key(row): row for row in earlier(options.against, names)}
    if not options.json:
        heads = ("target", "engine", "model", options.against or "", "cycles", "load", "matrix", "vector", "store")
        print(_line(heads), "", "floor and what is above it", sep=" ")
    for row in measured(names):
        if options.json:
            print(json.dumps(row), flush=True)
        elif "why" in row:
            print(_line((row["target"], row["engine"], row["model"])), row["why"], flush=True)
        else:
            before = old.get(_key(row), {}).get("cycles")
            floor = max(("MACs", "beats", "words"), key=lambda kind: row[kind])
            shares = [f"{row[unit]:.0%}" for unit in ("load", "matrix", "vector", "store")]
            counts = ["" if before is None else f"{before:,}", f"{row['cycles']:,}"]
            above = f"{floor} {row[floor]:,.0f}, {row['cycles'] / row[floor]:.2f} times"
            print(_line((row["target"], row["engine"], row["model"], *counts, *shares)), above, sep="  ", flush=True)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["target"], row["engine"], row["model"]


def _line(cells: tuple[str, ...]) -> str:
    widths = ("<10", "<9", "<14", ">12", ">12", ">5", ">6", ">6", ">5")
    return " ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=False))


if __name__ == "__main__":
    main()
