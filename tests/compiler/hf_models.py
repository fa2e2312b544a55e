"""Tiny Hugging Face directories: `python tests/compiler/hf_models.py` writes tests/compiler/models/hf.json and hf.npz anew.

That needs the extra `export` (torch): each model is saved by `save_pretrained`, whose config.json and tensor shapes are kept,
and what it gives for `inputs` with the weights that `drawn` draws. Tests draw the same weights and need NumPy alone.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
MODELS = Path(__file__).parent / "models"
CONFIGS, RESULTS = MODELS / "hf.json", MODELS / "hf.npz"
HIDDEN, INNER, HEADS, GROUPS, DIM, VOCABULARY, POSITIONS, TOKENS, WINDOW, LABELS = 32, 64, 4, 2, 8, 40, 32, 20, 8, 8
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_IDS = np.random.default_rng(0).integers(2, VOCABULARY, (1, TOKENS))


def inputs(data: Mapping[str, Any]) -> dict[str, Array]:
    """What a model of that config.json is given: ids, and of an encoder a mask with padding behind, and types."""
    if "num_key_value_heads" in data:
        return {"input_ids": _IDS}
    mask = (np.arange(TOKENS) < TOKENS - 4)[None].astype(np.int64)
    ids = np.where(mask > 0, _IDS, data.get("pad_token_id") or 0)
    given = {"input_ids": ids, "attention_mask": mask}
    return given | ({"token_type_ids": np.arange(TOKENS)[None] // 9 % 2} if data.get("type_vocab_size") == 2 else {})


def drawn(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """A weight by its name: matrices near 0, gains near 1, biases (and Gemma's gains, to which it adds 1) near 0."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        return random.normal(0, 0.15, shape).astype(np.float16)
    return (name.endswith("norm.weight") + name.endswith("LayerNorm.weight") + random.uniform(-0.2, 0.2, shape)).astype(
        np.float16
    )


FAMILIES: tuple[str, ...] = tuple(json.loads(CONFIGS.read_text())) if CONFIGS.exists() else ()
"""Names of the directories."""


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The tensors that `save_pretrained` wrote."""
    return {name: tuple(shape) for name, shape in json.loads(CONFIGS.read_text())[family]["tensors"].items()}


def config(family: str) -> dict[str, Any]:
    """The config.json that `save_pretrained` wrote."""
    return dict(json.loads(CONFIGS.read_text())[family]["config"])


def results(family: str) -> dict[str, Array]:
    """Output -> what transformers gives for `inputs`."""
    with np.load(RESULTS) as file:
        return {name.split("/")[1]: file[name] for name in file.files if name.split("/")[0] == family}


def save(family: str, folder: Path, **fields: Any) -> Path:
    """Write the directory; `fields` in place of the config's own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(family) | fields))
    save_file({name: drawn(name, shape) for name, shape in shapes(family).items()}, folder / "model.safetensors")
    return folder


def families() -> dict[str, Callable[[], Any]]:
    """Name -> how its model is built."""
    import transformers as t

    sizes = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    sizes |= {"intermediate_size": INNER, "max_position_embeddings": POSITIONS}
    grouped = sizes | {"num_key_value_heads": GROUPS}
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    distil = {"dim": HIDDEN, "hidden_dim": INNER, "n_layers": 2, "n_heads": HEADS}
    distil |= {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}

    def decoder(kind: str, **own: Any) -> Callable[[], Any]:
        config = f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config"
        return lambda: getattr(t, f"{kind}ForCausalLM")(getattr(t, config)(**(grouped | own)))

    def encoder(kind: str, task: str = "Model", **own: Any) -> Callable[[], Any]:
        return lambda: getattr(t, f"{kind}{task}")(getattr(t, f"{kind}Config")(**own))

    classifies = "ForSequenceClassification"
    return {
        "llama": decoder("Llama", rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
        "llama-linear": decoder("Llama", rope_parameters=linear, tie_word_embeddings=True),
        "mistral": decoder("Mistral", sliding_window=WINDOW, head_dim=16),
        "qwen2": decoder("Qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
        "qwen3": decoder("Qwen3", head_dim=DIM),
        "gemma": decoder("Gemma", head_dim=16),
        "gemma2": decoder("Gemma2", head_dim=DIM, sliding_window=WINDOW, query_pre_attn_scalar=12, attn_logit_softcapping=2.0,
                          final_logit_softcapping=3.0),
        "gemma3": decoder("Gemma3", head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=24,
                          layer_types=["sliding_attention", "full_attention"]),
        "phi3": decoder("Phi3", pad_token_id=0, partial_rotary_factor=0.5),
        "mixtral": decoder("Mixtral", num_local_experts=4),
        "qwen2-moe": decoder("Qwen2Moe", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24,
                             shared_expert_intermediate_size=40, mlp_only_layers=[0]),
        "qwen3-moe": decoder("Qwen3Moe", head_dim=DIM, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24,
                             norm_topk_prob=True, decoder_sparse_step=2),
        "bert": encoder("Bert", **sizes),
        "bert-classifier": encoder("Bert", classifies, num_labels=LABELS, **sizes),
        "roberta": encoder("Roberta", type_vocab_size=1, **sizes),
        "roberta-classifier": encoder("Roberta", classifies, num_labels=LABELS, type_vocab_size=1, **sizes),
        "xlm-roberta": encoder("XLMRoberta", **sizes),
        "camembert": encoder("Camembert", type_vocab_size=1, **sizes),
        "distilbert": encoder("DistilBert", **distil),
        "distilbert-classifier": encoder("DistilBert", classifies, num_labels=LABELS, **distil),
    }  # fmt: skip


def main() -> None:
    """Write both files."""
    import torch

    kept, found = {}, {}
    for family, build in families().items():
        model = build().eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            data = json.loads((Path(folder) / "config.json").read_text())
            with safe_open(Path(folder) / "model.safetensors", "numpy") as file:
                tensors = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            save_file({name: drawn(name, tuple(shape)) for name, shape in tensors.items()}, Path(folder) / "model.safetensors")
            model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        kept[family] = {"config": data, "tensors": tensors}
        with torch.no_grad():
            given = {name: torch.from_numpy(value) for name, value in inputs(data).items()}
            own = model(**given, **({"use_cache": False} if "num_key_value_heads" in data else {}))
        for name in ("logits", "last_hidden_state", "pooler_output"):
            if own.get(name) is not None:
                found[f"{family}/{name}"] = own[name].numpy()
    lines = [f"{json.dumps(family)}: {json.dumps(kept[family], sort_keys=True)}" for family in sorted(kept)]
    CONFIGS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(RESULTS, **found)


if __name__ == "__main__":
    main()
