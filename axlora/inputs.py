"""Random inputs for a program, for a first look without data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .program import Program
from .whole import Whole


def _rows_of(program: Program, name: str) -> int:
    """Smallest table that an integer input indexes (Gather along axis 0), or 2 if it indexes none."""
    graph = program.host.model.graph
    sizes = {i.name: i.dims[0] for i in graph.initializer if len(i.dims)}
    names, rows = {name}, []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in sizes:
            rows.append(int(sizes[node.input[0]]))
        elif names & set(node.input) and node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze"):
            names |= set(node.output)
    return min(rows, default=2)


def _of_whole(program: Whole, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Ids that index their tables, no padding."""
    shape, out = (program.batch, program.tokens), {}
    for name, kind in program.inputs.items():
        if name in program.tables:
            out[name] = rng.integers(0, len(program.tables[name]), shape).astype(kind)
        else:
            out[name] = np.broadcast_to(program.fixed.get(name, np.array(1)), shape).astype(kind)
    return out


def random_inputs(program: Program | Whole, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays of the program's shapes and types.

    Floats are normal, over the range of the static scale where a linear reads the input itself; integers index their table;
    a mask (an input with `mask` in its name) is all ones.
    """
    rng = np.random.default_rng(seed)
    if isinstance(program, Whole):
        return _of_whole(program, rng)
    scales = {i.tensor.source: i.tensor for i in program.inputs if not i.tensor.per_token}
    out: dict[str, npt.NDArray[Any]] = {}
    for name, (shape, dtype) in program.inputs_info.items():
        if "mask" in name.lower():
            out[name] = np.ones(shape, dtype)
        elif dtype.kind in "iu":
            out[name] = rng.integers(0, _rows_of(program, name), shape).astype(dtype)
        elif dtype.kind == "b":
            out[name] = np.ones(shape, dtype)
        elif name in scales:
            t = scales[name]
            top = 1 << (t.bits - 1)
            codes = np.clip(rng.normal(t.zero_point, top / 4, shape), -top, top - 1)
            out[name] = ((codes - t.zero_point) * t.scale).astype(dtype)
        else:
            out[name] = rng.normal(0, 1, shape).astype(dtype)
    return out
