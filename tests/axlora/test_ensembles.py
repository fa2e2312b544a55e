"""Ensembles: the outputs of each adapter alone, their mean and spread, in one run where the package has a row for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_decoder import Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.compiler.passes.quantize_adapter import Branch

RNG = np.random.default_rng(5)
K = 12
ADAPTERS = ["a3", None, "a2"]


def _perceptron() -> onnx.ModelProto:
    """Two linears I.NAME with a Relu between."""
    weights = {f"w{n}": RNG.normal(0, 0.3, (K, K)).astype(np.float32) for n in range(2)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["u"], name="/model/layer.0/up/MatMul"),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("MatMul", ["v", "w1"], ["y"], name="/model/layer.0/down/MatMul"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", K]) for name in "xy")
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored), opset_imports=[helper.make_opsetid("", 20)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("ensembles")
    branches = {
        f"a{rank}": write_peft({f"0.{name}": _branch(rank) for name in ("up", "down")}, folder / f"a{rank}") for rank in (2, 3)
    }
    return _perceptron(), branches


def _branch(rank: int) -> Branch:
    return Branch(RNG.normal(0, 0.3, (K, rank)), RNG.normal(0, 0.3, (rank, K)), 1.0)


@pytest.mark.parametrize("operators", ["linears", "all"])
def test_a_row_for_each_adapter_is_one_run(model: tuple[onnx.ModelProto, dict[str, Path]], operators: str) -> None:
    proto, folders = model
    options = {"adapters": folders, "operators": operators, "max_loras": 2}
    x = RNG.normal(0, 1, (1, K)).astype(np.float32)
    calibration = {"x": RNG.normal(0, 1, (8, 1, K)).astype(np.float32)} if operators == "all" else None
    one = axlora.compile(proto, "test", shapes={"batch": 1}, calibration=calibration, **options)
    if calibration is not None:
        calibration = {"x": np.repeat(calibration["x"], 3, axis=1)}
    three = axlora.compile(proto, "test", shapes={"batch": 3}, calibration=calibration, **options)
    found, apart = (axlora.ensemble(program, {"x": x}, ADAPTERS) for program in (three, one))
    assert (len(found.runs), len(apart.runs)) == (1, 3)
    assert found.outputs["y"].shape == apart.outputs["y"].shape == (3, 1, K)
    assert np.array_equal(found.outputs["y"], apart.outputs["y"])
    for value, name in zip(apart.outputs["y"], ADAPTERS, strict=True):
        assert np.array_equal(value, axlora.simulate(one, {"x": x}, [name]).outputs["y"])
    assert np.allclose(found.mean["y"], np.mean(found.outputs["y"], axis=0))
    assert np.allclose(found.spread["y"], np.sqrt(np.mean((found.outputs["y"] - found.mean["y"]) ** 2, axis=0)))
    assert found.spread["y"].max() > 0
    assert found.cycles < apart.cycles


def test_adapters_of_a_language_model_decode_together(tmp_path: Path) -> None:
    decoder = random_decoder(Sizes(layers=1, context=12), seed=3)
    folders = {f"a{rank}": write_peft(random_branches(decoder, rank, rank), tmp_path / f"a{rank}") for rank in (2, 3)}
    file = write_onnx(decoder, tmp_path / "model.onnx")
    program = axlora.compile(file, "test", adapters=folders, generate=True, max_context=12, max_batch=3)
    found = axlora.ensemble(program, {"input_ids": [[5, 60, 7, 30, 2]]}, ADAPTERS)
    assert len(found.runs) == 1
    for value, name in zip(found.outputs["logits"], ADAPTERS, strict=True):
        alone = axlora.simulate(program, {"input_ids": [[5, 60, 7, 30, 2]]}, [name])
        assert np.array_equal(value, alone.outputs["logits"])
    with pytest.raises(axlora.BadInput, match="no adapters"):
        axlora.ensemble(program, {"input_ids": [[5]]}, [])
