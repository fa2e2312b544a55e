"""The graph of a decoder: token ids to logits, without a cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from axlora.compiler.frontend.hf.config import Decoder, Experts
from axlora.compiler.frontend.hf.writer import MICROSOFT, Part, Writer


@dataclass(frozen=True)
class Names:
    """What the linears of an MLP are called."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    packed: bool = False
    """Gate and up are one tensor."""


def write(to: Writer, own: Decoder) -> None:
    """Append the decoder; errors as those of `Weights.entry`."""
    base = "model" if "model.embed_tokens.weight" in to.weights or "embed_tokens.weight" not in to.weights else ""
    root = f"{base}." if base else ""
    x = to.embedding(f"{root}embed_tokens", to.input("input_ids"), own.vocabulary, own.hidden)
    if own.adds_one:
        x = to.node("Mul", f"{root}embed_tokens", [x, to.hold("embedding scale", math.sqrt(own.hidden))])
    for name, tables in (("", own.rotary), (" local", own.local)):
        if tables is not None:
            to.hold(f"cos{name}", tables.cos)
            to.hold(f"sin{name}", tables.sin)
    for layer in range(own.layers):
        path = f"{root}layers.{layer}"
        new = _attention(to, own, f"{path}.self_attn", _norm(to, own, f"{path}.input_layernorm", x), layer)
        if own.norms_behind:
            new = _norm(to, own, f"{path}.post_attention_layernorm", new)
        x = to.node("Add", f"{path}/attention", [x, new])
        before = "pre_feedforward_layernorm" if own.norms_behind else "post_attention_layernorm"
        new = _norm(to, own, f"{path}.{before}", x)
        if own.experts is not None and own.experts.layers[layer]:
            new = _experts(to, own, own.experts, path, new)
        else:
            new = _mlp(to, own, f"{path}.mlp", new, own.inner, Names())
        if own.norms_behind:
            new = _norm(to, own, f"{path}.post_feedforward_layernorm", new)
        x = to.node("Add", f"{path}/mlp", [x, new])
    x = _norm(to, own, f"{root}norm", x)
    if own.tied and "lm_head.weight" not in to.weights:
        x = to.turned("lm_head", x, f"{root}embed_tokens.weight")
    else:
        x = to.linear("lm_head", x, own.hidden, own.vocabulary)
    if own.final_cap:
        cap = to.hold("final cap", own.final_cap)
        x = to.node("Mul", "logits", [to.node("Tanh", "logits", [to.node("Div", "logits", [x, cap])]), cap])
    to.output("logits", x, "batch", "sequence", own.vocabulary)


def _gain(to: Writer, own: Decoder, path: str, size: int) -> str:
    """The gain of a norm, with what the file leaves out."""
    if not own.adds_one:
        return to.weight(f"{path}.weight", size)
    return to.hold(f"{path}.weight", 1 + to.weights.array(f"{path}.weight", (size,)).astype(np.float32))


def _norm(to: Writer, own: Decoder, path: str, x: str) -> str:
    reads = [x, _gain(to, own, path, own.hidden)]
    return to.node("SimplifiedLayerNormalization", path, reads, MICROSOFT, axis=-1, epsilon=own.epsilon)


def _attention(to: Writer, own: Decoder, path: str, x: str, layer: int) -> str:
    window, local = own.windows[layer], (" local" if own.turning(layer) is own.local else "")
    queries, keys = own.heads * own.dim, own.groups * own.dim
    if own.packed:
        reads = [to.linear(f"{path}.qkv_proj", x, own.hidden, queries + 2 * keys), "", ""]
    else:
        sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        reads = [to.linear(f"{path}.{name}", x, own.hidden, n, own.qkv_bias) for name, n in sizes.items()]
    reads += ["", "", "", "", f"cos{local}", f"sin{local}"]
    if own.head_norms:
        reads += ["", "", "", "", "", *(_gain(to, own, f"{path}.{name}", own.dim) for name in ("q_norm", "k_norm"))]
    mixed = to.node(
        "GroupQueryAttention", path, reads, MICROSOFT, num_heads=own.heads, kv_num_heads=own.groups, scale=own.scale,
        do_rotary=1, local_window_size=window or -1, softcap=own.cap, qk_norm_epsilon=own.epsilon,
    )  # fmt: skip
    return to.linear(f"{path}.o_proj", mixed, queries, own.hidden, own.o_bias)


def _mlp(to: Writer, own: Decoder, path: str, x: str, size: int, names: Names) -> str:
    gate, up = (
        to.linear(
            f"{path}.{name}", x, own.hidden, size, own.mlp_bias,
            Part(f"{path}.gate_up_proj", i * size, 2 * size) if own.packed or names.packed else None,
        )
        for i, name in enumerate((names.gate, names.up))
    )  # fmt: skip
    inner = to.node("Mul", path, [to.apply(own.function, f"{path}.act_fn", gate), up])
    return to.linear(f"{path}.{names.down}", inner, size, own.hidden, own.mlp_bias)


def _experts(to: Writer, own: Decoder, of: Experts, layer: str, x: str) -> str:
    """The chosen experts' results, each times its gate, and that of the shared one; all experts are computed."""
    path = f"{layer}.block_sparse_moe" if to.weights.under(f"{layer}.block_sparse_moe") else f"{layer}.mlp"
    for name in ("gate_up_proj", "down_proj"):
        to.weights.split(f"{path}.experts.{name}")
    first = f"{path}.experts.0"
    names = (
        Names("w1", "w3", "w2") if to.weights.under(f"{first}.w1") else Names(packed=to.weights.under(f"{first}.gate_up_proj"))
    )
    gates = to.gates(path, to.linear(f"{path}.gate", x, own.hidden, of.count), of.chosen, of.normalized)
    total = ""
    for e in range(of.count):
        one = f"{path}.experts.{e}"
        picked = to.node("Gather", one, [gates, to.hold(f"expert {e}", [e], np.int64)], axis=-1)
        scaled = to.node("Mul", f"{one}/gate", [_mlp(to, own, one, x, of.inner, names), picked])
        total = to.node("Add", f"{one}/gate", [total, scaled]) if total else scaled
    if of.shared:
        one = f"{path}.shared_expert"
        share = to.node("Sigmoid", f"{one}_gate", [to.linear(f"{one}_gate", x, own.hidden, 1)])
        scaled = to.node("Mul", f"{one}/gate", [_mlp(to, own, one, x, of.shared, Names()), share])
        total = to.node("Add", f"{one}/gate", [total, scaled])
    return total
