"""A graph as an `operators.Transformer`: linears and norms by structure, the rest by what it does to elements.

Every node is followed from the token ids, or from an input of rows, on; what mixes rows in another way than attention and
pools do is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend.cache import is_cache
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.operators import Attention, Op, operands
from axlora.compiler.passes.attention_masks import HEEDING
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.recognise_operators import Walk
from axlora.compiler.passes.recognise_state import PASS, SHAPED
from axlora.compiler.passes.tensor_elements import Constant, Curve, Ids, Probed, View, Weighted, probes
from axlora.compiler.transformer import Output, Transformer

ONE_SEQUENCE = "generation goes on with one sequence of token ids; compile without --generate for whole sequences"
WHOLE_HINT = "compile with --operators linears"


def _inputs(g: Dataflow) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """(name, shape, type) of every input that is read: a cache may be given for nothing."""
    constant = {i.name for i in g.model.graph.initializer}
    return [
        (i.name, g.shape(i.name), onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
        for i in g.model.graph.input
        if i.name not in constant and (i.name in g.readers or i.name in g.outputs)
    ]


def _is_table(g: Dataflow, name: str) -> bool:
    """Whether a tensor is a constant, or codes of one as reals."""
    node = g.node_of(name)
    return g.constant(node.inputs[0] if node is not None and node.op == "dequantize" else name) is not None


def _token_input(g: Dataflow) -> str | None:
    """The input of token ids: the one that the first embedding's Gather reads, reshaped or not; None without any."""
    names = {name for name, _, kind in _inputs(g) if kind.kind in "iu"}
    for node in g.nodes:
        if node.op != "take" or not _is_table(g, node.inputs[0]):
            continue
        name = str(node.inputs[1])
        while name not in names and (before := g.node_of(name)) is not None and before.op in (*PASS, *SHAPED):
            name = str(before.inputs[0])
        if name in names:
            return name
    return None


def _no_ids(where: str) -> UnsupportedOperator:
    return UnsupportedOperator("no embedding of token ids", where, "a language model with an input of token ids")


def _row_input(g: Dataflow) -> str | None:
    """The one input of floats, where the model has one whose last dimension can be features."""
    floats = [(name, shape) for name, shape, kind in _inputs(g) if kind.kind == "f"]
    return floats[0][0] if len(floats) == 1 and len(floats[0][1]) > 1 and 0 not in floats[0][1] else None


def _row_inputs(g: Dataflow) -> list[str]:
    """The inputs of floats [1, tokens, features], of images or of sound."""
    found = [(name, shape) for name, shape, kind in _inputs(g) if kind.kind == "f" and "mask" not in name]
    return [name for name, shape in found if len(shape) > 2 and shape[0] == 1 and 0 not in shape]


def _usual(name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """What an input beside the token ids holds unless someone says otherwise: no padding, positions in order, one type."""
    if "mask" in name:
        return np.ones(shape, kind)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(kind)
    return np.zeros(shape, kind) if "type" in name else None


def read_transformer(g: Dataflow, found: Sequence[FoundLinear], where: str) -> Transformer:
    """The whole model as a decoder.

    Other inputs than the token ids mean: a mask of ones (no padding), positions 0, 1, .., token types 0.

    Raises:
        UnsupportedOperator: names the node that is not understood, or that is not causal.
    """
    ids = _token_input(g)
    if ids is None:
        raise _no_ids(where)
    fixed: dict[str, npt.NDArray[Any]] = {}
    for name, shape, kind in _inputs(g):
        if name != ids:
            value = _usual(name, shape, kind)
            if value is None:
                hint = "export without caches: the cache is made by --generate" if is_cache(name) else ONE_SEQUENCE
                raise UnsupportedOperator(f"input {name!r} beside the token ids", where, hint)
            fixed[name] = value
    return _read(g, found, where, [ids], [], fixed, "", "compile without --generate")


def read_rows(g: Dataflow, found: Sequence[FoundLinear], where: str) -> Transformer:
    """The whole model for rows of an input of floats, each of which is computed for itself.

    Features are the input's last dimension or, where that is not what the model reads, all dimensions but the first.

    Raises:
        UnsupportedOperator: names the node that is not understood, or that mixes rows.
    """
    name = _row_input(g)
    if name is None or len(_inputs(g)) > 1:
        raise UnsupportedOperator("more inputs than rows of floats", where, WHOLE_HINT)
    shape = g.shape(name)
    error: UnsupportedOperator | None = None
    for features in dict.fromkeys((shape[-1], int(np.prod(shape[1:])))):
        walk = Walk(g, found, WHOLE_HINT, False, rowwise=True)
        walk.give(name, features)
        try:
            return _walked(walk, where, {}, "")
        except UnsupportedOperator as refused:
            error = error or refused
    assert error is not None
    raise error


def read_whole(g: Dataflow, found: Sequence[FoundLinear], where: str) -> Transformer:
    """The whole model for whole sequences: attention may be causal, see all tokens, or all that are no padding.

    The first rows of a stream are those of token ids or an input of floats [1, tokens, features]; an encoder-decoder has two
    streams, of an encoder's and of a decoder's tokens. An input that the model does not heed as ids or as a mask of padding is
    fixed to its usual value (`Transformer.fixed`).

    Raises:
        UnsupportedOperator: names the node that is not understood.
    """
    ids, rows = _token_input(g), _row_inputs(g)
    if ids is None and not rows:
        raise _no_ids(where)
    usual: dict[str, npt.NDArray[Any]] = {}
    more: list[str] = []
    masks: list[str] = []
    for name, shape, kind in _inputs(g):
        if name == ids or (name in rows and not is_cache(name)):
            continue
        if is_cache(name):
            hint = "export the decoder without caches (use_cache=False), for all its tokens at once"
            raise UnsupportedOperator(f"input {name!r} is a cache of keys and values", where, hint)
        value = _usual(name, shape, kind)
        if len(shape) != 2 or shape[0] != 1 or (value is None and kind.kind not in "iu"):
            raise UnsupportedOperator(f"input {name!r} beside token ids or rows", where, WHOLE_HINT)
        if value is not None:
            usual[name] = value
        if value is None or "mask" not in name:
            more.append(name)
        else:
            masks.append(name)
    never = [name for name in more if name not in usual]
    error: UnsupportedOperator | None = None
    for own in dict.fromkeys((tuple(more), tuple(never))):
        late: Transformer | None = None
        for heeded in (*masks, ""):
            fixed = {name: value for name, value in usual.items() if name not in own and name != heeded}
            try:
                model = _read(g, found, where, [*([ids] if ids else []), *own], rows, fixed, heeded, WHOLE_HINT)
            except UnsupportedOperator as refused:
                error = refused
                continue
            if not heeded or not _sees_none_behind(model):
                return model if heeded or late is None else late
            late = late or model
        if late is not None:
            return late
    assert error is not None
    raise error


def _sees_none_behind(model: Transformer) -> bool:
    """Whether no attention sees padding that lies behind the tokens, mask or not: then another input's mask counts more."""
    streams = model.streams
    seen = [op for op in model.operators if isinstance(op, Attention) and streams[op.k] == model.masked]
    return bool(model.more) and bool(seen) and all(op.causal for op in seen)


def _read(
    g: Dataflow,
    found: Sequence[FoundLinear],
    where: str,
    ids: Sequence[str],
    rows: Sequence[str],
    fixed: Mapping[str, npt.NDArray[Any]],
    mask: str,
    hint: str,
) -> Transformer:
    """The model with these inputs as ids, these as rows, this one as the mask of padding, and those of fixed values."""
    for name in ids:
        if len(shape := g.shape(name)) != 2 or shape[0] != 1:
            raise UnsupportedOperator(f"token ids of shape {shape}", where, "[batch, tokens]")
    walk = Walk(g, found, hint, hint.endswith("--generate"))
    walk.symbols |= {name: Ids(name) for name in ids}
    walk.main = ids[0] if ids else ""
    walk.hosts |= {*rows}
    walk.symbols |= {name: View.rows(name, g.shape(name)) for name in rows}
    walk.symbols |= {name: Constant(value) for name, value in fixed.items()}
    if mask:
        kind = next(kind for name, _, kind in _inputs(g) if name == mask)
        walk.masks = probes(g.shape(mask)[1])
        walk.symbols[mask] = Probed(tuple(m.astype(kind) for m in walk.masks))
    return _walked(walk, where, fixed, mask)


def _walked(walk: Walk, where: str, fixed: Mapping[str, npt.NDArray[Any]], mask: str) -> Transformer:
    """What a walk that knows the inputs finds."""
    walk.run()
    codes = next((o for o in walk.g.model.graph.output if o.type.tensor_type.elem_type != onnx.TensorProto.FLOAT), None)
    if codes is not None:
        raise UnsupportedOperator(f"output {codes.name!r} is not of floats", where, walk.hint)
    outputs = [_output(walk, o.name, where) for o in walk.g.model.graph.output]
    if walk.causal:
        outputs = outputs[:1]
    walk.check_order({o.value for o in outputs})
    if not walk.streams:
        raise _no_ids(where)
    if any(own.given is not None and o.value == own.input for own in walk.streams for o in outputs):
        raise UnsupportedOperator("an output that is the input itself", where, walk.hint)
    masked = 0 if walk.padded_stream is None else walk.padded_stream
    if mask and not {kind for keys, kind in walk.kinds if walk.stream(keys) == masked} <= HEEDING:
        raise UnsupportedOperator("attention that sees padding beside what heeds the mask", where, walk.hint)
    operators = _needed(walk.operators, {o.value for o in outputs})
    fixed = {name: value for name, value in fixed.items() if name in walk.used}
    heeded = mask if mask in walk.used else None
    read = {name for name, _, _ in _inputs(walk.g)}
    unread = {i.name: walk.g.shape(i.name) for i in walk.g.model.graph.input if i.name not in read}
    first, *more = walk.streams
    return Transformer(
        first.lookups,
        first.positions,
        first.input,
        operators,
        tuple(outputs),
        heeded,
        fixed,
        unread,
        orders=walk.orders,
        given=first.given,
        source=first.source,
        more=tuple(more),
        masked=masked,
        shape=first.shape,
    )


def _output(walk: Walk, name: str, where: str) -> Output:
    """What an output of the graph is."""
    known = walk.g.canonical(name)
    symbol, node, shape = walk.symbol(known), walk.g.node_of(known), walk.g.shape(known)
    if node is not None and isinstance(symbol, Curve) and symbol.index is not None:
        symbol = walk.viewed(node, known)
    if node is not None and isinstance(symbol, Curve | Weighted):
        return Output(name, walk.rows(node, known), shape)
    if isinstance(symbol, View) and symbol.factor() == 1:
        return Output(name, symbol.value, shape)
    if node is not None and isinstance(symbol, View) and symbol.columns(walk.features[symbol.value]) is not None:
        return Output(name, walk.rows(node, known), shape)
    if isinstance(symbol, View) and not walk.causal and len(symbol.terms) == 1 and (symbol.terms[0][1] == 1).all():
        return Output(name, symbol.value, shape, symbol.terms[0][0])
    raise UnsupportedOperator(f"output {name!r} is not rows of logits", where, "a language model that ends with its logits")


def _needed(operators: Sequence[Op], wanted: set[str]) -> tuple[Op, ...]:
    """The operators that the wanted values need, in their order."""
    kept: list[Op] = []
    for op in reversed(operators):
        if op.y in wanted:
            kept.append(op)
            wanted = wanted | set(operands(op))
    return tuple(reversed(kept))
