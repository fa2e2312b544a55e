"""onnxruntime's mixtures of experts, MoE and QMoE, as products, gates and sums: every expert is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from functools import partial
from math import inf
from typing import Any

import numpy as np
import onnx
from onnx import helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.forms import block_codes
from axlora.compiler.frontend.forms.rewriter import Array, Nodes, Rewriter
from axlora.compiler.frontend.supported import named

Part = Callable[[int, str, slice], str]
"""Appends a projection of an expert: its number, what it reads, and which of its outputs."""
_ALL = slice(None)
_BITS = (2, 4, 8)


def gates(
    add: Callable[..., str],
    hold: Callable[..., str],
    nodes: MutableSequence[onnx.NodeProto],
    logits: str,
    count: int,
    normalized: bool,
) -> str:
    """Append the softmax of the `count` largest logits, or their shares of all logits' softmax, and 0 elsewhere.

    Args:
        add: appends a node of a kind that reads tensors, and gives its result.
        hold: a constant of a name, a value and a type.
        nodes: what `add` appends to.
    """
    most = hold(f"{count} largest", [count], np.int64)
    read = logits if normalized else add("Softmax", [logits], axis=-1)
    largest = add("TopK", [read, most], axis=-1)
    nodes[-1].output.append(places := f"{largest} places")
    shares = add("Softmax", [largest], axis=-1) if normalized else largest
    nothing = add("ConstantOfShape", [add("Shape", [logits])])
    return add("ScatterElements", [nothing, places, shares], axis=-1)


def moe(to: Rewriter) -> Nodes:
    """MoE(x, logits, w1, b1, w2, b2, w3, b3): weights [experts, outputs, inputs] of floats."""
    weights = [_array(to, i) for i in (2, 4, 6)]
    parts = [None if weight is None else partial(_floats, to, which, weight) for which, weight in enumerate(weights)]
    return _mixture(to, weights, parts, (3, 5, 7), bool(to.number("normalize_routing_weights")))


def qmoe(to: Rewriter) -> Nodes:
    """QMoE(x, logits, w1, s1, b1, w2, s2, b2, w3, s3, b3, z1, z2, z3, ..): codes of 2, 4 or 8 bits, as MatMulNBits has them.

    The shares of the largest add up to 1, whatever `normalize_routing_weights` says: as onnxruntime has it.

    Raises:
        BadModel: sizes that contradict each other.
    """
    own = {a.name: helper.get_attribute_value(a) for a in to.node.attribute}
    if own.get("quant_type", b"int") != b"int":
        return to.refuse(f"with weights of {own['quant_type'].decode()}")
    if own.get("weights_prepacked", -1) == 1:
        return to.refuse("with weights in an order of one machine")
    if any(map(to.given, range(14, len(to.node.input)))):
        return to.refuse("with router_weights or scales of a tensor")
    weights: list[Array | None] = []
    parts: list[Part | None] = []
    for n, (i, zero) in enumerate(((2, 11), (5, 12), (8, 13)), 1):
        codes, scales, zeros = (_array(to, at) for at in (i, i + 1, zero))
        bits = int(own.get(f"fc{n}_expert_weight_bits", own.get("expert_weight_bits", 4)))
        if codes is not None and (scales is None or bits not in _BITS):
            return to.refuse(f"with codes of {bits} bits" if bits not in _BITS else "whose scales are no constants")
        weights.append(codes)
        if codes is None or scales is None:
            parts.append(None)
        else:
            parts.append(partial(_codes, to, n - 1, codes, scales, zeros, bits))
    return _mixture(to, weights, parts, (4, 7, 10), True)


def _called(which: int, expert: int, outputs: slice) -> str:
    """The end of the name of a linear; of two that one constant holds the second is the third projection."""
    return f"experts.{expert}.fc{3 if outputs.start and which == 0 else which + 1}"


def _floats(to: Rewriter, which: int, weight: Array, expert: int, x: str, outputs: slice) -> str:
    called = _called(which, expert, outputs)
    return to.add("MatMul", [x, to.constant(called, weight[expert, outputs].T)], called=called)


def _codes(
    to: Rewriter,
    which: int,
    codes: Array,
    scales: Array,
    zeros: Array | None,
    bits: int,
    expert: int,
    x: str,
    outputs: slice,
) -> str:
    middle, n, called = 1 << (bits - 1), scales.shape[1], _called(which, expert, outputs)
    own = block_codes.unpacked(codes[expert], bits).astype(np.int16) - middle
    scale, zero = scales[expert].reshape(n, -1), None
    groups, rows = scale.shape[1], int(to.number("block_size")) or own.shape[1]
    if own.shape != (n, groups * rows):
        what = f"{to.node.op_type} has {groups} scales for {own.shape[1]} inputs in blocks of {rows}"
        raise BadModel(what, f"{named(to.node)} of {to.file.where}", "quantize the model again")
    if zeros is not None:
        whole = block_codes.unpacked(zeros[expert], bits)
        zero = (whole[:, :groups] if scales.ndim > 2 else whole[:n, None]).astype(np.float32).T[:, outputs] - middle
    part = own[outputs].T.astype(np.int8)
    blocks = block_codes.Blocks(part, scale[outputs].T.astype(np.float32), zero, rows)
    return to.add("MatMul", [x, block_codes.weight(to, f"{to.base}.{called}", blocks)], called=called)


def _array(to: Rewriter, index: int) -> Array | None:
    return to.file.array(to.given(index)) if to.given(index) else None


def _mixture(
    to: Rewriter, weights: Sequence[Array | None], parts: Sequence[Part | None], biases: Iterable[int], normalized: bool
) -> Nodes:
    """The sum over all experts of what each makes of x, times its gate."""
    own = {a.name: helper.get_attribute_value(a) for a in to.node.attribute}
    kind, fusion = own.get("activation_type", b"relu").decode(), own.get("swiglu_fusion", 0)
    held = [_array(to, i) for i in biases]
    first, last, beside = parts
    if first is None or last is None or weights[0] is None or weights[1] is None:
        return to.refuse("whose weights are no constants")
    if own.get("use_sparse_mixer", 0):
        return to.refuse("with a sparse mixer")
    if kind not in ("relu", "silu", "identity", "swiglu") or (kind == "swiglu" and not fusion and beside is None):
        return to.refuse(f"with {kind}")
    outputs, hidden = weights[0].shape[1], weights[1].shape[1]
    cut = [_ALL, _ALL]
    if kind == "swiglu" and fusion:
        cut = [slice(0, None, 2), slice(1, None, 2)] if fusion == 1 else [slice(0, outputs // 2), slice(outputs // 2, outputs)]

    def linear(which: int, expert: int, x: str, rows: slice = _ALL) -> str:
        part, bias = parts[which], held[which]
        assert part is not None
        y = part(expert, x, rows)
        return y if bias is None else to.add("Add", [y, to.constant(f"bias {which} {expert} {rows.start}", bias[expert, rows])])

    flat = to.shaped(to.given(0), -1, hidden)
    chosen = gates(to.add, to.constant, to.nodes, to.given(1), int(own.get("k", 1)), normalized)
    total = ""
    for expert in range(len(weights[0])):
        y = _activated(to, kind, own, linear(0, expert, flat, cut[0]))
        if beside is not None or (kind == "swiglu" and fusion):
            other = linear(2, expert, flat) if beside is not None else linear(0, expert, flat, cut[1])
            y = to.add("Mul", [y, _limited(to, own, other) if kind == "swiglu" else other])
        gate = to.add("Gather", [chosen, to.constant(f"expert {expert}", [expert], np.int64)], axis=-1)
        total = to.sum(total, to.add("Mul", [linear(1, expert, y), gate]))
    to.add("Reshape", [total, to.add("Shape", [to.given(0)])])
    return to.finish()


def _activated(to: Rewriter, kind: str, own: Mapping[str, Any], x: str) -> str:
    """What an activation makes of the first projection: swiglu's is g sigmoid(alpha g) of g at most `swiglu_limit`."""
    if kind in ("relu", "identity"):
        return to.add("Relu", [x]) if kind == "relu" else x
    inner = x
    if kind == "swiglu":
        limit, alpha = own.get("swiglu_limit", inf), own.get("activation_alpha", 1.0)
        inner = x = to.add("Clip", [x, "", to.constant("limit", limit)]) if limit < inf else x
        inner = to.add("Mul", [x, to.constant("alpha", alpha)]) if alpha != 1 else x
    return to.add("Mul", [x, to.add("Sigmoid", [inner])])


def _limited(to: Rewriter, own: Mapping[str, Any], x: str) -> str:
    """What swiglu makes of the other projection: within `swiglu_limit` of 0, and beta more."""
    limit, beta = own.get("swiglu_limit", inf), own.get("activation_beta", 0.0)
    if limit < inf:
        x = to.add("Clip", [x, to.constant("least", -limit), to.constant("limit", limit)])
    return to.add("Add", [x, to.constant("beta", beta)]) if beta else x
