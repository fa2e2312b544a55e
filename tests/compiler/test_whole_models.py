"""Models of real exporters through the whole front half: host stages and integer linears against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported_runs import FREE, path_of, run
from safetensors.numpy import save_file

from axlora.compiler.errors import BadAdapter, BadModel
from axlora.compiler.frontend.host_graph import stages
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linear_module import LinearModule
from axlora.compiler.reference.linears import Reference
from axlora.isa import numerics
from axlora.isa.target import Target

Write = Callable[..., Path]
FEEDS = list(E.feeds())


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def outputs(reference: Reference, adapter: str | None) -> np.ndarray:
    names = reference.host.host.inputs
    return np.stack([reference.run({n: f[n] for n in names}, adapter)["y"] for f in FEEDS])


def floats(path: Path) -> np.ndarray:
    return np.stack([run(path, sample=i)["y"] for i in range(len(FEEDS))]).astype(np.float32)


def quick(values: Iterable[str], *chosen: str) -> list[Any]:
    """Parameters, all but the chosen ones for make test-all."""
    return [pytest.param(v, marks=() if v in chosen else pytest.mark.exhaustive) for v in values]


LORA = [f"{name}.{exporter}" for name in E.ADAPTED.values() for exporter in E.EXPORTERS]
MIXED = ["bert-lora.dynamo", "gpt2-lora.script", "llama-lora.dynamo", "distilbert-lora.script"]


@pytest.mark.parametrize("file", quick(LORA, *MIXED))
def test_branches_of_the_graph_and_the_peft_directory_give_the_same(file: str, target: Target) -> None:
    """The export holds the adapter that the directory holds; both are near the float model, and far from the base."""
    path = E.MODELS / f"{file}.onnx"
    low, graph = lower(path, target, CompileOptions(shapes=FREE, adapters={"a": E.MODELS / file.split(".")[0]}))
    assert low.adapters == ("graph", "a")
    reference = Reference(graph)
    wanted = floats(path)
    own, given = outputs(reference, "graph"), outputs(reference, "a")
    assert error(own, wanted) < 0.04
    assert error(given, wanted) < 0.04
    assert error(given, own) < 0.01
    assert error(outputs(reference, None), wanted) > 0.1


@pytest.mark.parametrize("file", quick(MIXED, "bert-lora.dynamo"))
def test_merged_branches_are_the_branches(file: str, target: Target) -> None:
    low, graph = lower(E.MODELS / f"{file}.onnx", target, CompileOptions(shapes=FREE, merge=True))
    assert not any(linear.adapters for linear in low.linears)
    assert low.default_adapter is None
    assert error(outputs(Reference(graph), None), floats(E.MODELS / f"{file}.onnx")) < 0.03


@pytest.mark.parametrize("plain", quick(E.ADAPTED, "gpt2"))
def test_merged_peft_directory(plain: str, target: Target) -> None:
    """As the same adapter beside the base."""
    arguments = {"shapes": FREE, "adapters": {"a": E.MODELS / E.ADAPTED[plain]}}
    low, graph = lower(E.MODELS / f"{plain}.dynamo.onnx", target, CompileOptions(merge=True, **arguments))
    assert low.adapters == ()
    beside = Reference(lower(E.MODELS / f"{plain}.dynamo.onnx", target, CompileOptions(**arguments))[1])
    assert error(outputs(Reference(graph), None), outputs(beside, "a")) < 0.04
    assert error(outputs(beside, None), outputs(beside, "a")) > 0.1


def test_a_head_that_was_trained_whole_is_a_branch_of_full_rank(build: Any, target: Target, write_peft: Write) -> None:
    """modules_to_save: its weight and bias replace the base's, while the adapter is on; merged, they are the base's."""
    k, n = 40, 6
    random = np.random.default_rng(2)
    weights = [random.normal(0, 0.2, (k, n)).astype(np.float32) for _ in range(2)]
    biases = [random.normal(0, 1, n).astype(np.float32) for _ in range(2)]
    build.node("Add", build.node("MatMul", "x", build.constant(weights[0])), build.constant(biases[0]), out="y")
    build.nodes[0].name = "/classifier/MatMul"
    model = build.model({"x": [6, k]}, ["y"])
    stored = {"base_model.model.classifier.weight": weights[1].T, "base_model.model.classifier.bias": biases[1]}
    path = write_peft(stored, modules_to_save=["classifier"])
    x = random.normal(0, 1, (6, k)).astype(np.float32)
    reference = Reference(lower(model, target, CompileOptions(adapters={"a": path}))[1])
    merged = Reference(lower(model, target, CompileOptions(adapters={"a": path}, merge=True))[1])
    for made, name, number in ((reference, None, 0), (reference, "a", 1), (merged, None, 1)):
        assert error(made.run({"x": x}, name)["y"], x @ weights[number] + biases[number]) < 0.015
    with pytest.raises(BadAdapter, match="rank 6"):
        lower(model, target, CompileOptions(adapters={"a": path}, max_lora_rank=5))


def session(path: Path) -> ort.InferenceSession:
    """onnxruntime without its own rewrites."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options)


def distances(file: str, form: str, folder: Path, target: Target) -> tuple[float, float]:
    """Distance of ours and of onnxruntime's quantized result from the float model's, over 64 inputs.

    On the last one the Relax module, run by LLVM, is ours bit for bit.
    """
    path = path_of(file, form, folder)
    low, graph = lower(path, target, CompileOptions(shapes=FREE))
    reference, theirs, real = Reference(graph), session(path), session(E.MODELS / f"{file}.onnx")
    rows: list[list[np.ndarray]] = [[], [], []]
    for feed in E.feeds(64):
        rows[0].append(reference.run({n: feed[n] for n in reference.host.host.inputs}, low.default_adapter)["y"])
        for row, one in zip(rows[1:], (theirs, real), strict=True):
            row.append(one.run(["y"], {i.name: feed[i.name] for i in one.get_inputs()})[0])
    module = LinearModule(low).run({n: feed[n] for n in reference.host.host.inputs}, low.default_adapter)
    assert np.array_equal(module["y"], rows[0][-1])
    ours, other, wanted = (np.stack(row).astype(np.float64) for row in rows)
    return error(ours, wanted), error(other, wanted)


def test_a_static_file_with_a_scale_a_token(tmp_path: Path, target: Target) -> None:
    """Its GELU holds constants in pairs, and its softmax reads a pair with a mask in it."""
    path = path_of("bert-lora.script", "qdq", tmp_path)
    low, graph = lower(path, target, CompileOptions(shapes=FREE, activation="token8"))
    assert all(t.per_token for t in low.inputs)
    wanted = floats(E.MODELS / "bert-lora.script.onnx")
    assert error(outputs(Reference(graph), low.default_adapter), wanted) < min(0.05, error(floats(path), wanted))


NAMES = [*E.ADAPTED, *E.ADAPTED.values(), "bert-dora"]
TAKEN = [
    (n, f) for n in NAMES for f in E.FORMS if f in ("qdq-u8u8", "dynamic", "dynamic-u8-channel") or n in ("bert", "bert-lora")
]


KINDS = (
    ("bert", "qdq-u8u8"),
    ("bert-lora", "dynamic-u8-channel"),
    ("gpt2-lora", "dynamic"),
    ("llama", "qdq-u8u8"),
    ("bert-dora", "dynamic"),
)
"""One of each kind; the others are for make test-all."""
assert set(KINDS) <= set(TAKEN)


@pytest.mark.parametrize(
    ("name", "form"), [pytest.param(*t, marks=pytest.mark.slow if t in KINDS else pytest.mark.exhaustive) for t in TAKEN]
)
def test_no_further_from_float_than_onnxruntime(name: str, form: str, target: Target, tmp_path: Path) -> None:
    """The whole model, with and without LoRA or DoRA in the graph: at most 1.1 times onnxruntime's own quantized distance.

    Measured with every form and both exporters: from 0.79 to 1.01, but bert 1.04 (dynamic-u8) and bert-lora 1.08
    (dynamic-u8-channel) and 1.02 (dynamic-channel). Exporters take turns here: their files hold the same weights.
    """
    exporter = E.EXPORTERS[(NAMES.index(name) + list(E.FORMS).index(form)) % 2]
    ours, theirs = distances(f"{name}.{exporter}", form, tmp_path, target)
    assert ours <= 1.1 * theirs


@pytest.mark.parametrize("file", quick(LORA, "bert-lora.dynamo"))
def test_exact_honours_every_pair(file: str, target: Target, tmp_path: Path) -> None:
    """Each linear (A and B are linears of their own), fed the reference's own input codes, is within one step of the file's."""
    path = path_of(file, "qdq", tmp_path)
    low, graph = lower(path, target, CompileOptions(shapes=FREE, mode="exact"))
    fused = lower(path, target, CompileOptions(shapes=FREE))[0]
    branches = E.BY_NAME[file.split(".")[0]].branches
    assert len(low.linears) == len(fused.linears) + 2 * branches
    assert not low.adapters
    reference = Reference(graph)
    reference.run({n: FEEDS[1][n] for n in reference.host.host.inputs})
    quantized = 0
    for linear, out in zip(low.linears, low.outputs, strict=True):
        x = reference.seen[linear.input] - (linear.grid.x_zero if linear.grid else 0)
        assert linear.grid is not None
        real = x @ linear.weight.weights() * (linear.grid.x_scale * linear.grid.w_scale) + linear.grid.bias
        steps = real / out.scale + out.zero_point - reference.codes[linear.output]
        inside = np.abs(reference.codes[linear.output]) < 127 if out.bits == 8 else np.ones_like(steps, bool)
        assert np.abs(steps[inside]).max() <= 1
        quantized += out.bits == 8
    assert quantized >= 2 * branches
    with pytest.raises(BadModel, match="exact"):
        lower(path, target, CompileOptions(shapes=FREE, mode="exact", activation="token8"))


def test_weights_with_zero_points_keep_their_codes(target: Target, tmp_path: Path) -> None:
    """Asymmetric uint8 weights: the machine's codes less zero points are the file's, column by column."""
    low, graph = lower(path_of("bert.dynamo", "dynamic-u8", tmp_path), target, CompileOptions(shapes=FREE))
    grouped = [linear for linear in low.linears if linear.weight.zero is not None]
    assert grouped
    for linear in grouped:
        weights = linear.weight.weights()
        assert weights.max() - weights.min() > 254
        x = np.random.default_rng(0).integers(-127, 128, (3, linear.k))
        w = linear.weight
        assert w.scale is not None
        assert w.zero is not None
        assert np.array_equal(numerics.grouped_matmul(x, w.codes, w.scale, w.zero, w.group), x @ weights)
    assert error(outputs(Reference(graph), None), floats(E.MODELS / "bert.dynamo.onnx")) < 0.05


def test_equal_weights_tell_what_names_do_not(build: Any, target: Target, write_peft: Write, tmp_path: Path) -> None:
    """--base: the module's weight in the base directory is one linear's, within half a step; two equal ones are refused."""
    k, n = 24, 20
    random = np.random.default_rng(1)
    weights = [random.normal(0, 0.1, (k, n)).astype(np.float32) for _ in range(3)]
    for source, w in zip("xxxz", (*weights, weights[0]), strict=True):
        build.node("MatMul", source, build.constant(w), out=f"y{build.count}")
    model = build.model({"x": [6, k], "z": [6, k]}, [node.output[0] for node in build.nodes])
    base = tmp_path / "base"
    base.mkdir()
    stored = {f"model.layers.{i}.proj.weight": np.ascontiguousarray(w.T).astype(np.float16) for i, w in enumerate(weights)}
    save_file(stored, base / "model.safetensors")

    def adapter(layer: int) -> Path:
        path = f"base_model.model.model.layers.{layer}.proj"
        a, b = np.ones((4, k), np.float32), np.ones((n, 4), np.float32)
        return write_peft({f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}, name=f"a{layer}")

    with pytest.raises(BadAdapter, match="no linear"):
        lower(model, target, CompileOptions(adapters={"a": adapter(1)}))
    low, _ = lower(model, target, CompileOptions(adapters={"a": tmp_path / "a1"}, base=base))
    assert [bool(linear.adapters) for linear in low.linears] == [False, True, False, False]
    with pytest.raises(BadAdapter, match="2 linears"):
        lower(model, target, CompileOptions(adapters={"a": adapter(0)}, base=base))
    with pytest.raises(BadAdapter, match="not in the base"):
        lower(model, target, CompileOptions(adapters={"a": adapter(7)}, base=base))


def test_stages_count_the_linears_on_the_way() -> None:
    node = onnx.helper.make_node
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["l1"], ["b"]), node("Add", ["l2", "a"], ["c"])]
    known = stages(nodes, {"l1": "a", "l2": "b", "l3": "x"})
    assert known == {"a": 0, "l1": 1, "b": 1, "l2": 2, "c": 2, "l3": 1}


@pytest.mark.parametrize("activation", quick(("token8", "static8"), "static8"))
def test_calibrated_scales_reach_the_adapter(activation: str, target: Target) -> None:
    """Where channels of x are divided before quantization, A is multiplied: the branch stays the float one."""
    name = E.ADAPTED["bert"]
    model = E.MODELS / f"{name}.dynamo.onnx"
    data = {key: np.stack([f[key] for f in FEEDS]) for key in FEEDS[0]}
    adapters = {"a": E.MODELS / name}
    low, graph = lower(model, target, CompileOptions(shapes=FREE, adapters=adapters, calibration=data, activation=activation))
    assert all(linear.grid is not None and linear.grid.smooth is not None for linear in low.linears)
    assert set(low.errors) == {linear.name for linear in low.linears}
    assert max(low.errors.values()) < 0.05
    reference, wanted = Reference(graph), floats(model)
    for adapter in ("a", "graph"):
        assert error(outputs(reference, adapter), wanted) < 0.04
