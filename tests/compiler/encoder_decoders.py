"""Random encoder-decoders of a few thousand weights, as exporters write them: BART's, T5's and Whisper's parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper
from writer import Writer

IDS, MELS = 40, 5
LEAST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Sizes:
    """Of a model."""

    keys: int = 10
    """Tokens of the encoder."""
    tokens: int = 6
    """Of the decoder."""
    heads: int = 2
    dim: int = 8
    inner: int = 24
    encoder: bool = True
    """Whether the file has an encoder; else its output is an input."""
    mask: bool = False
    """Whether the encoder's padding is masked."""
    own_mask: bool = False
    """Whether there is a mask of the decoder's padding, too, whose name says nothing."""
    relative: bool = False
    """T5's: norms without a mean, relative positions, no scale of scores; else BART's."""
    sound: bool = False
    """Whisper's: the encoder's rows are made of sound by two convolutions, the second of stride 2."""
    free: bool = False
    """Whether batch and lengths are free."""

    @property
    def n(self) -> int:
        return self.heads * self.dim


class Model:
    """Writes one."""

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        self.s, self.w, self.rng = sizes, Writer(), np.random.default_rng(seed)

    def linear(self, x: str, k: int, n: int) -> str:
        y = self.w("MatMul", x, self.w.constant(self.rng.normal(0, k**-0.5, (k, n))))
        return y if self.s.relative else self.w("Add", y, self.w.constant(self.rng.normal(0, 0.1, n)))

    def norm(self, x: str) -> str:
        w, gain = self.w, self.rng.uniform(0.8, 1.2, self.s.n)
        if not self.s.relative:
            bias = w.constant(self.rng.normal(0, 0.1, self.s.n))
            return w("LayerNormalization", x, w.constant(gain), bias, axis=-1, epsilon=1e-5)
        mean = w("ReduceMean", w("Pow", x, w.constant(np.array(2.0))), w.ints(-1), keepdims=1)
        root = w("Sqrt", w("Add", mean, w.constant(np.array(1e-6))))
        return w("Mul", w.constant(gain), w("Div", x, root))

    def attention(self, x: str, keys: str, bias: str) -> str:
        w, s = self.w, self.s
        shape = w.ints(0, -1, s.heads, s.dim)
        q, k, v = (self.linear(each, s.n, s.n) for each in (x, keys, keys))
        q, k, v = (
            w("Transpose", w("Reshape", each, shape), perm=perm)
            for each, perm in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
        )
        scores = w("MatMul", q, k)
        if not s.relative:
            scores = w("Mul", scores, w.constant(np.array(s.dim**-0.5)))
        scores = w("Add", scores, bias) if bias else scores
        mixed = w("Transpose", w("MatMul", w("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        return self.linear(w("Reshape", mixed, w.ints(0, -1, s.n)), s.n, s.n)

    def layer(self, x: str, bias: str, keys: str = "", hidden: str = "") -> str:
        w = self.w
        y = self.norm(x)
        x = w("Add", x, self.attention(y, y, bias))
        if keys:
            x = w("Add", x, self.attention(self.norm(x), keys, hidden))
        inner = w("Relu", self.linear(self.norm(x), self.s.n, self.s.inner))
        return w("Add", x, self.linear(inner, self.s.inner, self.s.n))

    def relative(self, rows: int, causal: bool) -> str:
        """[1, heads, rows, rows]: what is added to scores."""
        distance = np.arange(rows)[:, None] - np.arange(rows)
        table = self.rng.normal(0, 0.5, (5, self.s.heads))
        bias = table[np.clip(distance, 0 if causal else -2, 2) + 2].transpose(2, 0, 1)[None]
        if not self.s.relative:
            bias = np.zeros((1, 1, rows, rows))
        return self.w.constant(np.where(distance >= 0, bias, LEAST) if causal else bias)

    def gelu(self, x: str) -> str:
        """As exporters write it, of operators of ONNX."""
        w = self.w
        erf = w("Add", w("Erf", w("Div", x, w.constant(np.array(2**0.5)))), w.constant(np.array(1.0)))
        return w("Mul", w("Mul", x, erf), w.constant(np.array(0.5)))

    def convolution(self, x: str, channels: int, stride: int) -> str:
        w, s = self.w, self.s
        kernel = w.constant(self.rng.normal(0, (3 * channels) ** -0.5, (s.n, channels, 3)))
        return w("Conv", x, kernel, w.constant(self.rng.normal(0, 0.1, s.n)), kernel_shape=[3], pads=[1, 1], strides=[stride])

    def stem(self) -> str:
        """[1, MELS, 2 keys] to [1, keys, n]."""
        x = self.gelu(self.convolution("input_features", MELS, 1))
        x = self.w("Transpose", self.gelu(self.convolution(x, self.s.n, 2)), perm=[0, 2, 1])
        return self.w("Add", x, self.w.constant(self.rng.normal(0, 0.5, (self.s.keys, self.s.n))))

    def hidden(self, mask: str) -> str:
        """0 for tokens, a large negative number for padding."""
        w = self.w
        seen = w("Cast", w("Unsqueeze", mask, w.ints(1, 2)), to=TensorProto.FLOAT)
        return w("Mul", w("Sub", w.constant(np.array(1.0)), seen), w.constant(np.array(LEAST / 2)))

    def embedded(self, table: str, ids: str, rows: int) -> str:
        x = self.w("Gather", table, ids)
        return x if self.s.relative else self.w("Add", x, self.w.constant(self.rng.normal(0, 0.5, (rows, self.s.n))))

    def proto(self) -> onnx.ModelProto:
        w, s = self.w, self.s
        table = w.constant(self.rng.normal(0, 1, (IDS, s.n)))
        hidden = self.hidden("attention_mask") if s.mask else ""
        keys = "encoder_hidden_states"
        if s.encoder:
            bias = self.relative(s.keys, False)
            x = self.stem() if s.sound else self.embedded(table, "input_ids", s.keys)
            keys = self.norm(self.layer(x, w("Add", bias, hidden) if hidden else bias))
        x = self.embedded(table, "decoder_input_ids", s.tokens)
        own = self.hidden("own_mask") if s.own_mask else ""
        for _ in range(2):
            causal = self.relative(s.tokens, True)
            x = self.layer(x, w("Add", causal, own) if own else causal, keys, hidden)
        w("MatMul", self.norm(x), w.constant(self.rng.normal(0, s.n**-0.5, (s.n, IDS))))
        w.nodes[-1].output[0] = "logits"
        batch, source, target = ("batch", "source", "target") if s.free else (1, s.keys, s.tokens)
        value = helper.make_tensor_value_info
        names = {name for node in w.nodes for name in node.input}
        inputs = [
            value("own_mask", TensorProto.INT64, [batch, target]),
            value("input_ids", TensorProto.INT64, [batch, source]),
            value("input_features", TensorProto.FLOAT, [batch, MELS, 2 * s.keys]),
            value("attention_mask", TensorProto.INT64, [batch, source]),
            value("encoder_hidden_states", TensorProto.FLOAT, [batch, source, s.n]),
            value("decoder_input_ids", TensorProto.INT64, [batch, target]),
        ]
        outputs = [value("logits", TensorProto.FLOAT, [batch, target, IDS])]
        graph = helper.make_graph(w.nodes, "g", [i for i in inputs if i.name in names], outputs, w.held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
