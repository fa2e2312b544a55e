"""Multiply-accumulates are the products that an operator sums: counted by running it on ones."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from axlora.compiler.frontend.macs import MULTIPLYING, macs

SIZES = st.integers(1, 5)
Shape = tuple[int, ...]


def counted(kind: str, *shapes: Shape, dtype: type = np.float32, read: int = 2, **attributes: Any) -> tuple[int, int]:
    """(what `macs` says, the sum of all results on ones: each product adds one).

    Args:
        read: the operands that are multiplied; later ones are zeros.
    """
    given = {f"x{i}": shape for i, shape in enumerate(shapes)}
    node = helper.make_node(kind, list(given), ["y"], **attributes)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info(name, code, shape) for name, shape in given.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feed = {name: (np.ones if i < read else np.zeros)(given[name], dtype) for i, name in enumerate(given)}
    if kind == "ConvTranspose":  # onnx's reference of it does not know groups
        graph.output[0].CopyFrom(helper.make_tensor_value_info("y", code, [f"d{i}" for i in range(len(shapes[0]))]))
        result = ort.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    else:
        result = ReferenceEvaluator(model).run(None, feed)[0]
    return macs(node, (given | {"y": np.shape(result)}).__getitem__), int(np.asarray(result, np.float64).sum())


@settings(deadline=None)
@given(st.lists(SIZES, max_size=2), SIZES, SIZES, SIZES, st.booleans(), st.booleans())
def test_matmul(batch: list[int], m: int, k: int, n: int, shared: bool, integer: bool) -> None:
    """With batches, one shared by the other operand or each its own."""
    second = (k, n) if shared else (*batch, k, n)
    kind, dtype = ("MatMulInteger", np.int8) if integer else ("MatMul", np.float32)
    said, found = counted(kind, (*batch, m, k), second, dtype=dtype)
    assert said == found


@settings(deadline=None)
@given(SIZES, SIZES, st.booleans(), st.booleans())
def test_matmul_of_vectors(k: int, n: int, left: bool, right: bool) -> None:
    said, found = counted("MatMul", (k,) if left else (n, k), (k,) if right else (k, n))
    assert said == found


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.booleans())
def test_gemm(m: int, k: int, n: int, left: bool, right: bool, bias: bool) -> None:
    """C is added, not multiplied."""
    shapes: list[Shape] = [(k, m) if left else (m, k), (n, k) if right else (k, n), *([(n,)] if bias else [])]
    said, found = counted("Gemm", *shapes, transA=int(left), transB=int(right))
    assert said == found


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Shape, Shape, dict[str, Any], int]:
    """(x [b, in, *extents], weight [out, in / group, *kernel], attributes, group), nothing padded."""
    group, each, rank = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    extents = [(k - 1) * d + draw(st.integers(1, 4)) for k, d in zip(kernel, dilations, strict=True)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    out = group * draw(st.integers(1, 2))
    more = {"group": group, "strides": strides, "dilations": dilations, "kernel_shape": kernel}
    return (draw(st.integers(1, 2)), group * each, *extents), (out, each, *kernel), more, group


@settings(deadline=None)
@given(convolutions(), st.booleans())
def test_conv(given_: tuple[Shape, Shape, dict[str, Any], int], bias: bool) -> None:
    x, weight, attributes, _ = given_
    said, found = counted("Conv", x, weight, *([(weight[0],)] if bias else []), **attributes)
    assert said == found


@settings(deadline=None)
@given(convolutions())
def test_conv_transpose(given_: tuple[Shape, Shape, dict[str, Any], int]) -> None:
    """Its weight is [in, out / group, *kernel]; every input meets every weight of its group once."""
    (batch, channels, *extents), (_, each, *kernel), attributes, _ = given_
    said, found = counted("ConvTranspose", (batch, channels, *extents), (channels, each, *kernel), **attributes)
    assert said == found


def test_conv_integer() -> None:
    said, found = counted("ConvInteger", (2, 3, 5, 4), (4, 3, 2, 3), dtype=np.uint8)
    assert said == found == 2 * 4 * 4 * 2 * 18


@st.composite
def einsums(draw: st.DrawFn) -> tuple[str, list[Shape]]:
    """Two operands with shared and own subscripts, an ellipsis in either, a result that keeps some of them."""
    extents = {label: draw(st.integers(1, 4)) for label in "abcde"}
    left, right = (draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1, max_size=4)) for _ in range(2))
    hidden = draw(st.lists(st.integers(1, 3), max_size=2))
    kept = draw(st.permutations(sorted({*left, *right})))[: draw(st.integers(0, 5))]
    dots = [bool(hidden) and draw(st.booleans()) for _ in range(2)]
    terms, shapes = [], []
    for labels, spread in zip((left, right), dots, strict=True):
        own = [draw(st.sampled_from((1, size))) for size in hidden] if spread else []
        place = draw(st.integers(0, len(labels))) if spread else 0
        sizes = [extents[label] for label in labels]
        terms.append("".join([*labels[:place], "..." if spread else "", *labels[place:]]))
        shapes.append((*sizes[:place], *own, *sizes[place:]))
    head = "..." if any(dots) else ""
    blank = draw(st.sampled_from(("", " ")))
    return f"{terms[0]},{blank}{terms[1]}{blank}->{head}{''.join(kept)}", shapes


@settings(deadline=None)
@given(einsums())
def test_einsum(case: tuple[str, list[Shape]]) -> None:
    equation, shapes = case
    said, found = counted("Einsum", *shapes, equation=equation)
    assert said == found


def test_einsum_of_three_multiplies_twice() -> None:
    said, found = counted("Einsum", (2, 3), (3, 4), (4, 5), read=3, equation="ab,bc,cd->ad")
    assert said == 2 * found == 2 * prod((2, 3, 4, 5))


def test_einsum_of_one_and_a_result_left_out() -> None:
    assert counted("Einsum", (3, 4), equation="ab->ba")[0] == 0
    said, found = counted("Einsum", (2, 3), (3, 4), equation="ij,jk")
    assert said == found == 24


def test_nothing_else_multiplies() -> None:
    """An operator of another domain with a name of ours, and operators that only move or add."""
    shape = {"x": (2, 2), "y": (2, 2)}.__getitem__
    assert macs(helper.make_node("MatMul", ["x", "x"], ["y"], domain="com.example"), shape) == 0
    for kind in ("Add", "Softmax", "Gather", "Mul"):
        assert kind not in MULTIPLYING
        assert macs(helper.make_node(kind, ["x", "x"], ["y"]), shape) == 0
    assert macs(onnx.NodeProto(op_type="MatMul", input=["x", "x"], output=["y"], domain="ai.onnx"), shape) == 8
