"""`If` becomes the branch that a constant picks, or both branches and a Where; the model computes what it did."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import axlora
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend import onnx_reader

HEAD = '<ir_version: 9, opset_import: ["" : 18]>'
K, N, T = 32, 24, 4
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.normal(0, 0.2, (K, N)).astype(np.float32) for name in ("w", "v")} | {
    "u": RNG.normal(0, 1, N).astype(np.float32)
}
X = RNG.normal(0, 1, (T, K)).astype(np.float32)


def model_of(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A parsed graph with `WEIGHTS` and more constants as initializers."""
    model = parser.parse_model(HEAD + text)
    names = {name for node in nodes_of(model.graph) for name in node.input}
    every = {n: v for n, v in WEIGHTS.items() if n in names} | constants
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in every.items())
    return model


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in it."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for each in inner for node in nodes_of(each))]


def run(model: onnx.ModelProto, feed: Mapping[str, Any]) -> list[np.ndarray]:
    """onnxruntime's results."""
    return list(ort.InferenceSession(model.SerializeToString()).run(None, dict(feed)))


OUTER = """g (float[4,32] x, bool c) => (float[4,24] y) {
    h = MatMul (x, w)
    [pick] r = If (c) <then_branch = t () => (float[4,24] a) { a = Mul (h, u) },
                       else_branch = e () => (float[4,24] b) { m = MatMul (x, v)  b = Add (m, h) }>
    y = Relu (r) }"""
"""Both branches read tensors and constants of the outer graph."""

NESTED = """g (float[4,32] x, bool c, bool d) => (float[4,24] y) {
    h = MatMul (x, w)
    y = If (c) <then_branch = t () => (float[4,24] a) {
                    n = Neg (h)
                    a = If (d) <then_branch = t2 () => (float[4,24] q) { q = Add (n, u) },
                                else_branch = e2 () => (float[4,24] s) { n2 = Mul (n, h)  s = Sub (n2, h) }> },
                else_branch = e () => (float[4,24] b) {
                    n = Abs (h)
                    b = If (d) <then_branch = t3 () => (float[4,24] k) { k = Mul (n, u) },
                                else_branch = e3 () => (float[4,24] l) { h2 = Relu (n) l = Identity (h2) }> }> }"""
"""Names of the branches are each other's, and those of outer branches."""

SEVERAL = """g (float[4,32] x, bool c) => (float[4,24] y, float[4] z) {
    h = MatMul (x, w)
    y, z = If (c) <then_branch = t () => (float[4,24] a, float[4] p) { a = Neg (h) p = ReduceMax <keepdims = 0> (h, one) },
                   else_branch = e () => (float[4,24] b, float[4] q) { b = Abs (h) q = ReduceMin <keepdims = 0> (h, one) }> }"""

SHADOW = """g (float[4,32] x, bool c) => (float[4,24] y) {
    h = MatMul (x, w)
    a = Relu (h)
    r = If (c) <then_branch = t () => (float[4,24] p) { [twin] k = Neg (a) p = Mul (k, u) },
                else_branch = e () => (float[4,24] p) { [twin] k = Abs (h) p = Add (k, a) }>
    k = Sigmoid (r)
    y = Add (k, a) }"""
"""Both branches and the outer graph use one name for tensors of their own, and both branches one for a node."""

ONE = {"one": np.array([1], np.int64)}
CASES = {"outer": (OUTER, {}), "nested": (NESTED, {}), "several": (SEVERAL, ONE), "shadow": (SHADOW, {})}


@pytest.mark.parametrize("name", CASES)
def test_without_if_the_model_computes_the_same(name: str) -> None:
    """Float against float, under every condition."""
    text, constants = CASES[name]
    model = model_of(text, **constants)
    read, _ = onnx_reader.read(model)
    onnx.checker.check_model(read, full_check=True)
    assert all(n.op_type != "If" for n in nodes_of(read.graph))
    named = [n.name for n in read.graph.node if n.name]
    assert len(set(named)) == len(named)
    for c in (False, True):
        for d in (False, True):
            feed = {"x": X, "c": np.array(c), "d": np.array(d)}
            feed = {value.name: feed[value.name] for value in model.graph.input}
            for wanted, got in zip(run(model, feed), run(read, feed), strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_condition_of_one_element_is_a_condition(shape: tuple[int, ...]) -> None:
    """ONNX lets it have dimensions; a result keeps its own."""
    model = model_of(OUTER)
    dims = model.graph.input[1].type.tensor_type.shape
    dims.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=d) for d in shape)
    read, _ = onnx_reader.read(model)
    for c in (False, True):
        wanted = run(model_of(OUTER), {"x": X, "c": np.array(c)})[0]
        got = run(read, {"x": X, "c": np.full(shape, c)})[0]
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("form", ["initializer", "node", "computed"])
def test_a_constant_condition_leaves_one_branch(taken: bool, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """No Where, no MACs of the other branch, nothing to say; a condition that folds to a constant is one."""
    text = OUTER.replace(", bool c)", ")")
    if form == "computed":
        text = text.replace("h = MatMul (x, w)", "h = MatMul (x, w) s = Shape (x) f = Gather (s, zero) c = Equal (f, four)")
        model = model_of(text, zero=np.array(0), four=np.array(T if taken else T + 1))
    elif form == "node":
        model = model_of(text)
        value = numpy_helper.from_array(np.array(taken))
        model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))
    else:
        model = model_of(text, c=np.array(taken))
    with caplog.at_level(logging.WARNING):
        read, _ = onnx_reader.read(model)
    assert not caplog.records
    kinds = [n.op_type for n in read.graph.node]
    assert "Where" not in kinds
    assert kinds.count("MatMul") == (1 if taken else 2)
    wanted = run(model_of(OUTER), {"x": X, "c": np.array(taken)})[0]
    np.testing.assert_allclose(run(read, {"x": X})[0], wanted, rtol=1e-5, atol=1e-6)


def test_under_a_constant_condition_shapes_may_differ() -> None:
    text = """g (float[4,32] x) => (float[a,b] y) {
        y = If (c) <then_branch = t () => (float[4,24] a) { a = MatMul (x, w) },
                    else_branch = e () => (float[4,32] b) { b = Relu (x) }> }"""
    read, _ = onnx_reader.read(model_of(text, c=np.array(True)))
    np.testing.assert_allclose(run(read, {"x": X})[0], X @ WEIGHTS["w"], rtol=1e-4, atol=1e-5)


def test_branches_of_different_shapes_are_refused_by_node_and_shapes() -> None:
    text = """g (float[4,32] x, bool c) => (float[a,b] y) {
        h = MatMul (x, w)
        [pick] y = If (c) <then_branch = t () => (float[4,24] a) { a = Relu (h) },
                           else_branch = e () => (float[4,1] b) { b = ReduceMax (h, one) }> }"""
    with pytest.raises(UnsupportedOperator) as error:
        onnx_reader.read(model_of(text, one=np.array([1], np.int64)))
    assert "(4, 24) and (4, 1)" in error.value.message
    assert error.value.where == "node 'pick'"


def test_both_branches_are_told_once_by_node(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        onnx_reader.read(model_of(SEVERAL, **ONE))
        onnx_reader.read(model_of(OUTER))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "both branches of If pick are computed and its condition picks one" in said[1]


def test_a_branch_may_give_an_outer_tensor_itself() -> None:
    """Behind an Identity, which is folded away: a branch without a node of its own is no graph of ONNX's."""
    text = """g (float[4,32] x, bool c) => (float[4,24] y) {
        h = MatMul (x, w)
        y = If (c) <then_branch = t () => (float[4,24] a) { a = Identity (h) },
                    else_branch = e () => (float[4,24] b) { b = Neg (h) }> }"""
    read, _ = onnx_reader.read(model_of(text))
    for c, sign in ((True, 1), (False, -1)):
        got = run(read, {"x": X, "c": np.array(c)})[0]
        np.testing.assert_allclose(got, sign * (X @ WEIGHTS["w"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["then", "else"])
def test_a_branch_may_give_a_constant_of_its_own(side: str) -> None:
    model = model_of("""g (float[4,32] x, bool c) => (float[4,24] y) {
        h = MatMul (x, w)
        y = If (c) <then_branch = t () => (float[4,24] a) { a = Identity (h) },
                    else_branch = e () => (float[4,24] b) { b = Identity (h) }> }""")
    branch = next(a.g for a in model.graph.node[1].attribute if a.name == f"{side}_branch")
    del branch.node[:]
    own = RNG.normal(0, 1, (T, N)).astype(np.float32)
    branch.initializer.append(numpy_helper.from_array(own, branch.output[0].name))
    read, _ = onnx_reader.read(model)
    for c in (True, False):
        wanted = own if c == (side == "then") else X @ WEIGHTS["w"]
        np.testing.assert_allclose(run(read, {"x": X, "c": np.array(c)})[0], wanted, rtol=1e-4, atol=1e-5)


def test_more_levels_than_the_limit_are_refused() -> None:
    """Each level reads the condition of the outermost."""
    value = helper.make_tensor_value_info
    inner = [helper.make_node("Relu", ["x"], ["y0"])]
    for depth in range(1, 19):
        sides = {}
        for side in ("then_branch", "else_branch"):
            result = value(f"y{depth - 1}", TensorProto.FLOAT, [T, K])
            sides[side] = helper.make_graph(
                inner if side == "then_branch" else [helper.make_node("Neg", ["x"], [result.name])], side, [], [result]
            )
        inner = [helper.make_node("If", ["c"], [f"y{depth}"], name=f"if{depth}", **sides)]
    given = [value("x", TensorProto.FLOAT, [T, K]), value("c", TensorProto.BOOL, [])]
    graph = helper.make_graph(inner, "g", given, [value("y18", TensorProto.FLOAT, [T, K])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(UnsupportedOperator, match="more than 16 levels"):
        onnx_reader.read(model)


@pytest.mark.parametrize("name", ["outer", "several"])
def test_on_the_machine(name: str) -> None:
    """Linears of branches run on the accelerator, and the condition picks at run time."""
    text, constants = CASES[name]
    model = model_of(text, **constants)
    program = axlora.compile(model, "test")
    products = sum(n.op_type == "MatMul" for n in nodes_of(model.graph))
    assert sum(row.macs for row in program.placement if row.where == "accelerator") == products * T * K * N
    for c in (True, False):
        feed = {"x": X, "c": np.array(c)}
        outputs = axlora.simulate(program, feed).outputs
        for value, wanted in zip(model.graph.output, run(model, feed), strict=True):
            assert outputs[value.name].shape == wanted.shape
            assert np.linalg.norm(outputs[value.name] - wanted) < 0.02 * np.linalg.norm(wanted)
