"""Train the byte-level Llama of this example, or a LoRA of it, on one core. Needs `pip install '.[train]'`.

    python examples/tiny_llama/train.py -o DIR              the base, on the standard library's sources: half an hour
    python examples/tiny_llama/train.py --adapter -o DIR    a LoRA of the committed base, on English prose: minutes

DIR/config.json, DIR/model.safetensors                   the base as transformers saves it, float16
DIR/adapter_config.json, DIR/adapter_model.safetensors   the LoRA as PEFT saves it, float16
DIR/golden.npz                                           `ids` [1, n] and PyTorch's `logits` [1, n, 256] of them, float32
DIR/results.json                                         the figures
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

import corpus

BASE = Path(__file__).parent / "base"
NAME = "axlora/tiny-llama"
"""What PEFT writes as the base of the adapter."""
SEED, CONTEXT, BATCH = 7, 256, 8
STEPS, RATE, MUON, DECAY, WARMUP = 5600, 3e-3, 2.0, 0.1, 100
LORA_STEPS, LORA_RATE, LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 600, 2e-3, 8, 16, 0.05
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GOLDEN = {"code": b"def mean(values):\n    return sum(", "prose": b"The *return* statement leaves the"}
"""A prompt of each kind."""


def config() -> LlamaConfig:
    """Of the base: 3.1 million parameters."""
    return LlamaConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def loss_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats of the next byte; ids [n, t]."""
    logits = model(input_ids=ids).logits[:, :-1].float()
    return functional.cross_entropy(logits.reshape(-1, 256), ids[:, 1:].reshape(-1))


@torch.no_grad()
def bits_per_byte(model: torch.nn.Module, text: bytes | corpus.Int) -> float:
    """Over windows of CONTEXT bytes, float32."""
    model.eval()
    ids = torch.from_numpy(corpus.windows(text, CONTEXT))
    parts = [ids[i : i + 32] for i in range(0, len(ids), 32)]
    losses = [loss_of(model, part).item() * len(part) for part in parts]
    return sum(losses) / len(ids) / math.log(2)


def figures_of(model: torch.nn.Module, prefix: str) -> dict[str, float]:
    """Bits per byte of the committed held-out texts, and of all held-out texts of this Python."""
    figures = {}
    for kind in corpus.KINDS:
        figures[f"{prefix}_{kind}"] = bits_per_byte(model, corpus.held_out(kind))
        figures[f"{prefix}_{kind}_all"] = bits_per_byte(model, corpus.stream(corpus.split(kind).held_out))
    return figures


def optimizers_of(model: torch.nn.Module, rate: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers (0.4 bits per byte ahead of AdamW at 400 steps), AdamW for all else and for LoRA."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    hidden = [p for n, p in named if p.ndim == 2 and ".layers." in n and "lora_" not in n]
    rest = [p for _, p in named if all(p is not h for h in hidden)]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim != 2], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.95))]
    if hidden:
        made.append(torch.optim.Muon(hidden, lr=MUON * rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return made


def fit(model: torch.nn.Module, kind: str, steps: int, rate: float, decay: float) -> float:
    """Train on random windows, the rate falling as a cosine; returns bits per byte of the last 5 % of the training steps."""
    ids = torch.from_numpy(corpus.stream(corpus.split(kind).training))
    random = np.random.default_rng(SEED)

    def factor(step: int) -> float:
        if step < WARMUP:
            return (step + 1) / WARMUP
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))

    optimizers = optimizers_of(model, rate, decay)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    losses: list[float] = []
    model.train()
    for step in range(steps):
        starts = random.integers(0, len(ids) - CONTEXT, BATCH)
        batch = torch.stack([ids[s : s + CONTEXT] for s in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch)
        model.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        losses.append(loss.item() / math.log(2))
        if (step + 1) % 100 == 0:
            logging.info("step %d: %.3f bits per byte", step + 1, np.mean(losses[-100:]))
    return float(np.mean(losses[-max(1, steps // 20) :]))


def half(path: Path) -> None:
    """Round the tensors of a safetensors file to float16."""
    tensors = {k: v.astype(np.float16) for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


@torch.no_grad()
def write_golden(model: torch.nn.Module, kind: str, directory: Path) -> None:
    """PyTorch's logits of a prompt."""
    model.eval()
    ids = np.frombuffer(corpus.END + GOLDEN[kind], np.uint8).astype(np.int64)[None]
    logits = model(input_ids=torch.from_numpy(ids)).logits.float().numpy()
    np.savez_compressed(directory / "golden.npz", ids=ids, logits=logits)


def load_base(directory: Path) -> LlamaForCausalLM:
    """The base as saved, its float16 weights widened to float32."""
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(directory))
    tensors = load_file(directory / "model.safetensors")
    model.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in tensors.items()})
    return model


def train_base(directory: Path, steps: int) -> dict[str, float]:
    """Train and write the base; the figures are those of the rounded weights."""
    model = LlamaForCausalLM(config())
    training = fit(model, "code", steps, RATE, DECAY)
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = torch.float16
    model.config.save_pretrained(directory)
    save_file({k: v.detach().numpy() for k, v in model.state_dict().items()}, directory / "model.safetensors")
    half(directory / "model.safetensors")
    model = load_base(directory)
    write_golden(model, "code", directory)
    return {"parameters": sum(p.numel() for p in model.parameters()), "training_code": training} | figures_of(model, "base")


def train_adapter(directory: Path, steps: int, base: Path) -> dict[str, float]:
    """Train and write the LoRA of the base in `base`; the figures are those of the rounded weights."""
    model = load_base(base)
    before = {k: v for k, v in json.loads((base / "results.json").read_text()).items() if k.startswith("base_")}
    model.name_or_path = NAME
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=LORA_DROPOUT, target_modules=list(TARGETS), bias="none")
    lora.task_type = "CAUSAL_LM"
    adapted = get_peft_model(model, lora)
    training = fit(adapted, "prose", steps, LORA_RATE, 0.01)
    adapted.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    written = json.loads(path.read_text()) | {"base_model_name_or_path": NAME}
    written["target_modules"] = sorted(written["target_modules"])  # a set: in another order each time
    path.write_text(json.dumps(written, indent=2) + "\n")
    half(directory / "adapter_model.safetensors")
    saved = PeftModel.from_pretrained(load_base(base), directory)
    write_golden(saved, "prose", directory)
    count = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    return {"parameters": count, "training_prose": training} | before | figures_of(saved, "adapter")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the tiny Llama or a LoRA of it.")
    parser.add_argument("--adapter", action="store_true", help="a LoRA of the base")
    parser.add_argument("--base", type=Path, default=BASE, help="the base of the LoRA; default: the committed one")
    parser.add_argument("--steps", type=int)
    parser.add_argument("-o", dest="directory", type=Path, required=True)
    options = parser.parse_args()
    directory: Path = options.directory
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    directory.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    if options.adapter:
        figures = train_adapter(directory, options.steps or LORA_STEPS, options.base)
    else:
        figures = train_base(directory, options.steps or STEPS)
    results = {k: round(v, 4) for k, v in figures.items()} | {"seconds": round(time.monotonic() - begin)}
    (directory / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, value in results.items():
        logging.info("%-22s %s", name, value)


if __name__ == "__main__":
    main()
