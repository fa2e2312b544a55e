"""The operators of a config.json, as recognition finds them in the graph of the same model; its vectors are drawn."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.hf.config import Decoder, Encoder, Experts, Function
from axlora.compiler.frontend.hf.decoder import Names
from axlora.compiler.frontend.hf.encoder import names_of
from axlora.compiler.functions import own_bound, own_function
from axlora.compiler.operators import (
    Add,
    Apply,
    Attention,
    Linear,
    Mul,
    Norm,
    NormKind,
    Op,
    Pool,
    PoolKind,
    Rotary,
    RowScale,
    TopGates,
)
from axlora.compiler.operators import Function as ElementFunction
from axlora.compiler.transformer import Lookup, Output, Transformer

Float64 = npt.NDArray[np.float64]
IDS = 64
"""Rows of the table of token ids: the host picks rows from it, and the machine does not see how many there are."""
_FUNCTIONS = {
    Function.SILU: ElementFunction.SILU,
    Function.GELU: ElementFunction.GELU,
    Function.GELU_TANH: ElementFunction.GELU_TANH,
    Function.RELU: ElementFunction.RELU,
}
INPUT = "embeddings"
PLAIN = Names()


@dataclass(frozen=True)
class Sized:
    """A linear of which nothing but its size is known."""

    name: str
    k: int
    n: int
    biased: bool


@dataclass(frozen=True)
class Described:
    """A model by its config.json."""

    model: Transformer
    linears: tuple[Sized, ...]
    """In the order of the operators."""


def drawn(name: str, *shape: int, middle: float = 0.0, spread: float = 0.1) -> Float64:
    """Normally distributed numbers that follow from a name, in the precision of float32."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return np.asarray(random.normal(middle, spread, shape).astype(np.float32), np.float64)


def operators(own: Decoder | Encoder, tokens: int) -> Described:
    """The operators of a model.

    Args:
        tokens: of a sequence of an encoder; of a decoder, most of a context.
    """
    return _decoder(own, tokens) if isinstance(own, Decoder) else _encoder(own, tokens)


@dataclass
class OperatorWriter:
    """Appends operators; each method returns the value that it makes."""

    ops: list[Op] = field(default_factory=list)
    linears: list[Sized] = field(default_factory=list)

    def linear(self, name: str, x: str, k: int, n: int, bias: bool = False, y: str = "") -> str:
        y = y or f"{name}/{'Add' if bias else 'MatMul'}/result"
        self.linears.append(Sized(name, k, n, bias))
        self.ops.append(Linear(x, y, name))
        return y

    def norm(self, name: str, x: str, n: int, eps: float, kind: NormKind, y: str = "") -> str:
        y = y or f"{name}/{'Simplified' if kind is NormKind.RMS else ''}LayerNormalization/result"
        gain = drawn(f"{name}.weight", n, middle=1.0)
        bias = drawn(f"{name}.bias", n) if kind is NormKind.LAYER else None
        self.ops.append(Norm(x, y, kind, gain, bias, float(np.float32(eps))))
        return y

    def add(self, name: str, a: str, b: str) -> str:
        self.ops.append(Add(a, b, f"{name}/Add/result"))
        return self.ops[-1].y

    def apply(self, function: Function, x: str) -> str:
        self.ops.append(Apply(x, f"{x} {_FUNCTIONS[function].value}", _FUNCTIONS[function]))
        return self.ops[-1].y


def _decoder(own: Decoder, context: int) -> Described:
    to = OperatorWriter()
    x = INPUT
    for layer in range(own.layers):
        path = f"model.layers.{layer}"
        new = to.norm(f"{path}.input_layernorm", x, own.hidden, own.epsilon, NormKind.RMS)
        new = _attention(to, own, f"{path}.self_attn", new, layer, context)
        if own.norms_behind:
            new = to.norm(f"{path}.post_attention_layernorm", new, own.hidden, own.epsilon, NormKind.RMS)
        x = to.add(f"{path}/attention", x, new)
        before = "pre_feedforward_layernorm" if own.norms_behind else "post_attention_layernorm"
        new = to.norm(f"{path}.{before}", x, own.hidden, own.epsilon, NormKind.RMS)
        if own.experts is not None and own.experts.layers[layer]:
            new = _experts(to, own, own.experts, path, new)
        else:
            new = _mlp(to, own, f"{path}.mlp", new, own.inner)
        if own.norms_behind:
            new = to.norm(f"{path}.post_feedforward_layernorm", new, own.hidden, own.epsilon, NormKind.RMS)
        x = to.add(f"{path}/mlp", x, new)
    x = to.norm("model.norm", x, own.hidden, own.epsilon, NormKind.RMS)
    logits = to.linear("lm_head", x, own.hidden, own.vocabulary, y="" if own.final_cap else "logits")
    if own.final_cap:
        cap = own.final_cap

        def capped(values: Float64) -> Float64:
            return np.asarray(cap * np.tanh(values / cap))

        bound = own_bound(capped)
        assert bound is not None, "a tanh has straight ends"
        to.ops.append(Apply(logits, f"{logits} function 0", own_function("function 0", capped, bound)))
        logits = to.ops[-1].y
    output = Output("logits", logits, (1, context, own.vocabulary))
    return as_model(to, ("input_ids",), own.hidden, None, (output,), None)


def _mlp(to: OperatorWriter, own: Decoder, path: str, x: str, size: int, names: Names = PLAIN) -> str:
    gate, up = (to.linear(f"{path}.{name}", x, own.hidden, size, own.mlp_bias) for name in (names.gate, names.up))
    to.ops.append(Mul(to.apply(own.function, gate), up, f"{path}/Mul/result"))
    return to.linear(f"{path}.{names.down}", to.ops[-1].y, size, own.hidden, own.mlp_bias)


def _experts(to: OperatorWriter, own: Decoder, of: Experts, layer: str, x: str) -> str:
    """All experts, each times its gate, and the shared one, in the order of `decoder`."""
    mixtral = own.kind == "mixtral"
    path = f"{layer}.block_sparse_moe" if mixtral else f"{layer}.mlp"
    gates = f"{path}/ScatterElements/result"
    to.ops.append(TopGates(to.linear(f"{path}.gate", x, own.hidden, of.count), gates, of.chosen, of.normalized))
    total = ""
    for e in range(of.count):
        one = f"{path}.experts.{e}"
        y = _mlp(to, own, one, x, of.inner, Names("w1", "w3", "w2") if mixtral else Names())
        to.ops.append(RowScale(y, gates, f"{one}/gate/Mul/result", e))
        scaled = to.ops[-1].y
        total = to.add(f"{one}/gate", total, scaled) if total else scaled
    if of.shared:
        one = f"{path}.shared_expert"
        logit, share = to.linear(f"{one}_gate", x, own.hidden, 1), f"{one}_gate/Sigmoid/result"
        y = _mlp(to, own, one, x, of.shared)
        to.ops.append(Apply(logit, share, ElementFunction.SIGMOID))
        to.ops.append(RowScale(y, share, f"{one}/gate/Mul/result", 0))
        total = to.add(f"{one}/gate", total, to.ops[-1].y)
    return total


def _attention(to: OperatorWriter, own: Decoder, path: str, x: str, layer: int, context: int) -> str:
    """Projections, norms of heads, rotations, attention over what is seen."""
    dim, queries, keys = own.dim, own.heads * own.dim, own.groups * own.dim
    first = (0, 0, 0)
    if own.packed:
        q = k = v = to.linear(f"{path}.qkv_proj", x, own.hidden, queries + 2 * keys)
        first = (0, queries, queries + keys)
    else:
        q, k, v = (
            to.linear(f"{path}.{name}_proj", x, own.hidden, n, own.qkv_bias)
            for name, n in zip("qkv", (queries, keys, keys), strict=True)
        )
    mixed = f"{path}/GroupQueryAttention/result"
    if own.head_norms:
        q, k = (
            to.norm(f"{path}.{name}", each, dim, own.epsilon, NormKind.RMS, f"{mixed}#{name}")
            for name, each in (("q_norm", q), ("k_norm", k))
        )
    turning, window = own.turning(layer), own.windows[layer]
    cos, sin = (np.asarray(table[:context], np.float64) for table in (turning.cos, turning.sin))

    def turned(x: str, heads: int, at: int) -> str:
        to.ops.append(Rotary(x, f"{x} rotated {at}", heads, dim, cos, sin, at, dim))
        return to.ops[-1].y

    q, k = turned(q, own.heads, first[0]), turned(k, own.groups, first[1])
    bias = None
    if 0 < window < context:
        behind = np.arange(context)[:, None] - np.arange(context)
        bias = np.where(behind < window, 0.0, -np.inf)[None]
    to.ops.append(
        Attention(
            q, k, v, mixed, own.heads, own.groups, dim, float(np.float32(own.scale / (own.cap or 1.0))), True,
            (0, 0, first[2]), (dim, dim, dim), bias=bias, cap=float(np.float32(own.cap)),
        )
    )  # fmt: skip
    return to.linear(f"{path}.o_proj", mixed, queries, own.hidden, own.o_bias)


def _encoder(own: Encoder, tokens: int) -> Described:
    to, names = OperatorWriter(), names_of(own)
    h, eps, dim = own.hidden, own.epsilon, own.hidden // own.heads
    root = f"{own.kind}." if own.labels else ""

    def norm(path: str, x: str, y: str = "") -> str:
        return to.norm(path, x, h, eps, NormKind.LAYER, y)

    x = norm(f"{root}embeddings.LayerNorm", INPUT)
    for layer in range(own.layers):
        path = f"{root}{names.layers}.{layer}"
        q, k, v = (to.linear(f"{path}.{name}", x, h, h, True) for name in (names.query, names.key, names.value))
        mixed = f"{path}.attention/MultiHeadAttention/result"
        size = float(np.float32(1 / np.sqrt(dim)))
        to.ops.append(Attention(q, k, v, mixed, own.heads, own.heads, dim, size, False, (0, 0, 0), (dim, dim, dim)))
        new = to.linear(f"{path}.{names.out}", mixed, h, h, True)
        x = norm(f"{path}.{names.out_norm}", to.add(f"{path}/attention", x, new))
        inner = to.apply(own.function, to.linear(f"{path}.{names.inner}", x, h, own.inner, True))
        new = to.linear(f"{path}.{names.outer}", inner, own.inner, h, True)
        last = layer == own.layers - 1 and not own.labels
        x = norm(f"{path}.{names.outer_norm}", to.add(f"{path}/mlp", x, new), "last_hidden_state" if last else "")
    outputs = [] if own.labels else [Output("last_hidden_state", x, (1, tokens, h))]
    if own.labels or own.pooled:
        to.ops.append(Pool(x, f"{x} first", PoolKind.FIRST))
        first = to.ops[-1].y
        layers = {"roberta": "classifier.dense", "distilbert": "pre_classifier"}
        dense = layers.get(own.kind, f"{root}pooler.dense") if own.labels else "pooler.dense"
        pooled = to.linear(dense, first, h, h, True)
        function = ElementFunction.RELU if own.kind == "distilbert" else ElementFunction.TANH
        to.ops.append(Apply(pooled, f"{pooled} {function.value}", function))
        pooled = to.ops[-1].y
        if own.labels:
            head = "classifier.out_proj" if own.kind == "roberta" else "classifier"
            outputs.append(Output("logits", to.linear(head, pooled, h, own.labels, True, "logits"), (1, own.labels)))
        else:
            outputs.append(Output("pooler_output", pooled, (1, h)))
    ids = ("input_ids", "token_type_ids") if own.types > 1 else ("input_ids",)
    return as_model(to, ids, h, tokens, outputs, "attention_mask")


def as_model(
    to: OperatorWriter, ids: Sequence[str], hidden: int, positions: int | None, outputs: Sequence[Output], mask: str | None
) -> Described:
    tables = tuple(Lookup(name, drawn(f"{name} table", IDS, hidden, spread=1.0)) for name in ids)
    rows = None if positions is None else drawn("position table", positions, hidden)
    model = Transformer(tables, rows, INPUT, tuple(to.ops), tuple(outputs), mask, source=INPUT)
    return Described(model, tuple(to.linears))
