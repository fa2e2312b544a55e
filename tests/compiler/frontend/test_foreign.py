"""Adapters that kohya, LyCORIS, diffusers, MLX and torchtune write, against the same branch in PEFT's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import PeftLora
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.peft import read_content
from axlora.compiler.frontend.resolve import resolve

RANDOM = np.random.default_rng(0)
K, N, R = 12, 8, 3
DOWN, UP = RANDOM.normal(0, 1, (R, K)).astype(np.float32), RANDOM.normal(0, 1, (N, R)).astype(np.float32)
WEIGHT = RANDOM.normal(0, 1, (K, N))
ATTENTION = "down_blocks.0.attentions.1.transformer_blocks.0.attn1"
LLAMA = "layers.0.self_attn"
FLAT = ATTENTION.replace(".", "_")
ALPHA = np.full((), 2, np.float32)


def linears(*paths: str, weight: np.ndarray = WEIGHT) -> list[Candidate]:
    shape = (weight.shape[0], weight.shape[1])
    return [Candidate(p, p, (p,), 1, shape, lambda: Held(weight), np.zeros(shape[1])) for p in paths]


def file(folder: Path, tensors: dict[str, np.ndarray], name: str = "law.safetensors", **fields: Any) -> Path:
    """A directory of one file, and with fields a configuration."""
    (folder / "law").mkdir()
    save_file({key: np.ascontiguousarray(v) if v.ndim else v for key, v in tensors.items()}, folder / "law" / name)
    if fields:
        (folder / "law" / "adapter_config.json").write_text(json.dumps(fields))
    return folder / "law"


def added(lora: PeftLora) -> np.ndarray:
    return lora.scale * lora.a @ lora.b


Case = tuple[dict[str, np.ndarray], dict[str, Any], str, float]
TUNE = {"peft_type": "LORA", "r": R, "lora_alpha": 6}
CASES: dict[str, Case] = {
    "kohya": ({"lora_unet_{flat}_to_q.lora_down.weight": DOWN, "lora_unet_{flat}_to_q.lora_up.weight": UP,
               "lora_unet_{flat}_to_q.alpha": ALPHA}, {}, f"{ATTENTION}.to_q", 2 / R),
    "kohya without alpha": ({"lora_unet_{flat}_to_q.lora_down.weight": DOWN, "lora_unet_{flat}_to_q.lora_up.weight": UP},
                            {}, f"unet.{ATTENTION}.to_q", 1),
    "kohya, text encoder": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": DOWN,
                             "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": UP},
                            {}, "text_model.encoder.layers.0.mlp.fc1", 1),
    "kohya with a middle": ({"lora_unet_x.lora_down.weight": DOWN, "lora_unet_x.lora_up.weight": UP @ np.diag([2, 1, 4]),
                             "lora_unet_x.lora_mid.weight": np.diag([0.5, 1, 0.25]).astype(np.float32)}, {}, "x", 1),
    "diffusers, processors": ({"unet.{dots}.processor.to_out_lora.down.weight": DOWN,
                               "unet.{dots}.processor.to_out_lora.up.weight": UP}, {}, f"{ATTENTION}.to_out.0", 1),
    "diffusers": ({"unet.{dots}.to_k.lora.down.weight": DOWN, "unet.{dots}.to_k.lora.up.weight": UP}, {},
                  f"{ATTENTION}.to_k", 1),
    "diffusers, PEFT's names": ({"unet.{dots}.to_k.lora_A.weight": DOWN, "unet.{dots}.to_k.lora_B.weight": UP,
                                 "unet.{dots}.to_k.alpha": ALPHA}, {}, f"{ATTENTION}.to_k", 2 / R),
    "diffusers, text encoder": ({"text_encoder.text_model.layers.0.q_proj.lora_linear_layer.down.weight": DOWN,
                                 "text_encoder.text_model.layers.0.q_proj.lora_linear_layer.up.weight": UP}, {},
                                "text_model.layers.0.q_proj", 1),
    "processors with a configuration": ({"layers.0.attn.processor.to_q_lora.down.weight": DOWN,
                                         "layers.0.attn.processor.to_q_lora.up.weight": UP}, TUNE, f"{LLAMA}.q_proj", 2),
    "MLX": ({"model.layers.0.self_attn.q_proj.lora_a": DOWN.T, "model.layers.0.self_attn.q_proj.lora_b": UP.T},
            {"fine_tune_type": "lora", "lora_parameters": {"rank": R, "scale": 2.5}}, f"model.{LLAMA}.q_proj", 2.5),
    "torchtune": ({"layers.0.attn.q_proj.lora_a.weight": DOWN, "layers.0.attn.q_proj.lora_b.weight": UP}, TUNE,
                  f"model.{LLAMA}.q_proj", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("alone", [False, True])
def test_a_branch(tmp_path: Path, name: str, alone: bool) -> None:
    """From its directory, and from the file itself; beside a linear that it does not mean."""
    tensors, fields, path, scale = CASES[name]
    named = {key.format(flat=FLAT, dots=ATTENTION): value for key, value in tensors.items()}
    folder = file(tmp_path, named, "adapters.safetensors" if "MLX" in name else "pytorch_lora_weights.safetensors", **fields)
    given = next(folder.glob("*.safetensors")) if alone else folder
    ((lora, linear),) = resolve("law", given, linears(f"{path}_other", path, f"other.{path}")).loras
    assert linear == path
    assert np.allclose(added(lora), scale * DOWN.T @ UP.T, atol=1e-6)
    assert lora.rank == R


def hada(n: int) -> tuple[np.ndarray, np.ndarray]:
    return RANDOM.normal(0, 1, (N, n)).astype(np.float32), RANDOM.normal(0, 1, (n, K)).astype(np.float32)


def test_lycoris_products_and_differences(tmp_path: Path) -> None:
    """LoHa, LoKr of whole factors (whose alpha counts nothing) and of a product, a full difference with bias."""
    (a1, b1), (a2, b2) = hada(2), hada(2)
    w1, w2 = RANDOM.normal(0, 1, (2, 3)).astype(np.float32), RANDOM.normal(0, 1, (4, 4)).astype(np.float32)
    w2a, w2b = w2[:, :2], RANDOM.normal(0, 1, (2, 4)).astype(np.float32)
    diff, bias = RANDOM.normal(0, 1, (N, K)).astype(np.float32), RANDOM.normal(0, 1, N).astype(np.float32)
    loha = {"lycoris_a.hada_w1_a": a1, "lycoris_a.hada_w1_b": b1, "lycoris_a.hada_w2_a": a2, "lycoris_a.hada_w2_b": b2}
    tensors = loha | {
        "lycoris_a.alpha": ALPHA, "lora_unet_b.lokr_w1": w1, "lora_unet_b.lokr_w2": w2, "lora_unet_b.alpha": ALPHA,
        "lora_unet_c.lokr_w1": w1, "lora_unet_c.lokr_w2_a": w2a, "lora_unet_c.lokr_w2_b": w2b, "lora_unet_c.alpha": ALPHA,
        "lora_unet_d.diff": diff, "lora_unet_d.diff_b": bias,
    }  # fmt: skip
    found = {name: lora for lora, name in resolve("law", file(tmp_path, tensors), linears("a", "b", "c", "d")).loras}
    assert np.allclose(added(found["a"]), ((a1 @ b1) * (a2 @ b2)).T, atol=1e-5)
    assert np.allclose(added(found["b"]), np.kron(w1, w2).T, atol=1e-5)
    assert np.allclose(added(found["c"]), np.kron(w1, w2a @ w2b).T, atol=1e-5)
    assert np.allclose(added(found["d"]), diff.T, atol=1e-5)
    assert np.array_equal(found["d"].base_bias, bias)


@pytest.mark.parametrize("outputs", [True, False])
def test_norms_that_lycoris_trains(tmp_path: Path, outputs: bool) -> None:
    """dora_scale of outputs is DoRA's magnitude; of inputs every row has its norm."""
    norms = RANDOM.uniform(0.5, 2, (N, 1) if outputs else (1, K)).astype(np.float32)
    tensors = {"lora_unet_q.lora_down.weight": DOWN, "lora_unet_q.lora_up.weight": UP, "lora_unet_q.dora_scale": norms}
    ((lora, _),) = resolve("law", file(tmp_path, tensors), linears("q")).loras
    plain = WEIGHT + DOWN.T @ UP.T
    if outputs:
        assert lora.magnitude is not None
        assert np.array_equal(lora.magnitude, norms[:, 0])
        return
    assert np.allclose(WEIGHT + added(lora), plain * norms.T / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_a_convolution(tmp_path: Path) -> None:
    """Patches' elements are the channels of each place of the kernel, one place after another."""
    down = RANDOM.normal(0, 1, (R, 3, 2, 2)).astype(np.float32)
    tensors = {"lora_unet_q.lora_down.weight": down, "lora_unet_q.lora_up.weight": UP[:, :, None, None]}
    ((lora, _),) = resolve("law", file(tmp_path, tensors), linears("q")).loras
    assert np.array_equal(lora.a, down.transpose(2, 3, 1, 0).reshape(12, R))


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"r": R, "lora_alpha": 12}, 4.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / R**0.5),
        ({"lora_alpha": 1, "alpha_pattern": {"attn1.to_k": 9}}, 3.0),
    ],
)
def test_the_configuration_that_diffusers_writes_into_the_file(tmp_path: Path, fields: dict[str, Any], scale: float) -> None:
    tensors = {f"unet.{ATTENTION}.to_k.lora_A.weight": DOWN, f"unet.{ATTENTION}.to_k.lora_B.weight": UP}
    metadata = {f"unet.{name}": value for name, value in fields.items()} | {"text_encoder.lora_alpha": 77}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
    ((lora, _),) = resolve("law", tmp_path, linears(f"{ATTENTION}.to_k")).loras
    assert lora.scale == pytest.approx(scale)


Refused = tuple[dict[str, np.ndarray], dict[str, Any], str]
REFUSED: dict[str, Refused] = {
    "half of a pair": ({"lora_unet_q.lora_down.weight": DOWN}, {}, "has lora_A but no lora_B"),
    "no pair": ({"lora_unet_q.lora_down.weight": DOWN, "lora_unet_q.lora_up.weight": UP.T}, {}, "do not pair"),
    "MLX without a scale": ({"q.lora_a": DOWN.T, "q.lora_b": UP.T}, {}, "its scale is not known"),
    "a tensor of something else": ({"lora_unet_q.lora_down.weight": DOWN, "lora_unet_q.extra": UP}, {}, "is none that kohya"),
    "OFT of LyCORIS": ({"lora_unet_q.lora_down.weight": DOWN, "lora_unet_p.oft_blocks": UP}, {}, "LyCORIS' OFT"),
    "twice": ({"q.lora_down.weight": DOWN, "q.lora.down.weight": DOWN}, {}, "stand there twice"),
    "half a product": ({"lora_unet_q.hada_w1_a": UP}, {}, "LoHa has no hada_w1_b"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    tensors, fields, text = REFUSED[name]
    with pytest.raises(BadAdapter, match=text) as error:
        read_content(file(tmp_path, tensors, **fields))
    assert error.value.hint


def test_a_part_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    """A file of U-Net and text encoder, for the model of the one."""
    tensors = {}
    for module in ("lora_unet_mid_q", "lora_te_text_model_q"):
        tensors |= {f"{module}.lora_down.weight": DOWN, f"{module}.lora_up.weight": UP}
    with pytest.raises(BadAdapter, match="'lora_te_text_model_q' is no linear of the model"):
        resolve("law", file(tmp_path, tensors), linears("mid.q", "vision_model.q"))


def test_a_flat_name_that_several_linears_have_is_ambiguous(tmp_path: Path) -> None:
    tensors = {"lora_unet_a_b_q.lora_down.weight": DOWN, "lora_unet_a_b_q.lora_up.weight": UP}
    with pytest.raises(BadAdapter, match="could be 2 linears"):
        resolve("law", file(tmp_path, tensors), linears("a.b.q", "a_b.q"))
