"""Models of rows of floats: MLPs of every kind of operator between linears, as exporters write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

K, HIDDEN, OUT, RANK = 24, 32, 16, 4
Free = int | str


@dataclass
class Graph:
    """A graph under construction; every method adds nodes and returns the tensor's name."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value.astype(np.float32) if value.dtype.kind == "f" else value
        return name

    def do(self, kind: str, *inputs: str, **fields: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **fields))
        return out

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value))

    def linear(self, x: str, k: int, n: int, name: str, bias: bool = True) -> str:
        y = self.do("MatMul", x, self.constant(self.random.normal(0, k**-0.5, (k, n))), name=f"/{name}/MatMul")
        return self.do("Add", y, self.constant(self.random.normal(0, 0.1, n)), name=f"/{name}/Add") if bias else y

    def lora(self, x: str, y: str, k: int, n: int, name: str) -> str:
        """y + x A B 2."""
        a, b = (self.random.normal(0, 0.2, shape) for shape in ((k, RANK), (RANK, n)))
        low = self.do("MatMul", x, self.constant(a), name=f"/{name}/lora_A/MatMul")
        high = self.do("MatMul", low, self.constant(b), name=f"/{name}/lora_B/MatMul")
        return self.do("Add", y, self.do("Mul", high, self.scalar(2.0)))

    def rms(self, x: str, n: int) -> str:
        square = self.do("Pow", x, self.scalar(2.0))
        mean = self.do("ReduceMean", square, self.constant(np.array([-1])), keepdims=1)
        root = self.do("Sqrt", self.do("Add", mean, self.scalar(1e-5)))
        return self.do("Mul", self.do("Div", x, root), self.constant(self.random.uniform(0.5, 1.5, n)))

    def layer_norm(self, x: str, n: int) -> str:
        gain, bias = self.random.uniform(0.5, 1.5, n), self.random.normal(0, 0.1, n)
        return self.do("LayerNormalization", x, self.constant(gain), self.constant(bias), axis=-1, epsilon=1e-5)

    def model(self, shape: list[Free], outputs: dict[str, list[Free]]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(made)
        return made


def activation(kind: str, rows: tuple[Free, ...] = ("batch",), **fields: object) -> onnx.ModelProto:
    """up, the function, down."""
    g = Graph()
    y = g.linear(g.do(kind, g.linear("x", K, HIDDEN, "up"), **fields), HIDDEN, OUT, "down")
    return g.model([*rows, K], {y: [*rows, OUT]})


def residual() -> onnx.ModelProto:
    """x + down(gelu(up(x))), LayerNorm, a head; the row before the head is an output too."""
    g = Graph(1)
    hidden = g.do("Gelu", g.linear("x", K, HIDDEN, "up"))
    row = g.layer_norm(g.do("Add", g.linear(hidden, HIDDEN, K, "down"), "x"), K)
    return g.model(["batch", K], {g.linear(row, K, OUT, "head"): ["batch", OUT], row: ["batch", K]})


def gated() -> onnx.ModelProto:
    """RMSNorm, silu(gate) times up, down, and the sum with the row; over [batch, 3, K]."""
    g = Graph(2)
    row = g.rms("x", K)
    gate = g.linear(row, K, HIDDEN, "gate", bias=False)
    silu = g.do("Mul", gate, g.do("Sigmoid", gate))
    down = g.linear(g.do("Mul", silu, g.linear(row, K, HIDDEN, "up", bias=False)), HIDDEN, K, "down")
    return g.model(["batch", 3, K], {g.do("Add", "x", down): ["batch", 3, K]})


def lora() -> onnx.ModelProto:
    """Branches in the graph, beside up and down."""
    g = Graph(3)
    up = g.lora("x", g.linear("x", K, HIDDEN, "up"), K, HIDDEN, "up")
    hidden = g.do("Tanh", up)
    return g.model(["batch", K], {g.lora(hidden, g.linear(hidden, HIDDEN, OUT, "down"), HIDDEN, OUT, "down"): ["batch", OUT]})


def image() -> onnx.ModelProto:
    """[batch, 4, 6] flattened to rows of K; the first output's columns are cut apart."""
    g = Graph(4)
    y = g.linear(g.do("Relu", g.linear(g.do("Flatten", "x"), K, HIDDEN, "up")), HIDDEN, OUT, "down")
    left = g.do("Slice", y, g.constant(np.array([0])), g.constant(np.array([5])), g.constant(np.array([1])))
    return g.model(["batch", 4, 6], {left: ["batch", 5], y: ["batch", OUT]})


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "relu": lambda: activation("Relu"),
    "gelu": lambda: activation("Gelu", ("batch", 2)),
    "residual": residual,
    "gated": gated,
    "lora": lora,
    "image": image,
}


def samples(model: onnx.ModelProto, batch: int, count: int = 1, seed: int = 0) -> np.ndarray:
    """Normal rows [count, batch, ..]."""
    dims = [d.dim_value or batch for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).normal(0, 1, (count, *dims)).astype(np.float32)
