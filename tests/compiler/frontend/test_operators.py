"""Operators without a path are refused by node, all of them at once, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.supported import is_expanded

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.example" : 1, "local" : 1]>'


def refused(
    text: str, kind: type[Exception] = UnsupportedOperator, change: Callable[[onnx.ModelProto], None] | None = None
) -> str:
    """The one line with which a model is refused."""
    model = parser.parse_model(HEAD + text)
    if change:
        change(model)
    with pytest.raises(kind) as error:
        onnx_reader.read(model)
    line = str(error.value)
    assert "\n" not in line
    assert error.value.hint  # type: ignore[attr-defined]
    return line


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(("Relu", "Det", "com.example.Fancy", "com.example.Other")), min_size=1, max_size=12))
def test_every_node_without_a_path_is_named_at_once(kinds: list[str]) -> None:
    """Up to eight of a kind, then how many more."""
    names = ["x", *(f"t{i}" for i in range(len(kinds)))]
    nodes = []
    for i, kind in enumerate(kinds):
        domain, _, op = kind.rpartition(".")
        nodes.append(helper.make_node(op, [names[i]], [names[i + 1]], name=f"node_{i}", domain=domain))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2, 2])], [value(names[-1], TensorProto.FLOAT, [2, 2])]
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    bad = [i for i, kind in enumerate(kinds) if kind != "Relu"]
    if not bad:
        onnx_reader.read(model)
        return
    with pytest.raises(UnsupportedOperator) as error:
        onnx_reader.read(model)
    line = str(error.value)
    for kind in {kinds[i] for i in bad}:
        own = [i for i in bad if kinds[i] == kind]
        assert f"operator {kind}" in line
        assert all(f"'node_{i}'" in line for i in own[:8])
        assert (f"and {len(own) - 8} more" in line) == (len(own) > 8)


def test_an_unknown_domain_is_named_with_the_operator() -> None:
    line = refused("g (float[2,2] x) => (float[2,2] y) { [fancy] y = com.example.Fancy(x) }")
    assert "operator com.example.Fancy" in line
    assert "'fancy'" in line


def test_operators_in_branches_are_named_with_those_outside() -> None:
    line = refused("""g (float[2,2] x, bool c) => (float[2,2] y) {
        [outside] a = com.example.Fancy(x)
        y = If (c) <then_branch = t () => (float[2,2] b) { [inside] b = com.example.Fancy(a) },
                    else_branch = e () => (float[2,2] d) {
                        d = If (c) <then_branch = t2 () => (float[2,2] f) { [deep] f = com.example.Other(a) },
                                    else_branch = e2 () => (float[2,2] h) { h = Relu(a) }> }>
    }""")
    for words in ("'outside'", "'inside'", "'deep'", "com.example.Fancy", "com.example.Other"):
        assert words in line


def test_operators_in_functions_are_named() -> None:
    """Of the model's own functions, whose nodes have their names; a call alone says nothing."""
    line = refused("""g (float[2,2] x) => (float[2,2] y) { [call] y = local.f (x) }
        <domain: "local", opset_import: ["" : 21, "com.example" : 1]> f (a) => (b) { [inside] b = com.example.Fancy (a) }""")
    assert "operator com.example.Fancy" in line
    assert "'inside'" in line


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_loops_have_a_hint_of_their_own(kind: str) -> None:
    body = "t (int64 i, bool c, float[2,2] s) => (bool d, float[2,2] r) { d = Identity(c)  r = Relu(s) }"
    scan = "t (float[2] s) => (float[2] r) { r = Relu(s) }"
    node = f"y = Loop (n, c, x) <body = {body}>" if kind == "Loop" else f"y = Scan (x) <num_scan_inputs = 1, body = {scan}>"
    line = refused(f"g (float[2,2] x, int64 n, bool c) => (float[2,2] y) {{ [again] {node} }}")
    assert f"operator {kind}" in line
    assert "'again'" in line
    assert "unrolled" in line


def test_recurrent_layers_have_a_hint_of_their_own() -> None:
    line = refused(
        """g (float[3,1,4] x, float[1,20,4] w, float[1,20,5] r) => (float[3,1,1,5] y) {
        [memory] y = LSTM <hidden_size = 5> (x, w, r) }"""
    )
    assert "operator LSTM" in line
    assert "recurrent layers have no path" in line


BLOCKED = {
    "QuantizeLinear": """g (float[4,8] x, float[4,2] s) => (float[4,8] y) {
        q = QuantizeLinear <axis = 1, block_size = 4, output_dtype = 3> (x, s) y = Cast <to = 1> (q) }""",
    "DequantizeLinear": """g (float[4,8] x, float[4,2] s) => (float[4,8] y) {
        d = DequantizeLinear <axis = 1, block_size = 4> (w, s) y = Mul (x, d) }""",
}


@pytest.mark.parametrize("kind", BLOCKED)
def test_scales_of_blocks_are_named_with_their_size(kind: str) -> None:
    def weight(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 8), np.int8), "w"))

    assert f"operator {kind} with a scale for each block of 4" in refused(BLOCKED[kind], change=weight)


@pytest.mark.parametrize(
    ("kind", "node"),
    [
        ("NonZero", "[which] n = NonZero (x) y = Cast <to = 1> (n)"),
        ("Compress", "[which] n = Compress <axis = 0> (x, c) y = Relu (n)"),
        ("Unique", "[which] n = Unique (x) y = Relu (n)"),
    ],
)
def test_shapes_that_depend_on_values_are_named_by_the_first_operator(kind: str, node: str) -> None:
    """What reads its result is not to blame."""
    line = refused(f"g (float[2,2] x, bool[2] c) => (float[a,b] y) {{ {node} }}")
    assert f"operator {kind}" in line
    assert "'which'" in line
    assert "Cast" not in line
    assert "Relu" not in line


def test_two_of_them_are_named_at_once() -> None:
    line = refused("""g (float[2,2] x, bool[2] c) => (float[a,b] y, float[d,e] z) {
        [one] n = NonZero (x) y = Cast <to = 1> (n)
        [two] z = Compress <axis = 0> (x, c) }""")
    assert "'one'" in line
    assert "'two'" in line


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1"])
def test_a_type_of_weights_that_is_not_taken_is_named(kind: str) -> None:
    def weight(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="w", data_type=TensorProto.DataType.Value(kind), dims=[2, 2], raw_data=b"\0" * 4)
        model.graph.initializer.append(tensor)

    line = refused("g (float[2,2] x) => (float[2,2] y) { f = Cast <to = 1> (w) y = MatMul (x, f) }", BadModel, weight)
    assert kind in line
    assert "'w'" in line


@pytest.mark.parametrize("kind", ["seq(float[2,2])", "optional(float[2,2])"])
def test_an_input_that_is_no_tensor_is_named(kind: str) -> None:
    node = "SequenceAt (x, i)" if kind.startswith("seq") else "OptionalGetElement (x)"
    line = refused(f"g ({kind} x, int64 i) => (float[2,2] y) {{ y = {node} }}", (UnsupportedOperator, BadModel))  # type: ignore[arg-type]
    assert "'x'" in line or "Sequence" in line or "Optional" in line


def test_what_tvm_lists_and_onnx_defines_otherwise_is_expanded() -> None:
    """By ONNX's own definition, which needs the version that has one."""
    assert is_expanded(helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2), 21)
    assert not is_expanded(helper.make_node("MatMul", ["x", "w"], ["y"]), 21)
    assert not is_expanded(helper.make_node("GroupNormalization", ["x"], ["y"], domain="com.example"), 21)
