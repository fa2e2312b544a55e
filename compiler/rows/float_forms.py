"""A transformer in floating point: what calibration looks at, and what the integers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler import functions
from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    Linear,
    Mul,
    Norm,
    NormKind,
    Op,
    Pool,
    PoolKind,
    Rotary,
    Transformer,
)

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
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


def _attend(op: Attention, q: Float64, k: Float64, v: Float64, keys: int) -> Float64:
    n = len(q)
    groups = op.heads // op.kv_heads
    qs, ks, vs = (
        _heads(x, first, stride, count, op.dim).transpose(1, 0, 2)
        for x, first, stride, count in zip((q, k, v), op.first, op.stride, (op.heads, op.kv_heads, op.kv_heads), strict=True)
    )
    ks, vs = (np.repeat(x, groups, axis=0) for x in (ks, vs))
    scores = qs @ ks.transpose(0, 2, 1) * op.scale
    seen = np.tri(n, dtype=bool) if op.causal else np.arange(n) < keys
    scores = np.where(seen, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = e / e.sum(axis=-1, keepdims=True) @ vs
    return np.asarray(mixed.transpose(1, 0, 2).reshape(n, -1))


def _norm(op: Norm, features: Float64) -> Float64:
    x = features.reshape(len(features), -1, op.gain.size)
    d = x - x.mean(axis=-1, keepdims=True) if op.kind is NormKind.LAYER else x
    squares = (d**2).sum(axis=-1, keepdims=True) / (1 if op.kind is NormKind.UNIT else op.gain.size)
    y = d / np.sqrt(squares + op.eps) * op.gain
    return np.asarray(y if op.bias is None else y + op.bias).reshape(features.shape)


def _apply(op: Op, values: Mapping[str, Float64], linears: Mapping[str, Product], keys: int) -> Float64:
    match op:
        case Norm():
            return _norm(op, values[op.x])
        case Linear():
            return linears[op.name](values[op.x])
        case Add():
            return values[op.a] + op.sign * values[op.b]
        case Mul():
            return values[op.a] * values[op.b]
        case Affine():
            return values[op.x] * op.gain + op.bias
        case Apply():
            return functions.real(op.function, values[op.x])
        case Rotary():
            return _rotate(op, values[op.x])
        case Attention():
            return _attend(op, values[op.q], values[op.k], values[op.v], keys)
        case Pool():
            x = values[op.x]
            return x[:1] if op.kind is PoolKind.FIRST else x[:keys].mean(axis=0, keepdims=True)


def embed(model: Transformer, ids: Mapping[str, npt.NDArray[Any]], order: Int64 | None = None) -> Float64:
    """The first rows [tokens, n] of one sequence; `ids`: input -> [tokens], or the elements of rows that are given.

    Args:
        order: places of the sequence in the order of the rows; default its own.
    """
    if model.given is not None:
        own = np.asarray(ids[model.given.input], np.float64).reshape(-1, model.given.features)
        return own if order is None else own[order]
    first = ids[model.tokens_input]
    order = np.arange(len(first)) if order is None else order
    rows = np.zeros((len(first), model.embedding.shape[1]))
    for lookup in model.lookups:
        rows += lookup.table[ids[lookup.input]]
    if model.positions is not None:
        rows += model.positions[: len(first)]
    return np.asarray(rows[order])


def evaluate(model: Transformer, rows: Float64, linears: Mapping[str, Product], keys: int | None = None) -> dict[str, Float64]:
    """Every value of the model for one sequence: name -> float64 [n, features].

    Args:
        rows: of embeddings [n, features] (`embed`).
        linears: linear -> what it makes of [n, k].
        keys: the first so many rows are no padding; default all.
    """
    values = {model.input: rows}
    for op in model.operators:
        values[op.y] = _apply(op, values, linears, len(rows) if keys is None else keys)
    return values


def magnitudes(
    model: Transformer, sequences: Sequence[tuple[Float64, int]], linears: Mapping[str, Product]
) -> dict[str, Float64]:
    """Largest magnitude [features] of every value over sequences: rows of embeddings [n, features], how many are no padding."""
    found: dict[str, Float64] = {}
    for rows, keys in sequences:
        for name, value in evaluate(model, rows, linears, keys).items():
            found[name] = np.maximum(found.get(name, 0.0), np.abs(value).max(axis=0))
    return found
