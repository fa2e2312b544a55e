"""Held-out accuracy of the committed adapters, float32, in NumPy alone.

python examples/minilm/evaluate.py [topic] [language]
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from safetensors.numpy import load_file

import build
import tasks
from tasks import Float, Int, Passage


def merged(weights: Mapping[str, Float], name: str) -> dict[str, Float]:
    """The weights with the adapter `name` added: W + alpha / r * B @ A."""
    folder = tasks.ADAPTERS / name
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = np.float32(config["lora_alpha"] / config["r"])
    lora = load_file(folder / "adapter_model.safetensors")
    result = dict(weights)
    for key, a in lora.items():
        if key.endswith(".lora_A.weight"):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            result[f"{module}.weight"] = weights[f"{module}.weight"] + scale * (lora[key.replace("lora_A", "lora_B")] @ a)
    return result


def last_hidden(weights: Mapping[str, Float], ids: Int, mask: Int) -> Float:
    """Last hidden states [n, tokens, 384] of the float encoder; ids and mask are [n, tokens]."""
    w = weights
    n, tokens = ids.shape

    def norm(name: str, x: Float) -> Float:
        return build._layer_norm(x, w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"])

    def linear(name: str, x: Float) -> Float:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:tokens]
    x = norm("embeddings", x + w["embeddings.token_type_embeddings.weight"][0])
    bias = np.where(mask[:, None, None, :] == 1, np.float32(0), np.float32(-1e9))
    for i in range(6):
        scope = f"encoder.layer.{i}"
        q, k, v = (
            linear(f"{scope}.attention.self.{m}", x).reshape(n, tokens, build.HEADS, build.HEAD).transpose(0, 2, 1, 3)
            for m in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(build.HEAD)) + bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ v
        context = context.transpose(0, 2, 1, 3).reshape(n, tokens, build.HIDDEN)
        x = norm(f"{scope}.attention.output", linear(f"{scope}.attention.output.dense", context) + x)
        x = norm(f"{scope}.output", linear(f"{scope}.output.dense", build._gelu(linear(f"{scope}.intermediate.dense", x))) + x)
    return x


def embeddings(weights: Mapping[str, Float], passages: Sequence[Passage], batch: int = 32) -> Float:
    """Sentence embeddings [n, 384] of the passages."""
    made = tasks.tokenizer()
    parts = []
    for i in range(0, len(passages), batch):
        ids, mask = tasks.token_ids(passages[i : i + batch], made)
        parts.append(tasks.pool(last_hidden(weights, ids, mask), mask))
    return np.concatenate(parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Held-out accuracy of the committed adapters.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(tasks.TASKS)}; default: all")
    names = parser.parse_args().tasks or list(tasks.TASKS)
    if unknown := set(names) - set(tasks.TASKS):
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(tasks.TASKS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    weights = build.verified_weights()
    for name in names:
        passages, of = tasks.held_out(name), tasks.load_prototypes(name)
        numbers = tasks.labels(passages, tasks.TASKS[name])
        base, adapted = embeddings(weights, passages), embeddings(merged(weights, name), passages)
        logging.info(
            "%-9s %d passages: base %.1f %%, adapter %.1f %%; mean cosine of their embeddings %.3f",
            *(name, len(passages), 100 * tasks.accuracy(base, numbers, of["base"])),
            *(100 * tasks.accuracy(adapted, numbers, of["adapter"]), (base * adapted).sum(1).mean()),
        )


if __name__ == "__main__":
    main()
