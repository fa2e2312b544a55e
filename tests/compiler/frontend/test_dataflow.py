"""Weights of a file as codes: what they stand for is what DequantizeLinear gives, to the bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend.scales import make_codes_signed
from axlora.compiler.passes.dataflow import Dataflow

TYPES: dict[str, tuple[Any, int, int]] = {
    "int8": (np.int8, -128, 127),
    "uint8": (np.uint8, 0, 255),
    "int4": (ml_dtypes.int4, -8, 7),
    "uint4": (ml_dtypes.uint4, 0, 15),
}


def graph_of(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, signed: bool = False) -> Dataflow:
    """x times DequantizeLinear of the codes; `signed`: as the reader leaves it."""
    constants = {"codes": codes, "scale": scale, **({} if zero is None else {"zero": zero})}
    nodes = [
        helper.make_node("DequantizeLinear", list(constants), ["d"], name="d", axis=axis),
        helper.make_node("Transpose", ["d"], ["w"], perm=[1 - axis, axis]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    k, n = codes.shape[1 - axis], codes.shape[axis]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, k])]
    shapes = {"d": codes.shape, "w": codes.shape[::-1]}
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, n])]
    tensors = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, result, tensors, value_info=value),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    if signed:
        make_codes_signed(model)
    return Dataflow(model)


@st.composite
def weights(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
    """(codes, scales of either sign, zero points, axis), one a tensor or one a column."""
    dtype, low, high = TYPES[draw(st.sampled_from(sorted(TYPES)))]
    axis = draw(st.integers(0, 1))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    codes = draw(hnp.arrays(np.int16, shape, elements=st.integers(low, high)))
    form = draw(st.sampled_from(((), (1,), (shape[axis],))))
    size = st.floats(2.0**-20, 2.0**20, width=32)
    scale = draw(hnp.arrays(np.float32, form, elements=st.one_of(size, size.map(lambda x: -x), st.just(0.0))))
    zero = draw(st.one_of(st.none(), hnp.arrays(np.int16, form, elements=st.integers(low, high))))
    return codes.astype(dtype), scale, None if zero is None else zero.astype(dtype), axis


def reals(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int) -> np.ndarray:
    """[k, n] as ONNX defines DequantizeLinear."""
    wide = codes.astype(np.float64)
    wide = wide if axis == 1 else wide.T
    return (wide - (0 if zero is None else zero.astype(np.float64))) * scale.astype(np.float64)


@settings(max_examples=400, deadline=None)
@given(weights())
def test_codes_of_any_type_and_sign_of_scale_are_the_values_of_the_file(case: tuple[Any, ...]) -> None:
    codes, scale, zero, axis = case
    found = graph_of(codes, scale, zero, axis).codes("codes", scale, "" if zero is None else "zero", axis)
    assert found is not None
    assert np.array_equal(found.reals, reals(*case))
    assert (found.scale >= 0).all()
    assert found.bits == (4 if "int4" in str(codes.dtype) else 8)
    least, most = (0, 2**found.bits - 1) if found.zero is not None else (-(2 ** (found.bits - 1)), 2 ** (found.bits - 1) - 1)
    assert found.codes.min() >= least
    assert found.codes.max() <= most
    if found.zero is not None:
        assert found.zero.min() >= 0
        assert found.zero.max() <= most


@settings(deadline=None)
@given(weights(), st.booleans())
def test_a_matrix_behind_a_transpose_is_read_the_same(case: tuple[Any, ...], signed: bool) -> None:
    """As MatMul reads it, before and after the reader has made unsigned codes signed."""
    codes, scale, zero, axis = case
    found = graph_of(codes, scale, zero, axis, signed).matrix("w" if axis == 0 else "d")
    assert found is not None
    wanted = reals(*case)
    assert found.shape == wanted.shape
    assert np.array_equal(found.read(), wanted)
    assert found.codes is not None


def test_scales_along_the_rows_are_refused() -> None:
    """A weight of a linear has a scale a column; a scale a row would have to be in the sum."""
    codes, scale = np.ones((3, 4), np.int8), np.ones(3, np.float32)
    with pytest.raises(UnsupportedOperator, match="not one a tensor or one an output column"):
        graph_of(codes, scale, None, 0).matrix("d")


N, F, L = helper.make_node, TensorProto.FLOAT, TensorProto.INT64
BESIDE: dict[str, tuple[list[onnx.NodeProto], dict[str, int]]] = {
    "shape": ([N("Shape", ["x"], ["s"])], {"s": L}),
    "size": ([N("Size", ["y"], ["s"])], {"s": L}),
    "constant": ([N("Constant", [], ["s"], value_floats=[1.0, 2.0])], {"s": F}),
    "weight": ([N("Identity", ["w"], ["s"])], {"s": F}),
    "input": ([N("Identity", ["x"], ["s"])], {"s": F}),
    "result under two names": ([N("Identity", ["y"], ["s"])], {"s": F}),
    "two results, one read": ([N("Split", ["y"], ["a", "s"], num_outputs=2)], {"s": F}),
    "two results": ([N("Constant", [], ["k"], value_ints=[2]), N("TopK", ["y", "k"], ["s", "i"])], {"s": F, "i": L}),
    "clip without ends": ([N("Clip", ["y"], ["s"])], {"s": F}),
    "never negative": ([N("HardSigmoid", ["y"], ["s"])], {"s": F}),
}


@pytest.mark.parametrize("name", BESIDE)
def test_results_that_are_no_tensor_of_relax_or_one_that_has_another_name(name: str) -> None:
    """Beside a linear: the import gives shapes, constants, parameters or one variable twice for them."""
    nodes, outputs = BESIDE[name]
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.5, (8, 6)).astype(np.float32), "w")
    graph = helper.make_graph(
        [N("MatMul", ["x", "w"], ["y"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", F, [4, 8])],
        [helper.make_tensor_value_info("y", F, [4, 6]), *(onnx.ValueInfoProto(name=n) for n in outputs)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for value in model.graph.output[1:]:
        value.type.tensor_type.elem_type = outputs[value.name]
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    x = np.random.default_rng(1).normal(0, 1, (4, 8)).astype(np.float32)
    found = axlora.simulate(axlora.compile(model, "test"), {"x": x}, timing=False).outputs
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for output, wanted in zip(session.get_outputs(), session.run(None, {"x": x}), strict=True):
        assert found[output.name].shape == np.shape(wanted)
        if name != "two results":  # whose order may turn on the codes of y
            assert np.abs(found[output.name] - wanted).max(initial=0) < 0.1
