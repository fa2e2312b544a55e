"""ONNX's own cases of its operators, beside a linear: each runs as ONNX says, or is refused by name."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.compiler.frontend import tvm_import

sys.path.insert(0, str(Path(__file__).parent))

PARTS, EACH = 4, 2
"""Parts that the cases are tested in; cases of one operator."""
LEAST_RAN = 0.6
_SMALL = 16
"""Elements of an integer input that is a parameter of the operator, as exporters write it: a constant."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few optimizations of the host's code, and no notices: every model is run once."""
    logging.disable(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setitem(tvm_import.LLVM, "opt-level", 0)
        yield
    logging.disable(logging.NOTSET)


@cache
def cases() -> list[Any]:
    """`EACH` cases of every standard operator, whose inputs and outputs are arrays of finite numbers."""
    from onnx.backend.test.case.node import collect_testcases

    seen: dict[str, int] = {}
    found = []
    for case in collect_testcases(None):
        nodes, sets = case.model.graph.node, case.data_sets
        tensors = all(v.type.HasField("tensor_type") for v in (*case.model.graph.input, *case.model.graph.output))
        if len(nodes) != 1 or nodes[0].domain or not sets or not tensors:
            continue
        arrays = [*sets[0][0], *sets[0][1]]
        if not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" and np.isfinite(a).all() for a in arrays):
            continue
        kind = nodes[0].op_type
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= EACH:
            found.append(case)
    return found


def beside_a_linear(case: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The case's model with a linear beside its operator, and its inputs; small integers are constants."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 8)
    graph, feed = model.graph, dict(zip([i.name for i in model.graph.input], case.data_sets[0][0], strict=True))
    for value in list(graph.input)[1:]:
        given = feed[value.name]
        if given.dtype.kind in "iub" and given.size <= _SMALL:
            graph.initializer.append(numpy_helper.from_array(feed.pop(value.name), value.name))
            graph.input.remove(value)
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "linear.weight"))
    graph.node.append(helper.make_node("MatMul", ["linear.x", "linear.weight"], ["linear.y"], name="linear"))
    graph.input.append(helper.make_tensor_value_info("linear.x", TensorProto.FLOAT, [4, 8]))
    graph.output.append(helper.make_tensor_value_info("linear.y", TensorProto.FLOAT, [4, 8]))
    return model, feed | {"linear.x": np.ones((4, 8), np.float32)}


def runs(case: Any) -> bool:
    """Whether the case runs, and then as ONNX says; False if it is refused by name."""
    model, feed = beside_a_linear(case)
    program, refusal = None, None
    try:
        program = axlora.compile(model, "edge-asic", operators="linears")
    except axlora.UnsupportedOperator as error:
        refusal = error
    if program is None:
        assert refusal is not None
        assert "operator" in refusal.message, refusal
        assert refusal.where.startswith("node "), refusal
        return False
    outputs = axlora.simulate(program, feed, timing=False).outputs
    for value, wanted in zip(case.model.graph.output, case.data_sets[0][1], strict=True):
        got = outputs[value.name]
        assert got.shape == wanted.shape, value.name
        np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=2e-3, atol=1e-3, err_msg=value.name)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_onnx_cases(part: int) -> None:
    ran, failed = [], {}
    for case in cases()[part::PARTS]:
        try:
            ran.append(runs(case))
        except Exception as error:  # every case is looked at, whatever one of them raises
            failed[case.name] = f"{type(error).__name__}: {error}"
    assert not failed, "\n".join(f"{name}: {what}" for name, what in failed.items())
    assert sum(ran) >= LEAST_RAN * len(ran)
