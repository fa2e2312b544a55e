"""Which operators have a path, and the refusal of those that have none: all of them at once, by node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import onnx
from onnx import defs

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.fold import known_shapes

STANDARD = ("", "ai.onnx")
_HINT = "taken are float, static QDQ, dynamic int8, operators on codes, weights with a scale a block; export as one of them"
_CONTROL = ("Loop", "Scan")
_CONTROL_HINT = "export the model with the loop unrolled"
_RECURRENT = ("LSTM", "GRU", "RNN")
_BLOCKED = ("QuantizeLinear", "DequantizeLinear")
_NAMED = 8
"""Most nodes that a refusal names."""
_REDEFINED = ("Attention", "RotaryEmbedding", "RMSNormalization", "GroupNormalization", "MeanVarianceNormalization")
"""Operators that TVM 0.27 or shape inference lists and does not take as ONNX defines them: see `host_ops`."""


@cache
def host_operators() -> frozenset[str]:
    """Names of the standard operators that TVM imports."""
    from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

    return frozenset(_get_convert_map())


@cache
def _has_definition(kind: str, version: int) -> bool:
    """Whether ONNX defines the operator by others."""
    try:
        schema: Any = defs.get_schema(kind, version, "")
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model uses."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD), default=1)


def is_expanded(node: onnx.NodeProto, version: int) -> bool:
    """Whether `expand` replaces the node by ONNX's own definition of it."""
    if node.domain not in STANDARD:
        return False
    kind = node.op_type
    return (kind in _REDEFINED or kind not in host_operators()) and _has_definition(kind, version)


def named(node: onnx.NodeProto) -> str:
    """What to call a node in messages."""
    return f"node {node.name or next((o for o in node.output if o), node.op_type)!r}"


_REASON = "axlora.reason"


def because(node: onnx.NodeProto, why: str) -> None:
    """Note in a node why it has no path, for its refusal: `with a window`, `without a bias`."""
    node.metadata_props.add(key=_REASON, value=why)


def reason(node: onnx.NodeProto) -> str:
    """What `because` noted; empty without."""
    return next((entry.value for entry in node.metadata_props if entry.key == _REASON), "")


def _kind(node: onnx.NodeProto) -> str:
    """Domain, operator and what is known of why it has no path."""
    return f"{'.'.join(filter(None, (node.domain, node.op_type)))} {reason(node)}".strip()


def _every(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the branches in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _every(attribute.g)


def _refusal(nodes: Sequence[tuple[onnx.NodeProto, str]], hint: str) -> UnsupportedOperator:
    """One error over all nodes, each with what it is."""
    kinds: dict[str, list[onnx.NodeProto]] = {}
    for node, what in nodes:
        kinds.setdefault(what, []).append(node)
    parts = []
    for what, several in kinds.items():
        names = ", ".join(repr(n.name or next((o for o in n.output if o), n.op_type)) for n in several[1:_NAMED])
        more = f" and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
        parts.append(what if len(several) == 1 else f"{what} (also {names}{more})")
    if len(kinds) > 1:
        parts = [f"{part} at {named(several[0])}" for part, several in zip(parts, kinds.values(), strict=True)]
    return UnsupportedOperator("; ".join(parts), named(nodes[0][0]), hint)


def refuse_operators(model: onnx.ModelProto) -> None:
    """Refuse every operator that has no path, those of branches included.

    Raises:
        UnsupportedOperator: names all of them at once.
    """
    own, version = {f.domain for f in model.functions}, opset(model)
    bad = []
    for node in _every(model.graph):
        if node.domain in own:
            continue
        imported = node.op_type == "If" or node.op_type in host_operators() or is_expanded(node, version)
        if node.domain not in STANDARD or not imported:
            bad.append((node, f"operator {_kind(node)}"))
        elif (block := next((a.i for a in node.attribute if a.name == "block_size"), 0)) and node.op_type in _BLOCKED:
            bad.append((node, f"operator {node.op_type} with a scale for each block of {block}"))
    if not bad:
        return
    kinds = {node.op_type for node, _ in bad}
    hint = _HINT
    if kinds <= set(_CONTROL):
        hint = _CONTROL_HINT
    elif kinds <= {*_CONTROL, *_RECURRENT}:
        hint = "recurrent layers have no path; replace them in the model"
    raise _refusal(bad, hint)


def refuse_unknown_shapes(model: onnx.ModelProto, where: str) -> None:
    """Refuse operators whose results' shapes depend on values, or that shape inference does not know.

    Raises:
        UnsupportedOperator: names the first such operators, whose inputs' shapes are all known; all of them at once.
        BadModel: an input of unknown shape.
    """
    shapes = known_shapes(model)
    constants = {i.name for i in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in shapes and value.name not in constants:
            raise BadModel(f"input {value.name!r} is no tensor of a fixed shape", where, "export with tensors of fixed shapes")
    bad: list[tuple[onnx.NodeProto, str]] = []
    behind: set[str] = set()
    for node in model.graph.node:
        lost = [name for name in node.output if name and name not in shapes]
        if not lost or node.op_type == "Constant":
            continue
        if not behind & set(node.input):
            bad.append((node, f"operator {node.op_type} gives a result whose shape is not known before the run"))
        behind |= set(lost)
    if bad:
        raise _refusal(bad, "fix the shapes it depends on, or replace it in the model")
