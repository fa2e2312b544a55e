"""Exports of tiny models of families that write what others do not: `python tests/compiler/family_exports.py` writes
tests/compiler/models/families.

Needs the extra `export` (torch). Weights are random from a fixed seed, dimensions are fixed; of the exporter's notes on nodes
only the scopes stay, which name linears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import exported as E
import onnx

FOLDER = E.MODELS / "families"
TOKENS, VOCABULARY, SIDE = 12, 40, 16
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 1}
TEXT = SIZES | {"vocab_size": VOCABULARY, "max_position_embeddings": 24, "pad_token_id": 1}
GROUPED = TEXT | {"num_key_value_heads": 2, "use_cache": False}
SCOPES = "pkg.torch.onnx.name_scopes"

FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "roberta": ("AutoModel", "RobertaConfig", TEXT),
    "mpnet": ("AutoModel", "MPNetConfig", TEXT),
    "modernbert": ("AutoModel", "ModernBertConfig", TEXT | {
        "local_attention": 8, "cls_token_id": 2, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
        "num_hidden_layers": 2,
    }),
    "mobilebert": ("AutoModel", "MobileBertConfig", TEXT | {
        "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2,
    }),
    "albert": ("AutoModel", "AlbertConfig", TEXT | {"embedding_size": 16, "num_hidden_layers": 2}),
    "phi3": ("AutoModelForCausalLM", "Phi3Config", GROUPED),
    "gemma3": ("AutoModelForCausalLM", "Gemma3TextConfig", GROUPED | {"head_dim": 8, "sliding_window": 8}),
    "hunyuan": ("AutoModelForCausalLM", "HunYuanDenseV1Config", GROUPED | {"head_dim": 8}),
    "glm4": ("AutoModelForCausalLM", "Glm4Config", GROUPED | {"head_dim": 8}),
    "nemotron": ("AutoModelForCausalLM", "NemotronConfig", GROUPED),
    "lfm2": ("AutoModelForCausalLM", "Lfm2Config", GROUPED | {
        "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False,
    }),
    "gptj": ("AutoModelForCausalLM", "GPTJConfig", {
        "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 24, "rotary_dim": 4,
        "use_cache": False,
    }),
    "falcon": ("AutoModelForCausalLM", "FalconConfig", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "use_cache": False,
    }),
    "bloom": ("AutoModelForCausalLM", "BloomConfig", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 4, "use_cache": False,
    }),
    "xglm": ("AutoModelForCausalLM", "XGLMConfig", {
        "vocab_size": VOCABULARY, "d_model": 32, "num_layers": 1, "attention_heads": 4, "ffn_dim": 48,
        "max_position_embeddings": 24, "use_cache": False,
    }),
    "dinov3": ("AutoModel", "DINOv3ViTConfig", SIZES | {"image_size": SIDE, "patch_size": 4}),
}  # fmt: skip
"""Name -> (class, configuration, its fields)."""


def inputs(name: str) -> Sequence[str]:
    """Names of a family's inputs."""
    kind = FAMILIES[name][0]
    if kind == "AutoModelForCausalLM":
        return ["input_ids"]
    return ["pixel_values"] if "pad_token_id" not in FAMILIES[name][2] else ["input_ids", "attention_mask"]


def _export(name: str) -> onnx.ModelProto:
    import torch
    import transformers as t

    kind, config, fields = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(t, kind).from_config(getattr(t, config)(**fields)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) if parameter.dim() == 1 else 0
    given = {
        "input_ids": torch.randint(2, VOCABULARY, (1, TOKENS)),
        "attention_mask": torch.ones(1, TOKENS, dtype=torch.long),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE),
    }

    class First(torch.nn.Module):
        """The model's first output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.model(**dict(zip(inputs(name), values, strict=True)))[0]
            return out

    values = tuple(given[each] for each in inputs(name))
    program = torch.onnx.export(
        First().eval(), values, dynamo=True, input_names=inputs(name), output_names=["out"], verbose=False
    )
    assert program is not None
    return program.model_proto


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for name in FAMILIES:
        proto = _export(name)
        for node in proto.graph.node:
            kept = [p for p in node.metadata_props if p.key == SCOPES]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
        del proto.graph.value_info[:]
        onnx.save(proto, FOLDER / f"{name}.onnx")


if __name__ == "__main__":
    main()
