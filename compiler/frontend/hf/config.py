"""config.json of a decoder or an encoder: what its layers are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel
from axlora.compiler.layer import TOKENS

T = TypeVar("T")
DECODERS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "mixtral", "qwen2_moe", "qwen3_moe",
)  # fmt: skip
_DIM = 1024
_ROBERTA = ("roberta", "xlm-roberta", "camembert")
ENCODERS = ("bert", *_ROBERTA, "distilbert")


class Function(Enum):
    """Element-wise functions of MLPs; the values are their names in `hidden_act`."""

    SILU = ("silu", "swish")
    GELU = ("gelu",)
    GELU_TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate")
    RELU = ("relu",)


@dataclass(frozen=True)
class Rotary:
    """Tables of a rotary embedding of the half-split kind."""

    cos: npt.NDArray[np.float32]
    """[positions, half of what turns]."""
    sin: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Experts:
    """MLPs of which each token has some, weighed by the largest shares of a softmax."""

    count: int
    chosen: int
    """Of a token."""
    inner: int
    normalized: bool
    """The chosen shares add up to 1."""
    shared: int
    """Inner features of an expert that every token has, times a sigmoid; 0: there is none."""
    layers: tuple[bool, ...]
    """Whether each layer has experts; others have one MLP."""


@dataclass(frozen=True)
class Decoder:
    """A decoder of the Llama kind: norms by the root mean square, gated MLPs, grouped queries."""

    kind: str
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    dim: int
    vocabulary: int
    epsilon: float
    function: Function
    rotary: Rotary
    windows: tuple[int, ...]
    """Keys that a token of each layer sees, itself included; 0: all before it."""
    scale: float
    """Of the scores."""
    cap: float
    """Of the scores: cap * tanh(scores / cap); 0: none."""
    final_cap: float
    """Of the logits."""
    tied: bool
    """The head has the embeddings' weight."""
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    experts: Experts | None
    local: Rotary | None
    """Of layers with a window, where they turn otherwise."""

    def turning(self, layer: int) -> Rotary:
        """The tables of a layer."""
        return self.local if self.local is not None and self.windows[layer] else self.rotary

    @property
    def most(self) -> int:
        """Positions."""
        return len(self.rotary.cos)

    @property
    def adds_one(self) -> bool:
        """Gains are stored less one, and embeddings are times the root of `hidden`."""
        return self.kind.startswith("gemma")

    @property
    def head_norms(self) -> bool:
        """Queries and keys have norms of their own."""
        return self.kind in ("qwen3", "qwen3_moe", "gemma3_text")

    @property
    def norms_behind(self) -> bool:
        """What attention and MLP give is normalised before it is added."""
        return self.kind in ("gemma2", "gemma3_text")

    @property
    def packed(self) -> bool:
        """Query, key and value are one linear, and so are gate and up."""
        return self.kind == "phi3"


@dataclass(frozen=True)
class Encoder:
    """An encoder of the BERT kind."""

    kind: str
    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    types: int
    """Token types; 0: no such table."""
    first: int
    """Position of the first token."""
    epsilon: float
    function: Function
    labels: int
    """Of a head that classifies sequences; 0: none."""
    pooled: bool
    """Whether the class that the file names makes a pooler of no other head."""

    @property
    def most(self) -> int:
        """Positions of tokens."""
        return self.positions - self.first


@dataclass
class Fields:
    """The fields of a config.json, with errors that name them."""

    data: Mapping[str, Any]
    where: str
    path: str = field(default="config.json")

    def wrong(self, name: str, value: object, hint: str) -> BadModel:
        """The error of a field."""
        return BadModel(f"{self.path} has {name} {value!r}", self.where, hint)

    def value(self, names: str, default: T) -> T:
        """The first field of these that is there and not null, of the default's type; numbers of floats may be integers.

        Raises:
            BadModel: of another type.
        """
        for name in names.split():
            found = self.data.get(name)
            if found is None:
                continue
            wanted = (int, float) if type(default) is float else type(default)
            if not isinstance(found, wanted) or (isinstance(found, bool) and type(default) is not bool):
                raise self.wrong(name, found, f"{type(default).__name__} is expected")
            return type(default)(found)  # type: ignore[call-arg]
        return default

    def size(self, names: str, default: int = 0) -> int:
        """A positive number; without a default it must be there.

        Raises:
            BadModel: not there, or not positive.
        """
        found = self.value(names, default)
        if found <= 0:
            what = f"{self.path} has no {names.split()[0]}" if not found else f"{self.path} has {names.split()[0]} {found}"
            raise BadModel(what, self.where, "a positive number is expected")
        return found

    def function(self, names: str, default: str) -> Function:
        """An element-wise function by its name.

        Raises:
            BadModel: another one.
        """
        name = self.value(names, default)
        for found in Function:
            if name in found.value:
                return found
        known = ", ".join(text for each in Function for text in each.value)
        raise self.wrong(next(n for n in names.split() if self.data.get(n) == name), name, f"{known} are taken")


def described(data: Mapping[str, Any], where: str) -> Decoder | Encoder:
    """What a config.json describes.

    Raises:
        BadModel: another kind of model, or a field that is not taken.
    """
    fields = Fields(data, where)
    kind = fields.value("model_type", "")
    if kind in DECODERS:
        return _decoder(kind, fields)
    if kind in ENCODERS:
        return _encoder("roberta" if kind in _ROBERTA else kind, fields)
    raise fields.wrong("model_type", kind, f"{', '.join((*DECODERS, *ENCODERS))} are taken; export others to ONNX")


def architecture(data: Mapping[str, Any]) -> str:
    """Name of the first class that `architectures` lists; "" if there is none."""
    names = data.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _decoder(kind: str, f: Fields) -> Decoder:
    hidden, heads, layers = f.size("hidden_size"), f.size("num_attention_heads"), f.size("num_hidden_layers")
    gemma = kind.startswith("gemma")
    function = f.function("hidden_activation hidden_act", "gelu_pytorch_tanh" if gemma else "silu")
    if kind == "gemma" and function is Function.GELU:  # what early files call the approximation
        function = Function.GELU_TANH
    name = architecture(f.data)
    if name and not name.endswith("ForCausalLM"):
        raise f.wrong("architectures", name, "of decoders those that end in ForCausalLM are taken")
    groups = f.size("num_key_value_heads", heads)
    dim = f.size("head_dim", 256 if gemma else hidden // heads)
    if dim > _DIM:
        raise f.wrong("head_dim", dim, f"at most {_DIM} is taken")
    if heads % groups:
        raise f.wrong("num_key_value_heads", groups, f"{heads} heads must be a multiple of it")
    biased = f.value("qkv_bias" if kind == "qwen2_moe" else "attention_bias", kind in ("qwen2", "qwen2_moe"))
    newer = kind in ("gemma2", "gemma3_text")
    base = f.value("query_pre_attn_scalar", 256.0) if newer else float(dim)
    return Decoder(
        kind,
        hidden,
        f.size("intermediate_size"),
        layers,
        heads,
        groups,
        dim,
        f.size("vocab_size"),
        f.value("rms_norm_eps", 1e-6),
        function,
        _rotary(f, dim, "full_attention"),
        _windows(kind, f, layers),
        base**-0.5,
        f.value("attn_logit_softcapping", 0.0) if newer else 0.0,
        f.value("final_logit_softcapping", 0.0) if newer else 0.0,
        f.value("tie_word_embeddings", gemma),
        biased,
        biased and not kind.startswith("qwen2"),
        f.value("mlp_bias", False) and kind == "llama",
        _experts(kind, f, layers),
        _local(f, dim) if kind == "gemma3_text" else None,
    )


def _experts(kind: str, f: Fields, layers: int) -> Experts | None:
    """Mixtral's and Qwen's mixtures; None of other families."""
    if kind != "mixtral" and not kind.endswith("_moe"):
        return None
    mixtral, shared = kind == "mixtral", kind == "qwen2_moe"
    count = f.size("num_local_experts num_experts", 8 if mixtral else 60 if shared else 128)
    chosen = f.size("num_experts_per_tok", 2 if mixtral else 4 if shared else 8)
    if chosen > count:
        raise f.wrong("num_experts_per_tok", chosen, f"at most the {count} experts are taken")
    step = 1 if mixtral else f.size("decoder_sparse_step", 1)
    plain: list[object] = [] if mixtral else f.value("mlp_only_layers", [])
    return Experts(
        count,
        chosen,
        f.size("intermediate_size" if mixtral else "moe_intermediate_size"),
        mixtral or f.value("norm_topk_prob", False),
        f.size("shared_expert_intermediate_size") if shared else 0,
        tuple(i not in plain and (i + 1) % step == 0 for i in range(layers)),
    )


def _windows(kind: str, f: Fields, layers: int) -> tuple[int, ...]:
    """The window of each layer, as `layer_types` or the family's rule has it; 0: none."""
    window = f.value("sliding_window", 0)
    types: list[object] = f.value("layer_types", [])
    if not window or (kind.startswith("qwen") and not f.value("use_sliding_window", False)) or kind in ("llama", "gemma"):
        return (0,) * layers
    if types:
        odd = next((t for t in types if t not in ("sliding_attention", "full_attention")), None)
        if odd is not None or len(types) != layers:
            raise f.wrong(
                "layer_types", odd or len(types), f"sliding_attention and full_attention of {layers} layers are taken"
            )
        return tuple(window if t == "sliding_attention" else 0 for t in types)
    if kind == "gemma2":
        return tuple(0 if i % 2 else window for i in range(layers))
    if kind == "gemma3_text":
        step = f.size("sliding_window_pattern _sliding_window_pattern", 6)
        return tuple(window if (i + 1) % step else 0 for i in range(layers))
    first = f.value("max_window_layers", 28) if kind.startswith("qwen") else 0
    return tuple(window if i >= first else 0 for i in range(layers))


def _local(f: Fields, dim: int) -> Rotary:
    """Gemma 3's tables of layers with a window: of a base of their own, unscaled."""
    if "sliding_attention" in f.value("rope_parameters", {}):
        return _rotary(f, dim, "sliding_attention")
    base = f.value("rope_local_base_freq", 10000.0)
    plain = {name: value for name, value in f.data.items() if name != "rope_scaling"}
    return _rotary(Fields(plain | {"rope_parameters": {"rope_type": "default", "rope_theta": base}}, f.where), dim)


def _rotary(f: Fields, dim: int, layers: str = "") -> Rotary:
    """Tables of all positions, at most as many as a linear takes tokens; of plain, linear and Llama 3's frequencies.

    Args:
        layers: the kind of layers whose parameters are taken, where each kind has its own.
    """
    given: dict[str, Any] = f.value("rope_parameters rope_scaling", {})
    given = given[layers] if isinstance(given.get(layers), dict) else given
    rope = Fields(
        {"rope_theta": f.data.get("rope_theta"), "partial_rotary_factor": f.data.get("partial_rotary_factor")} | given, f.where
    )
    turned = int(dim * rope.value("partial_rotary_factor", 1.0))
    if turned % 2 or not turned:
        raise f.wrong("partial_rotary_factor", rope.data["partial_rotary_factor"], f"an even part of {dim} features must turn")
    inverse = rope.value("rope_theta", 10000.0) ** -(np.arange(0, turned, 2) / turned)
    match kind := rope.value("rope_type type", "default"):
        case "default":
            pass
        case "linear":
            inverse = inverse / _positive(rope, "factor")
        case "llama3":
            inverse = _llama3(rope, inverse)
        case _:
            raise f.wrong("rope_type", kind, "default, linear and llama3 are taken; export others to ONNX")
    angles = np.arange(min(f.size("max_position_embeddings", 2048), TOKENS))[:, None] * inverse
    return Rotary(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def _positive(rope: Fields, name: str) -> float:
    value = rope.value(name, 0.0)
    if not 0 < value < math.inf:
        raise rope.wrong(f"rope_scaling's {name}", value or None, "a positive number is expected")
    return value


def _llama3(rope: Fields, inverse: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Frequencies whose waves are longer than the old context by 1 / low are divided by the factor; those between 1 / high
    and 1 / low are blended (`_compute_llama3_parameters` of transformers)."""
    factor, low, high, old = (
        _positive(rope, name) for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    turns = old * inverse / (2 * np.pi)
    blend = np.clip((turns - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(inverse * (blend + (1 - blend) / factor), np.float64)


def _encoder(kind: str, f: Fields) -> Encoder:
    name = architecture(f.data)
    classifies = name.endswith("ForSequenceClassification")
    if f.value("position_embedding_type", "absolute") != "absolute":
        raise f.wrong("position_embedding_type", f.data["position_embedding_type"], "absolute is taken; export others to ONNX")
    distil = kind == "distilbert"
    labels = f.data.get("id2label")
    return Encoder(
        kind,
        f.size("hidden_size dim"),
        f.size("intermediate_size hidden_dim"),
        f.size("num_hidden_layers n_layers"),
        f.size("num_attention_heads n_heads"),
        f.size("vocab_size"),
        f.size("max_position_embeddings"),
        0 if distil else f.size("type_vocab_size", 2),
        f.value("pad_token_id", 1) + 1 if kind == "roberta" else 0,
        1e-12 if distil else f.value("layer_norm_eps", 1e-12),
        f.function("hidden_act activation", "gelu"),
        (len(labels) if isinstance(labels, dict) and labels else f.size("num_labels", 2)) if classifies else 0,
        name.endswith("Model") and not distil,
    )
