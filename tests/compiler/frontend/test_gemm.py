"""Gemm with alpha, beta and transA becomes operators that compute the same, wherever its operands come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import axlora
from axlora.compiler.frontend.gemm import plain_gemms

M, K, N = 3, 5, 4
SHAPES_OF_C = {"scalar": (), "one": (1,), "row": (N,), "1 row": (1, N), "column": (M, 1), "matrix": (M, N)}


@dataclass(frozen=True)
class Form:
    """How one Gemm is written."""

    alpha: float | None
    beta: float | None
    left: bool | None
    """transA; None: not written."""
    right: bool
    c: str
    """A key of `SHAPES_OF_C`; `none`: left out; `empty`: an empty name."""
    b_constant: bool
    c_constant: bool


FACTORS = st.sampled_from((None, 0.0, 1.0, -0.5, 2.25))
FORMS = st.builds(
    Form,
    FACTORS,
    FACTORS,
    st.sampled_from((None, False, True)),
    st.booleans(),
    st.sampled_from(("none", "empty", *SHAPES_OF_C)),
    st.booleans(),
    st.booleans(),
)


def gemm(form: Form) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    """(a model of one Gemm, its inputs, what NumPy makes of them)."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((M, K), (K, N)))
    c = rng.normal(0, 1, SHAPES_OF_C.get(form.c, ())).astype(np.float32)
    values = {"a": a.T if form.left else a, "b": b.T if form.right else b, "c": c}
    has_c = form.c not in ("none", "empty")
    names = ["a", "b", *(["c"] if has_c else [""] if form.c == "empty" else [])]
    numbers: dict[str, Any] = {"alpha": form.alpha, "beta": form.beta, "transA": form.left, "transB": form.right or None}
    node = helper.make_node("Gemm", names, ["y"], name="it", **{k: v for k, v in numbers.items() if v is not None})
    constant = [*(["b"] if form.b_constant else []), *(["c"] if form.c_constant and has_c else [])]
    free = {n: np.ascontiguousarray(values[n]) for n in names if n and n not in constant}
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in free.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [M, N])
    initializers = [numpy_helper.from_array(np.ascontiguousarray(values[n]), n) for n in constant]
    graph = helper.make_graph([node], "g", given, [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    alpha, beta = (1.0 if x is None else x for x in (form.alpha, form.beta))
    return model, free, alpha * (a @ b) + (beta * c if has_c else 0)


@settings(max_examples=300, deadline=None)
@given(FORMS)
def test_every_form_computes_what_it_says(form: Form) -> None:
    """What is left of Gemm is plain: alpha and beta 1, nothing but B transposed."""
    model, feed, wanted = gemm(form)
    plain_gemms(model)
    onnx.checker.check_model(model, full_check=True)
    (got,) = ReferenceEvaluator(model).run(None, feed)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    for node in model.graph.node:
        numbers = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm":
            assert numbers.get("alpha", 1) == numbers.get("beta", 1) == 1
            assert not numbers.get("transA")
        assert node.name == "it" if node.op_type in ("Gemm", "MatMul") else node.name.startswith("it/")


@settings(deadline=None)
@given(FORMS)
def test_a_plain_gemm_is_left_alone(form: Form) -> None:
    model, _, _ = gemm(form)
    before = model.SerializeToString()
    plain_gemms(model)
    plain = form.alpha in (None, 1) and form.beta in (None, 1) and not form.left
    assert (model.SerializeToString() == before) == plain


def test_a_constant_factor_goes_into_a_constant() -> None:
    """The weight is still a constant, and nothing is left to multiply in a run."""
    model, _, _ = gemm(Form(2.25, -0.5, True, True, "row", True, True))
    plain_gemms(model)
    assert [n.op_type for n in model.graph.node] == ["Transpose", "Transpose", "MatMul", "Add"]


def test_two_gemms_share_a_weight_with_a_factor_each() -> None:
    rng = np.random.default_rng(1)
    w, a = rng.normal(0, 1, (K, K)).astype(np.float32), rng.normal(0, 1, (M, K)).astype(np.float32)
    nodes = [helper.make_node("Gemm", [x, "w"], [y], alpha=f) for x, y, f in (("a", "h", 2.0), ("h", "y", -0.5))]
    given = [helper.make_tensor_value_info("a", TensorProto.FLOAT, a.shape)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, a.shape)
    model = helper.make_model(helper.make_graph(nodes, "g", given, [result], [numpy_helper.from_array(w, "w")]))
    plain_gemms(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"a": a})[0], -(a @ w @ w), rtol=1e-4, atol=1e-4)


def test_one_matrix_as_b_and_c() -> None:
    """Its two factors give two constants."""
    rng = np.random.default_rng(2)
    w, a = (rng.normal(0, 1, (K, K)).astype(np.float32) for _ in range(2))
    node = helper.make_node("Gemm", ["a", "w", "w"], ["y"], alpha=2.0, beta=3.0)
    value = helper.make_tensor_value_info
    given, result = [value("a", TensorProto.FLOAT, [K, K])], value("y", TensorProto.FLOAT, [K, K])
    model = helper.make_model(helper.make_graph([node], "g", given, [result], [numpy_helper.from_array(w, "w")]))
    plain_gemms(model)
    onnx.checker.check_model(model, full_check=True)
    assert len({i.name for i in model.graph.initializer}) == len(model.graph.initializer)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"a": a})[0], 2 * a @ w + 3 * w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("c_constant", [True, False])
def test_on_the_machine(c_constant: bool) -> None:
    """alpha, beta and transA end to end: the linear runs on the accelerator, and the result is near the float one."""
    rng = np.random.default_rng(3)
    m, k, n = 6, 32, 24
    a, w, c = (rng.normal(0, s, shape).astype(np.float32) for s, shape in ((1, (k, m)), (0.3, (n, k)), (1, (n,))))
    node = helper.make_node("Gemm", ["a", "w", "c"], ["y"], name="it", alpha=0.25, beta=-2.0, transA=1, transB=1)
    value = helper.make_tensor_value_info
    given = [value("a", TensorProto.FLOAT, a.shape), *([] if c_constant else [value("c", TensorProto.FLOAT, c.shape)])]
    constants = [numpy_helper.from_array(w, "w"), *([numpy_helper.from_array(c, "c")] if c_constant else [])]
    graph = helper.make_graph([node], "g", given, [value("y", TensorProto.FLOAT, [m, n])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    program = axlora.compile(model, "test")
    assert sum(row.macs for row in program.placement if row.where == "accelerator") == m * k * n
    got = axlora.simulate(program, {"a": a} | ({} if c_constant else {"c": c})).outputs["y"]
    wanted = 0.25 * a.T @ w.T - 2 * c
    assert np.linalg.norm(got - wanted) < 0.015 * np.linalg.norm(wanted)
