"""Does a tensor lie on one side of zero? Asked of the graph: what GELU, ReLU, SiLU or a square give, however it is written.

The tensor is followed back through elementwise operators to the one tensor that it is a function of, and the
function is looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.frontend.fold import evaluate
from axlora.compiler.frontend.onnx_graph import Graph

_ELEMENTWISE = (
    "Abs", "Add", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Sub",
    "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_DEPTH = 24
"""Operators of a function, at most: GELU by tanh has 9."""
_PLACES = np.linspace(-16, 16, 1025, dtype=np.float32)
_PART = 0.25
"""The other side is at most this part of the one: GELU's is 0.17 / 16."""


def _variables(g: Graph, node: onnx.NodeProto) -> set[str]:
    """The inputs that are no constants of one element."""
    return {name for name in node.input if name and g.scalar(name) is None}


def _range(g: Graph, nodes: list[onnx.NodeProto], source: str, name: str) -> tuple[float, float] | None:
    """Least and greatest value of `name` over `_PLACES` of `source`; None if it cannot be computed."""
    values: dict[str, npt.NDArray[Any]] = {source: _PLACES}
    for node in nodes:
        for given in node.input:
            constant = g.constant(given) if given and given not in values else None
            if constant is not None:
                values[given] = constant.reshape(())
        results = evaluate(g.model, node, [values[n] for n in node.input if n])
        if results is None:
            return None
        values[node.output[0]] = results[0]
    found = values[name].astype(np.float64)
    return (float(found.min()), float(found.max())) if np.isfinite(found).all() else None


def one_sided(g: Graph, name: str) -> bool:
    """An elementwise function of one tensor gives `name`, and its values are on one side of zero, or nearly.

    Args:
        name: of a tensor, what only passes it on left behind.
    """
    front: set[str] = {name}
    nodes: list[onnx.NodeProto] = []
    while len(nodes) < _DEPTH:
        last = max(front, key=lambda n: g.producer.get(n, -1))
        node = g.node_of(last)
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _ELEMENTWISE:
            return False
        nodes.append(node)
        front = front - {last} | _variables(g, node)
        if len(front) != 1:
            continue
        (source,) = front
        found = _range(g, nodes[::-1], source, name)
        if found is not None and 0 < _PART * max(-found[0], found[1]) >= min(-found[0], found[1]):
            return True
    return False
