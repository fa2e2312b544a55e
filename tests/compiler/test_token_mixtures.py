"""Branches whose coefficients depend on the token, y = W x + sum of g_e(x) B_e (A_e x), run whole on the machine."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora

TOKENS, K, N, BRANCHES, RANK, CHOSEN = 6, 16, 20, 4, 3, 2
RANDOM = np.random.default_rng(2)
X = RANDOM.normal(0, 1, (1, TOKENS, K)).astype(np.float32)
Steps = list[tuple[str, str, str]]
"""(operator, what it reads, what it writes)."""
GATES: dict[str, Steps] = {
    "softmax": [("Softmax", "logits", "g")],
    "sigmoid": [("Sigmoid", "logits", "g")],
    "the largest": [
        ("Softmax", "logits", "shares"),
        ("TopK", "shares k", "largest places"),
        ("ScatterElements", "zeros places largest", "g"),
    ],
}
PICKED: dict[str, Steps] = {
    "gather": [("Gather", f"g first{e}", f"g{e}") for e in range(BRANCHES)],
    "slice": [("Slice", f"g first{e} behind{e} last", f"g{e}") for e in range(BRANCHES)],
    "split": [("Split", "g ones", " ".join(f"g{e}" for e in range(BRANCHES)))],
}
"""How a branch's coefficient is picked."""
AXIS = {"Softmax", "TopK", "ScatterElements", "Gather", "Split"}


def _apart(picked: str) -> Steps:
    """Each branch by itself."""
    steps, sums = list(PICKED[picked]), ["base", *(f"s{e}" for e in range(BRANCHES - 1)), "y"]
    for e in range(BRANCHES):
        steps += [("MatMul", f"x A{e}", f"a{e}"), ("MatMul", f"a{e} B{e}", f"b{e}"), ("Mul", f"b{e} g{e}", f"m{e}")]
        steps.append(("Add", f"{sums[e]} m{e}", sums[e + 1]))
    return steps


def _stacked() -> Steps:
    """All A side by side, whose ranks are weighed in groups, and all B below each other."""
    return [
        ("MatMul", "x A", "a"),
        ("Reshape", "a grouped", "ranks"),
        ("Unsqueeze", "g last", "column"),
        ("Mul", "ranks column", "weighed"),
        ("Reshape", "weighed flat", "u"),
        ("MatMul", "u B", "b"),
        ("Add", "base b", "y"),
    ]


def _model(gates: str, form: str) -> onnx.ModelProto:
    branches = [(RANDOM.normal(0, 0.3, (K, RANK)), RANDOM.normal(0, 0.5, (RANK, N))) for _ in range(BRANCHES)]
    held = {f"{name}{e}": value for e, pair in enumerate(branches) for name, value in zip("AB", pair, strict=True)}
    held |= {name: np.concatenate(own, axis=n) for name, own, n in zip("AB", zip(*branches, strict=True), (1, 0), strict=True)}
    held |= {"W": RANDOM.normal(0, 0.3, (K, N)), "router": RANDOM.normal(0, 0.5, (K, BRANCHES))}
    held = {name: value.astype(np.float32) for name, value in held.items()} | {
        "zeros": np.zeros((1, TOKENS, BRANCHES), np.float32),
        "k": np.array([CHOSEN]),
        "last": np.array([-1]),
        "ones": np.ones(BRANCHES, np.int64),
        "grouped": np.array([1, TOKENS, BRANCHES, RANK]),
        "flat": np.array([1, TOKENS, BRANCHES * RANK]),
        **{f"first{e}": np.array([e]) for e in range(BRANCHES)},
        **{f"behind{e}": np.array([e + 1]) for e in range(BRANCHES)},
    }
    steps: Steps = [("MatMul", "x W", "base"), ("MatMul", "x router", "logits"), *GATES[gates]]
    steps += _stacked() if form == "stacked" else _apart(form)
    nodes = [
        helper.make_node(kind, reads.split(), writes.split(), writes, **({"axis": -1} if kind in AXIS else {}))
        for kind, reads, writes in steps
    ]
    read = {name for _, reads, _ in steps for name in reads.split()}
    constants = [numpy_helper.from_array(value, name) for name, value in held.items() if name in read]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, TOKENS, N))
    graph = helper.make_graph(nodes, "g", [given], [made], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("form", [*PICKED, "stacked"])
@pytest.mark.parametrize("gates", GATES)
def test_they_run_whole(gates: str, form: str) -> None:
    """Near onnxruntime; nothing is left to the host."""
    model = _model(gates, form)
    program = axlora.compile(model, "test", operators="all", calibration={"x": X})
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    got = axlora.simulate(program, {"x": X}).outputs["y"]
    assert program.host_macs == 0
    assert {row.operator.split()[0] for row in program.placement if row.where == "accelerator"} >= {"Linear", "RowScale"}
    assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.slow
def test_they_run_in_verilog() -> None:
    """A softmax of all, and ranks weighed in groups."""
    program = axlora.compile(_model("softmax", "stacked"), "test", operators="all", calibration={"x": X})
    wanted, found = (program.session(engine=engine).run({"x": X}) for engine in ("sim", "rtl"))
    assert np.array_equal(found.outputs["y"], wanted.outputs["y"])
    assert found.cycles == wanted.cycles
