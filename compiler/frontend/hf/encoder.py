"""The graph of an encoder: token ids, mask and types to hidden states, and to what its head makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from axlora.compiler.frontend.hf.config import Encoder, Function
from axlora.compiler.frontend.hf.writer import MICROSOFT, Writer


@dataclass(frozen=True)
class Names:
    """Modules of a layer, behind `layers`."""

    layers: str
    query: str
    key: str
    value: str
    out: str
    out_norm: str
    inner: str
    outer: str
    outer_norm: str


_BERT = Names(
    "encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_DISTILBERT = Names(
    "transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
    "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip


def names_of(own: Encoder) -> Names:
    """The modules of its layers."""
    return _DISTILBERT if own.kind == "distilbert" else _BERT


def write(to: Writer, own: Encoder) -> None:
    """Append the encoder; errors as those of `Weights.entry`."""
    root = f"{own.kind}." if f"{own.kind}.embeddings.word_embeddings.weight" in to.weights else ""
    names = names_of(own)
    ids, mask = to.input("input_ids"), to.input("attention_mask")
    x = _embeddings(to, own, f"{root}embeddings", ids)
    for layer in range(own.layers):
        x = _layer(to, own, names, f"{root}{names.layers}.{layer}", x, mask)
    if own.labels:
        to.output("logits", _classified(to, own, root, x), "batch", own.labels)
        return
    to.output("last_hidden_state", x, "batch", "sequence", own.hidden)
    if f"{root}pooler.dense.weight" in to.weights:
        to.output("pooler_output", _pooled(to, own, f"{root}pooler.dense", _first(to, x)), "batch", own.hidden)


def _embeddings(to: Writer, own: Encoder, path: str, ids: str) -> str:
    x = to.embedding(f"{path}.word_embeddings", ids, own.vocabulary, own.hidden)
    if own.types > 1:
        types = to.embedding(f"{path}.token_type_embeddings", to.input("token_type_ids"), own.types, own.hidden)
        x = to.node("Add", f"{path}.token_type_embeddings", [x, types])
    elif own.types:
        x = to.node(
            "Add", f"{path}.token_type_embeddings", [x, to.weight(f"{path}.token_type_embeddings.weight", 1, own.hidden)]
        )
    where = f"{path}.position_embeddings"
    shape = to.node("Shape", where, [ids], start=1)
    tokens = to.node("Squeeze", where, [shape])
    first = to.hold("first position", own.first, np.int64)
    end, one = to.node("Add", f"{where}/end", [tokens, first]), to.hold("one", 1, np.int64)
    rows = to.embedding(where, to.node("Range", where, [first, end, one]), own.positions, own.hidden)
    return _norm(to, own, f"{path}.LayerNorm", to.node("Add", where, [x, rows]))


def _norm(to: Writer, own: Encoder, path: str, x: str) -> str:
    reads = [x, *(to.weight(f"{path}.{name}", own.hidden) for name in ("weight", "bias"))]
    return to.node("LayerNormalization", path, reads, axis=-1, epsilon=own.epsilon)


def _layer(to: Writer, own: Encoder, names: Names, path: str, x: str, mask: str) -> str:
    rows = [to.linear(f"{path}.{name}", x, own.hidden, own.hidden, True) for name in (names.query, names.key, names.value)]
    mixed = to.node("MultiHeadAttention", f"{path}.attention", [*rows, "", mask], MICROSOFT, num_heads=own.heads)
    new = to.linear(f"{path}.{names.out}", mixed, own.hidden, own.hidden, True)
    x = _norm(to, own, f"{path}.{names.out_norm}", to.node("Add", f"{path}/attention", [x, new]))
    inner = to.linear(f"{path}.{names.inner}", x, own.hidden, own.inner, True)
    new = to.linear(f"{path}.{names.outer}", to.apply(own.function, f"{path}/function", inner), own.inner, own.hidden, True)
    return _norm(to, own, f"{path}.{names.outer_norm}", to.node("Add", f"{path}/mlp", [x, new]))


def _first(to: Writer, x: str) -> str:
    """The rows of the first tokens."""
    return to.node("Gather", "first token", [x, to.hold("zero", 0, np.int64)], axis=1)


def _pooled(to: Writer, own: Encoder, path: str, x: str) -> str:
    return to.node("Tanh", path, [to.linear(path, x, own.hidden, own.hidden, True)])


def _classified(to: Writer, own: Encoder, root: str, x: str) -> str:
    """The logits of the head, which reads the first token."""
    first = _first(to, x)
    match own.kind:
        case "roberta":
            return to.linear("classifier.out_proj", _pooled(to, own, "classifier.dense", first), own.hidden, own.labels, True)
        case "distilbert":
            inner = to.apply(Function.RELU, "relu", to.linear("pre_classifier", first, own.hidden, own.hidden, True))
            return to.linear("classifier", inner, own.hidden, own.labels, True)
        case _:
            return to.linear("classifier", _pooled(to, own, f"{root}pooler.dense", first), own.hidden, own.labels, True)
