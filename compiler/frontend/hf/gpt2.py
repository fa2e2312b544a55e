"""GPT-2 by its config.json, for estimates: directories of it are exported to ONNX."""

from __future__ import annotations

from dataclasses import dataclass

from axlora.compiler.frontend.hf.config import Fields, Function
from axlora.compiler.frontend.hf.operators import INPUT, Described, OperatorWriter, as_model
from axlora.compiler.operators import Attention, NormKind
from axlora.compiler.transformer import Output

KIND = "gpt2"


@dataclass(frozen=True)
class Gpt2:
    """A decoder of the GPT-2 kind: layer norms before attention and MLP, one linear for query, key and value."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    most: int
    """Positions."""
    epsilon: float
    function: Function


def gpt2(f: Fields) -> Gpt2:
    """What a config.json describes.

    Raises:
        BadModel: a field that is missing, or of a value that is not taken.
    """
    hidden = f.size("n_embd hidden_size")
    return Gpt2(
        hidden,
        f.size("n_inner", 4 * hidden),
        f.size("n_layer num_hidden_layers"),
        f.size("n_head num_attention_heads"),
        f.size("vocab_size"),
        f.size("n_positions max_position_embeddings n_ctx", 1024),
        f.value("layer_norm_epsilon", 1e-5),
        f.function("activation_function", "gelu_new"),
    )


def operators(own: Gpt2, context: int) -> Described:
    """Its operators, of at most `context` tokens."""
    to, x, h, dim = OperatorWriter(), INPUT, own.hidden, own.hidden // own.heads
    for layer in range(own.layers):
        path = f"transformer.h.{layer}"
        new = to.norm(f"{path}.ln_1", x, h, own.epsilon, NormKind.LAYER)
        qkv = to.linear(f"{path}.attn.c_attn", new, h, 3 * h, True)
        mixed = f"{path}.attn/attention"
        first, stride = (0, h, 2 * h), (dim, dim, dim)
        to.ops.append(Attention(qkv, qkv, qkv, mixed, own.heads, own.heads, dim, dim**-0.5, True, first, stride))
        x = to.add(f"{path}/attention", to.linear(f"{path}.attn.c_proj", mixed, h, h, True), x)
        new = to.norm(f"{path}.ln_2", x, h, own.epsilon, NormKind.LAYER)
        inner = to.apply(own.function, to.linear(f"{path}.mlp.c_fc", new, h, own.inner, True))
        x = to.add(f"{path}/mlp", x, to.linear(f"{path}.mlp.c_proj", inner, own.inner, h, True))
    x = to.norm("transformer.ln_f", x, h, own.epsilon, NormKind.LAYER)
    logits = to.linear("lm_head", x, h, own.vocabulary, y="logits")
    return as_model(to, ("input_ids",), h, context, (Output("logits", logits, (1, context, own.vocabulary)),), None)
