"""Random models: a hypothesis strategy over what people's graphs hold.

Every node is run by onnxruntime while the model is drawn, so shapes, types and sizes of values are known and right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from bodies import BODIES, REFUSED
from hypothesis import strategies as st
from linears import LINEARS
from operators import OPERATORS
from sketch import Array, Sketch, Value, assemble

OPSETS = (18, 17, 21, 13)


@dataclass(frozen=True)
class Drawn:
    """A model, inputs for it, and what it must be refused for."""

    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    """Those that scales of activations were chosen for: nothing saturates."""
    refusal: str = ""
    """A word that the refusal must hold; empty: it need not be refused."""

    def __repr__(self) -> str:
        lines = [f"{n.op_type}({', '.join(n.input)}) -> {', '.join(n.output)}" for n in self.model.graph.node]
        return "\n".join(["Drawn:", *lines, f"outputs {[o.name for o in self.model.graph.output]}"])


def _first_inputs(s: Sketch) -> None:
    """One to three float inputs: tokens and features, a batch of them, or one row."""
    for _ in range(s.pick([1, 1, 2, 3])):
        tokens, features = s.pick([4, 1, 2, 3, 8]), s.pick(s.widths)
        shape = s.pick([(tokens, features), (2, 3, features), (1, tokens, features), (tokens, features), (features,)])
        if s.inputs and s.chance(2):
            shape = s.inputs[0].shape
        s.feed(shape, spread=s.pick([1.0, 1.0, 0.05, 5.0]))
    if all(len(f.shape) < 2 for f in s.inputs):
        s.feed((3, s.widths[0]))


def _outputs(s: Sketch, last: Value) -> list[Value]:
    """The last value; most of what nothing reads; some of what is read; now and then a constant or an input."""
    read = {name for op in s.ops for name in (*op.inputs, *op.outer)}
    made = {name for op in s.ops for name in op.outputs}
    outputs = [last, *(s.refused if last not in s.refused else [])]
    for value in s.values:
        if value.name in made and value not in outputs and s.chance(8 if value.name in read else 2):
            outputs.append(value)
    if s.chance(14):
        outputs.append(s.constant(s.random.normal(0, 1, (3,)).astype(np.float32), "constant"))
    if s.chance(14):
        outputs.append(s.pick(s.inputs))
    return s.draw(st.permutations(outputs)) if len(outputs) > 1 else outputs


@st.composite
def models(draw: st.DrawFn) -> Drawn:
    """A model of 2 to about 15 nodes with a linear in it."""
    s = Sketch(
        draw,
        draw(st.sampled_from(OPSETS)),
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(st.sampled_from(["plain", "torch", "scopes", "bare"])),
        tuple(draw(st.lists(st.sampled_from([8, 4, 16, 5, 12, 24, 33, 40]), min_size=1, max_size=3))),
        constant_nodes=draw(st.integers(0, 3)) == 3,
    )
    _first_inputs(s)
    most, linear_at = draw(st.integers(2, 15)), draw(st.integers(0, 3))
    refused_at = draw(st.integers(0, 255))
    step, done = 0, False
    while len(s.ops) < most and step < 16:
        if step == refused_at:
            s.try_step(s.pick(REFUSED))
        elif step == linear_at:
            done = s.try_step(s.pick(LINEARS))
        else:
            groups = [OPERATORS, OPERATORS, LINEARS, OPERATORS, LINEARS] + ([BODIES] if s.chance(5) else [])
            s.try_step(s.pick(s.pick(groups)))
        step += 1
    if not done or s.chance(2):
        s.try_step(LINEARS[0])
    if s.chance(10):
        s.feed((2, 3))  # read by nothing
    made = {name for op in s.ops for name in op.outputs}
    last = next(v for v in reversed(s.values) if v.name in made)
    outputs = _outputs(s, last)
    return Drawn(assemble(s, outputs), {v.name: s.samples[v.name] for v in s.inputs}, s.refusal)
