"""Random vision transformers of a few thousand weights, as exporters write them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from encoder_decoders import Model, Sizes
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Vision:
    """Of a model: images [1, 3, side, side] cut into squares."""

    side: int = 12
    patch: int = 4
    tokens: int = 1
    """Constant rows in front of the patches: a class token, and one of distillation."""
    pooled: str = "first"
    """`first`: the class token alone is classified; `mean`: the patches' mean; `all`: every row is an output."""
    labels: int = 10
    body: Sizes = field(default_factory=Sizes)

    @property
    def patches(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def rows(self) -> int:
        return self.patches + self.tokens


def vision(v: Vision, seed: int = 0) -> onnx.ModelProto:
    """`pixel_values` to `logits`."""
    m = Model(v.body, seed)
    w, n, rng = m.w, v.body.n, m.rng
    kernel = w.constant(rng.normal(0, (3 * v.patch**2) ** -0.5, (n, 3, v.patch, v.patch)))
    sizes = {"kernel_shape": [v.patch] * 2, "strides": [v.patch] * 2}
    x = w("Conv", "pixel_values", kernel, w.constant(rng.normal(0, 0.1, n)), **sizes)
    x = w("Transpose", w("Reshape", x, w.ints(0, n, -1)), perm=[0, 2, 1])
    if v.tokens:
        front = w("Expand", w.constant(rng.normal(0, 1, (1, v.tokens, n))), w.ints(1, 1, 1))
        x = w("Concat", front, x, axis=1)
    x = w("Add", x, w.constant(rng.normal(0, 0.5, (1, v.rows, n))))
    x = m.norm(m.layer(m.layer(x, ""), ""))
    if v.pooled == "first":
        x = w("Gather", x, w.constant(np.array(0)), axis=1)
    elif v.pooled == "mean":
        own = w("Slice", x, w.ints(v.tokens), w.ints(v.rows), w.ints(1)) if v.tokens else x
        x = w("ReduceMean", own, w.ints(1), keepdims=0)
    m.linear(x, n, v.labels)
    w.nodes[-1].output[0] = "logits"
    value, shape = helper.make_tensor_value_info, [1, v.rows, v.labels] if v.pooled == "all" else [1, v.labels]
    inputs = [value("pixel_values", TensorProto.FLOAT, [1, 3, v.side, v.side])]
    graph = helper.make_graph(w.nodes, "g", inputs, [value("logits", TensorProto.FLOAT, shape)], w.held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
