"""Encoders as onnxruntime's transformer optimizer leaves them, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
HIDDEN, INNER, HEADS, VOCABULARY, TOKENS = 32, 64, 4, 40, 8


@dataclass
class Encoder:
    """EmbedLayerNormalization, and layers of attention, SkipLayerNormalization and BiasGelu or FastGelu."""

    apart: bool
    """Query, key and value of linears of their own (MultiHeadAttention), else of a packed weight (Attention)."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(9))

    def held(self, name: str, *shape: int, around: float = 0) -> str:
        """A constant of random numbers."""
        value = self.random.normal(around, 0.2, shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, reads: Sequence[str], name: str, **attributes: Any) -> str:
        """A node of onnxruntime's, or a MatMul."""
        domain = "" if kind == "MatMul" else MICROSOFT
        self.nodes.append(helper.make_node(kind, list(reads), [f"{name}_out"], name=name, domain=domain, **attributes))
        return f"{name}_out"

    def gains(self, name: str) -> list[str]:
        return [self.held(f"{name}.weight", HIDDEN, around=1), self.held(f"{name}.bias", HIDDEN)]

    def attention(self, name: str, x: str) -> str:
        if not self.apart:
            reads = [x, self.held(f"{name}.qkv", HIDDEN, 3 * HIDDEN), self.held(f"{name}.qkv.bias", 3 * HIDDEN), "mask"]
            return self.node("Attention", reads, name, num_heads=HEADS)
        rows = [self.node("MatMul", [x, self.held(f"{name}.{p}", HIDDEN, HIDDEN)], f"{name}.{p}.MatMul") for p in "qkv"]
        return self.node("MultiHeadAttention", [*rows, self.held(f"{name}.bias", 3 * HIDDEN), "mask"], name, num_heads=HEADS)

    def layer(self, name: str, x: str, gelu: str) -> str:
        out = self.node(
            "MatMul", [self.attention(f"{name}.attention", x), self.held(f"{name}.o", HIDDEN, HIDDEN)], f"{name}.o.MatMul"
        )
        x = self.node(
            "SkipLayerNormalization",
            [out, x, *self.gains(f"{name}.first"), self.held(f"{name}.o.bias", HIDDEN)],
            f"{name}.first",
        )
        up = self.node("MatMul", [x, self.held(f"{name}.up", HIDDEN, INNER)], f"{name}.up.MatMul")
        act = self.node(gelu, [up, self.held(f"{name}.up.bias", INNER)], f"{name}.gelu")
        down = self.node("MatMul", [act, self.held(f"{name}.down", INNER, HIDDEN)], f"{name}.down.MatMul")
        bias = self.held(f"{name}.down.bias", HIDDEN)
        return self.node("SkipLayerNormalization", [down, x, *self.gains(f"{name}.second"), bias], f"{name}.second")

    def model(self) -> onnx.ModelProto:
        """input_ids, token_type_ids and attention_mask [batch, 8], of int32 -> hidden states."""
        tables = [self.held(n, rows, HIDDEN) for n, rows in (("words", VOCABULARY), ("places", TOKENS), ("types", 2))]
        x = self.node("EmbedLayerNormalization", ["ids", "kinds", *tables, *self.gains("embed")], "embed", epsilon=1e-12)
        self.nodes[-1].output.append("lengths")
        for i, gelu in enumerate(("BiasGelu", "FastGelu")):
            x = self.layer(f"layer.{i}", x, gelu)
        names = {"ids": "input_ids", "kinds": "token_type_ids", "mask": "attention_mask"}
        for node in self.nodes:
            for i, name in enumerate(node.input):
                node.input[i] = names.get(name, name)
        given = [helper.make_tensor_value_info(n, TensorProto.INT32, ["batch", TOKENS]) for n in names.values()]
        result = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", TOKENS, HIDDEN])
        graph = helper.make_graph(self.nodes, "g", given, [result], self.constants)
        opsets = [helper.make_opsetid("", 14), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)
