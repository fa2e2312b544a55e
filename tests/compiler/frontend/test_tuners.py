"""Every tuner of PEFT that is read gives the weights that PEFT itself merges (tests/compiler/tuned.py), and runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import Dense, PeftLora, factored
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.peft import read_content
from axlora.compiler.frontend.resolve import resolve
from axlora.compiler.frontend.tuners.read import TUNERS
from axlora.compiler.frontend.tuners.torch_random import permutation
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target

MODELS = Path(__file__).parents[1] / "models"
CONFIGS: dict[str, dict[str, Any]] = json.loads((MODELS / "tuned.json").read_text())
TENSORS = load_file(MODELS / "tuned.safetensors")
MODULES = ("layers.0.self_attn.q_proj", "layers.0.mlp.up_proj", "layers.0.mlp.down_proj")
Write = Callable[..., Path]


def of(name: str) -> dict[str, np.ndarray]:
    """Tensors of one adapter, of `base`, or of what is merged (`NAME/merged`)."""
    return {key.removeprefix(f"{name}/"): v for key, v in TENSORS.items() if key.startswith(f"{name}/")}


def saved(folder: Path, name: str, **fields: Any) -> Path:
    """The directory that PEFT saved, but for changed fields of its configuration."""
    folder = folder / name
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIGS[name] | fields))
    save_file({k: v for k, v in of(name).items() if not k.startswith("merged/")}, folder / "adapter_model.safetensors")
    return folder


def linears(modules: tuple[str, ...] = MODULES) -> list[Candidate]:
    """The base's, by their names."""
    base = of("base")

    def candidate(module: str) -> Candidate:
        weight, bias = base[f"{module}.weight"].T.astype(float), base[f"{module}.bias"].astype(float)
        shape = (weight.shape[0], weight.shape[1])
        return Candidate(module, module, (module,), 1, shape, lambda: Held(weight), bias)

    return [candidate(module) for module in modules]


def merged(lora: PeftLora, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weight [in, out], bias) with a branch."""
    weight = weight + lora.scale * lora.a @ lora.b
    weight = weight if lora.gain is None else weight * lora.gain
    weight = weight if lora.magnitude is None else weight * lora.magnitude / np.linalg.norm(weight, axis=0)
    bias = bias if lora.base_bias is None else lora.base_bias
    return weight, bias if lora.bias is None else bias + lora.scale * lora.bias


def distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.hypot(*(np.linalg.norm(a - b) for a, b in zip(one, other, strict=True))))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_are_those_that_peft_merges(tmp_path: Path, name: str) -> None:
    """As a branch and where it is merged; every module that the configuration names is changed."""
    folder = saved(tmp_path, name)
    found = [resolve(name, folder, linears(), merge=merge).loras for merge in (False, True)]
    base, wanted = of("base"), of(f"{name}/merged")
    assert len(found[0]) == len(CONFIGS[name]["target_modules"])
    for loras in found:
        for lora, module in loras:
            held = base[f"{module}.weight"].T.astype(float), base[f"{module}.bias"].astype(float)
            right = wanted[f"{module}.weight"].T, wanted[f"{module}.bias"]
            moved = distance(held, right)
            assert moved > 0.005
            # float32 of PEFT; its projection of coft is in place and in float32, at 1e-2 of the angle
            assert distance(merged(lora, *held), right) < (1e-4 if name == "oft_coft" else 3e-6) * moved


def test_every_tuner_that_is_read_is_compared() -> None:
    assert {config["peft_type"] for config in CONFIGS.values()} == {*TUNERS, "LORA"} - {"BONE"}


RANKS = {
    "lora": 3,
    "adalora": 4,
    "vera": 3,
    "vblora": 2,
    "loha": 4,
    "lokr_both": 1,
    "hra": 4,
    "miss": 4,
    "gralora": 8,
    "deft": 3,
}
"""r; of LoHa r squared; of GraLoRA k times r."""


@pytest.mark.parametrize("name", RANKS)
def test_branches_have_no_higher_rank_than_their_tuner_gives(tmp_path: Path, name: str) -> None:
    assert {lora.rank for lora, _ in resolve(name, saved(tmp_path, name), linears()).loras} == {RANKS[name]}


def test_a_change_of_a_higher_rank_than_the_limit_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "oft")
    with pytest.raises(BadAdapter, match=r"'layers.0.mlp.down_proj': its change by OFT has rank 16, over the limit 8") as error:
        resolve("a", folder, linears(), max_lora_rank=8)
    assert error.value.hint == "raise max_lora_rank to 16, or give --merge"
    assert resolve("a", folder, linears(), max_lora_rank=16).loras


@pytest.mark.parametrize(("rank", "shape"), [(5, (400, 300)), (70, (1100, 1200)), (150, (300, 400)), (3, (40, 30))])
def test_the_rank_of_a_change_is_found_exactly(rank: int, shape: tuple[int, int]) -> None:
    """By singular values, in large matrices of those of a basis that random products give."""
    random = np.random.default_rng(rank)
    delta = random.normal(0, 1, (shape[0], rank)) @ random.normal(0, 1, (rank, shape[1]))
    lora = factored("m", Dense(delta), merge=False)
    assert lora.rank == rank
    assert np.linalg.norm(lora.a @ lora.b - delta) < 1e-6 * np.linalg.norm(delta)


def test_a_large_change_of_high_rank_is_not_taken_apart() -> None:
    delta = np.random.default_rng(0).normal(0, 1, (1100, 1030))
    lora = factored("m", Dense(delta), merge=False)
    assert lora.rank == 1030
    assert np.array_equal(lora.a @ lora.b, delta)


def test_a_scale_of_outputs_needs_no_branch(tmp_path: Path) -> None:
    """But one that the machine's records do not hold becomes a change of the weight."""
    found = {module: lora for lora, module in resolve("a", saved(tmp_path, "ia3"), linears()).loras}
    assert [found[m].gain is not None for m in MODULES] == [True, True, False]
    assert found[MODULES[0]].rank == 1
    tensors = {f"base_model.model.{MODULES[0]}.ia3_l": np.full((16, 1), -2.0, np.float32)}
    save_file(tensors, tmp_path / "ia3" / "adapter_model.safetensors")
    ((lora, _),) = resolve("a", tmp_path / "ia3", linears()).loras
    assert lora.gain is None
    base = of("base")[f"{MODULES[0]}.weight"].T
    assert np.allclose(base + lora.a @ lora.b, -2 * base, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "lost", "text"),
    [
        ("vera", "vera_A", "without its projections"),
        ("randlora", "randlora_B", "without its bases"),
        ("unilora", "scales", "without its indices"),
        ("tinylora", "tinylora_P", "without its projections"),
        ("loha", "hada_w1_a", "LoHa has no hada_w1_a"),
        ("shira", "indices", "has no shira_indices"),
        ("vblora", "vector_bank", "no vblora_vector_bank"),
    ],
)
def test_missing_tensors_are_named(tmp_path: Path, name: str, lost: str, text: str) -> None:
    folder = saved(tmp_path, name)
    file = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if lost not in k}, file)
    with pytest.raises(BadAdapter, match=text) as error:
        read_content(folder)
    assert error.value.hint


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("waveft", {"wavelet_family": "db4"}, "'db4'"),
        ("road_1", {"variant": "road_9"}, "road_9"),
        ("deft", {"decomposition_method": "svd"}, "'svd'"),
        ("fourierft", {"random_loc_seed": 1.5}, "random_loc_seed is 1.5"),
        ("loha", {"alpha": "three"}, "alpha is 'three'"),
    ],
)
def test_forms_that_are_not_read_are_named(tmp_path: Path, name: str, fields: dict[str, Any], text: str) -> None:
    folder = saved(tmp_path, name, **fields)
    with pytest.raises(BadAdapter, match=text):
        resolve("a", folder, linears())


@pytest.mark.parametrize("name", ["hira", "oft", "boft", "road_2", "c3a", "vera", "randlora", "ia3", "shira", "miss_bat"])
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, name: str) -> None:
    """down_proj's tensors for a linear of other sizes: the module and the tuner are named."""
    base = {c.name: c for c in linears()}
    other = Candidate(MODULES[2], MODULES[2], (MODULES[2],), 1, (20, 12), lambda: Held(np.ones((20, 12))), np.zeros(12))
    folder = saved(tmp_path, name)
    with pytest.raises(BadAdapter, match=r"down_proj.*(do not fit|is 2[04] to 16, linear)"):
        resolve("a", folder, [base[MODULES[0]], base[MODULES[1]], other])


def test_parts_of_a_packed_linear(tmp_path: Path) -> None:
    """LoHa of gate and up where the model holds one linear of both; OFT's change is of the columns of its part."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 1, (16, 48))
    packed = "layers.0.mlp.gate_up_proj"
    linear = Candidate(packed, packed, (packed,), 1, (16, 48), lambda: Held(weight), np.zeros(48))
    folder = saved(tmp_path, "hira")
    file = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "up_proj" in k}, file)
    ((lora, name),) = resolve("a", folder, [linear]).loras
    own = of("hira")
    factor = own[f"base_model.model.{MODULES[1]}.hira_B"] @ own[f"base_model.model.{MODULES[1]}.hira_A"]
    wanted = np.zeros((16, 48))
    wanted[:, 24:] = weight[:, 24:] * factor.T
    assert name == packed
    assert np.allclose(lora.scale * lora.a @ lora.b, wanted, atol=1e-6)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned": lambda v: v.T,
    "flat": lambda v: v.reshape(-1),
    "one more dimension": lambda v: v[None],
    "half": lambda v: v[: len(v) // 2],
    "nothing": lambda v: v[:0],
    "no columns": lambda v: v[..., :0],
    "a number": lambda v: v.reshape(-1)[0].reshape(()),
    "large": lambda v: v * 1e20 if v.dtype.kind == "f" else v + 100,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_tensors_of_any_other_shape_are_a_named_error_or_a_change(tmp_path: Path, name: str) -> None:
    """Every tensor of every tuner changed in every way: never another error."""
    folder = saved(tmp_path, name)
    file = folder / "adapter_model.safetensors"
    tensors, mine = load_file(file), linears()
    keys = [key for key in tensors if "up_proj" in key or "layers" not in key]
    errors: list[BadAdapter] = []
    for key in keys:
        for change in CHANGES.values():
            changed = np.ascontiguousarray(change(tensors[key])).astype(tensors[key].dtype)
            save_file(tensors | {key: changed}, file)
            try:
                resolve(name, folder, mine)
            except BadAdapter as error:
                errors.append(error)
    assert len(errors) >= len(keys)
    assert all(error.hint and "\n" not in str(error) for error in errors)


def test_a_kernel_of_several_places(tmp_path: Path) -> None:
    """A flat change has the order of PyTorch's kernel, which is not that of patches: refused where they differ."""
    patches = [replace(linear, patches=True) for linear in linears()]
    with pytest.raises(BadAdapter, match=r"down_proj' is a convolution with a kernel of several places, which LoHa changes"):
        resolve("a", saved(tmp_path, "loha"), patches)
    assert len(resolve("a", saved(tmp_path, "lora"), patches).loras) == 3
    folder = tmp_path / "core"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIGS["loha"]))
    random = np.random.default_rng(3)
    shapes = {"t1": (2, 2, 2, 2), "t2": (2, 2, 2, 2), "w1_a": (2, 16), "w2_a": (2, 16), "w1_b": (2, 6), "w2_b": (2, 6)}
    own = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file({f"base_model.model.{MODULES[2]}.hada_{n}": v for n, v in own.items()}, folder / "adapter_model.safetensors")
    ((lora, _),) = resolve("a", folder, patches).loras
    kernels = [np.einsum("ijkl,ip,jr->prkl", own[f"t{n}"], own[f"w{n}_a"], own[f"w{n}_b"]) for n in (1, 2)]
    wanted = (kernels[0] * kernels[1] * 1.5).transpose(2, 3, 1, 0).reshape(24, 16)  # alpha 3, r 2
    assert np.allclose(lora.scale * lora.a @ lora.b, wanted, atol=1e-5)


def test_a_weighted_sum_of_different_tuners(tmp_path: Path) -> None:
    names = {"loha": 0.5, "ia3": 0.25, "lora": -1.0, "road_1": 0.125}
    text = ",".join(f"{saved(tmp_path, name)}@{weight}" for name, weight in names.items())
    base = of("base")
    for lora, module in resolve("a", text, linears()).loras:
        held = base[f"{module}.weight"].T.astype(float), base[f"{module}.bias"].astype(float)
        right = [
            h + sum(w * (of(f"{n}/merged")[f"{module}.{part}"].T - h) for n, w in names.items())
            for h, part in zip(held, ("weight", "bias"), strict=True)
        ]
        assert distance(merged(lora, *held), (right[0], right[1])) < 1e-5


def test_a_projection_that_its_seed_does_not_give(tmp_path: Path) -> None:
    """TinyLoRA's modules find their vectors by the seed of their projections."""
    with pytest.raises(BadAdapter, match="a projection that its seed does not give"):
        read_content(saved(tmp_path, "tinylora_own", projection_seed=43))
    (tied := tmp_path / "tied").mkdir()
    with pytest.raises(BadAdapter, match="has 3 vectors, and which is whose"):
        read_content(saved(tied, "tinylora_own", weight_tying=0.5))


def test_the_permutation_is_pytorchs() -> None:
    """torch.randperm of PyTorch 2.13, printed once."""
    assert permutation(16, 777, 16).tolist() == PERMUTED_16
    assert permutation(10**6, 3, 5).tolist() == PERMUTED_MILLION
    assert sorted(permutation(50, 1, 50)) == list(range(50))


PERMUTED_16 = [7, 15, 11, 14, 1, 3, 13, 8, 4, 2, 0, 6, 5, 9, 12, 10]
PERMUTED_MILLION = [658986, 761352, 477821, 564491, 431360]


def model() -> onnx.ModelProto:
    """The base's linears one after another, a Tanh between."""
    base, nodes, x = of("base"), [], "x"
    for module in MODULES:
        nodes += [
            helper.make_node("MatMul", [x, f"{module}.weight"], [f"{module}.product"], f"/{module.replace('.', '/')}/MatMul"),
            helper.make_node("Add", [f"{module}.product", f"{module}.bias"], [f"{module}.sum"]),
            helper.make_node("Tanh", [f"{module}.sum"], [f"{module}.y"]),
        ]
        x = f"{module}.y"
    constants = [numpy_helper.from_array(np.ascontiguousarray(v.T), name) for name, v in base.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 16])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [8, 16])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def computed(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The model in floats."""
    for module in MODULES:
        x = np.tanh(x @ weights[f"{module}.weight"].T + weights[f"{module}.bias"])
    return x


ON_MACHINE = ("loha", "ia3", "oft", "hra", "road_1", "vera", "miss", "delora", "fourierft", "shira")


def test_switched_and_merged_in_integers(tmp_path: Path, target: Target) -> None:
    """One package of ten tuners, and one package of each merged: as far from float as the base is, but for a few percent."""
    random = np.random.default_rng(5)
    x = random.normal(0, 1, (8, 16)).astype(np.float32)
    folders = {name: saved(tmp_path, name) for name in ON_MACHINE}
    calibration = {"x": random.normal(0, 1, (4, 8, 16)).astype(np.float32)}
    low, graph = lower(model(), target, CompileOptions(adapters=folders, calibration=calibration))
    assert {notice.split("'")[1] for notice in low.notices} == {"ia3", "oft", "road_1", "fourierft", "shira"}
    assert "by OFT have ranks up to 16, and cost as much as their weights; merged (--merge)" in "".join(low.notices)
    reference = Reference(graph)
    (output,) = reference.run({"x": x}).keys()

    def error(got: np.ndarray, weights: dict[str, np.ndarray]) -> float:
        wanted = computed(weights, x)
        return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))

    assert error(reference.run({"x": x})[output], of("base")) < 0.02
    for name in ON_MACHINE:
        right = of(f"{name}/merged")
        assert error(reference.run({"x": x}, name)[output], right) < 0.04, name
    for name in ("oft", "ia3"):
        options = CompileOptions(adapters={name: folders[name]}, calibration=calibration, merge=True)
        _, graph = lower(model(), target, options)
        assert error(Reference(graph).run({"x": x})[output], of(f"{name}/merged")) < 0.02, name
