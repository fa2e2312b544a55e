"""Exports of tiny transformers models with PEFT adapters: `python tests/compiler/exported.py` writes tests/compiler/models.

Needs the extra `export` (torch). Weights are random from a fixed seed; every dimension has its own value. The tests run
from the files; quantized forms are made from them by onnxruntime when a test wants them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

MODELS = Path(__file__).parent / "models"
LAYERS, HIDDEN, INNER, HEADS, VOCAB, BATCH, SEQUENCE = 2, 24, 40, 4, 37, 1, 16
RANK, LABELS = 5, 3
EXPORTERS = ("dynamo", "script")


@dataclass(frozen=True)
class Case:
    """One model: how it is built, where LoRA sits, what the tests expect."""

    name: str
    build: Callable[[], Any]
    targets: tuple[str, ...] = ()
    linears: int = 0
    """Linears with constant weights that a correct reader finds."""
    branches: int = 0
    """LoRA branches among them."""
    peft: dict[str, Any] = field(default_factory=dict)
    """More fields of LoraConfig."""
    chained: bool = False
    """Two adapters active at once."""
    half: str = ""
    """Base in float16 or bfloat16; A and B stay float32."""
    exporters: tuple[str, ...] = EXPORTERS
    attention: str = "eager"
    """transformers' implementation; sdpa at opset 23 becomes ONNX's Attention."""
    opset: int | None = None
    """None: the dynamo exporter's own, 18 for TorchScript."""


def _config(kind: str) -> Any:
    import transformers as t

    common = {"vocab_size": VOCAB, "attn_implementation": "eager"}
    if kind == "bert":
        return t.BertConfig(
            hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            max_position_embeddings=24, num_labels=LABELS, **common,
        )  # fmt: skip
    if kind == "distilbert":
        return t.DistilBertConfig(
            dim=HIDDEN, hidden_dim=INNER, n_layers=LAYERS, n_heads=HEADS, max_position_embeddings=24, **common
        )
    if kind == "gpt2":
        return t.GPT2Config(
            n_embd=HIDDEN, n_inner=INNER, n_layer=LAYERS, n_head=HEADS, n_positions=24, use_cache=False, **common
        )
    return t.LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2, max_position_embeddings=24, use_cache=False, tie_word_embeddings=False, **common,
    )  # fmt: skip


def _make(kind: str, head: str) -> Callable[[], Any]:
    def build() -> Any:
        import transformers as t

        return getattr(t, head)(_config(kind))

    return build


_BERT = _make("bert", "BertForSequenceClassification")
_LLAMA = _make("llama", "LlamaForCausalLM")
_GPT2 = _make("gpt2", "GPT2LMHeadModel")
_CONV1D = {"fan_in_fan_out": True}

CASES = (
    Case("bert", _BERT, (), 6 * LAYERS + 2),
    Case("bert-lora", _BERT, ("query", "value", "intermediate.dense"), 6 * LAYERS + 2, 3 * LAYERS),
    Case(
        "bert-base-chained",
        _make("bert", "BertModel"),
        ("query", "output.dense"),
        6 * LAYERS,
        6 * LAYERS,
        chained=True,
        exporters=("dynamo",),
    ),
    Case("bert-dora", _BERT, ("key",), 6 * LAYERS + 2, LAYERS, {"use_dora": True}),
    Case("distilbert", _make("distilbert", "DistilBertModel"), (), 6 * LAYERS, attention="sdpa"),
    Case("distilbert-lora", _make("distilbert", "DistilBertModel"), ("q_lin", "v_lin", "lin2"), 6 * LAYERS, 3 * LAYERS),
    Case("gpt2", _GPT2, (), 4 * LAYERS + 1, attention="sdpa"),
    Case("gpt2-lora", _GPT2, ("c_attn", "c_fc", "mlp.c_proj"), 4 * LAYERS + 1, 3 * LAYERS, _CONV1D),
    Case("llama", _LLAMA, (), 7 * LAYERS + 1),
    Case("llama-lora", _LLAMA, ("q_proj", "v_proj", "down_proj"), 7 * LAYERS + 1, 3 * LAYERS),
    Case("llama-sdpa", _LLAMA, ("gate_proj",), 7 * LAYERS + 1, LAYERS, exporters=("dynamo",), attention="sdpa", opset=23),
    Case("llama-half", _LLAMA, ("q_proj", "o_proj"), 7 * LAYERS + 1, 2 * LAYERS, half="float16", exporters=("dynamo",)),
    Case("llama-bfloat", _LLAMA, ("k_proj",), 7 * LAYERS + 1, LAYERS, half="bfloat16", exporters=("dynamo",)),
)
BY_NAME = {case.name: case for case in CASES}
ADAPTED = {"bert": "bert-lora", "distilbert": "distilbert-lora", "gpt2": "gpt2-lora", "llama": "llama-lora"}
"""Plain export -> the case whose PEFT directory belongs to it."""


def randomize(model: Any) -> None:
    """B, and what starts as ones or zeros, away from its start: nothing may cancel."""
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
            elif "magnitude" in name:
                value.mul_(torch.empty_like(value).uniform_(0.7, 1.4))
            elif value.ndim == 1:
                value.add_(torch.empty_like(value).uniform_(-0.2, 0.2))
            elif "weight" in name and "lora" not in name:
                value.normal_(0, 0.15)


def build(case: Case) -> Any:
    """The torch model, ready to export."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(sum(map(ord, case.name.split("-")[0])))
    model = case.build()
    model.set_attn_implementation(case.attention)
    if case.half:
        model = model.to(getattr(torch, case.half))
    if case.targets:
        config = LoraConfig(r=RANK, lora_alpha=8, target_modules=list(case.targets), **case.peft)
        model = get_peft_model(model, config)
        if case.chained:
            other = LoraConfig(r=RANK + 2, lora_alpha=RANK + 2, target_modules=list(case.targets))
            model.add_adapter("second", other)
            model.base_model.set_adapter(["default", "second"])
    randomize(model)
    return model.eval()


def export(case: Case, exporter: str, path: Path) -> None:
    """Write one ONNX file, weights inside, without the exporter's stack traces."""
    import torch

    model = build(case)
    model = model.get_base_model() if case.targets else model
    whole = model.forward
    model.forward = lambda input_ids, attention_mask: whole(input_ids=input_ids, attention_mask=attention_mask)[0]
    ids = torch.arange(2 * SEQUENCE).reshape(2, SEQUENCE) % VOCAB
    given, names = (ids, torch.ones_like(ids)), ["input_ids", "attention_mask"]
    common = {"input_names": names, "output_names": ["y"]}
    with torch.no_grad():
        if exporter == "dynamo":
            free = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=24)}
            program = torch.onnx.export(
                model, given, dynamo=True, dynamic_shapes=(free, free), verbose=False, opset_version=case.opset, **common
            )
            assert program is not None
            program.save(path)
        else:
            axes = {name: {0: "batch", 1: "sequence"} for name in names}
            torch.onnx.export(
                model, given, str(path), dynamo=False, dynamic_axes=axes, opset_version=case.opset or 18, **common
            )
    slim(path)


def slim(path: Path) -> None:
    """Drop stack traces, doc strings and value_info, which are most of a tiny model's file."""
    proto = onnx.load(path)
    for data in path.parent.glob(path.name + ".data"):
        data.unlink()
    for node in proto.graph.node:
        node.doc_string = ""
        kept = [p for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    del proto.graph.value_info[:], proto.graph.metadata_props[:], proto.metadata_props[:]
    onnx.save(proto, path)


def write_peft(case: Case, folder: Path) -> None:
    """The adapter as PEFT saves it: configuration and tensors."""
    with tempfile.TemporaryDirectory() as scratch:
        build(case).save_pretrained(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(Path(scratch) / name, folder / name)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def feeds(count: int = 4, sequence: int = SEQUENCE) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of every model: ids, and a mask that hides a few tokens of every other sample."""
    random = np.random.default_rng(7)
    for i in range(count):
        mask = np.ones((BATCH, sequence), np.int64)
        mask[:, sequence - 3 * (i % 2) :] = 0
        yield {"input_ids": random.integers(0, VOCAB, (BATCH, sequence)), "attention_mask": mask}


FORMS: dict[str, dict[str, Any]] = {
    "qdq": {},
    "qdq-u8": {"activation_type": "QUInt8"},
    "qdq-u8u8": {"activation_type": "QUInt8", "weight_type": "QUInt8", "per_channel": False},
    "dynamic": {"weight_type": "QInt8", "per_channel": False},
    "dynamic-channel": {"weight_type": "QInt8", "per_channel": True},
    "dynamic-u8": {"weight_type": "QUInt8", "per_channel": False},
    "dynamic-u8-channel": {"weight_type": "QUInt8", "per_channel": True},
}
"""onnxruntime's quantizers; qdq is per channel."""


def quantize(source: Path, form: str, path: Path) -> None:
    """Write a quantized copy of an exported model. The exporters' value_info is dropped: the quantizer trips over it."""
    from onnxruntime import quantization as q

    class Samples(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._all = feeds()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._all, None)

    proto = onnx.load(source)
    del proto.graph.value_info[:]
    options = {k: getattr(q.QuantType, v) if isinstance(v, str) else v for k, v in FORMS[form].items()}
    if form.startswith("qdq"):
        q.quantize_static(proto, path, Samples(), **({"per_channel": True} | options))
    else:
        q.quantize_dynamic(proto, path, **options)


def main() -> None:
    """Write every file anew."""
    MODELS.mkdir(exist_ok=True)
    for case in CASES:
        for exporter in case.exporters:
            export(case, exporter, MODELS / f"{case.name}.{exporter}.onnx")
    for name in ADAPTED.values():
        write_peft(BY_NAME[name], MODELS / name)


if __name__ == "__main__":
    main()
