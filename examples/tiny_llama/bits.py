"""Bits per byte of the committed base and adapter on the committed held-out texts, float32 in onnxruntime.

    python examples/tiny_llama/bits.py [--length 256]

Needs onnxruntime (`pip install '.[dev]'`), no PyTorch. `windows`, `bits_per_byte` and `bits_of` serve any other model as well.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx

import corpus
import export
from corpus import Int, windows

Float = npt.NDArray[np.float32]
Model = Callable[[Int], Float]
"""Ids [n, t] -> logits [n, t, 256]."""
BATCH = 16


def bits_per_byte(logits: Float, ids: Int) -> float:
    """Mean of -log2 p(next byte).

    Args:
        logits: [n, t, 256], of the byte after each.
        ids: [n, t]. The first of a window is given, not predicted: n * (t - 1) bytes count.
    """
    x = logits[:, :-1].astype(np.float64)
    x -= x.max(-1, keepdims=True)
    nats = np.log(np.exp(x).sum(-1)) - np.take_along_axis(x, ids[:, 1:, None], -1)[..., 0]
    return float(nats.mean() / np.log(2))


def bits_of(model: Model, text: bytes, length: int, batch: int = BATCH) -> float:
    """Bits per byte of a text cut into windows of `length`, `batch` at a time (the last are fewer)."""
    ids = windows(text, length)
    parts = [ids[i : i + batch] for i in range(0, len(ids), batch)]
    return sum(len(part) * bits_per_byte(model(part), part) for part in parts) / len(ids)


def float_model(model: onnx.ModelProto) -> Model:
    """The ONNX in onnxruntime, one thread, no optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(ids: Int) -> Float:
        logits: Float = session.run(["logits"], {"input_ids": ids})[0]
        return logits

    return run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Bits per byte of the committed base and adapter.")
    parser.add_argument("--length", type=int, default=256, help="bytes of a window; a divisor of 1024")
    length = parser.parse_args().length
    if length < 2 or corpus.EXCERPT % length:
        parser.error(f"--length {length} does not divide {corpus.EXCERPT}, or is 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    adapters = sorted(path.name for path in export.ADAPTERS.iterdir())
    for name in (None, *adapters):
        model = float_model(export.model(export.read_lora(export.ADAPTERS / name) if name else None))
        figures = (f"{kind} {bits_of(model, corpus.held_out(kind), length):.4f}" for kind in corpus.KINDS)
        logging.info("%-8s bits per byte: %s", name or "base", ", ".join(figures))


if __name__ == "__main__":
    main()
