"""Seconds and peak memory of compiling a random 1.1 B-parameter Llama's linears in int4, float16 weights beside the model.

    python bench/large.py [--layers 22] [-o build/large]

Sizes of TinyLlama-1.1B: hidden 2048, feed-forward 5632, 32 heads, 4 of keys and values, vocabulary 32000. Between the linears
stand the cheapest operators that connect them: the figure is of the linears.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import axlora

HIDDEN, INNER, KEYS, VOCABULARY, TOKENS = 2048, 5632, 256, 32000, 16


class _Writer:
    """Nodes, and weights in one file beside the model."""

    def __init__(self, path: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.file = path.open("wb")
        self.name = path.name

    def linear(self, x: str, k: int, n: int, name: str) -> str:
        tensor = onnx.TensorProto(name=f"{name}.weight", data_type=TensorProto.FLOAT16, dims=[k, n])
        tensor.data_location = TensorProto.EXTERNAL
        size = 2 * k * n
        for key, value in (("location", self.name), ("offset", self.file.tell()), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.file.write((self.random.standard_normal((k, n), np.float32) / np.sqrt(k)).astype(np.float16).tobytes())
        self.weights.append(tensor)
        return self.node("MatMul", [x, tensor.name], f"{name}.out")

    def node(self, kind: str, inputs: list[str], out: str) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"/{out}"))
        return out


def write(folder: Path, layers: int) -> Path:
    """The model; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    to = _Writer(folder / "weights.bin")
    x = "hidden"
    for i in range(layers):
        path = f"layers.{i}"
        q = to.linear(x, HIDDEN, HIDDEN, f"{path}.q")
        k, v = (to.linear(x, HIDDEN, KEYS, f"{path}.{part}") for part in "kv")
        both = to.node("Add", [k, v], f"{path}.kv")
        wide = to.node("Concat", [both] * (HIDDEN // KEYS), f"{path}.wide")
        to.nodes[-1].attribute.append(helper.make_attribute("axis", -1))
        x = to.node("Add", [x, to.linear(to.node("Mul", [q, wide], f"{path}.mixed"), HIDDEN, HIDDEN, f"{path}.o")], f"{path}.a")
        gate, up = (to.linear(x, HIDDEN, INNER, f"{path}.{part}") for part in ("gate", "up"))
        inner = to.node("Mul", [to.node("Sigmoid", [gate], f"{path}.s"), up], f"{path}.inner")
        x = to.node("Add", [x, to.linear(inner, INNER, HIDDEN, f"{path}.down")], f"{path}.b")
    x = to.linear(x, HIDDEN, VOCABULARY, "lm_head")
    to.file.close()
    given = helper.make_tensor_value_info("hidden", TensorProto.FLOAT16, [TOKENS, HIDDEN])
    out = helper.make_tensor_value_info(x, TensorProto.FLOAT16, [TOKENS, VOCABULARY])
    graph = helper.make_graph(to.nodes, "llama", [given], [out], to.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "llama.onnx")
    return folder / "llama.onnx"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compile a random 1.1 B-parameter Llama's linears in int4.")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("-o", dest="folder", type=Path, default=Path(__file__).parents[1] / "build" / "large")
    options = parser.parse_args()
    path = write(options.folder, options.layers)
    start = time.perf_counter()
    program = axlora.compile(path, "edge-asic", weight_bits=4)
    compiled = time.perf_counter()
    program.save(options.folder / "llama.axl")
    saved = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    parameters = sum(layer.k * layer.n for layer in program.layers)
    sys.stdout.write(
        f"{parameters / 1e9:.2f} B parameters in {len(program.layers)} linears: compiled in {compiled - start:.0f} s, "
        f"saved in {saved - compiled:.0f} s, peak {peak:.1f} GiB, image {len(program.image) / (1 << 20):.0f} MiB\n"
    )


if __name__ == "__main__":
    main()
