"""MiniLM whole on the machine: distance from float beside onnxruntime's dynamic int8, cycles, seconds to compile and simulate.

python bench/encoder.py [--target zcu104] [--engine mac --multipliers 8] [--tokens 64] [--passages 16]
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

import axlora

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "minilm"))
import encoder
from build import passages

CALIBRATION = 32
"""Passages, none of them measured."""


def _cosines(name: str, got: np.ndarray, wanted: np.ndarray) -> None:
    cosine = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    print(f"{name:28} cosine to float: mean {cosine.mean():.4f}, least {cosine.min():.4f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Accuracy and cost of MiniLM, all operators on the machine.")
    parser.add_argument("--target", default="zcu104")
    parser.add_argument("--engine", help="instead of the target's own")
    parser.add_argument("--multipliers", type=int, help="a lane, instead of the target's own")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--passages", type=int, default=16)
    options = parser.parse_args()
    own = {name: value for name in ("engine", "multipliers") if (value := getattr(options, name)) is not None}
    target = dataclasses.replace(axlora.Target.load(options.target), **own)
    logging.basicConfig(level=logging.ERROR)
    onnxruntime.set_default_logger_severity(4)
    ids = passages(CALIBRATION + options.passages, options.tokens)
    first, rest = ids[:CALIBRATION], ids[CALIBRATION:]
    feed = {"input_ids": rest, "attention_mask": np.ones_like(rest)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder.build(folder, {"input_ids": first, "attention_mask": np.ones_like(first)})
        wanted, peer = (
            onnxruntime.InferenceSession(folder / f"{file}.onnx").run(None, feed)[0] for file in ("minilm", "minilm_dynamic")
        )
        began = time.monotonic()
        program = axlora.compile(
            folder / "minilm.onnx",
            target,
            shapes={"batch": 1, "sequence": options.tokens},
            calibration={"input_ids": first[:, None], "attention_mask": np.ones_like(first)[:, None]},
            operators="all",
        )
        compiled = time.monotonic() - began
    rows = [{key: value[n : n + 1] for key, value in feed.items()} for n in range(len(rest))]
    got = np.concatenate([axlora.simulate(program, row, timing=False).outputs["embedding"] for row in rows])
    began = time.monotonic()
    run = axlora.simulate(program, rows[0])
    simulated = time.monotonic() - began
    _cosines(f"{target.name}, {target.engine}, W8A8", got, wanted)
    _cosines("onnxruntime, dynamic int8", peer, wanted)
    removed = 1 - run.counters["multiplications"] / run.counters["macs"]
    milliseconds = run.cycles / program.target.clock_mhz / 1000
    print(
        f"{options.tokens} tokens: {run.cycles:,} cycles, {milliseconds:.1f} ms, {removed:.1%} of the multiplications removed"
    )
    print(f"compile {compiled:.1f} s, simulate {simulated:.1f} s")


if __name__ == "__main__":
    main()
