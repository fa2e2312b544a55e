"""Static scales hold what base and adapters make of the samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import onnx
import pytest
from exported_runs import FREE, run
from safetensors.numpy import load_file, save_file

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.calibrate import ranges
from axlora.compiler.frontend.merge import merge_graph
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.resolve import Matching
from axlora.compiler.frontend.smoothing import Inputs
from axlora.compiler.frontend.variants import variants
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target

K, M, N, T, RANK = 16, 20, 12, 6, 2
FEEDS = list(E.feeds())
DATA = {key: np.stack([f[key] for f in FEEDS]) for key in FEEDS[0]}


def two_linears(build: Any) -> onnx.ModelProto:
    """x, a linear `up`, tanh of a hundredth (so that it stays nearly linear), a linear `down`."""
    hidden = build.node("Add", build.node("MatMul", "x", build.floats(K, M)), build.floats(M))
    build.nodes[0].name = "/up/MatMul"
    bent = build.node("Tanh", build.node("Mul", hidden, build.constant(np.array(0.01, np.float32))))
    build.node("MatMul", bent, build.floats(M, N), out="y")
    build.nodes[-1].name = "/down/MatMul"
    return build.model({"x": [T, K]}, ["y"])


def wide_adapter(write_peft: Callable[..., Path]) -> Path:
    """LoRA on `up` that makes what `down` reads about ten times as wide."""
    random = np.random.default_rng(5)
    a, b = random.normal(0, 1, (RANK, K)).astype(np.float32), random.normal(0, 1, (M, RANK)).astype(np.float32)
    path = "base_model.model.up"
    return write_peft({f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}, r=RANK, lora_alpha=RANK)


def test_a_static_scale_holds_an_adapters_values(build: Any, target: Target, write_peft: Callable[..., Path]) -> None:
    """Compiled with the adapter the scale is as wide as the adapter needs; compiled for the base alone, it is not."""
    model, folder = two_linears(build), wide_adapter(write_peft)
    x = np.random.default_rng(0).normal(0, 1, (4, T, K)).astype(np.float32)

    def compiled(**options: Any) -> tuple[float, Reference]:
        low, graph = lower(model, target, CompileOptions(calibration={"x": x}, activation="static8", **options))
        return next(t.scale for t in low.inputs if t.name.startswith(low.linears[1].input)), Reference(graph)

    base, _ = compiled(max_lora_rank=RANK)
    both, reference = compiled(adapters={"a": folder})
    merged, _ = compiled(adapters={"a": folder}, merge=True)
    assert both > 4 * base
    assert 0.5 * both < merged < 2 * both
    tensors = load_file(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.up.lora_{p}.weight"].astype(float) for p in "AB")
    values = {i.name: onnx.numpy_helper.to_array(i).astype(float) for i in model.graph.initializer}
    weights = [values[n.input[1]] for n in model.graph.node if n.op_type == "MatMul"]
    bias = values[next(n for n in model.graph.node if n.op_type == "Add").input[1]]
    for sample in x:
        wanted = np.tanh((sample @ (weights[0] + a.T @ b.T) + bias) / 100) @ weights[1]
        got = reference.run({"x": sample}, "a")["y"]
        assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("file", ["bert-lora.script", "gpt2-lora.dynamo", "bert-dora.dynamo"])
def test_ranges_are_those_of_the_float_model_under_each_variant(file: str) -> None:
    """The graph's own branches: what onnxruntime sees there; the same adapter from its directory: the same; the base: not."""
    model, where = onnx_reader.read(E.MODELS / f"{file}.onnx", FREE)
    g, (_, found) = Graph(model), recognise(model)
    names = {f.x_name for f in found}
    folder = E.MODELS / file.split(".")[0]
    each = [one.linears for one in variants(found, {"a": folder} if folder.is_dir() else {})]
    seen = [ranges(g, [one], names, DATA, where, Inputs(False)) for one in each]
    assert len(seen) == 2 + folder.is_dir()
    real = [run(model, sorted(names), i) for i in range(len(FEEDS))]
    for name in names:
        rows = np.concatenate([values[name].reshape(-1, values[name].shape[-1]) for values in real])
        for own in seen[1:]:
            assert np.allclose(own[name], (np.minimum(rows.min(axis=0), 0), np.maximum(rows.max(axis=0), 0)), atol=1e-4)
    assert any(not np.allclose(seen[0][name], seen[1][name], atol=0.02) for name in names)
    together = ranges(g, [one.linears for one in variants(found, {})], names, DATA, where, Inputs(False))
    for name in names:
        assert np.array_equal(together[name][0], np.minimum(seen[0][name][0], seen[1][name][0]))
        assert np.array_equal(together[name][1], np.maximum(seen[0][name][1], seen[1][name][1]))


def test_calibration_sees_an_adapter_matched_by_weights(build: Any, write_peft: Callable[..., Path], tmp_path: Path) -> None:
    """Names do not tell, the base's weights do: the samples are run under the adapter too."""
    proto = two_linears(build)
    weights = [onnx.numpy_helper.to_array(i) for i in proto.graph.initializer if len(i.dims) == 2]
    _, found = recognise(onnx_reader.read(proto)[0])
    base, path = tmp_path / "base", "base_model.model.elsewhere"
    base.mkdir()
    save_file({"elsewhere.weight": np.ascontiguousarray(weights[0].T)}, base / "model.safetensors")
    a, b = np.ones((4, K), np.float32), np.ones((M, 4), np.float32)
    folder = write_peft({f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}, name="b")
    with pytest.raises(BadAdapter, match="no linear"):
        variants(found, {"b": folder})
    plain, merged = (one.linears for one in variants(found, {"b": folder}, Matching(base=base)))
    assert plain == found
    assert np.allclose(merged[0].weight, found[0].weight + 2 * (a.T @ b.T))
    assert merged[1] == found[1]
    assert merge_graph(found) == found


@pytest.mark.parametrize("activation", [None, "static8"])
def test_linears_with_nothing_between(build: Any, target: Target, activation: str | None) -> None:
    """Each divides what the one before gives; the last one's result is codes in the file, and codes come out."""
    random = np.random.default_rng(3)
    weights = [random.normal(0, 0.2, (K, K)).astype(np.float32) for _ in range(3)]
    name = "x"
    for weight in weights:
        name = build.node("MatMul", name, build.constant(weight))
    scale, zero = build.constant(np.array(0.05, np.float32)), build.constant(np.array(0, np.int8))
    build.node("QuantizeLinear", name, scale, zero, out="y")
    model = build.model({"x": [4, K]}, ["y"])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    x = random.normal(0, 1, (6, 4, K)).astype(np.float32)
    low, graph = lower(model, target, CompileOptions(calibration={"x": x}, activation=activation))
    assert [linear.stage for linear in low.linears] == [0, 1, 2]
    got = Reference(graph).run({"x": x[0]})["y"]
    wanted = x[0] @ weights[0] @ weights[1] @ weights[2] / 0.05
    assert got.dtype == np.int8
    assert np.abs(got - np.clip(wanted, -128, 127)).max() < 0.05 * np.abs(wanted).max() + 1
