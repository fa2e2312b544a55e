"""Convolutions over tokens within whole models, and patches that nothing mixes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from whole_runs import compared, distance, expected
from writer import Writer

TOKENS, FEATURES, OUT = 13, 7, 9


def _graph(w: Writer, x: list[int], y: list[int]) -> onnx.ModelProto:
    w.nodes[-1].output[0] = "y"
    first, last = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y)))
    graph = helper.make_graph(w.nodes, "g", [first], [last], w.held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _near(proto: onnx.ModelProto, shape: tuple[int, ...], most: float) -> None:
    rng = np.random.default_rng(1)
    samples, x = rng.normal(0, 1, (8, *shape)).astype(np.float32), rng.normal(0, 1, shape).astype(np.float32)
    _, run = compared(proto, {"x": x}, calibration={"x": samples})
    assert distance(run.outputs["y"], expected(proto, {"x": x})) < most


@pytest.mark.parametrize(
    ("taps", "stride", "dilation", "pads"),
    [
        (3, 1, 1, (2, 0)),
        pytest.param(3, 2, 2, (0, 1), marks=pytest.mark.slow),
        pytest.param(5, 3, 1, (4, 4), marks=pytest.mark.slow),
        pytest.param(1, 1, 1, (0, 0), marks=pytest.mark.slow),
    ],
    ids=["causal", "dilated", "strides beyond the ends", "one tap"],
)
def test_a_convolution_behind_a_linear(taps: int, stride: int, dilation: int, pads: tuple[int, int]) -> None:
    """Channels first, between functions, and a mean over the rows that it makes."""
    w, rng = Writer(), np.random.default_rng(0)
    x = w("Tanh", w("MatMul", "x", w.constant(rng.normal(0, 0.3, (FEATURES, 6)))))
    kernel = w.constant(rng.normal(0, 0.3, (OUT, 6, taps)))
    sizes = {"kernel_shape": [taps], "strides": [stride], "dilations": [dilation], "pads": [*pads]}
    x = w("Sigmoid", w("Conv", w("Transpose", x, perm=[0, 2, 1]), kernel, **sizes))
    x = w("MatMul", w("Transpose", x, perm=[0, 2, 1]), w.constant(rng.normal(0, 0.3, (OUT, OUT))))
    w("ReduceMean", x, w.ints(1), keepdims=0)
    _near(_graph(w, [1, TOKENS, FEATURES], [1, OUT]), (1, TOKENS, FEATURES), 0.02)


def test_patches_that_nothing_mixes() -> None:
    w, rng = Writer(), np.random.default_rng(0)
    sizes = {"kernel_shape": [4, 4], "strides": [4, 4]}
    x = w("Relu", w("Conv", "x", w.constant(rng.normal(0, 0.2, (6, 3, 4, 4))), **sizes))
    x = w("Transpose", w("Reshape", x, w.ints(1, 6, -1)), perm=[0, 2, 1])
    w("MatMul", x, w.constant(rng.normal(0, 0.4, (6, 5))))
    _near(_graph(w, [1, 3, 8, 12], [1, 6, 5]), (1, 3, 8, 12), 0.02)
