"""Operators with bodies that read names of the graph around them, and what must be refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from linears import spread
from onnx import TensorProto, helper, numpy_helper
from sketch import Sketch, Unfit, Value, info


def _body(s: Sketch, name: str, x: Value, kind: str, weight: Value | None) -> onnx.GraphProto:
    """One or two nodes on the outer `x`: a linear with an outer weight, or an elementwise operator."""
    out = f"{name}_out"
    shape = x.shape
    if weight is not None:
        nodes = [helper.make_node("MatMul", [x.name, weight.name], [f"{name}_y"]), helper.make_node(kind, [f"{name}_y"], [out])]
        shape = (*x.shape[:-1], weight.shape[-1])
    else:
        nodes = [helper.make_node(kind, [x.name], [out])]
    return helper.make_graph(nodes, name, [], [info(out, shape, "float32")])


def if_(s: Sketch) -> Value:
    """If on an input or a constant; the bodies read outer tensors, and may hold linears."""
    x = s.take(lambda v: v.real and len(v.shape) in (2, 3) and v.shape[-1] <= 48)
    condition = s.constant(np.array(bool(s.random.integers(2))), "condition") if s.chance(3) else s.feed((), "bool")
    linear, k = s.chance(2), x.shape[-1]
    outer, bodies, kinds = [x], [], [s.pick(["Relu", "Tanh", "Neg"]) for _ in range(2)]
    for number, kind in enumerate(kinds):
        weight = s.floats(k, k, spread=spread(k)) if linear else None
        outer += [weight] if weight is not None else []
        bodies.append(_body(s, f"body_{len(s.ops)}_{number}", x, kind, weight))
    return s.op("If", condition, outer=outer, then_branch=bodies[0], else_branch=bodies[1])


def loop(s: Sketch) -> Value:
    """Two rounds of adding an outer tensor to what the loop carries."""
    x = s.real(1, 3)
    number = len(s.ops)
    names = [f"{n}_{number}" for n in ("round", "go", "carried", "go_on", "next", "scaled")]
    nodes = [
        helper.make_node("Identity", [names[1]], [names[3]]),
        helper.make_node("Tanh", [names[2]], [names[5]]),
        helper.make_node("Add", [names[5], x.name], [names[4]]),
    ]
    body = helper.make_graph(
        nodes,
        f"loop_{number}",
        [info(names[0], (), "int64"), info(names[1], (), "bool"), info(names[2], x.shape, "float32")],
        [info(names[3], (), "bool"), info(names[4], x.shape, "float32")],
    )
    trips, go = s.constant(np.array(2, np.int64), "trips"), s.constant(np.array(True), "go")
    return s.op("Loop", trips, go, x, outer=[x], body=body)


def _refused(s: Sketch, word: str, y: Value) -> Value:
    s.refusal, s.refused = word, [*s.refused, y]
    return y


def lstm(s: Sketch) -> Value:
    """An LSTM over the rows."""
    x = s.take(lambda v: v.real and len(v.shape) == 3)
    k, h = x.shape[-1], 4
    y = s.op("LSTM", x, s.floats(1, 4 * h, k, spread=0.2), s.floats(1, 4 * h, h, spread=0.2), hidden_size=h)
    return _refused(s, "LSTM", y)


def unknown(s: Sketch) -> Value:
    """An operator of a domain that nobody knows."""
    x = s.real()
    y = s.op("Identity", x)
    s.ops[-1] = type(s.ops[-1])("Mystery", (x.name,), (y.name,), (), "com.example")
    return _refused(s, "Mystery", y)


def float8(s: Sketch) -> Value:
    """A weight of 8-bit floats behind a Cast."""
    if s.opset < 19:
        raise Unfit("no float8 yet")
    x = s.take(lambda v: v.real and len(v.shape) >= 2 and v.shape[-1] <= 48)
    y = s.op("MatMul", x, s.floats(x.shape[-1], 6, spread=0.2))
    name = s.ops[-1].inputs[1]
    tensor = numpy_helper.from_array(s.constants[name], name)
    raw = helper.make_tensor(f"{name}.f8", TensorProto.FLOAT8E4M3FN, tensor.dims, s.constants[name].ravel().tolist())
    value = s.constant(numpy_helper.to_array(raw), "weight")
    cast = s.name("cast")
    s.samples[cast] = s.constants[name]
    s.ops.insert(len(s.ops) - 1, type(s.ops[-1])("Cast", (value.name,), (cast,), (("to", TensorProto.FLOAT),)))
    last = s.ops[-1]
    s.ops[-1] = type(last)(last.kind, (x.name, cast), last.outputs)
    return _refused(s, "FLOAT8", y)


BODIES: tuple[Callable[[Sketch], Value], ...] = (if_, if_, if_, if_, loop)
REFUSED: tuple[Callable[[Sketch], Value], ...] = (lstm, unknown, float8)
