"""Adapters of q, k and v on a packed linear, and of a packed module on linears apart: the same change of the same columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import PeftLora
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.packed import LAYOUTS
from axlora.compiler.frontend.resolve import Matching, Resolved, resolve
from axlora.compiler.layer import By

Write = Callable[..., Path]
K, RANK, ALPHA = 12, 4, 8
QKV = {"q_proj": 16, "k_proj": 8, "v_proj": 8}
"""Outputs of the parts: fewer heads of keys than of queries."""
HOME = "model.layers.0.self_attn"


def _linear(path: str, n: int) -> Candidate:
    values = np.random.default_rng(len(path)).normal(size=(K, n))
    node = f"/{path.replace('.', '/')}/MatMul"
    return Candidate(path, node, (path,), 0, (K, n), lambda: Held(values), np.arange(n) / n)


def _tensors(sizes: dict[str, int], home: str = HOME, seed: int = 0) -> dict[str, np.ndarray]:
    """Random branches of modules."""
    rng, found = np.random.default_rng(seed), {}
    for module, n in sizes.items():
        found[f"base_model.model.{home}.{module}.lora_A.weight"] = rng.normal(size=(RANK, K)).astype(np.float32)
        found[f"base_model.model.{home}.{module}.lora_B.weight"] = rng.normal(size=(n, RANK)).astype(np.float32)
    return found


def _delta(tensors: dict[str, np.ndarray], module: str, home: str = HOME) -> np.ndarray:
    """What a module adds to its weight: [K, n]."""
    a, b = (tensors[f"base_model.model.{home}.{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
    return ALPHA / RANK * (b @ a).T


def _added(lora: PeftLora) -> np.ndarray:
    return lora.scale * (lora.a @ lora.b)


def _resolve(folder: Path, linears: list[Candidate], **options: Any) -> Resolved:
    return resolve("law", folder, linears, matching=Matching(**options))


@pytest.mark.parametrize("given", [["q_proj"], ["k_proj"], ["v_proj"], ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj"]])
def test_parts_change_their_columns_of_the_packed_linear(given: list[str], write_peft: Write) -> None:
    tensors = _tensors({part: QKV[part] for part in given})
    found = _resolve(write_peft(tensors), [_linear(f"{HOME}.qkv_proj", 32)])
    ((lora, name),) = found.loras
    wanted = [_delta(tensors, part) if part in given else np.zeros((K, n)) for part, n in QKV.items()]
    np.testing.assert_allclose(_added(lora), np.concatenate(wanted, axis=1), atol=1e-12)
    assert name == f"{HOME}.qkv_proj"
    assert lora.rank == RANK * len(given)
    assert {(m.module, m.linear, m.by) for m in found.matches} == {(f"{HOME}.{part}", name, By.NODE) for part in given}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.packed[0])
def test_every_layout_is_taken_both_ways(layout: Any, write_peft: Write) -> None:
    sizes = dict.fromkeys(layout.parts, 8)
    for number, packed in enumerate(layout.packed):
        tensors = _tensors(sizes)
        folder = write_peft(tensors, f"parts{number}")
        ((lora, _),) = _resolve(folder, [_linear(f"{HOME}.{packed}", 8 * len(sizes))]).loras
        np.testing.assert_allclose(_added(lora), np.concatenate([_delta(tensors, p) for p in sizes], axis=1), atol=1e-12)
        whole = _tensors({packed: 8 * len(sizes)})
        found = _resolve(write_peft(whole, f"packed{number}"), [_linear(f"{HOME}.{part}", 8) for part in sizes])
        columns = [_added(lora) for lora, _ in found.loras]
        assert [linear for _, linear in found.loras] == [f"{HOME}.{part}" for part in sizes]
        np.testing.assert_allclose(np.concatenate(columns, axis=1), _delta(whole, packed), atol=1e-12)


def test_biases_and_magnitudes_go_to_their_columns(write_peft: Write) -> None:
    """lora_bias times the scale, DoRA's magnitudes, and a trained bias of one part: the others keep the model's."""
    tensors, rng = _tensors(QKV), np.random.default_rng(7)
    key = f"base_model.model.{HOME}"
    own = {part: rng.normal(size=(3, n)).astype(np.float32) for part, n in QKV.items()}
    for part, (bias, magnitude, base) in own.items():
        tensors[f"{key}.{part}.lora_B.bias"] = bias
        tensors[f"{key}.{part}.lora_magnitude_vector"] = magnitude
        if part == "k_proj":
            tensors[f"{key}.{part}.bias"] = base
    linear = _linear(f"{HOME}.qkv_proj", 32)
    ((lora, _),) = _resolve(write_peft(tensors, use_dora=True, bias="all", lora_bias=True), [linear]).loras
    assert lora.bias is not None
    assert lora.magnitude is not None
    assert lora.base_bias is not None
    bias, magnitude, _ = np.concatenate(list(own.values()), axis=1).astype(np.float64)
    np.testing.assert_allclose(lora.scale * lora.bias, ALPHA / RANK * bias)
    np.testing.assert_allclose(lora.magnitude, magnitude)
    np.testing.assert_allclose(lora.base_bias, [*linear.bias[:16], *own["k_proj"][2], *linear.bias[24:]])


REFUSED = {
    "the sizes do not fill it": (
        {"q_proj": 16, "k_proj": 12},
        "qkv_proj",
        {},
        "and .*qkv_proj.* should hold q_proj, k_proj, v_proj, 12 to 32",
    ),
    "DoRA on a part": ({"q_proj": 16}, "qkv_proj", {"use_dora": True}, "DoRA on .*q_proj, which is not all"),
    "heads interleaved": ({"query": 16}, "query_key_value", {}, "is a part of 'query_key_value'"),
    "both": ({"q_proj": 16, "qkv_proj": 32}, "qkv_proj", {}, "two modules mean the linear"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_part_is_refused(case: str, write_peft: Write) -> None:
    sizes, packed, fields, message = REFUSED[case]
    tensors = _tensors(sizes)
    if fields:
        tensors[f"base_model.model.{HOME}.q_proj.lora_magnitude_vector"] = np.ones(16, np.float32)
    with pytest.raises(BadAdapter, match=message):
        _resolve(write_peft(tensors, **fields), [_linear(f"{HOME}.{packed}", 32)])


def test_parts_together_keep_to_the_limit_of_the_rank(write_peft: Write) -> None:
    folder, linears = write_peft(_tensors(QKV)), [_linear(f"{HOME}.qkv_proj", 32)]
    with pytest.raises(BadAdapter, match="rank 12 together, over the limit 8") as error:
        resolve("law", folder, linears, max_lora_rank=8)
    assert "max_lora_rank to 12" in error.value.hint
    assert resolve("law", folder, linears, max_lora_rank=12).loras


@pytest.mark.parametrize("moved", [False, True])
def test_the_bases_weights_tell_where_the_columns_are(moved: bool, write_peft: Write, tmp_path: Path) -> None:
    """A model that packs v before q, under the name of those that don't, is refused with --base."""
    linear = _linear(f"{HOME}.qkv_proj", 32)
    base = tmp_path / "base"
    base.mkdir()
    columns = slice(16, 32) if moved else slice(0, 16)
    weight = linear.held().values[:, columns].T.astype(np.float32)
    save_file({f"{HOME}.q_proj.weight": np.ascontiguousarray(weight)}, base / "model.safetensors")
    folder = write_peft(_tensors({"q_proj": 16}))
    if not moved:
        assert _resolve(folder, [linear], base=base).loras
        return
    with pytest.raises(BadAdapter, match=r"columns 0 to 15 of .* are not the base's"):
        _resolve(folder, [linear], base=base)
