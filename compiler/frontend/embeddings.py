"""Embeddings of a model: the constant matrices that Gather picks rows of, by the names of their modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.attach import ModulePath, module_path, scope_of
from axlora.compiler.frontend.held import Held
from axlora.compiler.frontend.onnx_graph import Graph


@dataclass(frozen=True)
class Table:
    """Rows that the model picks by ids."""

    path: ModulePath | None
    """Of its module; None: names do not tell."""
    shape: tuple[int, int]
    """(rows, features)."""
    held: Callable[[], Held | None]
    """Its values; None: they are in a form that is not read."""


def of_array(values: npt.NDArray[np.generic]) -> Table:
    """A table of a package, where names are gone."""
    return Table(None, (values.shape[0], values.shape[1]), lambda: Held(values.astype(np.float64)))


def tables_of(g: Graph) -> tuple[Table, ...]:
    """The tables of a graph, each once."""
    found: dict[str, Table] = {}
    constants = {i.name for i in g.model.graph.initializer}
    for node in g.nodes:
        if node.op_type != "Gather" or node.input[0] in found:
            continue
        name = node.input[0]
        source = g.node_of(name)
        if name not in constants and (source is None or source.op_type not in ("Constant", "Identity", "DequantizeLinear")):
            continue
        shape = g.shape(name)
        if len(shape) != 2:
            continue
        of_node = [node.name.removesuffix("/Gather")] if "/" in node.name else []
        path = module_path([*scope_of(node), *of_node, _bare(name)][0])
        found[name] = Table(path, (shape[0], shape[1]), _reader(g, name, node.output[0]))
    return tuple(found.values())


def _bare(name: str) -> str:
    for ending in ("_DequantizeLinear_Output", "_quantized", ".weight"):
        name = name.removesuffix(ending)
    return name


def _reader(g: Graph, name: str, rows: str) -> Callable[[], Held | None]:
    """How to read a table: floats, or codes with one scale before or behind the Gather."""

    def read() -> Held | None:
        value = g.real(name)
        if value is None:
            return None
        source = g.node_of(name)
        behind = [g.nodes[i] for i in g.readers.get(rows, []) if g.nodes[i].op_type == "DequantizeLinear"]
        dequantize = source if source is not None and source.op_type == "DequantizeLinear" else next(iter(behind), None)
        if dequantize is None:
            return Held(value)
        scale = g.constant(dequantize.input[1])
        if scale is None or scale.size not in (1, value.shape[1]):
            return None
        if dequantize is not source:
            zero = g.constant(dequantize.input[2]) if len(dequantize.input) > 2 else np.zeros(1)
            if zero is None:
                return None
            value = (value - zero.astype(np.float64)) * scale.astype(np.float64)
        return Held(value, np.broadcast_to(scale.astype(np.float64), value.shape))

    return read
