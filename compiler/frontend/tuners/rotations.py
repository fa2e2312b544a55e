"""OFT, BOFT, HRA and RoAd: a weight times a rotation. Each change is that product less the weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.adapter_content import Base, Dense, PeftChange
from axlora.compiler.frontend.tuners.tensors import Float64, Own


def _of_inputs(own: Own, rotation: Float64, scale: Float64 | None = None, outputs: int | None = None) -> PeftChange:
    """W becomes rotation.W [in, out], its columns times `scale`."""

    def of(base: Base) -> Dense:
        w = base.weight
        if rotation.shape[1] != len(w) or (scale is not None and len(scale) != w.shape[1]):
            raise ValueError(f"the rotation is of {rotation.shape[1]}")
        return Dense(rotation @ w * (1.0 if scale is None else scale) - w)

    return PeftChange(own.module, own.tuner, of, outputs)


def _blocks(blocks: Sequence[Float64]) -> Float64:
    """A block diagonal matrix."""
    size = len(blocks[0])
    result = np.zeros((size * len(blocks), size * len(blocks)))
    for i, block in enumerate(blocks):
        result[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
    return result


def _cayley(skew: Float64) -> Float64:
    """(I - S)(I + S)^-1 of each matrix."""
    eye = np.eye(skew.shape[-1])
    return np.asarray((eye - skew) @ np.linalg.inv(eye + skew), np.float64)


def oft(own: Own) -> PeftChange:
    """Rotations of blocks of inputs (Qiu et al., arXiv:2306.07280; PEFT 0.16 and later, tuners/oft/layer.py).

    A vector holds the upper triangle of a skew-symmetric matrix; its Cayley transform, or the first terms of the Neumann series
    of that, is the rotation. With coft the vector is first cut to a norm.
    """
    vectors = own.get("oft_R", 2) if own.has("oft_R") else own.get("oft_R.weight", 2)
    blocks, elements = vectors.shape
    size = round((1 + np.sqrt(1 + 8 * elements)) / 2)
    if size * (size - 1) // 2 != elements or not vectors.size:
        raise own.bad(f"has {elements} elements a block, which no triangle has")
    skew = np.zeros((blocks, size, size))
    rows, columns = np.triu_indices(size, 1)
    skew[:, rows, columns] = vectors
    skew -= skew.transpose(0, 2, 1)
    fields = own.config.fields
    if fields.get("coft"):
        bound = own.config.number("eps", 6e-5) / np.sqrt(blocks)
        norm = np.linalg.norm(skew, axis=(1, 2), keepdims=True)
        skew = np.where(norm <= bound, skew, skew * bound / np.maximum(norm, 1e-30))
    if fields.get("use_cayley_neumann", True):
        count = own.config.count("num_cayley_neumann_terms", 5)
        turned, power = np.broadcast_to(np.eye(size), skew.shape).copy(), skew
        for term in range(1, count):
            turned += power * (1 if term == count - 1 and count > 2 else 2)
            power = power @ skew
    else:
        turned = _cayley(skew)

    def of(base: Base) -> Dense:
        w = base.weight
        shared = bool(fields.get("block_share")) and len(turned) == 1
        many = [turned[0]] * (len(w) // size) if shared else list(turned)
        if len(many) * size != len(w):
            raise ValueError(f"{len(many)} blocks of {size}")
        return Dense(_blocks(many) @ w - w)

    return PeftChange(own.module, own.tuner, of)


def boft(own: Own) -> PeftChange:
    """Butterflies: blocks of rotations between permutations, then a scale of outputs (Liu et al., arXiv:2311.06243).

    PEFT, tuners/boft/layer.py, whose permutations are `block_butterfly_perm`.
    """
    data, scale = own.get("boft_R", 4), own.get("boft_s").reshape(-1)
    turned = _cayley(0.5 * (data - data.transpose(0, 1, 3, 2)))
    levels, blocks, size, _ = turned.shape
    rotation = np.eye(blocks * size)
    for level in range(levels):
        order = np.arange(blocks * size)
        if levels > 1:
            order = _butterfly(blocks * size, max(1, blocks >> level), size // 2)
        block = _blocks(list(turned[level]))
        permute = np.eye(blocks * size)[order]
        rotation = permute @ block @ permute.T @ rotation
    return _of_inputs(own, rotation, scale, len(scale))


def _butterfly(n: int, blocks: int, r: int) -> npt.NDArray[np.int64]:
    """Each block's groups of r inputs, even ones before odd ones."""
    inner = np.arange(n // blocks).reshape(-1, r)
    order = np.concatenate([inner[::2], inner[1::2]]).reshape(-1)
    return np.asarray((np.arange(blocks)[:, None] * (n // blocks) + order).reshape(-1))


def hra(own: Own) -> PeftChange:
    """A chain of Householder reflections, which differs from I by rank r (Yuan et al., arXiv:2405.17484).

    PEFT, tuners/hra/layer.py; apply_GS makes the vectors orthogonal first.
    """
    vectors = own.get("hra_u", 2)
    if own.config.fields.get("apply_GS"):
        vectors, r = np.linalg.qr(vectors)
        vectors = vectors * np.where(np.diag(r) < 0, -1.0, 1.0)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-30)
    rotation = np.eye(len(units))
    for u in units.T:
        rotation -= 2 * np.outer(rotation @ u, u)
    return _of_inputs(own, rotation.T)


def road(own: Own) -> PeftChange:
    """Rotations and scales of pairs of outputs, of the bias too (Liao et al., arXiv:2409.00119; PEFT, tuners/road/layer.py)."""
    variant, group = own.config.fields.get("variant", "road_1"), own.config.count("group_size", 64)
    angle, scale = own.get("road_theta", 1), own.get("road_alpha", 1)
    if variant == "road_1":
        angle, scale = (np.repeat(v.reshape(-1, 1, group // 2), 2, axis=1).reshape(-1) for v in (angle, scale))
    elif variant == "road_4":
        angle, scale = (v.reshape(-1, 2, group).transpose(1, 0, 2).reshape(2, -1) for v in (angle, scale))
    elif variant != "road_2":
        raise own.bad(f"is of variant {variant!r}", "road_1, road_2 and road_4 are read")
    angle, scale = np.broadcast_to(angle, (2, angle.shape[-1])), np.broadcast_to(scale, (2, scale.shape[-1]))
    straight, crossed = scale[0] * np.cos(angle[0]), scale[1] * np.sin(angle[1])

    def turned(y: Float64) -> Float64:
        """Values [.., out]."""
        halves = y.reshape(*y.shape[:-1], -1, 2, group // 2)
        swapped = np.stack([-halves[..., 1, :], halves[..., 0, :]], axis=-2).reshape(y.shape)
        return np.asarray(y * straight + swapped * crossed, np.float64)

    def of(base: Base) -> Dense:
        w = base.weight
        return Dense(turned(w) - w, turned(base.bias))

    return PeftChange(own.module, own.tuner, of, len(straight))
