"""The whole MiniLM: models, trained adapters, held-out passages."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
TASKS = ("topic", "language")
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Whole:
    """Files and modules of examples/minilm."""

    folder: Path
    encoder: ModuleType
    tasks: ModuleType

    @property
    def adapters(self) -> dict[str, Path]:
        """The two trained ones."""
        return {name: self.tasks.ADAPTERS / name for name in TASKS}

    def passages(self, task: str, count: int, tokens: int = 64) -> Feed:
        """`count` held-out passages, padded to `tokens`."""
        ids, mask = self.tasks.token_ids(self.tasks.held_out(task)[:count], self.tasks.tokenizer())
        room = ((0, 0), (0, max(0, tokens - ids.shape[1])))
        return {
            "input_ids": np.pad(ids, room)[:, :tokens].astype(np.int64),
            "attention_mask": np.pad(mask, room)[:, :tokens].astype(np.int64),
        }

    def calibration(self, count: int = 16) -> Feed:
        """Passages from the end of both held-out sets, first axis samples, each a batch of one."""
        parts = []
        for task in TASKS:
            ids, mask = self.tasks.token_ids(self.tasks.held_out(task)[-count:], self.tasks.tokenizer())
            room = ((0, 0), (0, 64 - ids.shape[1]))
            parts.append((np.pad(ids, room), np.pad(mask, room)))
        ids, mask = (np.concatenate(p)[:, None].astype(np.int64) for p in zip(*parts, strict=True))
        return {"input_ids": ids, "attention_mask": mask}

    def float_outputs(self, adapter: str | None, feed: Feed) -> np.ndarray:
        """Embeddings of the float model with the adapter's branches, by onnxruntime."""
        lora = None
        if adapter is not None:
            config = json.loads((self.adapters[adapter] / "adapter_config.json").read_text())
            tensors = load_file(self.adapters[adapter] / "adapter_model.safetensors")
            named = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
            lora = self.encoder.Lora(named, config["lora_alpha"] / config["r"])
        model, _ = self.encoder.encoder(self.encoder.verified_weights(), lora=lora)
        return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, feed)[0])


def build_whole(folder: Path) -> Whole:
    """Write the three ONNX files into `folder`."""
    sys.path.insert(0, str(ROOT / "examples" / "minilm"))
    import encoder
    import tasks

    found = Whole(folder, encoder, tasks)
    encoder.build(folder, {name: value[:, 0] for name, value in found.calibration().items()})
    return found
