"""The graph of a decoder: token ids to logits, without a cache."""

from __future__ import annotations

import math

import numpy as np

from axlora.compiler.frontend.hf.config import Decoder
from axlora.compiler.frontend.hf.writer import MICROSOFT, Part, Writer


def write(to: Writer, own: Decoder) -> None:
    """Append the decoder; errors as those of `Weights.entry`."""
    base = "model" if "model.embed_tokens.weight" in to.weights or "embed_tokens.weight" not in to.weights else ""
    root = f"{base}." if base else ""
    x = to.embedding(f"{root}embed_tokens", to.input("input_ids"), own.vocabulary, own.hidden)
    if own.adds_one:
        x = to.node("Mul", f"{root}embed_tokens", [x, to.hold("embedding scale", math.sqrt(own.hidden))])
    to.hold("cos", own.rotary.cos)
    to.hold("sin", own.rotary.sin)
    for layer in range(own.layers):
        path = f"{root}layers.{layer}"
        new = _attention(to, own, f"{path}.self_attn", _norm(to, own, f"{path}.input_layernorm", x), own.windows[layer])
        if own.norms_behind:
            new = _norm(to, own, f"{path}.post_attention_layernorm", new)
        x = to.node("Add", f"{path}/attention", [x, new])
        before = "pre_feedforward_layernorm" if own.norms_behind else "post_attention_layernorm"
        new = _mlp(to, own, f"{path}.mlp", _norm(to, own, f"{path}.{before}", x))
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


def _attention(to: Writer, own: Decoder, path: str, x: str, window: int) -> str:
    queries, keys = own.heads * own.dim, own.groups * own.dim
    if own.packed:
        reads = [to.linear(f"{path}.qkv_proj", x, own.hidden, queries + 2 * keys), "", ""]
    else:
        sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        reads = [to.linear(f"{path}.{name}", x, own.hidden, n, own.qkv_bias) for name, n in sizes.items()]
    reads += ["", "", "", "", "cos", "sin"]
    if own.head_norms:
        reads += ["", "", "", "", "", *(_gain(to, own, f"{path}.{name}", own.dim) for name in ("q_norm", "k_norm"))]
    mixed = to.node(
        "GroupQueryAttention", path, reads, MICROSOFT, num_heads=own.heads, kv_num_heads=own.groups, scale=own.scale,
        do_rotary=1, local_window_size=window or -1, softcap=own.cap, qk_norm_epsilon=own.epsilon,
    )  # fmt: skip
    return to.linear(f"{path}.o_proj", mixed, queries, own.hidden, own.o_bias)


def _part(own: Decoder, path: str, index: int) -> Part | None:
    return Part(f"{path}.gate_up_proj", index * own.inner, 2 * own.inner) if own.packed else None


def _mlp(to: Writer, own: Decoder, path: str, x: str) -> str:
    gate, up = (
        to.linear(f"{path}.{name}", x, own.hidden, own.inner, own.mlp_bias, _part(own, path, i))
        for i, name in enumerate(("gate_proj", "up_proj"))
    )
    inner = to.node("Mul", path, [to.apply(own.function, f"{path}.act_fn", gate), up])
    return to.linear(f"{path}.down_proj", inner, own.inner, own.hidden, own.mlp_bias)
