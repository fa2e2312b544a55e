"""Exports of decoders with caches: the caches given are empty, and those made are not wanted; the machine keeps its own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.errors import UnsupportedOperator

RANK = 4
"""Of a cache: [batch, heads, tokens, features]."""


def is_cache(name: str) -> bool:
    """Whether an input is a cache, by the exporters' names: `past_key_values.0.key`, `past_0_key`."""
    return "past" in name and "length" not in name


def drop_caches(model: onnx.ModelProto) -> None:
    """Make the caches that a graph takes empty constants, and leave out those that it gives, in place.

    Raises:
        UnsupportedOperator: a cache of another form, or an output that is neither the first nor a cache of keys and values.
    """
    graph = model.graph
    caches = [v for v in graph.input if is_cache(v.name)]
    if not caches:
        return
    for value in caches:
        dims = value.type.tensor_type.shape.dim
        if len(dims) != RANK or not dims[1].dim_value or not dims[3].dim_value:
            hint = "caches [batch, heads, tokens, features] with fixed heads and features, or an export without"
            raise UnsupportedOperator(f"cache {value.name!r} of another form", f"input {value.name!r}", hint)
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        empty = np.zeros((1, dims[1].dim_value, 0, dims[3].dim_value), kind)
        graph.initializer.append(numpy_helper.from_array(empty, value.name))
        graph.input.remove(value)
    for value in [o for o in graph.output[1:] if "present" in o.name]:
        graph.output.remove(value)
    if len(graph.output) > 1:
        raise UnsupportedOperator(
            f"output {graph.output[1].name!r} beside logits and caches", "outputs", "export the logits alone"
        )
