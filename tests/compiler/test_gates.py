"""Gates of experts as exporters write them: recognised whole, and near onnxruntime; what is none is refused by its node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.compiler.errors import UnsupportedOperator

TOKENS, HIDDEN, EXPERTS, CHOSEN = 6, 16, 5, 2
RANDOM = np.random.default_rng(2)
X = RANDOM.normal(0, 1, (1, TOKENS, HIDDEN)).astype(np.float32)
CONSTANTS = {
    "router": RANDOM.normal(0, 0.5, (HIDDEN, EXPERTS)).astype(np.float32),
    "weight": RANDOM.normal(0, 0.3, (HIDDEN, HIDDEN)).astype(np.float32),
    "k": np.array([CHOSEN]),
    "last": np.array([-1]),
    "third": np.array([2]),
    "scale": np.array(2.5, np.float32),
    "none": np.array(0, np.float32),
    "nothing": np.array(1e-20, np.float32),
    "zeros": np.zeros((1, TOKENS, EXPERTS), np.float32),
    "ones": np.ones((1, TOKENS, EXPERTS), np.float32),
    "hidden": np.full((1, TOKENS, EXPERTS), -np.inf, np.float32),
}
Steps = list[tuple[str, str, str]]
"""(operator, what it reads, what it writes)."""
SHARES: Steps = [("Softmax", "logits", "shares"), ("TopK", "shares k", "largest places")]
SCATTER: Steps = [("ScatterElements", "zeros places largest", "gates")]
FORMS: dict[str, Steps] = {
    "shares": [*SHARES, *SCATTER],
    "over their sum": [
        *SHARES,
        ("ReduceSum", "largest last", "sum"),
        ("Add", "sum nothing", "total"),
        ("Div", "largest total", "own"),
        ("ScatterElements", "zeros places own", "gates"),
    ],
    "softmax of the largest": [
        ("TopK", "logits k", "largest places"),
        ("Softmax", "largest", "own"),
        ("ScatterElements", "zeros places own", "gates"),
    ],
    "softmax behind a mask": [
        ("TopK", "logits k", "largest places"),
        ("ScatterElements", "hidden places largest", "masked"),
        ("Softmax", "masked", "gates"),
    ],
}
AT: dict[str, Steps] = {
    "times where an expert is": [
        ("Equal", "places third", "at"),
        ("Cast", "at", "as_float"),
        ("Mul", "largest as_float", "own"),
        ("ReduceSum", "own last", "one"),
    ],
    "picked where an expert is": [
        ("Equal", "places third", "at"),
        ("Where", "at largest none", "own"),
        ("ReduceSum", "own last", "one"),
    ],
}
"""One expert's gate without the others', from the largest shares."""
SCALED: Steps = [("Gather", "gates third", "one"), ("Mul", "one scale", "gate"), ("Mul", "gate y", "out")]


def _saved(steps: Steps, path: Path) -> Path:
    steps = [("MatMul", "x router", "logits"), ("MatMul", "x weight", "y"), *steps]
    own = {kind: {"axis": -1} for kind in ("Softmax", "TopK", "ScatterElements", "Gather")}
    own["Cast"] = {"to": TensorProto.FLOAT}
    nodes = [
        helper.make_node(kind, reads.split(), writes.split(), name=writes, **own.get(kind, {})) for kind, reads, writes in steps
    ]
    values = [("x", X.shape), *((name, [1, TOKENS, None]) for name in steps[-1][2].split()[:1])]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values)
    held = [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("form", [*FORMS, *AT])
def test_gates_are_recognised(form: str, tmp_path: Path) -> None:
    """And a gate times a number times rows."""
    steps = [*FORMS[form], *SCALED] if form in FORMS else [*SHARES, *AT[form], *SCALED[1:]]
    path = _saved(steps, tmp_path / "model.onnx")
    program = axlora.compile(path, "test", operators="all", calibration={"x": X})
    (wanted,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": X})
    got = axlora.simulate(program, {"x": X}).outputs["out"]
    assert program.host_macs == 0
    assert np.array_equal((got == 0).all(axis=-1), (wanted == 0).all(axis=-1))
    assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("steps", "node"),
    [
        ([*SHARES, ("Exp", "largest", "own"), ("ScatterElements", "zeros places own", "gates")], "own"),
        ([*SHARES, ("ScatterElements", "ones places largest", "gates")], "gates"),
        ([("TopK", "logits k", "largest places"), *SCATTER, *SCALED], "gates"),
    ],
)
def test_what_are_no_gates_is_refused(steps: Steps, node: str, tmp_path: Path) -> None:
    """Another function of the largest, ones where they are not, and the largest themselves."""
    with pytest.raises(UnsupportedOperator, match=f"node '{node}'.*largest logits and gates"):
        axlora.compile(_saved(steps, tmp_path / "model.onnx"), "test", operators="all", calibration={"x": X})
