"""Fold what is constant once shapes are fixed: Shape, and small nodes whose inputs are all constant.

Exporters compute masks, positions and reshape targets from the inputs' shapes. onnxscript's optimizer leaves some of that
(ConstantOfShape and what follows it in TorchScript exports), and TVM takes none of it. Codes of weights are
never folded into floats, and a QuantizeLinear of a constant (Constant nodes, weights of QAT exports) becomes codes.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from axlora.compiler.frontend.storage import copy_without, reads

Array = npt.NDArray[np.generic]

_LIMIT = 1 << 22
"""Elements of a folded result."""
_SHAPES = 1 << 12
"""Most elements of a constant that inference may take for a shape."""
_KEPT = (
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "If", "Loop", "Scan",
)  # fmt: skip
_TURNS = ("Transpose", "Cast", "Identity")
_PASSES = ("Identity", "Dropout")


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shape of every tensor inferred anew; raises onnx's errors if shapes contradict each other."""
    del model.graph.value_info[:]
    light = _without_weights(model)
    try:
        result = shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError:
        # onnx 1.23 takes an unsqueezed float vector for a shape, and then finds that such shapes contradict each other
        result = shape_inference.infer_shapes(light, check_type=True, strict_mode=True)
    del result.graph.input[len(model.graph.input) :]
    del result.graph.initializer[:]
    result.graph.initializer.extend(model.graph.initializer)
    return result


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are inputs behind its own: inference serializes the model, and reads no values of weights."""
    light = onnx.ModelProto()
    copy_without(model, light, "graph")
    copy_without(model.graph, light.graph, "initializer")
    listed = {v.name for v in model.graph.input}
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _SHAPES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes without a free dimension, by tensor name."""
    shapes: dict[str, tuple[int, ...]] = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def evaluate(model: onnx.ModelProto, node: onnx.NodeProto, inputs: list[Array]) -> list[Array] | None:
    """Results of one node by onnx's reference, given its named inputs in order; None if that does not know it."""
    names = [name for name in node.input if name]
    dtypes = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    given = {n: helper.make_tensor_value_info(n, t, list(x.shape)) for n, t, x in zip(names, dtypes, inputs, strict=True)}
    results = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "g", list(given.values()), results)
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        version = max(version, 19)  # the reference has none older; the meaning is the same
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=max(model.ir_version, 9))
    try:
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(alone).run(None, dict(zip(names, inputs, strict=True)))
    except Exception:  # the reference raises anything for what it does not implement; the node then stays
        return None
    return [np.asarray(v) for v in values] if isinstance(values, list) else None


def _shape_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Array | None:
    """What a Shape or Size node gives, if its input's shape is known."""
    shape = shapes.get(node.input[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), np.int64)
    ends = {a.name: a.i for a in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)


def constant_of(node: onnx.NodeProto) -> Array | None:
    """What a Constant node gives; None for strings and sparse tensors."""
    found = node.attribute[0]
    if found.name == "value":
        return np.asarray(numpy_helper.to_array(found.t))
    if found.name in ("value_int", "value_ints"):
        return np.array(helper.get_attribute_value(found), np.int64)
    if found.name in ("value_float", "value_floats"):
        return np.array(helper.get_attribute_value(found), np.float32)
    return None


class _Constants:
    """Values of constant tensors; those behind a DequantizeLinear are computed only if something else needs them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        initializers = model.graph.initializer
        self._known = {i.name: np.asarray(numpy_helper.to_array(i)) for i in initializers if int(np.prod(i.dims)) <= _LIMIT}
        self._held: dict[str, onnx.NodeProto] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._known or name in self._held

    def small(self, name: str) -> Array | None:
        """The value of a constant that is no weight's; None of anything else."""
        return self._known.get(name)

    def put(self, name: str, value: Array) -> None:
        """A value that was folded."""
        self._known[name] = value
        self._model.graph.initializer.append(numpy_helper.from_array(value, name))

    def hold(self, node: onnx.NodeProto) -> bool:
        """Keep a DequantizeLinear of constants, and what only turns one or scales its blocks: weights stay codes."""
        kept = node.op_type == "DequantizeLinear" or self._is_of_held(node)
        if node.domain or not kept or not all(n in self for n in node.input if n):
            return False
        self._held[node.output[0]] = node
        return True

    def _is_of_held(self, node: onnx.NodeProto) -> bool:
        """Whether a node turns a weight that is held, or is a step of the normal form of blocks (forms/block_codes.py)."""
        before = self._held.get(node.input[0]) if node.input else None
        if before is None:
            return False
        if node.op_type in ("Sub", "Mul"):
            shape = self._known[node.input[1]].shape if node.input[1] in self._known else ()
            return before.op_type in ("DequantizeLinear", "Sub") and len(shape) == 3 and shape[1] == 1
        return node.op_type in _TURNS or (node.op_type in ("Reshape", "Slice") and before.op_type in ("Mul", "Reshape"))

    def of(self, node: onnx.NodeProto) -> list[Array] | None:
        """Results of a node whose inputs are all constant; None if they are not, or cannot be computed."""
        names = [name for name in node.input if name]
        if not all(name in self for name in names):
            return None
        values = [self._value(name) for name in names]
        given = [v for v in values if v is not None]
        return evaluate(self._model, node, given) if len(given) == len(names) else None

    def _value(self, name: str) -> Array | None:
        if name not in self._known:
            results = self.of(self._held[name])
            return None if results is None else results[0]
        return self._known[name]


def _empty(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], types: dict[str, int]) -> list[Array] | None:
    """Results of a node that gives nothing but tensors without elements."""
    names = [name for name in node.output if name]
    if not all(0 in shapes.get(name, ()) and types.get(name) for name in names):
        return None
    return [np.zeros(shapes[name], helper.tensor_dtype_to_np_dtype(types[name])) for name in names]


def _choice(node: onnx.NodeProto, constants: _Constants) -> str:
    """What a Where whose condition is constant and the same everywhere gives; empty of any other."""
    condition = constants.small(node.input[0])
    if condition is None or not condition.size or (condition != condition.flat[0]).any():
        return ""
    return str(node.input[1 if condition.flat[0] else 2])


def _chosen(node: onnx.NodeProto, constants: _Constants, shapes: dict[str, tuple[int, ...]]) -> list[Array] | None:
    """The result of a Where that takes a constant everywhere, whatever the other is."""
    if node.op_type != "Where" or node.output[0] not in shapes:
        return None
    value = constants.small(_choice(node, constants))
    return None if value is None else [np.broadcast_to(value, shapes[node.output[0]])]


def _folded(
    node: onnx.NodeProto, constants: _Constants, shapes: dict[str, tuple[int, ...]], types: dict[str, int]
) -> list[Array] | None:
    """Results of a node that is constant, or None."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT:
        return None
    if node.op_type == "Constant":
        value = constant_of(node)
        return None if value is None else [value]
    if node.op_type in ("Shape", "Size"):
        found = _shape_of(node, shapes)
        return None if found is None else [found]
    if any(int(np.prod(shapes.get(name, ()), dtype=np.int64)) > _LIMIT for name in node.output):
        return None
    if (nothing := _empty(node, shapes, types)) is not None:
        return nothing
    results = constants.of(node) or _chosen(node, constants, shapes)
    return results if results is not None and all(r.size <= _LIMIT for r in results) else None


def _bypassed(
    node: onnx.NodeProto, constants: _Constants, shapes: dict[str, tuple[int, ...]], types: dict[str, int]
) -> str | None:
    """The input that the node gives unchanged, or None."""
    if node.op_type in _PASSES:
        return node.input[0] if len(node.output) == 1 else None
    if node.op_type == "Cast":
        same = types.get(node.input[0], 0) == next(a.i for a in node.attribute if a.name == "to")
        return node.input[0] if same else None
    source = node.input[0] if node.input else ""
    if node.op_type == "Concat":
        some = [name for name in node.input if 0 not in shapes.get(name, ())]
        source = some[0] if len(some) == 1 else ""
    elif node.op_type == "Where":
        source = _choice(node, constants)
    elif node.op_type == "GatherElements":
        source = node.input[0] if _in_order(node, constants.small(node.input[1])) else ""
    elif node.op_type not in ("Expand", "Reshape", "Slice"):
        return None
    same_shape = source in shapes and shapes[source] == shapes.get(node.output[0])
    return source if same_shape and not _is_turned(node, constants) else None


def _in_order(node: onnx.NodeProto, index: Array | None) -> bool:
    """Whether the index of a GatherElements is 0, 1, .. along its axis."""
    if index is None:
        return False
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % index.ndim
    order = np.arange(index.shape[axis]).reshape([-1 if i == axis else 1 for i in range(index.ndim)])
    return bool((index == order).all())


def _is_turned(node: onnx.NodeProto, constants: _Constants) -> bool:
    """Whether a Slice may step backwards."""
    if node.op_type != "Slice" or len(node.input) < 5 or not node.input[4]:
        return False
    steps = constants.small(node.input[4])
    return steps is None or int(steps.astype(np.int64).min()) < 0


def _types(model: onnx.ModelProto) -> dict[str, int]:
    types = {i.name: i.data_type for i in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def _one_round(model: onnx.ModelProto) -> bool:
    """Fold in place, once through the graph; true if anything changed."""
    graph, shapes, types, constants = model.graph, known_shapes(model), _types(model), _Constants(model)
    fixed = {o.name for o in graph.output}.union(*(reads(node) - set(node.input) for node in graph.node))
    renamed: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        results = None if fixed & set(node.output) or constants.hold(node) else _folded(node, constants, shapes, types)
        if results is not None:
            for name, value in zip((n for n in node.output if n), results, strict=True):
                constants.put(name, value)
        elif node.output[0] not in fixed and (same := _bypassed(node, constants, shapes, types)):
            renamed[node.output[0]] = same
        else:
            kept.append(node)
    changed = len(kept) < len(graph.node)
    del graph.node[:]
    graph.node.extend(kept)
    return changed


def drop_dead(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that no output needs, in place."""
    graph = model.graph
    needed, kept = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= reads(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]


def fold(model: onnx.ModelProto, rounds: int = 8) -> onnx.ModelProto:
    """The model with constants folded and shapes inferred, as far as that goes within `rounds`."""
    for _ in range(rounds):
        model = infer_shapes(model)
        changed = _one_round(model)
        drop_dead(model)
        if not changed:
            break
    return infer_shapes(model)
