"""Attention of a transformer's graph: scores, masks, the mixture of values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import Attention, Rotary
from axlora.compiler.passes.attention_masks import CAUSAL, HEEDING, both, kind_of_mask
from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_order import OrderWalk
from axlora.compiler.passes.recognise_state import Scores, Symbol
from axlora.compiler.passes.tensor_elements import Constant, HeadView, Probed, View, halves_of, heads

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
LOWEST = -1e30
"""A bound below all scores that are seen."""
_MASKED = -5e3
"""A mask's value at and below which a key is not seen: masks have -10,000 or less, with a bias on it or not."""


@dataclass
class AttentionWalk(OrderWalk):
    """Adds attention."""

    def product(self, node: Node, a: Symbol, b: Symbol) -> Symbol | None:
        """q.k, or weights of the values times v."""
        if isinstance(a, Scores) and a.done and isinstance(b, View):
            v = heads(four(b), self.features[b.value])
            if v is None or v.cos is not None or v.scale != 1:
                return None
            return self.attention(node, a, _for_each(v, len(a.q.own)))
        if not isinstance(a, View) or not isinstance(b, View):
            return None
        q = heads(four(a), self.features[a.value])
        k = heads(four(b.moved(lambda x: np.swapaxes(x, -1, -2))), self.features[b.value])
        if q is None or k is None or q.dim != k.dim or q.neighbours != k.neighbours:
            return None
        k = _for_each(k, len(q.own))
        return Scores(q, k, q.scale * k.scale)

    def reshaped_scores(self, node: Node, scores: Scores) -> Scores | None:
        """Scores with their heads in other dimensions in front; None if rows or keys would not be the last two."""
        before, after = (self.g.shape(name) for name in (node.inputs[0], node.outputs[0]))
        same = len(after) > 2 and before[-2:] == after[-2:] and np.prod(before) == np.prod(after)
        return scores if same else None

    def attention(self, node: Node, s: Scores, v: HeadView) -> Symbol:
        if self.rowwise:
            raise self.refuse(node, "attention between the rows of a batch")
        if self.causal and s.mask not in CAUSAL:
            raise self.refuse(node, "not causal: attention without a causal mask")
        if self.stream(s.k.value) != self.stream(v.value):
            raise self.refuse(node, "keys and values of two inputs")
        if s.mask in HEEDING:
            self.heeds(node, s.k.value)
        self.kinds.add((s.k.value, s.mask))
        count, kv = len(s.q.own), len(set(s.k.own))
        if s.bias is not None and len(s.bias) not in (1, count):
            raise self.refuse(node, f"a bias of {len(s.bias)} heads on the scores of {count}")
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
        causal = s.mask in CAUSAL
        rounded = (s.codes, s.weight_codes, s.bias, s.rounded_first, s.cap)
        self.operators.append(Attention(q, k, own, out, count, kv, s.q.dim, s.scale, causal, first, stride, *rounded))
        self.features[out] = count * v.dim
        return self.head_views(out, range(count), v.dim, self.g.shape(out))

    def head_views(self, value: str, own: Sequence[int], dim: int, shape: tuple[int, ...]) -> View:
        """Heads [.., heads, tokens, dim] of a value that holds them side by side: head h reads `own[h]`."""
        tokens, n = shape[-2], self.features[value]
        index = np.arange(tokens)[None, :, None] * n + np.array(own)[:, None, None] * dim + np.arange(dim)
        return View(value, ((index.reshape(shape), np.ones(shape)),), tokens * n)

    def turned_view(self, view: View) -> View:
        """A view of heads that turn, as one of the value that a rotary embedding makes of them; any other as it is."""
        found = heads(four(view), self.features[view.value]) if len(view.shape) in (3, 4) and len(view.terms) > 1 else None
        if found is None or found.cos is None or found.neighbours:  # their features are in another order behind
            return view
        own = sorted(set(found.own))
        value, _, _ = self.rotated(found, len(own), stride_of(own) * found.dim)
        places = [own.index(head) for head in found.own]
        return self.head_views(value, places, found.dim, view.shape).times(np.float64(found.scale))

    def rotated(self, view: HeadView, count: int, stride: int) -> tuple[str, int, int]:
        """The value that holds the heads after rotary embedding, its first feature, and the features from head to head."""
        if view.cos is None or view.sin is None:
            return view.value, view.first, stride
        key = (view.value, view.first, count, view.dim)
        if key not in self.turned:
            name = f"{view.value} rotated {view.first}"
            self.turned[key] = name
            self.features[name] = count * view.dim
            if view.neighbours:
                self.reorder(view.value, view.first, stride, count, halves_of(view.dim, view.cos.shape[1]))
            self.operators.append(Rotary(view.value, name, count, view.dim, view.cos, view.sin, view.first, stride))
        return self.turned[key], 0, view.dim

    def masked(self, node: Node, scores: Scores, masks: Sequence[npt.NDArray[np.generic]]) -> Scores:
        """Scores plus a tensor: one that hides keys, one that adds a bias to them, or both."""
        spread = self._spread(scores, masks)
        seen = [each > _MASKED for each in spread]
        bias = np.zeros(spread[0].shape)
        known = np.zeros(bias.shape, bool)
        for value, own in zip(spread, seen, strict=True):
            if (value != bias)[known & own].any():
                raise self.refuse(node, "a bias on scores that padding changes")
            bias, known = np.where(own, value, bias), known | own
        return self.seeing(node, self._biased(node, scores, bias) if bias.any() else scores, seen)

    def _spread(self, scores: Scores, masks: Sequence[npt.NDArray[np.generic]]) -> list[Float64]:
        """Masks [.., m or 1, n or 1] as [heads or 1, m, n]."""
        m, n = self.tokens(scores.q.value), self.tokens(scores.k.value)
        wide = [np.broadcast_to(each, (*each.shape[:-2], m, n)).astype(np.float64).reshape(-1, m, n) for each in masks]
        alike = all((each == each[:1]).all() for each in wide)
        return [each[:1] if alike else each for each in wide]

    def _biased(self, node: Node, scores: Scores, bias: Float64) -> Scores:
        """Scores with one more bias [heads or 1, m, n]."""
        before = scores.bias is not None and bool(scores.bias[np.isfinite(scores.bias)].any())
        if before and np.isfinite(bias).all() and scores.rounded_first != len(scores.codes):
            raise self.refuse(node, "two biases on scores, which are rounded between them")
        first = len(scores.codes) if np.isfinite(bias).all() else scores.rounded_first
        return replace(scores, bias=bias if scores.bias is None else scores.bias + bias, rounded_first=first)

    def seeing(self, node: Node, scores: Scores, seen: Sequence[npt.NDArray[np.bool_]]) -> Scores:
        """Scores of which only those `seen` [heads or 1, m, n] count."""
        own = self.stream(scores.q.value) == self.stream(scores.k.value)
        masks = self.masks if self.masks and self.masks[0].shape[1] == seen[0].shape[2] else ()
        found = kind_of_mask(seen, masks, own)
        if found is None:
            what = "a mask of attention that leaves a token nothing to see, or in which padding does more than hide keys"
            raise self.refuse(node, what)
        kind, hidden = found
        if hidden.any():
            scores = self._biased(node, scores, np.where(hidden, -np.inf, 0.0))
        return replace(scores, mask=both(scores.mask, kind))

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
        return self.seeing(node, yes, [c > 0 for c in self._spread(yes, conditions)])


def _for_each(view: HeadView, count: int) -> HeadView:
    """One head as that of `count` heads, where a product repeats it."""
    return replace(view, own=view.own * count) if len(view.own) == 1 else view


def stride_of(own: Sequence[int]) -> int:
    """The even distance of ascending numbers, 1 for one number, 0 if there is none."""
    steps = {b - a for a, b in itertools.pairwise(own)} or {1}
    return steps.pop() if len(steps) == 1 else 0


def four(view: View) -> View:
    """[heads, tokens, dim] as [1, heads, tokens, dim]."""
    return view.moved(lambda v: v[None]) if len(view.shape) == 3 else view
