"""The whole model with the integer graph in the machine's place: what simulator, Verilog and board must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.boundary import quantize, restore
from axlora.compiler.errors import BadModel
from axlora.compiler.host import HostPart, Values
from axlora.compiler.layer import Int64
from axlora.compiler.reference.integer_graph import IntegerGraph


class Reference:
    """Runs a lowered model: host part on the Relax VM, linears in the integer graph."""

    def __init__(self, graph: IntegerGraph) -> None:
        """`graph`: of a model, not of linears made by hand."""
        if graph.lowered.host is None:
            raise BadModel("linears without a model around them", "reference", "use IntegerGraph.run")
        self.graph = graph
        self.host = HostPart(graph.lowered.host)
        self.codes: dict[str, Int64] = {}
        """Result codes [tokens, n] of every linear in the last run, by `Linear.output`."""
        self.seen: dict[str, Int64] = {}
        """Input codes [tokens, k] of the last run, by `Linear.input`."""
        self.values: Values = {}
        """What the linears read in the last run, by tensor of the host graph."""

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], adapter: str | Sequence[str | None] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name, under one adapter, the base (None), or one of them for each batch row."""
        self.codes, self.seen, self.values = {}, {}, {}
        rows = [adapter] if adapter is None or isinstance(adapter, str) else list(adapter)
        return self.host.run(inputs, lambda stage, values: self._stage(stage, values, rows))

    def _stage(self, stage: int, values: Values, rows: list[str | None]) -> Values:
        lowered = self.graph.lowered
        linears = [(i, linear) for i, linear in enumerate(lowered.linears) if linear.stage == stage]
        tensors = {t.name: t for t in lowered.inputs}
        read = {name: quantize(tensors[name], values[tensors[name].source]) for name in {li.input for _, li in linears}}
        self.values |= {tensors[name].source: values[tensors[name].source] for name in read}
        codes = {name: q.codes for name, q in read.items()}
        scales = {name: (q.mantissa, q.shift) for name, q in read.items() if q.mantissa is not None and q.shift is not None}
        found: dict[str | None, dict[str, Int64]] = {
            name: self.graph.run_stage(stage, codes, name, scales) for name in dict.fromkeys(rows)
        }
        result: Values = {}
        for index, linear in linears:
            tokens = tensors[linear.input].tokens
            owner = np.repeat(np.arange(len(rows)), tokens // len(rows))
            whole = np.stack([found[name][linear.output] for name in rows])[owner, np.arange(tokens)]
            self.codes[linear.output] = whole
            t = lowered.outputs[index]
            result[t.source] = restore(t, whole)
        self.seen |= codes
        return result
