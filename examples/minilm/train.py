"""Train a LoRA adapter of MiniLM for a task of tasks.py, on one core in minutes. Needs `pip install '.[train]'`.

    python examples/minilm/train.py {topic,language} -o DIR

DIR/adapter_config.json, DIR/adapter_model.safetensors   as PEFT saves them
DIR/prototypes.npz                                       `base` and `adapter`, each [classes, 384]
DIR/held_out.json                                        the held-out passages
DIR/results.json                                         the figures
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import BertConfig, BertModel

import build
import tasks
from tasks import Float, Int, Passage, Task

BASE = "sentence-transformers/all-MiniLM-L6-v2"
LORAS = {"topic": (8, 16, 2e-3), "language": (16, 32, 1e-3)}
"""Task to rank, alpha, highest learning rate."""
SEED, BATCH, GROUP, EPOCHS, DECAY, TEMPERATURE = 7, 32, 256, 4, 0.01, 0.05

Embed = Callable[[Sequence[Passage]], torch.Tensor]


def base_model() -> BertModel:
    """The trained all-MiniLM-L6-v2, its weights verified."""
    config = BertConfig.from_json_file(build.model_files() / "config.json")
    config.name_or_path = BASE  # PEFT writes it into the adapter
    model = BertModel(config, add_pooling_layer=False)
    weights = {k: torch.from_numpy(v.copy()) for k, v in build.verified_weights().items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or any("pooler" not in k and "position_ids" not in k for k in unexpected):
        raise ValueError(f"weights do not fit the model: missing {missing}, unexpected {unexpected}")
    return model


def embedder(model: torch.nn.Module) -> Embed:
    """A function from passages to normalized embeddings [n, 384]."""
    tokenizer = tasks.tokenizer()

    def embed(passages: Sequence[Passage]) -> torch.Tensor:
        ids, mask = (torch.from_numpy(x) for x in tasks.token_ids(passages, tokenizer))
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return functional.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)

    return embed


def batches(passages: Sequence[Passage], order: Int, group: int) -> list[Int]:
    """Cut `order` [n] into batches; within each `group` of rows, texts of similar length share a batch (less padding)."""
    parts: list[Int] = []
    for i in range(0, len(order), group):
        rows = np.array(sorted(order[i : i + group], key=lambda r: len(passages[r].text)))
        parts += np.split(rows, range(BATCH, len(rows), BATCH))
    return parts


@torch.no_grad()
def embeddings(model: torch.nn.Module, passages: Sequence[Passage]) -> Float:
    """Embeddings [n, 384] of the passages, dropout off."""
    model.eval()
    embed = embedder(model)
    result = np.zeros((len(passages), build.HIDDEN), np.float32)
    for rows in batches(passages, np.arange(len(passages)), len(passages)):
        result[rows] = embed([passages[r] for r in rows]).numpy()
    return result


def fit(model: PeftModel, task: Task, passages: Sequence[Passage], start: Float) -> None:
    """Train the adapter: cross entropy over cosines to class centres, which start at the base's prototypes."""
    random = np.random.default_rng(SEED)
    embed = embedder(model)
    numbers = torch.from_numpy(tasks.labels(passages, task))
    centres = torch.nn.Parameter(torch.from_numpy(start.copy()))
    rate = LORAS[task.name][2]
    parameters = [centres, *(p for p in model.parameters() if p.requires_grad)]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY)
    steps = EPOCHS * len(batches(passages, np.arange(len(passages)), GROUP))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(EPOCHS):
        losses = []
        parts = batches(passages, random.permutation(len(passages)), GROUP)
        for i in random.permutation(len(parts)):
            rows = parts[i]
            cosines = embed([passages[r] for r in rows]) @ functional.normalize(centres, dim=1).T
            loss = functional.cross_entropy(cosines / TEMPERATURE, numbers[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        logging.info("epoch %d: loss %.3f", epoch + 1, np.mean(losses))


def save(model: PeftModel, directory: Path) -> None:
    """What PEFT writes, without its README and without what names this machine."""
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": BASE}
    config["target_modules"] = sorted(config["target_modules"])  # a set: in another order each time
    path.write_text(json.dumps(config, indent=2) + "\n")


def train(task: Task, directory: Path) -> dict[str, float | int]:
    """Train, evaluate and write the adapter of `task`; returns the figures."""
    begin = time.monotonic()
    torch.manual_seed(SEED)
    directory.mkdir(parents=True, exist_ok=True)
    training, built = tasks.build(task, tasks.tokenizer())
    held = tasks.held_out(task.name) or built
    known, asked = tasks.labels(training, task), tasks.labels(held, task)
    logging.info("%d training and %d held-out passages", len(training), len(held))

    base = base_model()
    before, before_held = embeddings(base, training), embeddings(base, held)
    base_prototypes = tasks.prototypes(before, known, len(task.classes))

    rank, alpha, _ = LORAS[task.name]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.1, target_modules=["query", "value"], bias="none")
    config.task_type = "FEATURE_EXTRACTION"
    model = get_peft_model(base, config)
    fit(model, task, training, base_prototypes)

    after, after_held = embeddings(model, training), embeddings(model, held)
    prototypes = tasks.prototypes(after, known, len(task.classes))
    save(model, directory)
    np.savez(directory / "prototypes.npz", base=base_prototypes, adapter=prototypes)
    tasks.write_held_out(held, directory / "held_out.json")
    figures: dict[str, float | int] = {
        "training_passages": len(training),
        "held_out_passages": len(held),
        "base_training": tasks.accuracy(before, known, base_prototypes),
        "base_held_out": tasks.accuracy(before_held, asked, base_prototypes),
        "adapter_training": tasks.accuracy(after, known, prototypes),
        "adapter_held_out": tasks.accuracy(after_held, asked, prototypes),
        "adapter_held_out_base_prototypes": tasks.accuracy(after_held, asked, base_prototypes),
        "cosine_base_adapter": float((before_held * after_held).sum(1).mean()),
        "seconds": round(time.monotonic() - begin),
    }
    results = {k: round(v, 4) for k, v in figures.items()} | {"training_by_class": Counter(p.label for p in training)}
    (directory / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train a LoRA adapter of MiniLM for a task.")
    parser.add_argument("task", choices=tasks.TASKS)
    parser.add_argument("-o", dest="directory", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, value in train(tasks.TASKS[options.task], options.directory).items():
        logging.info("%-34s %s", name, round(value, 4))


if __name__ == "__main__":
    main()
