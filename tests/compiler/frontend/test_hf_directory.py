"""Files of a Hugging Face directory: shards, links, and what is said of those that are missing, damaged or contradict."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import hf_models as H
import numpy as np
import onnxruntime
import pytest
from hf_runs import BOUND, SHAPE, distance, float_logits, generator
from safetensors.numpy import load_file, save_file

import axlora
from axlora.cli import main
from axlora.compiler.errors import BadModel
from axlora.compiler.frontend import onnx_reader, storage
from axlora.compiler.frontend.source import opened
from axlora.compiler.layer import By

IDS = H.inputs(H.config("llama"))["input_ids"]
INDEX = "model.safetensors.index.json"


def sharded(folder: Path) -> Path:
    """The directory with its tensors in two files, as `save_pretrained` cuts them."""
    tensors = load_file(H.save("llama", folder) / "model.safetensors")
    files = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: value for name, value in tensors.items() if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def test_weights_stay_in_their_files(tmp_path: Path) -> None:
    """But for tables of the rotary embedding nothing is held, and shards mean the same."""
    source = opened(sharded(tmp_path / "shards"))
    held = [t.name for t in source.proto.graph.initializer if t.data_location != t.EXTERNAL]
    assert held == ["cos", "sin"]
    one, several = (float_logits(folder, IDS) for folder in (H.save("llama", tmp_path / "one"), tmp_path / "shards"))
    assert np.array_equal(one, several)


def test_big_weights_are_read_when_they_are_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then they are left in the file; the program is the same."""
    folder = H.save("llama", tmp_path)
    wanted = generator(folder, IDS).image
    monkeypatch.setattr(storage, "TOTAL_LIMIT", 0)
    monkeypatch.setattr(storage, "TENSOR_LIMIT", 256)
    proto = onnx_reader.read(folder, SHAPE, whole=True)[0]
    tensors = load_file(folder / "model.safetensors")
    held = {t.name: storage.values(t) for t in proto.graph.initializer if t.data_location == t.EXTERNAL}
    assert held.keys() == {name for name, value in tensors.items() if value.nbytes > 256}
    assert all(np.array_equal(value, tensors[name]) and value.dtype == np.float32 for name, value in held.items())
    assert generator(folder, IDS).image == wanted


def test_bfloat16_is_read(tmp_path: Path) -> None:
    """A header written by hand, as NumPy has no such type."""
    tensors = load_file(H.save("gemma", tmp_path) / "model.safetensors")
    cut = {name: (value.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for name, value in tensors.items()}
    save_file({name: (v.astype(np.uint32) << 16).view(np.float32) for name, v in cut.items()}, tmp_path / "model.safetensors")
    wanted = float_logits(tmp_path, IDS)
    header: dict[str, Any] = {}
    place = 0
    for name, value in cut.items():
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [place, place + value.nbytes]}
        place += value.nbytes
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in cut.values())
    (tmp_path / "model.safetensors").write_bytes(data)
    assert np.array_equal(float_logits(tmp_path, IDS), wanted)


@pytest.mark.parametrize(
    ("family", "module", "linears"),
    [
        ("phi3", "model.layers.1.mlp.gate_up_proj", {"model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"}),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w2", {"model.layers.1.block_sparse_moe.experts.2.w2"}),
    ],
)
def test_adapters_attach_by_the_paths_of_modules(
    family: str, module: str, linears: set[str], tmp_path: Path, write_peft: Any
) -> None:
    """Without --base and without a map: the packed gate_up_proj of Phi-3, whose adapters are cut, and one of four experts."""
    folder = H.save(family, tmp_path / "base")
    tensors, random = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    n, k = tensors[f"{module}.weight"].shape
    a, b = (random.normal(0, 0.15, shape).astype(np.float32) for shape in ((4, k), (n, 4)))
    keys = {f"base_model.model.{module}.lora_{side}.weight": value for side, value in (("A", a), ("B", b))}
    given = {"calibration": {"input_ids": IDS}, "adapters": {"law": write_peft(keys)}}
    program = axlora.compile(folder, "test", operators="all", shapes=SHAPE, **given)
    matches = program.adapters[0].modules
    assert {(m.module, m.by) for m in matches} == {(module, By.SCOPE)}
    assert {m.linear for m in matches} <= linears
    without = float_logits(folder, IDS)
    tensors[f"{module}.weight"] = (tensors[f"{module}.weight"] + 2 * b @ a).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    got, wanted = axlora.simulate(program, {"input_ids": IDS}, adapter="law").outputs["logits"][0], float_logits(folder, IDS)
    assert distance(got, wanted) < BOUND < distance(without, wanted)


def _delta(a: np.ndarray, b: np.ndarray, experts: int, scale: float) -> np.ndarray:
    """[experts, out, in], as `lora.ParamWrapper.get_delta_weight` of PEFT 0.21 has it."""
    a, b = a.reshape(experts, -1, a.shape[-1]), b.reshape(b.shape[0], -1, experts)
    return scale * np.einsum("o r e, e r i -> e o i", b, a)


@pytest.mark.parametrize("wrapped", [("gate_up_proj", "down_proj"), ("down_proj",)])
def test_adapters_of_all_experts_in_one_parameter(wrapped: tuple[str, ...], tmp_path: Path, write_peft: Any) -> None:
    """`target_parameters`: the parameter that the module defines first is wrapped first, its branch below `base_layer`."""
    folder, experts, rank = H.save("qwen3-moe", tmp_path / "base"), 6, 2
    tensors, random = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    path = "model.layers.1.mlp.experts"
    sizes = {name: tensors[f"{path}.0.{name}_proj.weight"].shape for name in ("gate", "up", "down")}
    shapes = {"gate_up_proj": (2 * sizes["up"][0], sizes["up"][1]), "down_proj": sizes["down"]}
    keys, deltas = {}, {}
    for depth, name in enumerate(wrapped):
        out, of = shapes[name]
        a, b = (random.normal(0, 0.2, shape).astype(np.float32) for shape in ((rank * experts, of), (out, rank * experts)))
        below = ".base_layer" * (len(wrapped) - 1 - depth)
        keys |= {f"base_model.model.{path}{below}.lora_{side}.weight": value for side, value in (("A", a), ("B", b))}
        deltas[name] = _delta(a, b, experts, 2.0)
    adapter = write_peft(keys, r=rank, lora_alpha=2 * rank, target_parameters=[f"mlp.experts.{name}" for name in wrapped])
    given = {"calibration": {"input_ids": IDS}, "adapters": {"law": adapter}}
    program = axlora.compile(folder, "test", operators="all", shapes=SHAPE, **given)
    without = float_logits(folder, IDS)
    for e in range(experts):
        own = dict(zip(("gate", "up"), np.split(deltas["gate_up_proj"][e], 2), strict=True)) if "gate_up_proj" in deltas else {}
        for name, delta in (own | {"down": deltas["down_proj"][e]}).items():
            tensors[f"{path}.{e}.{name}_proj.weight"] = (tensors[f"{path}.{e}.{name}_proj.weight"] + delta).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    got, wanted = axlora.simulate(program, {"input_ids": IDS}, adapter="law").outputs["logits"][0], float_logits(folder, IDS)
    assert distance(got, wanted) < BOUND < distance(without, wanted)


def test_experts_in_one_tensor_are_those_in_many(tmp_path: Path) -> None:
    """As transformers holds them in memory: gate and up of all experts [experts, 2 inner, hidden], and down."""
    folder = H.save("qwen3-moe", tmp_path)
    wanted, tensors = float_logits(folder, IDS), load_file(folder / "model.safetensors")
    path = "model.layers.1.mlp.experts"
    parts = [[tensors.pop(f"{path}.{e}.{name}_proj.weight") for name in ("gate", "up", "down")] for e in range(6)]
    tensors[f"{path}.gate_up_proj"] = np.stack([np.concatenate([gate, up]) for gate, up, _ in parts])
    tensors[f"{path}.down_proj"] = np.stack([down for _, _, down in parts])
    save_file(tensors, folder / "model.safetensors")
    assert np.array_equal(float_logits(folder, IDS), wanted)


def test_the_package_says_what_it_was_made_of(tmp_path: Path) -> None:
    """The hash of the weights is of their values, not of their files."""
    one, two = (
        axlora.compile(folder, "test", generate=True, max_context=8).sources
        for folder in (H.save("llama", tmp_path / "a"), sharded(tmp_path / "b"))
    )
    assert one == two
    assert set(one) == {"model", "weights"}


def test_names_of_norms_in_old_files_and_a_head_that_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in bert-base-uncased: gamma and beta, and the head of a masked language model, which is said."""
    wanted = onnx_reader.read(H.save("bert", tmp_path), SHAPE)[0]
    assert not caplog.records
    tensors = load_file(tmp_path / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {key.replace(new, name): value for key, value in tensors.items()}
    tensors = {f"bert.{key}": value for key, value in tensors.items()} | {"cls.predictions.bias": np.zeros(4, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    _config(architectures=["BertForMaskedLM"])(tmp_path)
    found = onnx_reader.read(tmp_path, SHAPE)[0]
    assert sorted(t.raw_data for t in found.graph.initializer) == sorted(t.raw_data for t in wanted.graph.initializer)
    assert caplog.messages == [f"1 tensors of {tmp_path} are not read, the first 'cls.predictions.bias'"]


@pytest.mark.exhaustive
def test_a_real_directory_gives_what_its_onnx_file_gives(minilm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM as sentence-transformers has it: mean of the last hidden states, against the example's own ONNX model."""
    monkeypatch.syspath_prepend(str(Path(str(minilm.__file__)).parent))
    example = importlib.import_module("encoder")
    shape, random = {"batch": 1, "sequence": 32}, np.random.default_rng(0)
    mask = (np.arange(32) < 20)[None].astype(np.int64)
    feed = {"input_ids": random.integers(1000, 29000, (1, 32)) * mask, "attention_mask": mask}
    other = example.encoder(minilm.verified_weights())[0]
    wanted = onnxruntime.InferenceSession(other.SerializeToString()).run(None, feed)[0][0]
    cosines = []
    for model, given in ((minilm.model_files(), feed | {"token_type_ids": 0 * mask}), (other, feed)):
        program = axlora.compile(model, "zcu104", operators="all", shapes=shape)
        outputs = axlora.simulate(program, given).outputs
        rows = outputs.get("last_hidden_state")
        vector = outputs["embedding"][0] if rows is None else (rows * mask[..., None]).sum(1)[0]
        cosines.append(float(vector @ wanted) / float(np.linalg.norm(vector)))
    assert min(cosines) > 0.99
    assert abs(cosines[0] - cosines[1]) < 1e-3


def test_the_command_line_takes_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says in one line, with exit code 2, which tensor is not there."""
    folder, package = H.save("qwen3", tmp_path / "base"), str(tmp_path / "m.axl")
    given = ["compile", str(folder), "-o", package, "--target", "test", "--generate", "--max-context", "8"]
    assert main(given) == 0
    assert main(["simulate", package, "--random", "0", "--no-timing"]) == 0
    capsys.readouterr()
    _without(folder, "model.layers.1.self_attn.k_norm.weight")
    assert main([*given[:3], str(tmp_path / "other.axl"), *given[4:]]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "no tensor 'model.layers.1.self_attn.k_norm.weight', expected [8]" in told[0]
    assert not (tmp_path / "other.axl").exists()


def _without(folder: Path, *names: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if name not in names}, folder / "model.safetensors")


def _outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "far.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "far.safetensors")


def _named_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "far.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../far.safetensors"}}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])


def _config(**fields: Any) -> Any:
    def change(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps({name: value for name, value in data.items() if value != "none"}))

    return change


WRONG = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds no object"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "pickles": (_pickled, "no model.safetensors, only pytorch_model.bin of PyTorch"),
    "a link": (_outside, "weights lie at 'model.safetensors', outside the model's folder"),
    "a name outside": (_named_outside, "weights lie at '../far.safetensors', outside the model's folder"),
    "a shard": (lambda f: (f / INDEX).write_text('{"weight_map": {"a": "b.safetensors"}}'), "no file 'b.safetensors'"),
    "an index of nothing": (lambda f: (f / INDEX).write_text("{}"), "holds no weight_map of names"),
    "cut": (_cut, "damaged safetensors file"),
    "a tensor": (lambda f: _without(f, "model.norm.weight"), "no tensor 'model.norm.weight', expected [32]"),
    "a shape": (_config(intermediate_size=60), "tensor 'model.layers.0.mlp.gate_proj.weight' is [64, 32], expected [60, 32]"),
    "a model": (_config(model_type="mamba"), "config.json has model_type 'mamba'"),
    "a task": (_config(architectures=["LlamaForSequenceClassification"]), "architectures 'LlamaForSequenceClassification'"),
    "yarn": (_config(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "rope_type 'yarn'"),
    "a factor": (_config(rope_parameters={"rope_type": "linear"}), "rope_scaling's factor None"),
    "an activation": (_config(hidden_act="xielu"), "hidden_act 'xielu'"),
    "a size": (_config(hidden_size="none"), "no hidden_size"),
    "a type": (_config(num_attention_heads="4"), "num_attention_heads '4'"),
    "heads": (_config(num_key_value_heads=3), "num_key_value_heads 3"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_is_wrong_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    change, told = WRONG[name]
    folder = H.save("llama", tmp_path / "base")
    change(folder)
    with pytest.raises(BadModel) as caught:
        onnx_reader.read(folder, SHAPE)
    assert told in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
