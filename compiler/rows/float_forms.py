"""A transformer in floating point: what calibration looks at, and what the integers are compared with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from axlora.compiler import functions
from axlora.compiler.frontend.smoothing import Inputs
from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    Beside,
    FakeQuantize,
    Linear,
    Mul,
    Norm,
    NormKind,
    Op,
    Pool,
    PoolKind,
    Positional,
    Rotary,
    RowScale,
    Slice,
    TopGates,
    Window,
    operands,
)
from axlora.compiler.transformer import Stream, Transformer

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Product = Callable[[Float64], Float64]
BATCH = 1024
"""Rows of the sequences that `magnitudes` takes through the operators together."""


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
    n, most = len(q), len(k)
    groups = op.heads // op.kv_heads
    qs, ks, vs = (
        _heads(x, first, stride, count, op.dim).transpose(1, 0, 2)
        for x, first, stride, count in zip((q, k, v), op.first, op.stride, (op.heads, op.kv_heads, op.kv_heads), strict=True)
    )
    ks, vs = (np.repeat(x, groups, axis=0) for x in (ks, vs))
    scores = qs @ ks.transpose(0, 2, 1) * op.scale
    scores = op.cap * np.tanh(scores) if op.cap else scores
    seen = np.tri(n, dtype=bool) if op.causal else np.arange(most) < keys
    for codes in op.score_codes[: op.rounded_first]:
        scores = codes.rounded(scores)
    if op.bias is not None:
        bias = op.bias[:, :n, :most]
        scores, seen = scores + np.where(np.isinf(bias), 0, bias), seen & ~np.isinf(bias)
    for codes in op.score_codes[op.rounded_first :]:
        scores = codes.rounded(scores)
    scores = np.where(seen, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = e / e.sum(axis=-1, keepdims=True)
    mixed = (weights if op.weight_codes is None else op.weight_codes.rounded(weights)) @ vs
    return np.asarray(mixed.transpose(1, 0, 2).reshape(n, -1))


def _norm(op: Norm, features: Float64) -> Float64:
    x = features.reshape(len(features), -1, op.gain.size)
    d = x - x.mean(axis=-1, keepdims=True) if op.kind is NormKind.LAYER else x
    squares = (d**2).sum(axis=-1, keepdims=True) / (1 if op.kind is NormKind.UNIT else op.gain.size)
    y = d / np.sqrt(squares + op.eps) * op.gain
    return np.asarray(y if op.bias is None else y + op.bias).reshape(features.shape)


def _gates(op: TopGates, x: Float64) -> Float64:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    taken = np.argsort(np.argsort(-x, axis=1, kind="stable"), axis=1) < op.count
    return np.asarray(e * taken / (e * taken if op.normalized else e).sum(axis=1, keepdims=True))


def _apply(op: Op, values: Mapping[str, Float64], linears: Mapping[str, Product], keys: Mapping[str, int]) -> Float64:
    """`keys`: value -> how many of its rows are no padding."""
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
        case FakeQuantize():
            return op.codes.rounded(values[op.x])
        case Rotary():
            return _rotate(op, values[op.x])
        case Slice():
            return _heads(values[op.x], op.first, op.stride, op.heads, op.dim).reshape(len(values[op.x]), -1)
        case Attention():
            return _attend(op, values[op.q], values[op.k], values[op.v], keys[op.k])
        case Positional():
            return values[op.x] + op.table[: len(values[op.x])]
        case Window():
            return np.where(op.index[..., None] < 0, 0.0, values[op.x][op.index]).reshape(op.rows, -1)
        case Beside():
            return np.concatenate([values[op.a], values[op.b]], axis=1)
        case TopGates():
            return _gates(op, values[op.x])
        case RowScale():
            return values[op.x] * values[op.by][:, op.feature, None]
        case Pool():
            x = values[op.x]
            return x[:1] if op.kind is PoolKind.FIRST else x[: keys[op.x]].mean(axis=0, keepdims=True)


def embed(model: Transformer | Stream, ids: Mapping[str, npt.NDArray[Any]], order: Int64 | None = None) -> Float64:
    """The first rows [tokens, n] of one sequence; `ids`: input -> [tokens], or the elements of rows that are given.

    Args:
        order: places of the sequence in the order of the rows; default its own.
    """
    if model.given is not None:
        own = model.given.rows(np.asarray(ids[model.given.input], np.float64))
        return own if order is None else own[order]
    first = ids[model.lookups[0].input]
    order = np.arange(len(first)) if order is None else order
    found = np.zeros((len(first), model.features))
    for lookup in model.lookups:
        found += lookup.table[ids[lookup.input]]
    if model.positions is not None:
        found += model.positions[: len(first)]
    return np.asarray(found[order])


class Sample(NamedTuple):
    """The first rows of one run."""

    rows: Float64
    """[tokens, n]."""
    keys: int
    """The first so many rows are no padding."""
    more: tuple[tuple[Float64, int], ...] = ()
    """The same of further streams."""

    def keys_of(self, model: Transformer) -> dict[str, int]:
        """Value -> how many of its rows are no padding."""
        keys = (self.keys, *(own for _, own in self.more), *model.lengths(0)[1 + len(self.more) :])
        return {name: keys[stream] for name, stream in model.streams.items()}

    def values(self, model: Transformer) -> dict[str, Float64]:
        """The values that the host gives."""
        return dict(zip(model.inputs, (self.rows, *(own for own, _ in self.more)), strict=True))


def evaluate(
    model: Transformer,
    rows: Float64,
    linears: Mapping[str, Product],
    keys: int | None = None,
    more: tuple[tuple[Float64, int], ...] = (),
) -> dict[str, Float64]:
    """Every value of the model for one sequence: name -> float64 [n, features].

    Args:
        rows: of embeddings [n, features] (`embed`).
        linears: linear -> what it makes of [n, k].
        keys: the first so many rows are no padding; default all.
        more: rows and keys of further streams.
    """
    sample = Sample(rows, len(rows) if keys is None else keys, more)
    values, known = sample.values(model), sample.keys_of(model)
    for op in model.operators:
        values[op.y] = _apply(op, values, linears, known)
    return values


def magnitudes(
    model: Transformer,
    samples: Sequence[Sample],
    linears: Mapping[str, Product],
    inputs: Inputs | None = None,
    share: float = 1.0,
) -> dict[str, Float64]:
    """Largest magnitude [features] of every value over samples.

    Args:
        inputs: gets what linears read, without padding; None: it is not wanted.
        share: of all that it gets, these samples.
    """
    found: dict[str, Float64] = {}
    # Products of one sequence are small: threads that share one wait for each other longer than they work.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        for first, count in _batches([sum(map(len, each.values(model).values())) for each in samples]):
            batch = samples[first : first + count]
            own = None if inputs is None else partial(inputs.add, share=share * count / len(samples))
            _look(model, batch, linears, found, own, pool)
    return found


def _batches(rows: Sequence[int]) -> list[tuple[int, int]]:
    """(first sequence, sequences) of batches of at most `BATCH` rows, or of one sequence."""
    out: list[tuple[int, int]] = []
    held = 0
    for n, count in enumerate(rows):
        if out and held + count <= BATCH:
            out[-1] = (out[-1][0], out[-1][1] + 1)
            held += count
        else:
            out.append((n, 1))
            held = count
    return out


def _look(
    model: Transformer,
    batch: Sequence[Sample],
    linears: Mapping[str, Product],
    found: dict[str, Float64],
    reads: Callable[[str, Float64], None] | None,
    pool: Executor,
) -> None:
    """Raise `found` to the magnitudes of a batch, operator by operator: a weight is read once for all its sequences."""
    seen: set[str] = set()
    last = {name: n for n, op in enumerate(model.operators) for name in operands(op)}
    values, known = [each.values(model) for each in batch], [each.keys_of(model) for each in batch]
    for name in model.inputs:
        _raise(found, name, [_peak(own[name]) for own in values])
    for n, op in enumerate(model.operators):
        held = {op.name: linears[op.name]} if isinstance(op, Linear) else {}
        if reads is not None and isinstance(op, Linear) and op.x not in seen:
            seen.add(op.x)
            reads(op.x, np.concatenate([own[op.x][: keys[op.x]] for own, keys in zip(values, known, strict=True)]))

        def advance(
            own: dict[str, Float64], keys: Mapping[str, int], n: int = n, op: Op = op, held: Mapping[str, Product] = held
        ) -> Float64:
            """The operator for one sequence; its peak."""
            value = _apply(op, own, held, keys)
            if op.y in last:
                own[op.y] = value
            for name in {*operands(op)}:
                if last[name] == n:
                    del own[name]
            return _peak(value)

        _raise(found, op.y, pool.map(advance, values, known))


def _peak(value: Float64) -> Float64:
    return np.asarray(np.abs(value).max(axis=0))


def _raise(found: dict[str, Float64], name: str, peaks: Iterable[Float64]) -> None:
    for peak in peaks:
        found[name] = np.maximum(found.get(name, 0.0), peak)
