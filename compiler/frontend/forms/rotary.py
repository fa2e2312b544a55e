"""Rotary embedding with tables of cosines and sines, as onnxruntime has it."""

from __future__ import annotations

from axlora.compiler.frontend.forms.rewriter import Nodes, Rewriter

_HEADS_FIRST = 4
"""Dimensions of [batch, heads, tokens, features]; without heads of their own it is [batch, tokens, heads * features]."""


def rotated(to: Rewriter, x: str, cos: str, sin: str, interleaved: bool, turned: int) -> str:
    """Append the rotary embedding of x.

    Args:
        x: [batch, tokens, heads, features].
        cos, sin: [batch or 1, tokens, 1, turned / 2].
        interleaved: pairs are neighbours, else the halves of the features that turn.
        turned: the first features, which turn.
    """
    rest = to.part(x, 3, turned)
    x = to.part(x, 3, 0, turned)
    if interleaved:
        pairs = to.shaped(x, 0, 0, -1, turned // 2, 2)
        first, second = (to.shaped(to.part(pairs, 4, i, i + 1), 0, 0, -1, turned // 2) for i in range(2))
    else:
        first, second = to.part(x, 3, 0, turned // 2), to.part(x, 3, turned // 2)
    left = to.add("Sub", [to.add("Mul", [first, cos]), to.add("Mul", [second, sin])])
    right = to.add("Add", [to.add("Mul", [second, cos]), to.add("Mul", [first, sin])])
    if not interleaved:
        return to.add("Concat", [left, right, rest], axis=3)
    columns = [to.shaped(side, 0, 0, -1, turned // 2, 1) for side in (left, right)]
    return to.add("Concat", [to.shaped(to.add("Concat", columns, axis=4), 0, 0, -1, turned), rest], axis=3)


def rows_of(to: Rewriter, table: str, positions: str) -> str:
    """Append the rows of a table [most, half] at positions [batch, tokens]: [batch, tokens, 1, half]."""
    return to.shaped(to.add("Gather", [table, positions], axis=0), 0, 0, 1, -1)


def rotary(to: Rewriter) -> Nodes:
    """RotaryEmbedding(x, position ids, cos, sin; interleaved, num_heads, rotary_embedding_dim) of com.microsoft.

    x is [batch, tokens, heads * features] or [batch, heads, tokens, features]; one position is that of the first token.
    """
    x, ids, tables = to.given(0), to.given(1), [to.given(2), to.given(3)]
    dims, rank = to.file.dims(tables[0]), to.file.rank(x)
    if to.number("is_packed_batching") or to.number("scale", 1) != 1:
        return to.refuse("with packed batches or a scale")
    if dims is None or rank not in (3, _HEADS_FIRST):
        return to.refuse(
            "whose tables are no constants" if dims is None else "of a tensor whose dimensions the file does not tell"
        )
    turned, heads = 2 * dims[1], int(to.number("num_heads"))
    if rank == _HEADS_FIRST:
        split = to.add("Transpose", [x], perm=[0, 2, 1, 3])
    else:
        split = to.shaped(x, 0, 0, heads, -1) if heads else to.shaped(x, 0, 0, -1, turned)
    if to.file.rank(ids) == 1:
        first = to.shaped(ids, 1, 1)
        ids = to.add("Add", [first, to.count(to.dim(split, 1))])
    cos, sin = (rows_of(to, table, ids) for table in tables)
    result = rotated(to, split, cos, sin, bool(to.number("interleaved")), turned)
    if rank == _HEADS_FIRST:
        to.add("Transpose", [result], perm=[0, 2, 1, 3])
    else:
        to.shaped(result, 0, 0, -1)
    return to.finish()
