"""Adapters of other formats are refused by the format's name, with what to do; never as a kind that is not supported."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_adapters import pair

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_formats import TUNERS, foreign_key
from axlora.compiler.frontend.peft import read_content
from axlora.compiler.frontend.peft_keys import Part, take_apart

Write = Callable[..., Path]
BLOCK = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEYS = {
    f"lora_unet_{BLOCK}.lora_down.weight": "kohya",
    f"lora_unet_{BLOCK}.lora_up.weight": "kohya",
    f"lora_unet_{BLOCK}.alpha": "kohya",
    f"lora_te1_{BLOCK}.dora_scale": "kohya",
    "model.layers.0.q_proj.lora_up.weight": "kohya",
    "model.layers.0.attn.processor.to_q_lora.down.weight": "diffusers",
    "unet.mid_block.attn1.processor.to_out_lora.up.weight": "diffusers",
    "unet.attn1.to_q.lora.down.weight": "diffusers",
    "text_encoder.q_proj.lora_linear_layer.up.weight": "diffusers",
    f"lora_unet_{BLOCK}.hada_w1_a": "LoHa",
    "base_model.model.layers.0.q.hada_w2_b": "LoHa",
    f"lora_unet_{BLOCK}.hada_t1": "LoHa",
    f"lycoris_{BLOCK}.lokr_w1": "LoKr",
    "base_model.model.layers.0.q.lokr_w2_a": "LoKr",
    f"lora_unet_{BLOCK}.oft_blocks": "OFT",
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
    "layers.0.attention.wq.lora_a.weight": "torchtune",
    "model.layers.0.self_attn.q_proj.lora_a": "MLX",
    "model.decoder.layers.0.adapter.linear_in.weight": "NeMo",
    "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta": "trainable tokens",
    f"lora_unet_{BLOCK}.diff": "kohya",
    f"{BLOCK}.diff_b": "LyCORIS",
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("beside", [True, False])
def test_tensors_of_other_formats(write_peft: Write, key: str, beside: bool) -> None:
    """Alone, and beside branches that would fit."""
    tensors = {key: np.ones((4, 4), np.float32)} | (pair("q") if beside else {})
    with pytest.raises(BadAdapter, match=KEYS[key]) as error:
        read_content(write_peft(tensors))
    assert key in error.value.message
    assert "not supported" not in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("kind", sorted(TUNERS))
def test_other_tuners_by_their_configuration(write_peft: Write, kind: str) -> None:
    with pytest.raises(BadAdapter, match=rf"peft_type is '{kind}' \(") as error:
        read_content(write_peft(pair("q"), peft_type=kind))
    assert TUNERS[kind].name in error.value.message
    assert error.value.hint == TUNERS[kind].hint


@pytest.mark.parametrize("kind", [None, 3, "SOMETHING_NEW", "lora", ["LORA"], {"a": 1}])
def test_unknown_tuners(write_peft: Write, kind: object) -> None:
    with pytest.raises(BadAdapter, match="peft_type is "):
        read_content(write_peft(pair("q"), peft_type=kind))


def test_names_of_lora_are_none_of_another_format() -> None:
    """Parts of module names that look like tuners' do no harm."""
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
    "adapter_model.bin": (b"PK\x03\x04", "pickle"),
    "law.pt": (b"PK\x03\x04", "pickle"),
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


SAFETENSORS = {
    f"lora_unet_{BLOCK}.lora_down.weight": "kohya",
    "layers.0.q.lora_a": "MLX",
    "base_model.model.q.lora_A.weight": "without a configuration",
}


@pytest.mark.parametrize("key", SAFETENSORS)
@pytest.mark.parametrize("where", ["file", "directory"])
def test_safetensors_files_alone(tmp_path: Path, key: str, where: str) -> None:
    folder = tmp_path / "law"
    folder.mkdir()
    save_file({key: np.ones((4, 4), np.float32)}, folder / "law.safetensors")
    with pytest.raises(BadAdapter, match=SAFETENSORS[key]):
        read_content(folder / "law.safetensors" if where == "file" else folder)


def test_kohya_tensors_under_the_name_of_peft_without_a_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "law"
    folder.mkdir()
    save_file({f"lora_unet_{BLOCK}.lora_down.weight": np.ones((4, 4), np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(BadAdapter, match="kohya"):
        read_content(folder)


def test_diffusers_by_the_name_of_its_file(tmp_path: Path) -> None:
    save_file({"unet.q.lora_A.weight": np.ones((4, 4), np.float32)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(BadAdapter, match="diffusers"):
        read_content(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_adapters_in_folders_of_their_own_are_named(write_peft: Write, tmp_path: Path, count: int) -> None:
    names = [f"a{i:02}" for i in range(count)]
    for name in names:
        write_peft(pair("q"), name)
    with pytest.raises(BadAdapter, match="in folders of their own") as error:
        read_content(tmp_path)
    assert all(name in error.value.message for name in names[:8])
    assert str(tmp_path / "a00") in error.value.hint
    assert read_content(tmp_path / "a00").loras


def test_a_whole_model_shards_and_mlx(write_peft: Write, tmp_path: Path) -> None:
    whole = tmp_path / "model"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    save_file({"q.weight": np.ones((4, 4), np.float32)}, whole / "model.safetensors")
    with pytest.raises(BadAdapter, match="a whole model, not of an adapter"):
        read_content(whole)
    folder = write_peft(pair("q"), "shards")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model-00001-of-00002.safetensors")
    with pytest.raises(BadAdapter, match="in 1 files"):
        read_content(folder)
    mlx = write_peft(pair("q"), "mlx", peft_type=None, fine_tune_type="lora")
    with pytest.raises(BadAdapter, match="MLX"):
        read_content(mlx)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, struct.pack("<Q", 5) + b"[1,2]", struct.pack("<Q", 3) + b"nul"])
def test_damaged_safetensors_alone_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "law.safetensors").write_bytes(data)
    with pytest.raises(BadAdapter, match="without a configuration"):
        read_content(tmp_path / "law.safetensors")
