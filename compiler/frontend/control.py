"""Take `If` out of a model: the branch that a constant condition picks, else both branches and a Where that picks.

ONNX operators have no side effects, so computing both branches is right; it costs the MACs of both, and needs branches whose
results have one shape.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend.expand import expand
from axlora.compiler.frontend.fold import fold, infer_shapes, known_shapes

_LOG = logging.getLogger(__name__)
_BRANCHES = ("then_branch", "else_branch")
_DEPTH = 16
"""Most levels of If within If."""


def _branch(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    found: onnx.GraphProto | None = next((a.g for a in node.attribute if a.name == name), None)
    if found is None:
        raise UnsupportedOperator(f"If without {name}", f"node {node.name or node.output[0]!r}", "export the model again")
    return found


def _constant(graph: onnx.GraphProto, name: str) -> bool | None:
    """Value of a constant condition, or None."""
    tensor = next((i for i in graph.initializer if i.name == name), None)
    if tensor is None:
        writer = next((n for n in graph.node if name in n.output), None)
        if writer is None or writer.op_type != "Constant" or writer.attribute[0].name != "value":
            return None
        tensor = writer.attribute[0].t
    return bool(np.asarray(numpy_helper.to_array(tensor)).reshape(-1)[0])


def _renamed(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> list[onnx.NodeProto]:
    """Copies of the nodes of a branch in which the branch's own tensors have the prefix; outer names stay.

    Args:
        names: outer tensors that inner graphs see under another name -> that name; not changed.
    """
    own = dict(names)
    for value in graph.initializer:
        own[value.name] = prefix + value.name
    for node in graph.node:
        own |= {name: prefix + name for name in node.output if name}
    result = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for field in (copy.input, copy.output):
            for i, name in enumerate(field):
                field[i] = own.get(name, name)
        for attribute in copy.attribute:
            if attribute.HasField("g"):
                _rename_inner(attribute.g, own)
        result.append(copy)
    return result


def _rename_inner(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give the outer names that a nested graph reads their new names, in place."""
    hidden = {v.name for v in (*graph.input, *graph.initializer)} | {name for node in graph.node for name in node.output}
    seen = {old: new for old, new in names.items() if old not in hidden}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = seen.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_inner(attribute.g, seen)
    for output in graph.output:
        output.name = seen.get(output.name, output.name)


class _Inliner:
    """Rewrites the If nodes of one model, one level at a time."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.result = onnx.ModelProto()
        self.picked: list[tuple[onnx.NodeProto, str, str]] = []
        """An If whose branches are both computed, and a result of each branch."""
        self.names = {node.name for node in model.graph.node}

    def run(self) -> onnx.ModelProto:
        """The model with every If of the outermost level replaced."""
        result = self.result
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.value_info[:]
        for index, node in enumerate(self.model.graph.node):
            if node.op_type == "If" and node.domain in ("", "ai.onnx"):
                self._replace(node, index)
            else:
                result.graph.node.append(node)
        return result

    def _inline(self, graph: onnx.GraphProto, prefix: str) -> list[str]:
        """Append the nodes and constants of a branch; returns the names of its results.

        A node whose name another node has gets the prefix: tools name the nodes of each graph from one on.
        """
        for tensor in graph.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = prefix + tensor.name
            self.result.graph.initializer.append(copy)
        for node in _renamed(graph, {}, prefix):
            if node.name in self.names:
                node.name = prefix + node.name
            self.names.add(node.name)
            self.result.graph.node.append(node)
        own = {value.name for value in graph.initializer}.union(*(node.output for node in graph.node))
        return [prefix + o.name if o.name in own else o.name for o in graph.output]

    def _replace(self, node: onnx.NodeProto, index: int) -> None:
        graph, name = self.result.graph, node.name or node.output[0]
        taken = _constant(self.model.graph, node.input[0])
        if taken is not None:
            found = self._inline(_branch(node, _BRANCHES[0] if taken else _BRANCHES[1]), f"{name}.{index}/")
            graph.node.extend(
                helper.make_node("Identity", [y], [out], name=f"{name}/{out}")
                for y, out in zip(found, node.output, strict=True)
                if out
            )
            return
        sides = [self._inline(_branch(node, b), f"{name}.{index}/{b.removesuffix('_branch')}/") for b in _BRANCHES]
        scalar = f"{name}.{index}/scalar"
        graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.int64), scalar))
        condition = f"{name}.{index}/condition"
        graph.node.append(helper.make_node("Reshape", [node.input[0], scalar], [condition], name=condition))
        for then, other, out in zip(*sides, node.output, strict=True):
            if out:
                self.picked.append((node, then, other))
                graph.node.append(helper.make_node("Where", [condition, then, other], [out], name=f"{name}/{out}"))

    def check_shapes(self) -> None:
        """Raise `UnsupportedOperator` unless both branches give results of one known shape, once they are part of the graph."""
        shapes = known_shapes(shape_inference.infer_shapes(expand(self.result)))
        for node, then, other in self.picked:
            if then not in shapes or shapes[then] != shapes.get(other):
                found = " and ".join(str(shapes.get(name, "unknown")) for name in (then, other))
                what = f"operator If whose branches give results of shapes {found}"
                given = node.input[0] in {v.name for v in self.model.graph.input}
                hint = f"--fix-input {node.input[0]}=0 (or =1) picks one" if given else "export the branch that is wanted"
                raise UnsupportedOperator(what, f"node {node.name or node.output[0]!r}", hint)


def inline_conditionals(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model without `If`; shapes are inferred.

    Raises:
        UnsupportedOperator: branches whose results differ in shape under a condition that is not constant.
    """
    for _ in range(_DEPTH):
        if not any(n.op_type == "If" and n.domain in ("", "ai.onnx") for n in model.graph.node):
            return model
        model = fold(expand(model))
        inliner = _Inliner(model)
        model = inliner.run()
        inliner.check_shapes()
        model = infer_shapes(model)
        for name in dict.fromkeys(node.name or node.output[0] for node, _, _ in inliner.picked):
            _LOG.warning("%s: both branches of If %s are computed and its condition picks one", where, name)
    raise UnsupportedOperator(f"If within If, more than {_DEPTH} levels", where, "export one branch")
