"""Inputs of a model that a user fixes to one value: they become constants, so that what hangs on them folds away."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.errors import BadModel

_ELEMENTS = 1 << 16
"""Most elements of an input that may be fixed."""


def fix_inputs(model: onnx.ModelProto, values: Mapping[str, float], where: str) -> onnx.ModelProto:
    """A copy of a model in which each named input is a constant, all of its elements the value given.

    Args:
        values: input -> value; truth values as 0 and 1.
        where: the model, for messages.

    Raises:
        BadModel: no such input, one of free or large shape, or a value that its type does not hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for name, value in values.items():
        place = next((i for i, v in enumerate(graph.input) if v.name == name), None)
        if place is None:
            raise BadModel(f"no input {name!r} to fix", where, f"inputs: {', '.join(v.name for v in graph.input)}")
        kind = graph.input[place].type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        if -1 in shape or prod(shape) > _ELEMENTS:
            raise BadModel(f"input {name!r} of shape {shape} to fix", where, f"a fixed shape of {_ELEMENTS} elements at most")
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        with np.errstate(all="ignore"):
            array = np.full(shape, value).astype(dtype)
        if (array.astype(np.float64) != value).any():
            raise BadModel(f"input {name!r} fixed to {value}, which is no {dtype}", where, f"a {dtype}")
        del graph.input[place]
        graph.initializer.append(numpy_helper.from_array(array, name))
    return result
