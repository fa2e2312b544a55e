"""Weights rounded for calibration data: GPTQ against its definition, and what the ranges of channels are worth."""

from __future__ import annotations

import mlps as M
import numpy as np
import onnxruntime
import pytest

import axlora
from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.frontend.smoothing import Inputs, Widths, smoothing
from axlora.compiler.passes import rounding
from axlora.compiler.passes.quantize_linear import quantize_groups, quantize_weight
from axlora.compiler.pipelines.options import CompileOptions

RNG = np.random.default_rng(5)
K, N, ROWS = 96, 24, 400
WEIGHT = RNG.normal(size=(K, N))
X = RNG.normal(size=(ROWS, K)) @ RNG.normal(size=(K, K)) / np.sqrt(K)  # features that go together
GRAM = X.T @ X


def _error(codes: np.ndarray, scale: np.ndarray) -> float:
    return float(np.square(X @ (codes * scale - WEIGHT)).mean())


def test_codes_are_those_of_the_algorithm_row_by_row() -> None:
    """Against the plain form: after each row the rest of the weight solves the least squares that the rounding leaves."""
    steps = np.broadcast_to(np.abs(WEIGHT).max(axis=0) / 7, WEIGHT.shape)
    order = np.argsort(-np.diag(GRAM), kind="stable")
    damped = GRAM + np.eye(K) * rounding.DAMPING * np.diag(GRAM).mean()
    left, expected = WEIGHT.copy(), np.empty(WEIGHT.shape, np.int64)
    for n, k in enumerate(order):
        expected[k] = np.clip(np.rint(left[k] / steps[k]), -8, 7)
        error, rest = left[k] - expected[k] * steps[k], order[n + 1 :]
        left[rest] += np.linalg.solve(damped[np.ix_(rest, rest)], np.outer(damped[rest, k], error))
    assert np.array_equal(rounding.compensated(WEIGHT, steps, 7, GRAM), expected)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_results_on_the_data_are_nearer_than_with_the_nearest_codes(bits: int) -> None:
    nearest, for_data = quantize_weight(WEIGHT, bits), quantize_weight(WEIGHT, bits, GRAM)
    assert _error(*for_data) < 0.6 * _error(*nearest)
    grouped, for_data = quantize_groups(WEIGHT, bits, 32), quantize_groups(WEIGHT, bits, 32, GRAM)
    assert _error(for_data[0].weights(), for_data[1]) < 0.6 * _error(grouped[0].weights(), grouped[1])
    assert for_data[0].codes.min() >= -(1 << (bits - 1))
    assert for_data[0].codes.max() < 1 << (bits - 1)


def test_columns_and_features_that_are_zero_stay_so() -> None:
    weight, gram = WEIGHT.copy(), GRAM.copy()
    weight[:, 3] = 0
    gram[7] = gram[:, 7] = 0
    codes, _ = quantize_weight(weight, 4, gram)
    assert not codes[:, 3].any()
    assert codes.any(axis=0).sum() == N - 1
    codes, scale = quantize_weight(WEIGHT, 4, np.zeros((K, K)))
    assert np.array_equal(codes, np.clip(np.rint(WEIGHT / scale), -8, 7))


def _linear(weight: np.ndarray) -> FoundLinear:
    return FoundLinear(
        "l", "l", (), "x", None, weight, None, np.zeros(weight.shape[1]), "y", None, (), (), "y", shape=weight.shape
    )


def test_channels_give_range_to_the_weights_where_that_helps() -> None:
    """A few large channels do; features that are all alike, read by weights of few bits, do not."""
    large = X.copy()
    large[:, [2, 50]] *= 40
    weight = WEIGHT.copy()
    weight[[2, 50]] /= 40
    inputs = Inputs(wants_grams=False)
    inputs.add("large", large)
    inputs.add("even", X / np.abs(X).max(axis=0))
    by = smoothing(inputs, "large", [_linear(weight)], Widths(8, 8, per_token=True))
    assert by is not None
    assert by[[2, 50]].min() > 3 * np.median(by)
    assert smoothing(inputs, "even", [_linear(np.sign(WEIGHT))], Widths(8, 2, per_token=True)) is None

    def error(by: np.ndarray) -> float:
        codes, scale = quantize_weight(weight * by[:, None], 8)
        rows = large / by
        step = np.abs(rows).max(axis=1, keepdims=True) / 127
        return float(np.square(np.rint(rows / step) * step @ (codes * scale) - large @ weight).mean())

    assert error(by) < 0.2 * error(np.ones(K))


def test_gptq_is_refused_without_data_and_used_with_it() -> None:
    with pytest.raises(BadModel, match=r"gptq rounds weights for calibration data.*--calibration"):
        CompileOptions(quantizer="gptq")
    model = M.activation("Tanh")
    x = np.float32(RNG.normal(size=(64, 4, M.K)) @ RNG.normal(size=(M.K, M.K)) / 4)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x[0]})
    for operators in ("all", "linears"):
        errors = {}
        for quantizer in ("rtn", "gptq"):
            given = {"shapes": {"batch": 4}, "calibration": {"x": x}, "operators": operators}
            program = axlora.compile(model, "test", weight_bits=4, quantizer=quantizer, **given)
            (y,) = axlora.simulate(program, {"x": x[0]}).outputs.values()
            errors[quantizer] = float(np.square(y - expected).mean())
        assert errors["gptq"] < 0.8 * errors["rtn"], operators


@pytest.mark.parametrize("operators", ["all", "linears"])
def test_it_is_said_that_codes_of_the_file_are_not_rounded(operators: str, caplog: pytest.LogCaptureFixture) -> None:
    codes, scale = quantize_weight(RNG.normal(size=(M.K, M.OUT)), 8)
    g = M.Graph()
    weight = g.do("DequantizeLinear", g.constant(codes.astype(np.int8)), g.constant(scale), axis=1)
    model = g.model([4, M.K], {g.do("Tanh", g.do("MatMul", "x", weight, name="/w/MatMul")): [4, M.OUT]})
    given = {"calibration": {"x": M.samples(model, 4, 8)}, "operators": operators}
    for quantizer, said in (("rtn", 0), ("gptq", 1)):
        caplog.clear()
        axlora.compile(model, "test", quantizer=quantizer, **given)
        assert caplog.text.count("gptq changes none") == said
