"""The recognised linears as one canonical ONNX model, whose tagged inputs tell the Relax passes which linear is which.

    codes of x -> DQ, or Cast and Mul by the token's scale -> MatMul(DQ(ax{i}_w)) -> Add(ax{i}_bias)
        [-> Add(MatMul(MatMul(x, ax{i}_a), ax{i}_b))] [-> Q]

Weights are inputs without values: what the passes lower is the shape of the computation, and adapters are run-time tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from axlora.compiler.layer import Linear, Lowered, Tensor

_CODES = {8: TensorProto.INT8, 16: TensorProto.INT16}
OPSET = 21


def tag(index: int) -> str:
    """Prefix of everything that stands for linear `index`."""
    return f"ax{index}_"


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, kind: int, *shape: int) -> str:
        self.weights.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def _source(i: int, t: Tensor, to: _Writer) -> str:
    """The reals of tensor `i` from its codes."""
    to.inputs.append(helper.make_tensor_value_info(f"x{i}", _CODES[t.bits], (t.tokens, t.columns)))
    if t.per_token:
        to.inputs.append(helper.make_tensor_value_info(f"x{i}_scale", TensorProto.FLOAT, (t.tokens, 1)))
        return to.node("Mul", [to.node("Cast", [f"x{i}"], f"x{i}_cast", to=TensorProto.FLOAT), f"x{i}_scale"], f"x{i}_real")
    scale = to.constant(f"x{i}_step", np.array(t.scale, np.float32))
    zero = to.constant(f"x{i}_zero", np.array(t.zero_point, f"int{t.bits}"))
    return to.node("DequantizeLinear", [f"x{i}", scale, zero], f"x{i}_real")


def _write(i: int, linear: Linear, tokens: int, x: str, rank: int, to: _Writer) -> None:
    t, k, n = tag(i), linear.k, linear.n
    values = linear.weight.stored if linear.weight.codebook is None else linear.weight.values()
    kind = TensorProto.INT8 if values.min(initial=0) >= -128 and values.max(initial=0) <= 127 else TensorProto.INT16
    codes = to.weight(f"{t}w", kind, k, n)
    step, zero = to.weight(f"{t}w_scale", TensorProto.FLOAT, n), to.weight(f"{t}w_zero", kind, n)
    y = to.node("MatMul", [x, to.node("DequantizeLinear", [codes, step, zero], f"{t}w_real", axis=1)], f"{t}product")
    y = to.node("Add", [y, to.weight(f"{t}bias", TensorProto.FLOAT, n)], f"{t}sum")
    if rank:
        a, b = to.weight(f"{t}a", TensorProto.FLOAT, k, rank), to.weight(f"{t}b", TensorProto.FLOAT, rank, n)
        delta = to.node("MatMul", [to.node("MatMul", [x, a], f"{t}xa"), b], f"{t}xab")
        y = to.node("Add", [y, delta], f"{t}joined")
    if linear.output_bits < 32:
        scale = to.constant(f"{t}y_step", np.array(linear.grid.y_scale if linear.grid else 1.0, np.float32))
        middle = to.constant(f"{t}y_zero", np.array(linear.zero_point, f"int{linear.output_bits}"))
        y = to.node("QuantizeLinear", [y, scale, middle], f"{t}y")
    out = _CODES.get(linear.output_bits, TensorProto.FLOAT)
    to.outputs.append(helper.make_tensor_value_info(y, out, (tokens, n)))


def canonical(lowered: Lowered, rank: int) -> onnx.ModelProto:
    """The model of all linears: inputs x{i} in the order of `lowered.inputs`, outputs in the order of the linears.

    Args:
        rank: of the adapter branches; 0 for none.
    """
    to = _Writer()
    sources = {t.name: (_source(i, t, to), t.tokens) for i, t in enumerate(lowered.inputs)}
    for i, linear in enumerate(lowered.linears):
        x, tokens = sources[linear.input]
        _write(i, linear, tokens, x, rank, to)
    graph = helper.make_graph(to.nodes, "linears", [*to.inputs, *to.weights], to.outputs, to.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
