"""onnxruntime's norms, with the residual sum or the embeddings in front of them, taken apart into standard operators."""

from __future__ import annotations

from collections.abc import Callable

from axlora.compiler.frontend.forms.rewriter import Nodes, Rewriter

_SKIP_EPSILON = 1e-12
"""What onnxruntime's norms with a sum in front take where none is given."""
_EPSILON = 1e-5


def divided(to: Rewriter, x: str, gain: str, epsilon: float) -> str:
    """Append x / sqrt(mean of its squares + epsilon) * gain, over the last dimension."""
    square = to.mean(to.add("Mul", [x, x]))
    root = to.add("Sqrt", [to.add("Add", [square, to.constant("epsilon", epsilon)])])
    return to.add("Mul", [to.add("Div", [x, root]), gain])


def _centred(to: Rewriter, x: str, gain: str, bias: str, epsilon: float) -> str:
    """Append the layer norm of x over the last dimension."""
    return to.sum(divided(to, to.add("Sub", [x, to.mean(x)]), gain, epsilon), bias)


def simplified(to: Rewriter) -> Nodes:
    """SimplifiedLayerNormalization(x, gain; axis, epsilon): a norm by the root of the mean of squares."""
    axis, rank = int(to.number("axis", -1)), to.file.rank(to.given(0))
    if axis != -1 and axis + 1 != rank:
        return to.refuse(f"along axis {axis}")
    if to.reads(1):
        return to.refuse("whose second result is read")
    return to.finish_as(divided(to, to.given(0), to.given(1), to.number("epsilon", _EPSILON)))


def _with_sum(to: Rewriter, norm: Callable[[str], str], *terms: str) -> Nodes:
    """The norm of the sum of `terms`, and the sum."""
    if to.reads(1) or to.reads(2):
        return to.refuse("whose mean or deviation is read")
    total = to.sum(*terms)
    return to.finish_as(norm(total), "", "", total)


def skip_simplified(to: Rewriter) -> Nodes:
    """SkipSimplifiedLayerNormalization(x, skip, gain, bias; epsilon): the norm of the sum, and the sum."""
    g, epsilon = to.given, to.number("epsilon", _SKIP_EPSILON)
    return _with_sum(to, lambda total: divided(to, total, g(2), epsilon), g(0), g(1), g(3))


def skip(to: Rewriter) -> Nodes:
    """SkipLayerNormalization(x, skip, gain, beta, bias; epsilon): the layer norm of the sum, and the sum."""
    g, epsilon = to.given, to.number("epsilon", _SKIP_EPSILON)
    return _with_sum(to, lambda total: _centred(to, total, g(2), g(3), epsilon), g(0), g(1), g(4))


def embed(to: Rewriter) -> Nodes:
    """EmbedLayerNormalization(ids, types, words, positions, types' table, gain, beta, mask, position ids; epsilon).

    Its results: the layer norm of the sum of embeddings, the number of tokens that the mask leaves, and that sum.
    """
    g = to.given
    if to.reads(1) and (not g(7) or to.number("mask_index_type")):
        return to.refuse("whose mask_index is read, of another kind than the count of a mask")
    terms = [to.add("Gather", [g(2), g(0)], axis=0)]
    terms.append(to.add("Gather", [g(3), g(8) or to.count(to.dim(g(0), 1))], axis=0))
    if g(1):
        terms.append(to.add("Gather", [g(4), g(1)], axis=0))
    total = to.sum(*terms)
    norm = _centred(to, total, g(5), g(6), to.number("epsilon", _SKIP_EPSILON))
    return to.finish_as(norm, to.total(g(7), 1) if to.reads(1) else "", total)
