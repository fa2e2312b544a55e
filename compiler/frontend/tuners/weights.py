"""IA3, HiRA, GLoRA, RandLoRA, SHiRA, OSF: elements or columns of a weight scaled, replaced, or added to in full rank."""

from __future__ import annotations

import numpy as np

from axlora.compiler.frontend.adapter_content import Base, Dense, PeftChange, PeftLora
from axlora.compiler.frontend.tuners.tensors import Float64, Own

_LARGEST_GAIN = 4.0
"""Largest scale of an output that the machine's records hold (passes/quantize_adapter)."""


def ia3(own: Own) -> PeftChange:
    """Outputs times l [out, 1], bias too, or inputs times l [1, in] (Liu et al., arXiv:2205.05638; PEFT, tuners/ia3/layer.py).

    A scale of outputs is a gain of the base's records, and needs no branch; one of inputs changes every column.
    """
    values = own.get("ia3_l", 2)
    scale = values.reshape(-1)

    def outputs(base: Base) -> PeftLora | Dense:
        k, n = base.shape
        if len(scale) != n:
            raise ValueError(f"{len(scale)} scales")
        if (scale < 0).any() or (scale > _LARGEST_GAIN).any():
            return Dense(base.weight * (scale - 1), base.bias * scale)
        return PeftLora(own.module, np.zeros((k, 1)), np.zeros((1, n)), 1.0, None, None, base.bias * scale, scale)

    def inputs(base: Base) -> Dense:
        return Dense(base.weight * (scale[:, None] - 1))

    if values.shape[1] == 1:
        return PeftChange(own.module, own.tuner, outputs, len(scale))
    return PeftChange(own.module, own.tuner, inputs)


def hira(own: Own) -> PeftChange:
    """W * (B A) (Huang et al., ICLR 2025; PEFT, tuners/hira/layer.py)."""
    factor = (own.get("hira_B", 2) @ own.get("hira_A", 2)).T
    return PeftChange(own.module, own.tuner, lambda base: Dense(base.weight * factor), factor.shape[1])


def glora(own: Own) -> PeftChange:
    """W * A + B, and of the bias b * D + E + W C (Chavan et al., arXiv:2306.07967; PEFT, tuners/glora/layer.py).

    Each of the five is a matrix, a product of two, a vector, a number or nothing, as the configuration says.
    """

    def term(name: str) -> Float64 | float:
        if own.has(f"glora_{name}.Xd"):
            return np.asarray(own.get(f"glora_{name}.Xd", 2) @ own.get(f"glora_{name}.Xu", 2), np.float64)
        return np.asarray(own.get(f"glora_{name}.X"), np.float64) if own.has(f"glora_{name}.X") else 0.0

    def of(base: Base) -> Dense:
        k, n = base.shape
        w = base.weight.T
        changed = np.broadcast_to(w * term("A") + term("B"), (n, k))
        c = np.broadcast_to(np.asarray(term("C"), np.float64), (k, 1)) if np.ndim(term("C")) < 2 else np.asarray(term("C"))
        bias = base.bias
        if bias.any():
            d, e = (np.asarray(term(x), np.float64).reshape(-1) for x in "DE")
            bias = bias + bias * d + e + (w @ c)[:, 0]
        return Dense(changed.T, bias)

    return PeftChange(own.module, own.tuner, of)


def randlora(own: Own) -> PeftChange:
    """A sum of random bases, each scaled by trained diagonals: full rank (Albert et al., arXiv:2502.00987).

    PEFT, tuners/randlora/layer.py; A and B are shared by all modules and belong to the smaller and the larger side.
    """
    shared_a, shared_b = own.common("randlora_A"), own.common("randlora_B")
    if shared_a is None or shared_b is None:
        raise own.bad("was saved without its bases", "load it with PEFT and save it with save_projection=True")
    weights, gamma = own.get("randlora_lambda", 2), own.get("randlora_gamma", 2)
    rank, bases = weights.shape
    scale = own.config.number("randlora_alpha", 640) / rank

    def of(base: Base) -> Dense:
        k, n = base.shape
        small, large = min(k, n), max(k, n)
        a = (weights[:, :, None] * shared_a[:rank, :1, :small] * gamma[None]).reshape(rank * bases, small)
        b = shared_b[:large, :bases, :rank].reshape(large, rank * bases)
        delta = b @ a * scale
        return Dense(delta.T if k == small else delta)

    return PeftChange(own.module, own.tuner, of)


def shira(own: Own) -> PeftChange:
    """Single elements (Bhardwaj et al., arXiv:2406.13175; PEFT, tuners/shira/layer.py)."""
    values, places = own.get("shira_weight", 1), own.get("shira_indices", 2).astype(np.int64)
    if places.shape != (2, len(values)):
        raise own.bad(f"has {len(values)} values and indices {places.shape}")

    def of(base: Base) -> Dense:
        k, n = base.shape
        if places.min(initial=0) < 0 or places[0].max(initial=0) >= n or places[1].max(initial=0) >= k:
            raise ValueError("indices beyond it")
        delta = np.zeros((k, n))
        np.add.at(delta, (places[1], places[0]), values)
        return Dense(delta)

    return PeftChange(own.module, own.tuner, of)


def osf(own: Own) -> PeftChange:
    """The weight's largest singular values with trained ones below them (PEFT, tuners/osf/layer.py).

    The largest are the base's, whose sum of products does not depend on the signs of singular vectors.
    """
    u, s, v = (own.get(f"osf_svd_params.{name}") for name in ("U_low", "S_low", "V_low"))

    def of(base: Base) -> Dense:
        w = base.weight.T
        left, values, right = np.linalg.svd(w, full_matrices=False)
        kept = len(values) - len(s)
        return Dense(((left[:, :kept] * values[:kept]) @ right[:kept] + (u * s) @ v - w).T)

    return PeftChange(own.module, own.tuner, of, len(u))
