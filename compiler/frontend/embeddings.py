"""Embeddings of a model: the constant matrices that Gather picks rows of, by the names of their modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.attach import ModulePath, module_path, scope_of
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.row_changes import TableInfo

SHARED = "shared"
"""What the one embedding of an encoder and a decoder is called."""


@dataclass(frozen=True)
class Table:
    """Rows that the model picks by ids."""

    paths: tuple[ModulePath, ...]
    """Of its modules, one for each place that picks rows of it; none: names do not tell."""
    shape: tuple[int, int]
    """(rows, features)."""
    held: Callable[[], Held | None]
    """Its values; None: they are in a form that is not read."""
    name: str = ""
    """Of its tensor."""
    picked: bool = False
    """Whether the host picks its rows for the first rows of the machine: then adapters may change them."""
    tied: tuple[str, ...] = ()
    """Linears whose weight is the same matrix."""

    def info(self, scale: float) -> TableInfo:
        """What a package keeps of it; `scale`: what the rows that are picked are times."""
        return TableInfo(self.name, tuple(".".join(path.parts) for path in self.paths), scale, self.tied)

    def is_of(self, path: ModulePath) -> bool:
        """Whether a module is this table by its name: T5 and BART call one of an encoder and a decoder `shared`."""
        return any(own.agrees(path) for own in self.paths) or (path.rest[-1:] == (SHARED,) and len(self.paths) > 1)

    def shared_by(self, linears: Sequence[Candidate]) -> tuple[str, ...]:
        """The linears whose weight is the table [features, rows]."""
        shaped = [x for x in linears if x.shape == self.shape[::-1]]
        held = self.held() if shaped else None
        return () if held is None else tuple(x.name for x in shaped if x.held().equals(held.values.T))


def of_array(values: npt.NDArray[np.generic], info: TableInfo) -> Table:
    """A table of a package."""
    paths = tuple(module_path(module) for module in info.modules)
    shape = (values.shape[0], values.shape[1])
    return Table(paths, shape, lambda: Held(values.astype(np.float64) / info.scale), info.name, True, info.tied)


def tables_of(g: Graph) -> tuple[Table, ...]:
    """The tables of a graph, each once."""
    found: dict[str, Table] = {}
    constants = {i.name for i in g.model.graph.initializer}
    for node in g.nodes:
        if node.op_type != "Gather":
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
        if name in found:
            own = found[name]
            found[name] = own if path in own.paths else replace(own, paths=(*own.paths, path))
            continue
        found[name] = Table((path,), (shape[0], shape[1]), _reader(g, name, node.output[0]), name)
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
