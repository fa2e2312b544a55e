"""LoHa and LoKr: Hadamard and Kronecker products of small matrices (LyCORIS, Yeh et al., arXiv:2309.14859)."""

from __future__ import annotations

import numpy as np

from axlora.compiler.frontend.adapter_content import Dense, PeftChange
from axlora.compiler.frontend.tuners.tensors import Float64, Own, Tensor, matrix

_LARGEST = 1 << 30
"""Elements of a change."""


def _alpha(own: Own, rank: int) -> float:
    """alpha / rank: of the module's own tensor (LyCORIS), or of the configuration."""
    if own.has("alpha"):
        return float(own.get("alpha").reshape(-1)[0]) / rank
    if not own.config.fields:
        return 1.0
    return own.config.patterned(own.module, "alpha_pattern", own.config.number("alpha", rank)) / rank


def _dense(own: Own, delta: Tensor) -> PeftChange:
    change = matrix(delta)
    return PeftChange(own.module, own.tuner, lambda base: Dense(change), change.shape[1], delta.ndim > 2)


def _rebuilt(core: Tensor, out: Tensor, inner: Tensor) -> Float64:
    """[out, in, ...] of a core [r, r, ...] between [r, out] and [r, in]."""
    return np.asarray(np.einsum("ij...,ip,jr->pr...", core, out, inner), np.float64)


def loha(own: Own) -> PeftChange:
    """((w1_a.w1_b) * (w2_a.w2_b)) alpha / r, of convolutions each with a core t (PEFT, tuners/loha/layer.py)."""
    parts = []
    for n in ("1", "2"):
        a, b = own.get(f"hada_w{n}_a", 2), own.get(f"hada_w{n}_b", 2)
        parts.append(_rebuilt(own.get(f"hada_t{n}"), a, b) if own.has(f"hada_t{n}") else a @ b)
    rank = len(own.get("hada_w1_b"))
    return _dense(own, parts[0] * parts[1] * _alpha(own, rank))


def lokr(own: Own) -> PeftChange:
    """kron(w1, w2) alpha / r, of which each may be a product, w2 with a core (PEFT, tuners/lokr/layer.py).

    LyCORIS, whose files have alpha beside the tensors, leaves the scale out where both are whole.
    """
    rank = next((own.get(f"lokr_w{n}_b", 2).shape[0] for n in ("1", "2") if own.has(f"lokr_w{n}_b")), 0)
    factors = []
    for n in ("1", "2"):
        if own.has(f"lokr_w{n}"):
            factors.append(own.get(f"lokr_w{n}"))
        elif n == "2" and own.has("lokr_t2"):
            factors.append(_rebuilt(own.get("lokr_t2"), own.get("lokr_w2_a", 2), own.get("lokr_w2_b", 2)))
        else:
            factors.append(own.get(f"lokr_w{n}_a", 2) @ own.get(f"lokr_w{n}_b", 2))
    first, second = factors
    if first.size * second.size > _LARGEST:
        raise own.bad(f"has factors {first.shape} and {second.shape}, whose product is too large", "it belongs to no linear")
    first = first.reshape(*first.shape, *[1] * (second.ndim - 2))
    if not rank and not own.has("alpha"):
        rank = int(own.config.patterned(own.module, "rank_pattern", own.config.number("r", 1)))
    return _dense(own, np.kron(first, second) * (_alpha(own, rank) if rank else 1.0))
