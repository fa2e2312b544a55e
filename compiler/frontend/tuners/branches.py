"""Tuners whose change of a weight is a product of two thin matrices: a branch like LoRA's."""

from __future__ import annotations

import numpy as np

from axlora.compiler.frontend.adapter_content import Base, Dense, PeftChange, PeftLora
from axlora.compiler.frontend.tuners.tensors import Float64, Own
from axlora.compiler.frontend.tuners.torch_random import normals

_DRAWN = 0.02
"""Largest difference of a projection that was saved, in bfloat16 perhaps, from what its seed gives."""
_SAVE_PROJECTION = "load it with PEFT and save it with save_projection=True"


def _lora(own: Own, a: Float64, b: Float64) -> PeftLora:
    """The branch x.A.B of A [in, r] and B [r, out]."""
    return PeftLora(own.module, a, b, 1.0, None, None)


def _sliced(own: Own, values: Float64, first: int, second: int) -> Float64:
    """The first rows and columns of a matrix that modules share; raises `ValueError` where it has fewer."""
    if values.shape[0] < first or values.shape[1] < second:
        raise ValueError(f"the shared matrix is {values.shape[0]} x {values.shape[1]}")
    return values[:first, :second]


def adalora(own: Own) -> PeftLora:
    """B (A * E) alpha / (init_r + 1e-5) (Zhang et al., arXiv:2303.10512; PEFT, tuners/adalora/layer.py)."""
    a, b, e = own.get("lora_A", 2), own.get("lora_B", 2), own.get("lora_E", 2)
    if a.shape[0] != b.shape[1] or e.shape != (a.shape[0], 1):
        raise own.bad(f"has lora_A {a.shape}, lora_B {b.shape}, lora_E {e.shape}, which do not pair")
    alpha = own.config.number("lora_alpha", 0)
    count = own.config.number("init_r", own.config.number("r", a.shape[0]))
    return _lora(own, (a * e).T, b.T * (alpha if alpha > 0 else count) / (count + 1e-5))


def vera(own: Own) -> PeftChange:
    """diag(b) B diag(d) A of A and B that all modules share (Kopiczko et al., arXiv:2310.11454; PEFT, tuners/vera/layer.py).

    Of PVeRA the first half of d and A, which is the mean; the other is its variance in training (PEFT, tuners/pvera/layer.py).
    """
    name = "pvera" if own.has("pvera_lambda_d") else "vera"
    d, b = own.get(f"{name}_lambda_d", 1), own.get(f"{name}_lambda_b", 1)
    shared_a, shared_b = own.common(f"{name}_A"), own.common(f"{name}_B")
    if shared_a is None or shared_b is None:
        raise own.bad("was saved without its projections", _SAVE_PROJECTION)
    rank = len(d) // 2 if name == "pvera" else len(d)

    def of(base: Base) -> PeftLora:
        a = _sliced(own, shared_a, rank, base.shape[0])
        return _lora(own, (d[:rank, None] * a).T, (b[:, None] * _sliced(own, shared_b, len(b), rank)).T)

    return PeftChange(own.module, own.tuner, of, len(b))


def vblora(own: Own) -> PeftLora:
    """A and B of vectors, each a mixture of the k of a bank with the largest logits (Li et al., arXiv:2405.15179).

    PEFT, tuners/vblora/layer.py; with save_only_topk_weights the k weights but the last are saved, and their indices.
    """
    bank = own.common("vblora_vector_bank")
    if bank is None:
        raise own.bad("has no vblora_vector_bank")
    count = own.config.count("topk", 2)

    def vectors(side: str) -> Float64:
        if own.has(f"vblora_logits_{side}_topk_weights"):
            weights = own.get(f"vblora_logits_{side}_topk_weights", 3)
            weights = np.concatenate([weights, 1 - weights.sum(-1, keepdims=True)], -1)
            picked = own.get(f"vblora_logits_{side}_topk_indices", 3)
        else:
            logits = own.get(f"vblora_logits_{side}", 3)
            picked = np.argsort(-logits, axis=-1, kind="stable")[..., :count]
            best = np.take_along_axis(logits, picked, -1)
            weights = np.exp(best - best.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
        if picked.shape != weights.shape or picked.min(initial=0) < 0 or picked.max(initial=0) >= len(bank):
            raise own.bad("has indices beyond its bank of vectors")
        return np.asarray((weights[..., None] * bank[picked]).sum(-2), np.float64)

    a, b = vectors("A"), vectors("B")
    rows = a.reshape(a.shape[0], -1)
    columns = b.transpose(0, 2, 1).reshape(-1, b.shape[1])
    if rows.shape[0] != columns.shape[1]:
        raise own.bad("has logits that do not pair")
    return _lora(own, rows.T, columns.T)


def unilora(own: Own) -> PeftLora:
    """A and B whose elements are elements of one vector, scaled (PEFT, tuners/unilora/layer.py)."""
    vector = own.common("unilora_theta_d")
    names = [f"unilora_{kind}_{side}" for side in "AB" for kind in ("indices", "scales")]
    if vector is None or not all(own.has(name) for name in names):
        hint = "load it with PEFT and save it with save_indices=True"
        raise own.bad("was saved without its indices, which depend on the order of all modules", hint)
    sides = []
    for side in "AB":
        picked = own.get(f"unilora_indices_{side}", 2).astype(np.int64)
        if picked.min(initial=0) < 0 or picked.max(initial=0) >= len(vector):
            raise own.bad("has indices beyond its vector")
        sides.append(vector[picked] * own.get(f"unilora_scales_{side}", 2))
    return _lora(own, sides[0].T, sides[1].T)


def tinylora(own: Own) -> PeftLora:
    """B (sum of v[i] P[i]) A, all but the few numbers v fixed (PEFT, tuners/tinylora/layer.py).

    Where every module has a v of its own, its number is that of the seed that its P was drawn with.
    """
    if not all(own.has(f"tinylora_{name}") for name in "ABP"):
        raise own.bad("was saved without its projections", _SAVE_PROJECTION)
    p = own.get("tinylora_P", 3)
    vectors = {name: value for name, value in own.shared.items() if name.startswith("tinylora_v")}
    if len(vectors) > 1:
        if own.config.number("weight_tying", 0) or p.size < 16:
            hint = "peft.tuners.lora.conversion.convert_to_lora turns it into LoRA"
            raise own.bad(f"has {len(vectors)} vectors, and which is whose depends on the order of all modules", hint)
        seed, drawn = own.config.count("projection_seed", 42), p.reshape(-1) * np.sqrt(p.shape[1])
        found = [n for n in range(len(vectors)) if np.abs(normals(p.size, seed + n) - drawn).max() < _DRAWN]
        vectors = {name: v for n in found if (v := own.shared.get(name := f"tinylora_v.{n}")) is not None}
    vector = next(iter(vectors.values()), None)
    if vector is None:
        raise own.bad("has a projection that its seed does not give, so its vector is not known", "save the adapter again")
    middle = np.einsum("i,ijk->jk", vector, p)
    return _lora(own, own.get("tinylora_A", 2).T, (own.get("tinylora_B", 2) @ middle).T)


def miss(own: Own) -> PeftChange:
    """A block [r, out] that every r inputs share (Kang & Yin, arXiv:2409.15371; PEFT, tuners/miss/layer.py).

    init_weights "mini" repeats it along the outputs; "bat" multiplies blocks of W by it too, which has no low rank.
    """
    block = own.get("bone_block" if own.has("bone_block") else "miss_block")
    start = own.config.fields.get("init_weights")

    def plain(base: Base) -> PeftLora:
        k, n = base.shape
        rows = block if start != "mini" else np.tile(block, (1, n // block.shape[1]))
        if rows.ndim != 2 or rows.shape[1] != n or not len(rows):
            raise ValueError(f"the block is {block.shape}")
        return _lora(own, np.eye(len(rows))[np.arange(k) % len(rows)], rows)

    def bat(base: Base) -> Dense:
        k, n = base.shape
        r = block.shape[-1]
        w = base.weight.T.reshape(n // r, r, k // r, r).transpose(2, 0, 1, 3)
        return Dense((w @ block + block).transpose(1, 2, 0, 3).reshape(n, k).T)

    return PeftChange(
        own.module, own.tuner, bat if start == "bat" else plain, None if start in ("bat", "mini") else block.shape[-1]
    )


def delora(own: Own) -> PeftChange:
    """B diag(lambda / (r |A_i| |B_i|)) A diag(|W_j|) (Bini et al., arXiv:2503.18225; PEFT, tuners/delora/layer.py)."""
    a, b = own.get("delora_A", 2), own.get("delora_B", 2)
    if a.shape[0] != b.shape[1]:
        raise own.bad(f"has delora_A {a.shape} and delora_B {b.shape}, which do not pair")
    norms = np.maximum(np.linalg.norm(a, axis=1), 1e-4) * np.maximum(np.linalg.norm(b, axis=0), 1e-4)
    middle = float(own.get("delora_lambda").reshape(-1)[0]) / len(a) / norms

    def of(base: Base) -> PeftLora:
        own_norm = own.get("delora_w_norm", 1) if own.has("delora_w_norm") else np.linalg.norm(base.weight, axis=1)
        return _lora(own, (a * own_norm).T, (b * middle).T)

    return PeftChange(own.module, own.tuner, of, len(b))


def gralora(own: Own) -> PeftLora:
    """k x k blocks, each of rank r / k, and a branch over all (PEFT, tuners/gralora/layer.py, forward).

    Input block i reaches output block o by the columns of A[i] that belong to o and the rows of B[o] that belong to i.
    """
    a, b = own.get("gralora_A", 3), own.get("gralora_B", 3)
    blocks, inner, rank = a.shape
    if b.shape[:2] != (blocks, rank) or rank % blocks:
        raise own.bad(f"has gralora_A {a.shape} and gralora_B {b.shape}, which do not pair")
    outer, part = b.shape[2], rank // blocks
    left, right = np.zeros((blocks * inner, blocks * rank)), np.zeros((blocks * rank, blocks * outer))
    for i in range(blocks):
        for o in range(blocks):
            at = slice((i * blocks + o) * part, (i * blocks + o + 1) * part)
            left[i * inner : (i + 1) * inner, at] = a[i][:, o * part : (o + 1) * part]
            right[at, o * outer : (o + 1) * outer] = b[o][i * part : (i + 1) * part]
    extra = 0
    if own.has("gralora_A_general"):
        general = own.get("gralora_A_general", 2)
        left = np.concatenate([left, general.T], axis=1)
        right = np.concatenate([right, own.get("gralora_B_general", 2).T], axis=0)
        extra = len(general)
    alpha = own.config.patterned(own.module, "alpha_pattern", own.config.number("alpha"))
    return _lora(own, left, right * alpha / (rank + extra))


def deft(own: Own) -> PeftChange:
    """Q (s R - right^T W) of a projection that P gives (PEFT, tuners/deft/layer.py)."""
    p = own.get("deft_P", 2)
    method = own.config.fields.get("decomposition_method", "relu")
    if method not in ("relu", "qr"):
        raise own.bad(f"has decomposition_method {method!r}", "relu and qr are read")
    q = p if method == "relu" else np.linalg.qr(p)[0]
    right = np.maximum(p, 0) if method == "relu" else q
    alpha = own.config.number("alpha", 0)
    added = own.get("deft_R", 2) * (alpha / p.shape[1] if alpha else 1.0) if own.has("deft_R") else 0.0

    def of(base: Base) -> PeftLora:
        return _lora(own, (added - right.T @ base.weight.T).T, q.T)

    return PeftChange(own.module, own.tuner, of, len(p))


def beft(own: Own) -> PeftChange:
    """A trained addition to the bias (PEFT, tuners/beft/layer.py)."""
    added = own.get("beft_bias").reshape(-1)

    def of(base: Base) -> Dense:
        return Dense(np.zeros(base.shape), base.bias + added)

    return PeftChange(own.module, own.tuner, of, len(added))
