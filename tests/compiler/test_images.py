"""Networks over images, whole: what slides over pixels, against onnxruntime and both references, and in Verilog."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from random_images import network
from whole_runs import TARGET, compared, distance, expected
from writer import Writer

import axlora

SIDE, CHANNELS = 8, 6
RNG = np.random.default_rng(0)


def _conv(w: Writer, x: str, inner: int, outer: int, size: int = 1, group: int = 1, **attributes: Any) -> str:
    kernel = RNG.normal(0, 1.5 / np.sqrt(inner // group * size * size), (outer, inner // group, size, size))
    return w("Conv", x, w.constant(kernel), w.constant(RNG.normal(0, 0.1, outer)), group=group, **attributes)


def _model(body: Any, outer: int = CHANNELS, side: int = SIDE) -> onnx.ModelProto:
    """A convolution of an image, a relu, what `body` makes of it, and a convolution of single pixels."""
    w = Writer()
    x = w("Relu", _conv(w, "x", 3, CHANNELS, 3, pads=[1, 1, 1, 1]))
    _conv(w, body(w, x), outer, 4)
    w.nodes[-1].output[0] = "y"
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [1, 3, side, side])]
    outputs = [value("y", TensorProto.FLOAT, [1, 4, "h", "w"])]
    graph = helper.make_graph(w.nodes, "g", inputs, outputs, w.held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _residual(w: Writer, x: str) -> str:
    """Two convolutions and one around them, all to half the size, and one whose operand goes around it as it is."""
    own = w("Relu", _conv(w, x, CHANNELS, 8, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    around = _conv(w, x, CHANNELS, 8, strides=[2, 2])
    x = w("Relu", w("Add", _conv(w, own, 8, 8, 3, pads=[1, 1, 1, 1]), around))
    return w("Add", _conv(w, x, 8, CHANNELS, 3, dilations=[2, 2], pads=[2, 2, 2, 2]), _conv(w, around, 8, CHANNELS))


def _around(w: Writer, x: str) -> str:
    """Half the size, back again, and both side by side."""
    small = _conv(w, w("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), CHANNELS, 5, 3, pads=[1, 1, 1, 1])
    scales = w.constant(np.array([1, 1, 2, 2], np.float32))
    large = w("Resize", small, "", scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")
    return w("Concat", large, x, axis=1)


def _depthwise(w: Writer, x: str) -> str:
    x = w("Clip", x, w.constant(np.float32(0)), w.constant(np.float32(2)))
    x = _conv(w, x, CHANNELS, CHANNELS, 3, CHANNELS, strides=[2, 2], pads=[1, 0, 1, 2])
    return _conv(w, w("HardSwish", x), CHANNELS, CHANNELS, 3, CHANNELS, dilations=[1, 2], pads=[1, 2, 1, 2])


def _pools(w: Writer, x: str) -> str:
    """The largest of windows that reach beyond both ends, means with what is beside the image and without, nearest pixels."""
    a = w("MaxPool", x, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1], ceil_mode=1)
    b = w("AveragePool", a, kernel_shape=[2, 3], pads=[0, 1, 1, 1], count_include_pad=1)
    c = w("AveragePool", b, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return w("Resize", c, "", "", w.ints(1, CHANNELS, 3, 11), mode="nearest")


def _squeezed(w: Writer, x: str) -> str:
    """Squeeze and excitation, of half the pixels too; the mean itself is added to the pixels, and taken from them again."""
    for stride, name in ((1, "Sigmoid"), (2, "HardSigmoid")):
        x = _conv(w, x, CHANNELS, CHANNELS, 3, strides=[stride] * 2, pads=[1, 1, 1, 1])
        mean = w("GlobalAveragePool", x)
        gate = w(name, _conv(w, w("Relu", _conv(w, mean, CHANNELS, 4)), 4, CHANNELS))
        x = w("Sub", w("Add", w("Mul", x, gate), mean), w("Mul", mean, w.constant(np.float32(0.5))))
    return x


CASES = {"squeezed": _squeezed, "residual": _residual, "around": _around, "depthwise": _depthwise, "pools": _pools}
WIDTHS = {"around": 5 + CHANNELS}


LATER = [pytest.param(name, marks=pytest.mark.slow) for name in ("depthwise", "pools")]


@pytest.mark.parametrize("name", ["squeezed", "residual", "around", *LATER])
def test_what_slides_over_an_image(name: str) -> None:
    proto = _model(CASES[name], WIDTHS.get(name, CHANNELS))
    samples = RNG.normal(0, 1, (8, 1, 3, SIDE, SIDE)).astype(np.float32)
    x = {"x": RNG.normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)}
    _, run = compared(proto, x, calibration={"x": samples})
    assert distance(run.outputs["y"], expected(proto, x)) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "squeezed"])
def test_an_image_in_blocks_of_rows_and_in_verilog(name: str) -> None:
    """More pixels than are worked on at once, which windows reach across; cycles, counters and results are the Verilog's."""
    proto = _model(CASES[name], side=24)
    given = {"x": RNG.normal(0, 1, (1, 3, 24, 24)).astype(np.float32)}
    program, run = compared(proto, given, calibration={"x": RNG.normal(0, 1, (4, 1, 3, 24, 24)).astype(np.float32)})
    assert distance(run.outputs["y"], expected(proto, given)) < 0.03
    assert TARGET.tbuf_tokens < 24 * 24  # rows at once have a word each there
    rtl = axlora.run_rtl(program, given)
    assert (rtl.counters, rtl.cycles) == (run.counters, run.cycles)
    np.testing.assert_array_equal(rtl.codes["y"], run.codes["y"])


def _random(seeds: range) -> int:
    """How many of these networks run whole, each as near to onnxruntime as its codes let it; the others are refused by name."""
    whole = 0
    for seed in seeds:
        proto, shape = network(seed)
        rng = np.random.default_rng(seed)
        samples, given = rng.normal(0, 1, (16, *shape)).astype(np.float32), rng.normal(0, 1, shape).astype(np.float32)
        try:
            program = axlora.compile(proto, TARGET, calibration={"x": samples}, operators="all")
        except axlora.Error:
            continue
        y, wanted = axlora.simulate(program, {"x": given}, timing=False).outputs["y"], expected(proto, {"x": given})
        few = 0.002 * np.sqrt(wanted.size)  # means of an image may be next to nothing
        assert np.linalg.norm(y - wanted) < 0.08 * np.linalg.norm(wanted) + few, seed
        whole += 1
    return whole


@pytest.mark.parametrize("seeds", [range(24), pytest.param(range(24, 424), marks=pytest.mark.exhaustive)], ids=["few", "many"])
@pytest.mark.slow
def test_random_networks(seeds: range) -> None:
    assert _random(seeds) > 0.85 * len(seeds)
