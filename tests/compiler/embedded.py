"""Adapters that change embeddings: `python tests/compiler/embedded.py` writes tests/compiler/models/embedded.* anew.

Needs the extra `export` (torch). Each is trained, at random, on a directory of `hf_models`; what PEFT's model gives for its
inputs before anything is merged is what tests expect.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_models as H
import numpy as np
from safetensors.numpy import load_file, save_file

CONFIGS, TENSORS = H.MODELS / "embedded.json", H.MODELS / "embedded.safetensors"
LLAMA, TIED, BERT = "llama", "llama-linear", "bert"
EMBED, Q, WORDS, QUERY = "embed_tokens", "q_proj", "word_embeddings", "query"
TOKENS = [int(i) for i in np.unique(H.inputs({"num_key_value_heads": 1})["input_ids"])[[1, 5, 9]]]
"""Ids that the inputs hold."""
LORA = {"r": 3, "lora_alpha": 5}


@dataclass(frozen=True)
class Embedded:
    """One adapter: the base, PEFT's configuration class and its fields."""

    name: str
    base: str
    fields: dict[str, Any]
    config: str = "LoraConfig"


ALL = (
    Embedded("branch", LLAMA, LORA | {"target_modules": [EMBED, Q]}),
    Embedded("branch_rslora", LLAMA, LORA | {"target_modules": [EMBED], "use_rslora": True}),
    Embedded("branch_dora", LLAMA, LORA | {"target_modules": [EMBED, Q], "use_dora": True}),
    Embedded("branch_tied", TIED, LORA | {"target_modules": [EMBED, Q], "ensure_weight_tying": True}),
    Embedded("branch_untied_head", TIED, LORA | {"target_modules": [EMBED, Q]}),
    Embedded("branch_scaled", "gemma", LORA | {"target_modules": [EMBED, Q], "ensure_weight_tying": True}),
    Embedded("branch_bert", BERT, LORA | {"target_modules": [WORDS, "token_type_embeddings", QUERY]}),
    Embedded("tokens", LLAMA, LORA | {"target_modules": [Q], "trainable_token_indices": TOKENS}),
    Embedded("tokens_tied", TIED, LORA | {"target_modules": [Q], "trainable_token_indices": {EMBED: TOKENS}}),
    Embedded("tokens_bert", BERT, LORA | {"target_modules": [QUERY], "trainable_token_indices": {WORDS: TOKENS}}),
    Embedded("tokens_alone", LLAMA, {"token_indices": TOKENS}, "TrainableTokensConfig"),
    Embedded("tokens_alone_tied", TIED, {"token_indices": TOKENS}, "TrainableTokensConfig"),
    Embedded("whole", LLAMA, LORA | {"target_modules": [Q], "modules_to_save": [EMBED]}),
    Embedded("whole_tied", TIED, LORA | {"target_modules": [Q], "modules_to_save": [EMBED], "ensure_weight_tying": True}),
    Embedded("whole_untied_head", TIED, LORA | {"target_modules": [Q], "modules_to_save": [EMBED]}),
    Embedded("whole_bert", BERT, LORA | {"target_modules": [QUERY], "modules_to_save": [WORDS]}),
)


def names() -> tuple[str, ...]:
    """The adapters that were recorded."""
    return tuple(json.loads(CONFIGS.read_text()))


def base(name: str) -> str:
    """The directory of `hf_models` that an adapter was trained on."""
    return str(json.loads(CONFIGS.read_text())[name]["base"])


def save(name: str, folder: Path) -> Path:
    """Write an adapter as PEFT's `save_pretrained` did."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(json.loads(CONFIGS.read_text())[name]["config"]))
    own = {key.split("/", 2)[2]: value for key, value in load_file(TENSORS).items() if key.startswith(f"{name}/adapter/")}
    save_file(own, folder / "adapter_model.safetensors")
    return folder


def results(name: str) -> dict[str, H.Array]:
    """Output -> what PEFT's model gives for `hf_models.inputs`."""
    return {key.split("/")[2]: value for key, value in load_file(TENSORS).items() if key.startswith(f"{name}/output/")}


def write(case: Embedded, folder: Path) -> tuple[dict[str, Any], dict[str, H.Array]]:
    """(What the configuration says, tensors and outputs)."""
    import peft
    import torch
    import transformers

    data = H.config(case.base)
    model = getattr(transformers, data["architectures"][0]).from_pretrained(H.save(case.base, folder), dtype=torch.float32)
    tuned = peft.get_peft_model(model, getattr(peft, case.config)(**case.fields))
    torch.manual_seed(2)
    with torch.no_grad():
        for value in tuned.parameters():
            if value.requires_grad:
                value.add_(torch.empty_like(value).normal_(0, 0.1))
    tuned.eval()
    tuned.save_pretrained(str(folder / "adapter"))
    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in H.inputs(data).items()}
        own = tuned(**given, **({"use_cache": False} if "num_key_value_heads" in data else {}))
    fields = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    unset = (None, [], {}, False)
    kept = {key: value for key, value in fields.items() if value not in unset and not key.endswith(("name_or_path", "version"))}
    tensors = {f"{case.name}/adapter/{key}": v for key, v in load_file(folder / "adapter/adapter_model.safetensors").items()}
    outputs = [key for key in ("logits", "last_hidden_state", "pooler_output") if own.get(key) is not None]
    return kept, tensors | {f"{case.name}/output/{key}": own[key].numpy() for key in outputs}


def main() -> None:
    """Write both files."""
    configs, tensors = {}, {}
    for case in ALL:
        with tempfile.TemporaryDirectory() as folder:
            fields, own = write(case, Path(folder))
        configs[case.name] = {"base": case.base, "config": fields}
        tensors |= own
    lines = [f"{json.dumps(name)}: {json.dumps(one, sort_keys=True)}" for name, one in configs.items()]
    CONFIGS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    save_file(tensors, TENSORS)


if __name__ == "__main__":
    main()
