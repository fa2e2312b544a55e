"""Baselines: the same program on machines with multipliers, and the bytes over the bus."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.baselines import Compared, machines
from axlora.engines import Simulator
from axlora.isa.target import ENGINES, Target


@pytest.fixture(scope="module")
def program() -> axlora.Program:
    """A linear of enough columns for products to come again."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "only")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 512])],
        [numpy_helper.from_array(rng.normal(size=(32, 512)).astype("f4"), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return axlora.compile(model, "test", operators="linears", activation="token8")


def _cycles(program: axlora.Program, engine: str, multipliers: int) -> int:
    """Of the same bytes on another machine."""
    target = dataclasses.replace(program.target, engine=engine, multipliers=multipliers)
    other = dataclasses.replace(program, target=target)
    return axlora.simulate(other, program.random_inputs(0)).cycles


@pytest.mark.parametrize("engine", ENGINES)
def test_baselines_are_runs_of_the_same_bytes(engine: str, program: axlora.Program) -> None:
    own = dataclasses.replace(program, target=dataclasses.replace(program.target, engine=engine))
    compared = Compared(Simulator(), machines(own.target, lambda lane: {"mac": lane.multipliers}.get(lane.engine, 2)))
    run = compared.compared(own.session(engine=compared).run(own.random_inputs(0)))
    assert run.cycles == _cycles(program, engine, 1)
    assert run.baselines is not None
    assert run.to_json()["baselines"] == run.baselines
    assert run.baselines["equal_multipliers"] == _cycles(program, "mac", 1)
    assert run.baselines["equal_area"] == _cycles(program, "mac", 1 if engine == "mac" else 2)
    assert run.baselines["unlimited"] == _cycles(program, "mac", program.target.ports)
    assert run.baselines["memory_bound"] * program.target.beat_bytes == run.to_json()["dram_bytes_read"]
    assert (
        run.baselines["memory_bound"]
        <= run.baselines["unlimited"]
        <= run.baselines["equal_area"]
        <= run.baselines["equal_multipliers"]
    )


def test_an_area_that_is_not_known_is_not_made_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert machines(Target.load("test"), lambda _: None)["equal_area"] is None
    assert "axlora area --lanes test" in caplog.text


def test_no_multiplier_fits_into_less_than_one() -> None:
    found = machines(Target.load("test"), lambda lane: 100 if lane.engine == "mac" else 99)
    assert found["equal_area"] is None
