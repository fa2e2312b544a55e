"""What a package says of where it comes from: the base's weights, and bases that adapters name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

import axlora


def model(folder: Path, value: float = 1.0, external: bool = False, extra: bool = False) -> Path:
    """One linear, its weight in the file or beside it, and maybe another node."""
    folder.mkdir()
    weight = numpy_helper.from_array(np.full((16, 8), value, np.float32), "q.weight")
    nodes = [helper.make_node("MatMul", ["x", "q.weight"], ["h"], "/q/MatMul")]
    nodes += [helper.make_node("Tanh" if extra else "Identity", ["h"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, size]) for n, size in (("x", 16), ("y", 8)))
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, folder / "model.onnx", save_as_external_data=external, location="weights", size_threshold=0)
    return folder / "model.onnx"


def test_the_hash_of_the_weights_is_of_their_values_alone(tmp_path: Path) -> None:
    """The same where they lie in a file of their own, or in another graph; another for another value, there or here."""
    forms = {"a": {}, "b": {"external": True}, "c": {"extra": True}, "d": {"value": 2.0}, "e": {"value": 2.0, "external": True}}
    sources = {
        name: axlora.compile(model(tmp_path / name, **form), "test", operators="linears").sources
        for name, form in forms.items()
    }
    hashes = {name: source["weights"] for name, source in sources.items()}
    assert hashes["a"] == hashes["b"] == hashes["c"] != hashes["d"] == hashes["e"]
    assert sources["b"]["model"] == sources["e"]["model"]  # the graph's file, which says nothing of them
    program = axlora.compile(onnx.load(tmp_path / "a" / "model.onnx"), "test", operators="linears")
    assert program.sources["weights"] == hashes["a"]
    program.save(tmp_path / "a.axl")
    assert axlora.load(tmp_path / "a.axl").sources["weights"] == hashes["a"]


@pytest.mark.parametrize("other", ["org/Llama-8B", "bases/llama-8b", "org/mistral-7b"])
def test_adapters_that_name_different_bases(tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str) -> None:
    folders = {}
    for name, base in (("law", "org/Llama-8B"), ("med", other)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": base}
        (folders[name] / "adapter_config.json").write_text(json.dumps(config))
        ones = {"A": np.ones((2, 16), np.float32), "B": np.ones((8, 2), np.float32)}
        tensors = {f"base_model.model.q.lora_{part}.weight": value for part, value in ones.items()}
        save_file(tensors, folders[name] / "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING):
        axlora.compile(model(tmp_path / "m"), "test", adapters=folders, operators="linears")
    told = [r.message for r in caplog.records if "name different bases" in r.message]
    assert bool(told) is (other == "org/mistral-7b")
    assert all("law 'org/Llama-8B', med 'org/mistral-7b'" in line for line in told)
