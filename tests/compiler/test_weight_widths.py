"""Bits of weights, chosen linear by linear: the solver, what is counted, and models whose bits were chosen."""

from __future__ import annotations

import itertools
import logging

import mlps as M
import numpy as np
import pytest
from whole_runs import distance, expected

import axlora
from axlora.compiler.errors import BadModel
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.weight_widths import solved

RNG = np.random.default_rng(3)


def test_no_choice_within_the_budget_has_less_error() -> None:
    errors, costs = RNG.random((6, 3)) ** 3, RNG.integers(1, 40, (6, 3)).astype(float)
    every = np.array([*itertools.product(range(3), repeat=6)])
    error, cost = (each[np.arange(6), every].sum(axis=1) for each in (errors, costs))
    for budget in (float(np.quantile(cost, q)) for q in (0.02, 0.3, 0.8)):
        chosen = solved(errors, costs, budget)
        assert costs[range(6), chosen].sum() <= budget
        assert errors[range(6), chosen].sum() <= 1.001 * error[cost <= budget].min()
    with pytest.raises(ValueError, match="infeasible"):
        solved(errors, costs, costs.min(axis=1).sum() - 1)


@pytest.mark.parametrize("operators", ["all", "linears"])
def test_bits_of_each_linear(operators: str, caplog: pytest.LogCaptureFixture) -> None:
    """More bytes are less error, from 2 bits everywhere to 8."""
    proto = M.activation("Relu", (4,))
    samples = RNG.normal(0, 1, (16, 4, M.K)).astype(np.float32)
    given = {"x": samples[0]}
    y, errors = proto.graph.output[0].name, []
    for bits in ("auto:2", "auto:4.5", "auto:6", "auto:8"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            program = axlora.compile(proto, "test", calibration={"x": samples}, weight_bits=bits, operators=operators)
        assert "weights of linears:" in caplog.text
        errors.append(distance(axlora.simulate(program, given).outputs[y], expected(proto, given)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20


@pytest.mark.parametrize("bits", [5, "auto:9", "auto:", "autos", "4"])
def test_no_such_bits(bits: int | str) -> None:
    with pytest.raises(BadModel, match="weight_bits is"):
        CompileOptions(weight_bits=bits, calibration={})


def test_bits_are_chosen_for_data() -> None:
    with pytest.raises(BadModel, match="calibration data"):
        CompileOptions(weight_bits="auto")
