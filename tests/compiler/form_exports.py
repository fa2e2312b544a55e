"""Exports of tiny models of further families: `python tests/compiler/form_exports.py` writes tests/compiler/models/forms.

Needs the extra `export` (torch). Weights are random from a fixed seed, dimensions are fixed. The page of forms
(`docs/forms.py`) and its tests run from the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import exported as E

FOLDER = E.MODELS / "forms"
HIDDEN, INNER, HEADS, DIM, VOCABULARY = 32, 64, 4, 8, 40
TOKENS, KEYS, SIDE, PATCH, MELS, LABELS = 12, 10, 16, 4, 8, 10


def _decoder(kind: str, **fields: Any) -> Any:
    import transformers as t

    config = getattr(t, f"{kind}Config")(
        hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=HEADS, vocab_size=VOCABULARY,
        num_key_value_heads=HEADS // 2, max_position_embeddings=2 * TOKENS, use_cache=False, attn_implementation="eager",
        tie_word_embeddings=False, **fields,
    )  # fmt: skip
    return getattr(t, f"{kind}ForCausalLM")(config)


def _t5() -> Any:
    import transformers as t

    return t.T5ForConditionalGeneration(
        t.T5Config(
            vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=DIM, d_ff=INNER, num_layers=1, num_heads=HEADS,
            relative_attention_num_buckets=8, relative_attention_max_distance=16, feed_forward_proj="gated-gelu",
            use_cache=False, decoder_start_token_id=0,
        )
    )  # fmt: skip


def _whisper() -> Any:
    import transformers as t

    return t.WhisperForConditionalGeneration(
        t.WhisperConfig(
            vocab_size=VOCABULARY, num_mel_bins=MELS, d_model=HIDDEN, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
            max_source_positions=KEYS, max_target_positions=2 * TOKENS, use_cache=False, decoder_start_token_id=1,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
        )
    )  # fmt: skip


def _vit() -> Any:
    import transformers as t

    return t.ViTForImageClassification(
        t.ViTConfig(
            hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=HEADS, image_size=SIDE,
            patch_size=PATCH, num_labels=LABELS, attn_implementation="eager",
        )
    )  # fmt: skip


def _normed(inner: int, outer: int, size: int, stride: int = 1, groups: int = 1) -> Sequence[Any]:
    from torch import nn

    return nn.Conv2d(inner, outer, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outer)


def _mobilenet() -> Any:
    """A stem, and inverted residuals: one of stride 2, one around which its operand goes."""
    import torch
    from torch import nn

    class Inverted(nn.Module):
        def __init__(self, inner: int, outer: int, stride: int) -> None:
            super().__init__()
            self.around = stride == 1 and inner == outer
            wide = 3 * inner
            self.body = nn.Sequential(
                *_normed(inner, wide, 1),
                nn.ReLU6(),
                *_normed(wide, wide, 3, stride, wide),
                nn.ReLU6(),
                *_normed(wide, outer, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.body(x)
            return x + y if self.around else y

    stem = nn.Sequential(*_normed(3, 8, 3, 2), nn.ReLU6())
    body = nn.Sequential(Inverted(8, 12, 2), Inverted(12, 12, 1))
    return nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, LABELS))


def _resnet() -> Any:
    """A stem with a pool, and two residual blocks: one around which its operand goes, one with a convolution there."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, inner: int, outer: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(*_normed(inner, outer, 3, stride), nn.ReLU(), *_normed(outer, outer, 3))
            self.around = nn.Sequential(*_normed(inner, outer, 1, stride)) if stride > 1 else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.body(x) + self.around(x))

    stem = nn.Sequential(*_normed(3, 8, 3, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(
        stem, Residual(8, 8, 1), Residual(8, 12, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, LABELS)
    )


def _unet() -> Any:
    """One scale down and up again, with the skip beside it."""
    import torch
    from torch import nn

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(*_normed(3, 8, 3), nn.ReLU())
            self.down = nn.Sequential(nn.MaxPool2d(2), *_normed(8, 12, 3), nn.ReLU())
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
            self.last = nn.Sequential(*_normed(20, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.first(x)
            y: torch.Tensor = self.last(torch.cat([self.up(self.down(first)), first], 1))
            return y

    return UNet()


MODELS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "qwen2": (lambda: _decoder("Qwen2"), ("input_ids", "attention_mask")),
    "mistral": (lambda: _decoder("Mistral", head_dim=DIM, sliding_window=4), ("input_ids", "attention_mask")),
    "gemma2": (
        lambda: _decoder("Gemma2", head_dim=DIM, sliding_window=4, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
        ("input_ids", "attention_mask"),
    ),
    "t5": (_t5, ("input_ids", "attention_mask", "decoder_input_ids")),
    "whisper": (_whisper, ("input_features", "decoder_input_ids")),
    "vit": (_vit, ("pixel_values",)),
    "mobilenet": (_mobilenet, ("pixel_values",)),
    "resnet": (_resnet, ("pixel_values",)),
    "unet": (_unet, ("pixel_values",)),
}
"""Name -> how its model is built, and the names of its inputs."""


def _samples() -> dict[str, Any]:
    """An input of each name."""
    import torch

    ids = torch.arange(TOKENS)[None] % VOCABULARY
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": ids[:, : TOKENS // 2],
        "input_features": torch.randn(1, MELS, 2 * KEYS),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE),
    }


def export(name: str, path: Path) -> None:
    """ids, sound or an image -> `y` by the dynamo exporter."""
    import torch

    build, names = MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    model = build()
    E.randomize(model)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear) and name in ("mobilenet", "resnet", "unet"):
            torch.nn.init.normal_(part.weight, 0, part.weight[0].numel() ** -0.5)
    model = model.eval()
    whole = model.forward

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            if len(names) == 1 and not hasattr(model, "config"):
                return whole(*given)
            return model(**dict(zip(names, given, strict=True)))[0]

    given = tuple(_samples()[n] for n in names)
    with torch.no_grad():
        program = torch.onnx.export(
            First().eval(), given, dynamo=True, verbose=False, input_names=list(names), output_names=["y"]
        )
        assert program is not None
        program.save(path)
    E.slim(path)


def main() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    for name in MODELS:
        export(name, FOLDER / f"{name}.onnx")


if __name__ == "__main__":
    main()
