"""Adapters that are not read are refused by their name, with what to do; never as a kind that is not supported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_adapters import pair

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_formats import REFUSED, foreign_key
from axlora.compiler.frontend.peft import read_content
from axlora.compiler.frontend.peft_keys import Part, take_apart
from axlora.compiler.frontend.tuners.read import TUNERS

Write = Callable[..., Path]
BLOCK = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEYS = {
    f"lora_unet_{BLOCK}.oft_blocks": "OFT",
    "base_model.model.layers.0.q.hada_w2_b": "LoHa",
    "base_model.model.layers.0.q.lokr_w2_a": "LoKr",
    "base_model.model.layers.0.q.oft_R.weight": "OFT",
    "base_model.model.layers.0.q.boft_s": "BOFT",
    "base_model.model.layers.0.k.ia3_l": "IA3",
    "base_model.model.layers.0.k.lora_E": "AdaLoRA",
    "base_model.model.layers.0.q.vera_lambda_b": "VeRA",
    "base_model.model.layers.0.q.fourierft_spectrum": "FourierFT",
    "base_model.internal_xlora_classifier.layers.0.weight": "X-LoRA",
    "base_model.model.layers.0.q.lily_A.weight": "Lily",
    "base_model.model.layers.0.q.poly_lora_A": "Poly",
    "base_model.model.layers.0.q.shira_weight": "SHiRA",
    "base_model.model.layers.0.q.bone_block": "Bone",
    "prompt_embeddings": "prompt tuning",
    "prefix_encoder.embedding.weight": "prefix tuning",
    "base_model.model.layers.0.attn.adaption_prompt": "LLaMA-Adapter",
    "model.decoder.layers.0.adapter.linear_in.weight": "NeMo",
    "base_model.model.layers.0.q.lora_route.weight": "mixture of LoRA experts",
    "base_model.model.layers.0.q.lora_A3.weight": "mixture of LoRA experts",
    "mixlora.layers.0.mlp.moe_gate.weight": "mixture of LoRA experts",
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("beside", [False, True])
def test_tensors_of_other_formats(write_peft: Write, key: str, beside: bool) -> None:
    """In a directory whose configuration says LoRA, alone or beside a branch."""
    tensors = {key: np.ones((4, 4), np.float32)} | (pair("q") if beside else {})
    with pytest.raises(BadAdapter, match=KEYS[key]) as error:
        read_content(write_peft(tensors))
    assert error.value.hint
    assert key in str(error.value)


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_other_tuners_by_their_configuration(write_peft: Write, kind: str) -> None:
    with pytest.raises(BadAdapter, match=rf"peft_type is '{kind}' \(") as error:
        read_content(write_peft(pair("q"), peft_type=kind))
    assert error.value.hint
    assert kind not in TUNERS


@pytest.mark.parametrize("kind", [None, 3, ["LORA"], "x" * 100])
def test_no_known_tuner(write_peft: Write, kind: object) -> None:
    with pytest.raises(BadAdapter, match=r"peft_type is .*, which is not known"):
        read_content(write_peft(pair("q"), peft_type=kind))


def test_names_of_modules_are_no_formats() -> None:
    """A module may be called like a part of another format."""
    for module in (
        "model.layers.0.self_attn.q_proj",
        "backbone.polynomial.miss",
        "adapters_of.hra",
        "processor.q",
        "prefix_encoder.q",
    ):
        for part in ("lora_A", "lora_A.law", "lora_B", "lora_B.default"):
            key = take_apart(f"base_model.model.{module}.{part}.weight")
            assert key is not None
            assert (key.module, key.part) == (module, Part.BRANCH)
    assert foreign_key("base_model.model.lm_head.weight") is None


FILES = {
    "renamed": (b"\x0c\0\0\0TORT\0\0\0\0", "ONNX Runtime"),
    "law.gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "adapter.data": (b"GGUF\x03\0\0\0", "GGUF"),
    "adapters.npz": (b"PK\x03\x04", "MLX"),
    "law.nemo": (b"x", "NeMo"),
    "model.onnx": (b"\x08\x08", "ONNX model"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["file", "directory", "beside a configuration"])
def test_files_of_other_formats(tmp_path: Path, name: str, where: str) -> None:
    data, text = FILES[name]
    folder = tmp_path / "law"
    folder.mkdir()
    (folder / name).write_bytes(data)
    (folder / "README.md").write_text("an adapter")
    if where == "beside a configuration":
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    with pytest.raises(BadAdapter, match=text) as error:
        read_content(folder / name if where == "file" else folder)
    assert error.value.hint
    assert name in str(error.value)


def test_a_whole_model_and_branches_without_a_configuration(tmp_path: Path) -> None:
    whole = tmp_path / "model"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    save_file({"q.weight": np.ones((4, 4), np.float32)}, whole / "model.safetensors")
    with pytest.raises(BadAdapter, match="a whole model, not of an adapter"):
        read_content(whole)
    save_file(pair("q"), tmp_path / "law.safetensors")
    with pytest.raises(BadAdapter, match="weights without a configuration"):
        read_content(tmp_path / "law.safetensors")


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\5\0\0\0\0\0\0\0[1,2]", b"\3\0\0\0\0\0\0\0nul"])
def test_damaged_safetensors_alone_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "law.safetensors").write_bytes(data)
    with pytest.raises(BadAdapter, match="damaged safetensors file"):
        read_content(tmp_path / "law.safetensors")
