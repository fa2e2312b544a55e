"""A run of two linears with an adapter, for tests of its page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora


@pytest.fixture(scope="session")
def program() -> axlora.Program:
    """Two linears, with room for an adapter."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w<1>"], ["h"], "first"), helper.make_node("MatMul", ["h", "v"], ["y"], "second")],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(rng.normal(size=s).astype("f4"), n) for n, s in (("w<1>", (16, 24)), ("v", (24, 8)))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return axlora.compile(model, "test", max_lora_rank=2, operators="linears", activation="token8")


@pytest.fixture(scope="session")
def run(program: axlora.Program) -> dict[str, Any]:
    """Its run, as read from its file."""
    found = axlora.simulate(program, program.random_inputs(0))
    loaded: dict[str, Any] = json.loads(json.dumps(found.to_json()))
    return loaded
