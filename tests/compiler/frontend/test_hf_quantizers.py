"""Directories of quantized weights: what the codes stand for, and that the machine holds them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hf_models as H
import hf_packers as P
import numpy as np
import pytest
from hf_runs import BOUND, SHAPE, distance, float_logits, generator
from safetensors.numpy import load_file, save_file
from whole_runs import compared

import axlora
from axlora.compiler.errors import BadModel
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.layer import By
from axlora.compiler.passes.pipeline import READ_WHOLE
from axlora.compiler.passes.recognise_linears import recognise
from axlora.isa.formats import Format

FAMILY = "mistral"
IDS = H.inputs(H.config(FAMILY))["input_ids"]


def quantized(folder: Path, packer: P.Packer, family: str = FAMILY) -> dict[str, P.Packed]:
    """Write the directory, every linear but the head packed; returns module -> what was packed."""
    H.save(family, folder)
    tensors, found, random = load_file(folder / "model.safetensors"), {}, np.random.default_rng(5)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        module, (n, k) = name.removesuffix(".weight"), tensors.pop(name).shape
        found[module] = packer(random, k, n)
        tensors |= {f"{module}.{part}": value for part, value in found[module].tensors.items()}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": next(iter(found.values())).config}
    (folder / "config.json").write_text(json.dumps(config))
    return found


def linears(folder: Path) -> dict[str, Any]:
    proto, _ = onnx_reader.read(folder, SHAPE)
    return {linear.name: linear for linear in recognise(proto, passes=READ_WHOLE)[1]}


@pytest.mark.parametrize("form", sorted(P.FORMS))
def test_codes_stand_for_what_the_format_says(form: str, tmp_path: Path) -> None:
    """Within float32; the entries of 4-bit tables become bytes: within 0.4 % of the largest."""
    packed = quantized(tmp_path, P.FORMS[form])
    found = linears(tmp_path)
    assert set(packed) < set(found)
    for module, own in packed.items():
        assert found[module].codes is not None
        off = np.abs(found[module].weight - own.reals.T).max() / np.abs(own.reals).max()
        assert off < (0.004 if "load_in_4bit" in own.config else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["awq", "fp4", "gptq 3", "int8", "nf4, nested"])
def test_codes_are_found_in_the_package(form: str, tmp_path: Path) -> None:
    """The machine's logits are near those of the formula's weights in float, and the package's codes are the file's."""
    packed = quantized(tmp_path / "codes", P.FORMS[form])
    program = generator(tmp_path / "codes", IDS)
    program.save(tmp_path / "m.axl")
    held = {linear.name: linear.weight for linear in axlora.load(tmp_path / "m.axl").linears()}
    for module, own in packed.items():
        weight = held[module]
        if form == "fp4":  # two of its codes are 0, so that 15 entries are left
            assert weight.fmt is Format.CB4
            assert np.array_equal(weight.values(), np.rint(P.FP4 * 120).astype(int)[own.codes])
        else:
            assert np.array_equal(weight.stored, own.codes)
            assert (weight.fmt is Format.CB4) == form.startswith("nf4")
    tensors = load_file(H.save(FAMILY, tmp_path / "floats") / "model.safetensors")
    tensors |= {f"{module}.weight": np.ascontiguousarray(own.reals, np.float32) for module, own in packed.items()}
    save_file(tensors, tmp_path / "floats" / "model.safetensors")
    wanted = float_logits(tmp_path / "floats", IDS)
    assert distance(axlora.simulate(program, {"input_ids": IDS}).outputs["logits"][0], wanted) < BOUND


def test_a_peft_directory_attaches_to_a_base_of_nf4(tmp_path: Path, write_peft: Any) -> None:
    """QLoRA: modules are found by their paths, and the base's codes stay."""
    packed = quantized(tmp_path / "codes", P.bnb4)
    modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    random = np.random.default_rng(0)
    parts = {
        f"base_model.model.{module}.lora_{side}.weight": random.normal(0, 0.3, shape).astype(np.float32)
        for module in modules
        for side, shape in (("A", (4, packed[module].reals.shape[1])), ("B", (packed[module].reals.shape[0], 4)))
    }
    program = generator(tmp_path / "codes", IDS, adapters={"law": write_peft(parts)})
    assert [(m.module, m.linear, m.by) for m in program.adapters[0].modules] == [(m, m, By.SCOPE) for m in modules]
    tensors = load_file(H.save(FAMILY, tmp_path / "floats") / "model.safetensors")
    for module, own in packed.items():
        a, b = (parts.get(f"base_model.model.{module}.lora_{side}.weight", np.zeros((0, 0))) for side in "AB")
        change = 2 * b @ a if a.size else 0  # write_peft: alpha 8, rank 4
        tensors[f"{module}.weight"] = np.ascontiguousarray(own.reals + change, np.float32)
    save_file(tensors, tmp_path / "floats" / "model.safetensors")
    got = axlora.simulate(program, {"input_ids": IDS}, adapter="law").outputs["logits"][0]
    assert distance(got, float_logits(tmp_path / "floats", IDS)) < BOUND


def test_early_files_of_gptq_have_a_config_of_their_own(tmp_path: Path) -> None:
    packed = quantized(tmp_path, P.FORMS["gptq 4"])
    config = json.loads((tmp_path / "config.json").read_text())
    own = config.pop("quantization_config")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": own["bits"], "group_size": own["group_size"]}))
    found = linears(tmp_path)
    assert all(np.allclose(found[module].weight, each.reals.T, atol=1e-6) for module, each in packed.items())


def test_rows_in_the_order_of_activations_become_floats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """GPTQ with desc_act: no block of the machine has such rows, which is said; the weights are the formula's."""
    packed = quantized(tmp_path, lambda r, k, n: P.gptq(r, k, n, act=True))
    found = linears(tmp_path)
    for module, own in packed.items():
        assert found[module].codes is None
        assert np.allclose(found[module].weight, own.reals.T, atol=1e-6)
    assert "g_idx gives their rows scales in another order" in caplog.text


REFUSED = {
    "float8": ({"quant_method": "fp8"}, "float8 is not taken"),
    "float8 of compressed-tensors": (P.compressed_config("float-quantized", 8, "float"), "float8 is not taken"),
    "another quantizer": ({"quant_method": "hqq"}, "gptq, awq, bitsandbytes and compressed-tensors are taken"),
    "5 bits": ({"quant_method": "gptq", "bits": 5}, "2, 3, 4, 8 are taken"),
    "gemv": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemm is taken"),
    "marlin": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "gptq and gptq_v2 are taken"),
    "other bits of some modules": ({"quant_method": "gptq", "bits": 4, "dynamic": {"o_proj": {}}}, "one form for all modules"),
    "sparse": (P.compressed_config("sparse-24-bitmask", 4), "pack-quantized and int-quantized are taken"),
    "text": ("nf4", "an object is expected"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_forms_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    config, told = REFUSED[name]
    with pytest.raises(BadModel) as caught:
        onnx_reader.read(H.save(FAMILY, tmp_path, quantization_config=config), SHAPE)
    assert "config.json" in caught.value.message
    assert told in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales", "g_idx"])
def test_a_part_of_another_shape_is_told_with_the_shape_that_fits(part: str, tmp_path: Path) -> None:
    quantized(tmp_path, P.FORMS["gptq 4"])
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"model.layers.1.mlp.up_proj.{part}"
    shape = list(tensors[name].shape)
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadModel) as caught:
        onnx_reader.read(tmp_path, SHAPE)
    assert caught.value.message == f"tensor {name!r} is {[shape[0] - 1, *shape[1:]]}, expected {shape}"


@pytest.mark.slow
def test_a_codebook_means_the_same_everywhere(tmp_path: Path) -> None:
    """Simulator, NumPy and LLVM bit for bit; and Verilog, cycle for cycle."""
    quantized(tmp_path, P.bnb4)
    ids = IDS[:, :4]
    program, run = compared(onnx_reader.read(tmp_path, {"batch": 1, "sequence": 4})[0], {"input_ids": ids})
    assert Format.CB4.name in {layer.format for layer in program.layers}
    same = axlora.run_rtl(program, {"input_ids": ids})
    assert same.cycles == run.cycles
    assert np.array_equal(same.outputs["logits"], run.outputs["logits"])
