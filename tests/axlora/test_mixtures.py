"""Adapters that are sums of others: the delta of each linear is the weighted sum of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_decoder import Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.adapters import add_adapter
from axlora.compiler.frontend.adapter_content import PeftContent
from axlora.compiler.frontend.mixtures import parts_of, read_mixture
from axlora.compiler.frontend.peft import read_content


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("mixtures")
    decoder = random_decoder(Sizes(layers=1), seed=4)
    write_onnx(decoder, folder / "model.onnx")
    return {rank: write_peft(random_branches(decoder, rank, rank), folder / f"r{rank}") for rank in (3, 4)}


def _deltas(content: PeftContent) -> dict[str, np.ndarray]:
    return {lora.module: lora.scale * lora.a @ lora.b for lora in content.loras}


def test_the_delta_of_a_sum_is_the_sum_of_the_deltas(folders: dict[int, Path]) -> None:
    found = read_mixture(f"{folders[3]}@0.75,{folders[4]}@-.5")
    three, four = (_deltas(read_content(folders[rank])) for rank in (3, 4))
    assert _deltas(found).keys() == three.keys() | four.keys()
    for lora in found.loras:
        parts = [weight * each[lora.module] for weight, each in ((0.75, three), (-0.5, four)) if lora.module in each]
        assert np.allclose(_deltas(found)[lora.module], sum(parts), atol=1e-12)
        assert lora.rank == 3 * (lora.module in three) + 4 * (lora.module in four)
    assert all(
        np.allclose(delta, 2 * three[name], atol=1e-12) for name, delta in _deltas(read_mixture(f"{folders[3]}@2")).items()
    )


def test_what_a_path_may_be(folders: dict[int, Path], tmp_path: Path) -> None:
    odd = tmp_path / "a@0.5,b"
    odd.mkdir()
    assert parts_of(odd) == [(odd, 1.0)]  # a folder of that name is meant
    assert parts_of("x,y@1e-1") == [(Path("x"), 1.0), (Path("y"), 0.1)]
    assert parts_of("user@host") == [(Path("user@host"), 1.0)]
    with pytest.raises(axlora.BadAdapter, match="no such directory"):
        read_mixture(f"{folders[3]}@0.5,{tmp_path / 'nothing'}@0.5")


def test_what_has_no_sum_is_refused(folders: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(axlora.BadAdapter, match="rank 7 in all is over the limit 6"):
        read_mixture(f"{folders[3]},{folders[4]}", 6)
    dora = tmp_path / "dora"
    dora.mkdir()
    tensors = load_file(folders[3] / "adapter_model.safetensors")
    more = {
        key.replace("lora_B.weight", "lora_magnitude_vector"): np.ones(len(value), np.float32)
        for key, value in tensors.items()
        if "lora_B" in key
    }
    save_file(tensors | more, dora / "adapter_model.safetensors")
    config = json.loads((folders[3] / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(axlora.BadAdapter, match="a magnitude of DoRA is part of no sum"):
        read_mixture(f"{dora}@0.5,{folders[4]}@0.5")


def test_a_mixture_compiles_and_is_added_later(folders: dict[int, Path]) -> None:
    mixed = f"{folders[3]}@0.6,{folders[4]}@0.4"
    model = folders[3].parent / "model.onnx"
    program = axlora.compile(model, "test", adapters={"mix": mixed}, generate=True, max_context=8)
    (adapter,) = program.adapters
    assert adapter.rank == 7
    assert sorted(program.sources) == [
        *(f"adapters/mix/{n}/adapter_{what}" for n in (0, 1) for what in ("config.json", "model.safetensors")),
        "model",
        "weights",
    ]
    empty = axlora.compile(model, "test", generate=True, max_context=8, max_lora_rank=7)
    later = add_adapter(empty, "mix", mixed)
    assert later.adapters[0].block == adapter.block
