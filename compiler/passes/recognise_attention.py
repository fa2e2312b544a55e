"""Attention of a transformer's graph: scores, masks, the mixture of values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import (
    Attention,
    Rotary,
)
from axlora.compiler.passes.attention_masks import Mask, describe, kind_of_mask
from axlora.compiler.passes.dataflow import Node
from axlora.compiler.passes.recognise_values import Scores, Symbol, Values
from axlora.compiler.passes.tensor_elements import Constant, HeadView, Probed, View, heads

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_MASKED = -1e4
"""A mask's value at and below which a key is not seen."""


@dataclass
class AttentionWalk(Values):
    """Adds attention."""

    def product(self, node: Node, a: Symbol, b: Symbol) -> Symbol | None:
        """q.k, or weights of the values times v."""
        if isinstance(a, Scores) and a.done and isinstance(b, View):
            v = heads(b, self.features[b.value])
            if v is None or v.cos is not None or v.scale != 1:
                return None
            return self.attention(node, a, v)
        if not isinstance(a, View) or not isinstance(b, View):
            return None
        q = heads(four(a), self.features[a.value])
        k = heads(four(b.moved(lambda x: np.swapaxes(x, -1, -2))), self.features[b.value])
        if q is None or k is None or q.dim != k.dim:
            return None
        return Scores(q, k, q.scale * k.scale)

    def attention(self, node: Node, s: Scores, v: HeadView) -> Symbol:
        if self.rowwise:
            raise self.refuse(node, "attention between the rows of a batch")
        if self.causal and s.mask is not Mask.CAUSAL:
            raise self.refuse(node, "not causal: attention without a causal mask")
        self.kinds.add(s.mask)
        count, kv = len(s.q.own), len(set(s.k.own))
        groups = count // kv
        order = [sorted(set(own)) for own in (s.q.own, s.k.own, v.own)]
        grouped = not count % kv and s.k.own == tuple(order[1][h // groups] for h in range(count))
        if list(s.q.own) != order[0] or not grouped or v.own != tuple(order[2][h // groups] for h in range(count)):
            raise self.refuse(node, "heads in another order than query head h reading key head h // group")
        strides = [stride_of(own) for own in order]
        if not all(strides):
            raise self.refuse(node, "heads that are not evenly spaced")
        out = node.outputs[0]
        parts = [
            self.rotated(x, n, stride * x.dim) for x, n, stride in zip((s.q, s.k, v), (count, kv, kv), strides, strict=True)
        ]
        q, k, own = (value for value, _, _ in parts)
        first = (parts[0][1], parts[1][1], parts[2][1])
        stride = (parts[0][2], parts[1][2], parts[2][2])
        causal = s.mask is Mask.CAUSAL
        self.operators.append(
            Attention(q, k, own, out, count, kv, s.q.dim, s.scale, causal, first, stride, s.codes, s.weight_codes)
        )
        self.features[out] = count * v.dim
        return self.head_views(out, range(count), v.dim, self.g.shape(out))

    def head_views(self, value: str, own: Sequence[int], dim: int, shape: tuple[int, ...]) -> View:
        """Heads [.., heads, tokens, dim] of a value that holds them side by side: head h reads `own[h]`."""
        tokens, n = shape[-2], self.features[value]
        index = np.arange(tokens)[None, :, None] * n + np.array(own)[:, None, None] * dim + np.arange(dim)
        return View(value, ((index.reshape(shape), np.ones(shape)),), tokens * n)

    def rotated(self, view: HeadView, count: int, stride: int) -> tuple[str, int, int]:
        """The value that holds the heads after rotary embedding, its first feature, and the features from head to head."""
        if view.cos is None or view.sin is None:
            return view.value, view.first, stride
        key = (view.value, view.first, count, view.dim)
        if key not in self.turned:
            name = f"{view.value} rotated {view.first}"
            self.turned[key] = name
            self.features[name] = count * view.dim
            self.operators.append(Rotary(view.value, name, count, view.dim, view.cos, view.sin, view.first, stride))
        return self.turned[key], 0, view.dim

    def masked(self, node: Node, scores: Scores, masks: Sequence[npt.NDArray[np.generic]]) -> Scores:
        """Scores plus a mask that is proved causal, or that of padding, or nothing."""
        seen = []
        for mask in masks:
            spread = np.broadcast_to(mask, (*np.broadcast_shapes(mask.shape[:-2], (1, 1)), self.tokens, self.tokens))
            seen.append(spread > _MASKED)
            if (spread[seen[-1]] != 0).any():
                raise self.refuse(node, "attention with a bias on its scores (relative positions, ALiBi)")
        return self.seeing(node, scores, seen)

    def seeing(self, node: Node, scores: Scores, seen: Sequence[npt.NDArray[np.bool_]]) -> Scores:
        """Scores of which only those `seen` [.., n, n] count."""
        kind = kind_of_mask(seen, self.masks)
        if kind is None or (kind is not Mask.NONE and scores.mask not in (Mask.NONE, kind)):
            raise self.refuse(node, ("not causal: " if self.causal else "") + describe(seen))
        return scores if kind is Mask.NONE else replace(scores, mask=kind)

    def chosen(self, node: Node, inputs: Sequence[Symbol]) -> Symbol | None:
        """Where(mask, scores, -inf), Where(masked, -inf, scores), and Where(never, 0, weights)."""
        condition, yes, no = inputs
        if not isinstance(condition, Constant | Probed):
            return None
        values = condition.values if isinstance(condition, Probed) else (condition.value,)
        conditions = [np.asarray(v, np.bool_) for v in values]
        if isinstance(yes, Constant) and isinstance(no, Scores) and not any(c.any() for c in conditions):
            return no
        if isinstance(yes, Constant) and isinstance(no, Scores):
            conditions, (yes, no) = [~c for c in conditions], (no, yes)
        if not isinstance(yes, Scores) or not isinstance(no, Constant) or yes.done:
            return None
        if (no.value.astype(np.float64) > _MASKED).any():
            return None
        wide = [np.broadcast_to(c, (*np.broadcast_shapes(c.shape[:-2], (1, 1)), self.tokens, self.tokens)) for c in conditions]
        return self.seeing(node, yes, wide)


def stride_of(own: Sequence[int]) -> int:
    """The even distance of ascending numbers, 1 for one number, 0 if there is none."""
    steps = {b - a for a, b in itertools.pairwise(own)} or {1}
    return steps.pop() if len(steps) == 1 else 0


def four(view: View) -> View:
    """[heads, tokens, dim] as [1, heads, tokens, dim]."""
    return view.moved(lambda v: v[None]) if len(view.shape) == 3 else view
