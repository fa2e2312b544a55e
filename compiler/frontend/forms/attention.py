"""onnxruntime's attention operators as products, a softmax, and the mask, cache and rotary embedding around them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from axlora.compiler.frontend.forms.norms import divided
from axlora.compiler.frontend.forms.rewriter import Nodes, Rewriter
from axlora.compiler.frontend.forms.rotary import rotated, rows_of

_HIDDEN = -1e30
"""Score of a key that is not seen."""
_NORM = 1e-6
"""qk_norm_epsilon where none is given."""
_FILTER = -10000.0
"""mask_filter_value where none is given."""
_ROWS, _HEADS, _PACKED = 3, 4, 5
"""Dimensions of [batch, tokens, features], [batch, heads, tokens, features] and [batch, tokens, heads, 3, features]."""


@dataclass(frozen=True)
class Parts:
    """What scores and their softmax are made of."""

    q: str
    """[batch, heads, tokens, features]."""
    k: str
    """[batch, heads, keys, features]."""
    v: str
    scale: float
    """Of the scores; 0: 1 / sqrt(features)."""
    biases: tuple[str, ...] = ()
    """Added to the scores [batch, heads, tokens, keys]; broadcast with them, empty names left out."""
    seen: str = ""
    """Truth values that broadcast with the scores: which keys a token sees; empty: all."""
    cap: float = 0
    """Scores become cap * tanh(scores / cap); 0: they stay."""
    sink: str = ""
    """[1, heads or 1, 1, 1]: a score of no key, which takes its part of the softmax; empty: none."""


def _attended(to: Rewriter, parts: Parts) -> str:
    """Append attention: [batch, tokens, heads * features]."""
    q, k = parts.q, to.add("Transpose", [parts.k], perm=[0, 1, 3, 2])
    scores = to.add("MatMul", [q, k], called="scores")
    if parts.scale:
        scores = to.add("Mul", [scores, to.constant("scale", parts.scale)])
    else:
        features = to.add("Cast", [to.dim(q, 3)], to=TensorProto.FLOAT)
        scores = to.add("Div", [scores, to.add("Sqrt", [features])])
    if parts.cap:
        cap = to.constant("cap", parts.cap)
        scores = to.add("Mul", [to.add("Tanh", [to.add("Div", [scores, cap])]), cap])
    scores = to.sum(scores, *parts.biases)
    if parts.seen:
        scores = to.add("Where", [parts.seen, scores, to.constant("hidden", _HIDDEN)])
    weights = _softmax(to, scores, parts.sink)
    mixed = to.add("MatMul", [weights, parts.v], called="mixture")
    return to.shaped(to.add("Transpose", [mixed], perm=[0, 2, 1, 3]), 0, 0, -1)


def _softmax(to: Rewriter, scores: str, sink: str) -> str:
    """Append the softmax over the last dimension, and over a sink that is left out of its result."""
    if not sink:
        return to.add("Softmax", [scores], axis=-1)
    column = to.add("Expand", [sink, to.add("Shape", [to.part(scores, 3, 0, 1)])])
    return to.part(to.add("Softmax", [to.add("Concat", [scores, column], axis=3)], axis=-1), 3, 0, -1)


def _heads(to: Rewriter, rows: str, count: int) -> str:
    """Append rows [batch, tokens, heads * features] as [batch, heads, tokens, features]."""
    return _turned(to, to.shaped(rows, 0, 0, count, -1))


def _turned(to: Rewriter, split: str) -> str:
    return to.add("Transpose", [split], perm=[0, 2, 1, 3])


def _behind(to: Rewriter, past: str, new: str) -> str:
    """Append a cache [batch, heads, tokens, features] and what comes behind it."""
    return to.add("Concat", [past, new], axis=2) if past else new


def _causal(to: Rewriter, tokens: str, keys: str) -> str:
    """Append which keys tokens see, of extents [1]: [tokens, keys]; the last token sees all."""
    first = to.add("Sub", [keys, tokens])
    places = to.add("Add", [to.shaped(to.count(tokens), -1, 1), first])
    return to.add("LessOrEqual", [to.count(keys), places])


# Grouped queries


def grouped(to: Rewriter) -> Nodes:
    """GroupQueryAttention(q, k, v, past k, v, seqlens, total, cos, sin, positions, bias, sink, .., norms of q, k): causal.

    `seqlens` [batch] are the keys of each sequence less one, `total` the most of them: as many as there are tokens means
    that the past is not read. Elsewhere the keys of a sequence lie behind its own past.
    """
    why = _not_grouped(to)
    if why:
        return to.refuse(why)
    g, file = to.given, to.file
    heads, groups = int(to.number("num_heads")), int(to.number("kv_num_heads"))
    if g(1):
        q, k, v = (to.shaped(g(i), 0, 0, count, -1) for i, count in enumerate((heads, groups, groups)))
    else:
        packed = to.shaped(g(0), 0, 0, heads + 2 * groups, -1)
        q, k, v = _split(to, packed, 2, [heads, groups, groups])
    tokens = to.dim(q, 1)
    q, k = (divided(to, x, g(i), to.number("qk_norm_epsilon", _NORM)) if g(i) else x for x, i in ((q, 14), (k, 15)))
    past = _Past.of(to, tokens) if g(3) else None
    places = _places(to, tokens, past)
    if to.number("do_rotary"):
        dims = file.dims(g(7))
        assert dims is not None
        cos, sin = (rows_of(to, g(i), g(9) or places) for i in (7, 8))
        q, k = (rotated(to, x, cos, sin, bool(to.number("rotary_interleaved")), 2 * dims[1]) for x in (q, k))
    q, k, v = (_turned(to, x) for x in (q, k, v))
    both = [(x, x) if past is None else past.behind(to, g(i), x) for i, x in ((3, k), (4, v))]
    (k, v), caches = zip(*both, strict=True)
    order = to.constant("groups", np.arange(heads) // (heads // groups), np.int64)
    every = [x if heads == groups else to.add("Gather", [x, order], axis=1) for x in (k, v)]
    seen = _window(to, to.shaped(places, 0, 1, -1, 1), to.count(to.dim(k, 2)))
    parts = Parts(q, every[0], every[1], to.number("scale"), (g(10),), seen, to.number("softcap"), _sink(to))
    return to.finish_as(_attended(to, parts), *caches)


def _sink(to: Rewriter) -> str:
    """Append the score of no key, of each head or 0; empty where the softmax is a plain one."""
    if to.given(11):
        return to.shaped(to.given(11), 1, -1, 1, 1)
    return to.constant("sink", np.zeros((1, 1, 1, 1))) if to.number("smooth_softmax") > 0 else ""


_TAKEN = (
    "num_heads", "kv_num_heads", "scale", "do_rotary", "rotary_interleaved", "local_window_size", "softcap", "smooth_softmax",
    "qk_norm_epsilon",
)  # fmt: skip
_USUAL = {"causal": (1,), "k_quant_type": (b"NONE",), "v_quant_type": (b"NONE",)}
"""Values of further attributes that say nothing; of those that are not named 0."""


def _is_usual(attribute: onnx.AttributeProto) -> bool:
    return helper.get_attribute_value(attribute) in _USUAL.get(attribute.name, (0,))


def _not_grouped(to: Rewriter) -> str:
    """Why a GroupQueryAttention has no path; empty if it has one."""
    g = to.given
    heads, groups = int(to.number("num_heads")), int(to.number("kv_num_heads"))
    odd = next((a.name for a in to.node.attribute if a.name not in _TAKEN and not _is_usual(a)), "")
    if odd or g(12) or g(13):
        return f"with {odd or 'scales of its caches'}"
    if to.reads(3):
        return "whose scores are read"
    if heads < 1 or groups < 1 or heads % groups:
        return f"of {heads} heads and {groups} of keys"
    if to.number("do_rotary") and to.file.dims(g(7)) is None:
        return "whose rotary tables are no constants"
    return "" if bool(g(3)) == bool(g(4)) else "with one cache of two"


@dataclass(frozen=True)
class _Past:
    """The cache that comes in: how much of it is read, where new keys go, how many keys there are then."""

    length: str
    """Tokens that each sequence had: int64 [batch, 1]."""
    kept: str
    """What of the cache is read: int64 [1]; none where all tokens are new."""
    total: str
    """Keys of the longest sequence: int64 [1]."""
    tokens: str
    """New ones: int64 [1]."""

    @classmethod
    def of(cls, to: Rewriter, tokens: str) -> _Past:
        """Append what `seqlens` and `total` say."""
        seqlens, total = (to.add("Cast", [to.given(i)], to=TensorProto.INT64) for i in (5, 6))
        total = to.shaped(total, 1)
        is_prompt = to.add("Equal", [total, tokens])
        zero = to.constant("zeros", [0], np.int64)
        kept = to.add("Where", [is_prompt, zero, to.dim(to.given(3), 2)])
        before = to.add("Sub", [to.add("Add", [seqlens, to.constant("one", [1], np.int64)]), tokens])
        return cls(to.shaped(to.add("Where", [is_prompt, zero, before]), -1, 1), kept, total, tokens)

    def behind(self, to: Rewriter, past: str, new: str) -> tuple[str, str]:
        """Append the keys [batch, heads, total, features] that are read, and the cache that goes out.

        New rows lie behind those that each sequence had. A cache with room for more than `total` goes out as large as it came.
        """
        both = to.add("Concat", [self._rows(to, past, end=self.kept), new], axis=2)
        row = to.shaped(to.count(to.dim(both, 2)), 1, -1)
        moved = to.add("Add", [row, to.add("Sub", [self.kept, self.length])])
        end = to.add("Add", [self.length, self.tokens])
        is_new = to.add("And", [to.add("GreaterOrEqual", [row, self.length]), to.add("Less", [row, end])])
        source = to.add("Where", [is_new, moved, row])
        extents = [to.constant("each", [-1, 1], np.int64), to.dim(both, 2), to.constant("one", [1], np.int64)]
        source = to.add("Reshape", [source, to.add("Concat", extents, axis=0)])
        index = to.add("Expand", [source, to.add("Shape", [both])])
        whole = to.add("GatherElements", [both, index], axis=2)
        rest = self._rows(to, past, start=to.dim(whole, 2))
        extent = to.add("Max", [self.total, to.dim(past, 2)])
        present = self._rows(to, to.add("Concat", [whole, rest], axis=2), end=extent)
        return self._rows(to, whole, end=self.total), present

    def _rows(self, to: Rewriter, cache: str, start: str = "", end: str = "") -> str:
        """Append rows of a cache between extents [1]."""
        start = start or to.constant("zeros", [0], np.int64)
        return to.add("Slice", [cache, start, end or to.dim(cache, 2), to.constant("axis 2", [2], np.int64)])


def _places(to: Rewriter, tokens: str, past: _Past | None) -> str:
    """Append the place of each token in its sequence: int64 [batch or 1, tokens]."""
    own = to.shaped(to.count(tokens), 1, -1)
    return own if past is None else to.add("Add", [own, past.length])


def _window(to: Rewriter, places: str, keys: str) -> str:
    """Append which keys [keys] a token at `places` [batch, 1, tokens, 1] sees: itself and those before, within the window."""
    seen = to.add("LessOrEqual", [keys, places])
    window = int(to.number("local_window_size", -1))
    if window < 0:
        return seen
    first = to.add("Sub", [places, to.constant("window", window, np.int64)])
    return to.add("And", [seen, to.add("Greater", [keys, first])])


# As many heads of keys as of queries


def multi_head(to: Rewriter) -> Nodes:
    """MultiHeadAttention(q, k, v, bias, mask, scores' bias, past k, v): q, k and v apart, or packed for each head.

    Keys and values are rows as queries are, or [batch, heads, keys, features].
    """
    g, rank = to.given, to.file.rank
    ranks, heads = [rank(g(i)) if g(i) else 0 for i in range(3)], int(to.number("num_heads"))
    if g(8) or g(9) or to.reads(3):
        return to.refuse("with a cache of beams, or whose scores are read")
    if ranks == [_ROWS, _HEADS, _HEADS] and not (g(3) or g(6)):
        q, k, v = _heads(to, g(0), heads), g(1), g(2)
    elif ranks in ([_ROWS] * 3, [_PACKED, 0, 0]):
        packed = ranks[0] == _PACKED
        rows = [to.shaped(to.part(g(0), 3, i, i + 1), 0, 0, -1) if packed else g(i) for i in range(3)]
        q, k, v = (_heads(to, to.sum(x, part), heads) for x, part in zip(rows, _thirds(to, g(3)), strict=True))
    else:
        return to.refuse(f"of a query, key and value of {', '.join(map(str, ranks))} dimensions")
    return _joined(to, Parts(q, _behind(to, g(6), k), _behind(to, g(7), v), to.number("scale")), g(4), g(5))


def _thirds(to: Rewriter, bias: str) -> list[str]:
    """Append the parts of a bias [3 features] of query, key and value; empty names without one."""
    if not bias:
        return [""] * 3
    return [to.shaped(part, -1) for part in _split(to, to.shaped(bias, 3, -1), 0, [1, 1, 1])]


def _split(to: Rewriter, x: str, axis: int, sizes: list[int]) -> list[str]:
    ends = [0, *np.cumsum(sizes).tolist()]
    return [to.part(x, axis, a, b) for a, b in itertools.pairwise(ends)]


def attention(to: Rewriter) -> Nodes:
    """Attention(x, weight, bias, mask, past, scores' bias) of com.microsoft: one product gives query, key and value."""
    g, heads, dims = to.given, int(to.number("num_heads")), to.file.dims(to.given(1))
    sizes = next((list(a.ints) for a in to.node.attribute if a.name == "qkv_hidden_sizes"), None)
    if to.number("do_rotary") or g(6):
        return to.refuse("with rotary embedding or a shared cache")
    if dims is None or len(dims) != 2 or (sizes is None and dims[1] % 3):
        return to.refuse("whose weight is no constant [features, query, key and value]")
    product = to.sum(to.add("MatMul", [g(0), g(1)]), g(2))
    q, k, v = (_heads(to, part, heads) for part in _split(to, product, 2, sizes or [dims[1] // 3] * 3))
    if g(4):
        past = [to.add("Gather", [g(4), to.constant(str(i), i, np.int64)], axis=0) for i in range(2)]
        k, v = _behind(to, past[0], k), _behind(to, past[1], v)
    return _joined(to, Parts(q, k, v, to.number("scale")), g(3), g(5), stacked=True)


def _joined(to: Rewriter, parts: Parts, mask: str, bias: str, stacked: bool = False) -> Nodes:
    """Attention with a mask; its keys and values are further results, `stacked` as one."""
    rank = to.file.rank(mask) if mask else 0
    if rank is None or rank > _ROWS:
        return to.refuse("whose mask has more than 3 dimensions, or as many as the file does not tell")
    tokens, keys = to.dim(parts.q, 2), to.dim(parts.k, 2)
    hidden = _hidden(to, mask, rank, to.dim(parts.q, 0), keys) if mask else ""
    seen = _causal(to, tokens, keys) if to.number("unidirectional") else ""
    result = _attended(to, replace(parts, biases=(hidden, bias), seen=seen))
    if not stacked or not to.reads(1):
        return to.finish_as(result, *(() if stacked else (parts.k, parts.v)))
    one = to.constant("one", [1], np.int64)
    shape = to.add("Concat", [one, to.add("Shape", [parts.k])], axis=0)
    both = [to.add("Reshape", [x, shape]) for x in (parts.k, parts.v)]
    return to.finish_as(result, to.add("Concat", both, axis=0))


def _hidden(to: Rewriter, mask: str, rank: int, batch: str, keys: str) -> str:
    """Append what a mask adds to the scores: the number of keys of each sequence, or ones where keys are seen.

    Args:
        mask: [batch], [batch, keys] or [batch, tokens, keys] of integers.
        batch, keys: extents, [1].
    """
    if rank == 1:
        each = to.add("Reshape", [mask, to.add("Concat", [batch, to.constant("rest", [-1], np.int64)], axis=0)])
        last = to.shaped(to.squeezed(each, 1), -1, 1, 1, 1)  # two numbers a sequence do not fit
        seen = to.add("Less", [to.count(keys), to.add("Cast", [last], to=TensorProto.INT64)])
    else:
        shape = [batch, to.constant("one", [1], np.int64), to.constant("rest", [-1], np.int64), keys]
        wide = to.add("Reshape", [mask, to.add("Concat", shape, axis=0)])
        seen = to.add("Greater", [to.add("Cast", [wide], to=TensorProto.INT64), to.constant("no", 0, np.int64)])
    return to.add("Where", [seen, to.constant("zero", 0), to.constant("filter", to.number("mask_filter_value", _FILTER))])
