"""Writes ONNX graphs node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Writer:
    """Nodes one after another."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        value = value.astype(np.float32) if value.dtype == np.float64 else value
        self.held.append(numpy_helper.from_array(value, f"c{len(self.held)}"))
        return self.held[-1].name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"t{len(self.nodes)}"], f"n{len(self.nodes)}", **attributes))
        return str(self.nodes[-1].output[0])
