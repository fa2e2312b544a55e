"""Exports of tiny decoders of other families: `python tests/compiler/decoders.py` writes tests/compiler/models/decoders.

Needs the extra `export` (torch). Weights are random from a fixed seed. Each family brings something of its own: norms of heads
(Qwen3), heads interleaved in a packed projection and partial rotary (GPT-NeoX), scaled embeddings and gains less one (Gemma),
partial rotary and parallel residuals (Phi), learned positions with an offset and ReLU (OPT).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""What the compiler reads; the rest of the metadata is stack traces."""
FOLDER = Path(__file__).parent / "models" / "decoders"
HIDDEN, INNER, HEADS, DIM, VOCABULARY, POSITIONS = 32, 48, 4, 8, 40, 32


def families() -> dict[str, Callable[[], Any]]:
    """Name -> how its model is built."""
    import transformers as t

    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": HEADS, "vocab_size": VOCABULARY}
    common = sizes | {"intermediate_size": INNER, "max_position_embeddings": POSITIONS}
    return {
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**common, num_key_value_heads=2, head_dim=DIM)),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**common, rotary_pct=0.5)),
        "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**common, num_key_value_heads=1, head_dim=DIM)),
        "phi": lambda: t.PhiForCausalLM(t.PhiConfig(**common, partial_rotary_factor=0.5)),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(**sizes, ffn_dim=INNER, max_position_embeddings=POSITIONS, word_embed_proj_dim=HIDDEN)
        ),
    }


def export(model: Any, path: Path) -> None:
    """ids -> logits by the dynamo exporter, batch and sequence free."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any) -> Any:
            return self.model(input_ids=input_ids, use_cache=False).logits

    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(torch.empty_like(value).uniform_(-0.2, 0.2))
            else:
                value.normal_(0, 0.15)
    free = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=2, max=POSITIONS)}}
    ids = (torch.arange(12)[None] % VOCABULARY,)
    program = torch.onnx.export(
        Logits().eval(), ids, dynamo=True, input_names=["input_ids"], output_names=["logits"], dynamic_shapes=free
    )
    program.save(path)
    stored = onnx.load(path)
    for node in [*stored.graph.node, *(n for f in stored.functions for n in f.node)]:
        kept = [(e.key, e.value) for e in node.metadata_props if e.key == SCOPES]
        node.doc_string = ""
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
    del stored.metadata_props[:]
    del stored.graph.metadata_props[:]
    onnx.save(stored, path)


def main() -> None:
    """Write every file."""
    import torch

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, build in families().items():
        torch.manual_seed(sum(map(ord, name)))
        export(build(), FOLDER / f"{name}.onnx")


if __name__ == "__main__":
    main()
