"""A transformer in floating point: what calibration looks at, and what the integers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from . import tables
from .ops import Add, Apply, Attention, Linear, Mul, Norm, NormKind, Op, Rotary, Transformer

Float64 = npt.NDArray[np.float64]
Product = Callable[[Float64], Float64]


def _rotate(op: Rotary, x: Float64) -> Float64:
    half = op.cos.shape[1]
    parts = _heads(x, op.first, op.stride, op.heads, op.dim)
    first, second, rest = np.split(parts, (half, 2 * half), axis=2)
    cos, sin = op.cos[: len(x), None], op.sin[: len(x), None]
    turned = np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=2)
    return np.asarray(turned.reshape(len(x), -1))


def _heads(x: Float64, first: int, stride: int, count: int, dim: int) -> Float64:
    """[tokens, heads, dim] out of [tokens, features]."""
    return np.stack([x[:, first + h * stride : first + h * stride + dim] for h in range(count)], axis=1)


def _attend(op: Attention, q: Float64, k: Float64, v: Float64) -> Float64:
    n = len(q)
    groups = op.heads // op.kv_heads
    qs, ks, vs = (
        _heads(x, first, stride, count, op.dim).transpose(1, 0, 2)
        for x, first, stride, count in zip((q, k, v), op.first, op.stride, (op.heads, op.kv_heads, op.kv_heads), strict=True)
    )
    ks, vs = (np.repeat(x, groups, axis=0) for x in (ks, vs))
    scores = qs @ ks.transpose(0, 2, 1) * op.scale
    if op.causal:
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = e / e.sum(axis=-1, keepdims=True) @ vs
    return np.asarray(mixed.transpose(1, 0, 2).reshape(n, -1))


def _norm(op: Norm, features: Float64) -> Float64:
    x = features.reshape(len(features), -1, op.gain.size)
    d = x - x.mean(axis=-1, keepdims=True) if op.kind is NormKind.LAYER else x
    y = d / np.sqrt((d**2).mean(axis=-1, keepdims=True) + op.eps) * op.gain
    return np.asarray(y if op.bias is None else y + op.bias).reshape(features.shape)


def _apply(op: Op, values: Mapping[str, Float64], linears: Mapping[str, Product]) -> Float64:
    match op:
        case Norm():
            return _norm(op, values[op.x])
        case Linear():
            return linears[op.name](values[op.x])
        case Add():
            return values[op.a] + values[op.b]
        case Mul():
            return values[op.a] * values[op.b]
        case Apply():
            return tables.real(op.function, values[op.x])
        case Rotary():
            return _rotate(op, values[op.x])
        case Attention():
            return _attend(op, values[op.q], values[op.k], values[op.v])


def evaluate(model: Transformer, ids: npt.NDArray[np.int64], linears: Mapping[str, Product]) -> dict[str, Float64]:
    """Every value of the model for one sequence of token ids [n]: name -> float64 [n, features].

    Args:
        linears: linear -> what it makes of [n, k].
    """
    rows = model.embedding[ids]
    values = {model.input: rows if model.positions is None else rows + model.positions[: len(ids)]}
    for op in model.operators:
        values[op.y] = _apply(op, values, linears)
    return values


def magnitudes(
    model: Transformer, sequences: npt.NDArray[np.int64], linears: Mapping[str, Product]
) -> tuple[dict[str, float], Float64]:
    """Largest magnitude of every value over `sequences` [m, n]; and the logits of the last."""
    found: dict[str, float] = {}
    values: dict[str, Float64] = {}
    for ids in sequences:
        values = evaluate(model, ids, linears)
        for name, value in values.items():
            found[name] = max(found.get(name, 0.0), float(np.abs(value).max()))
    return found, values[model.output]
