"""The host part of a model on the Relax VM: one function a stage, compiled by LLVM for the baseline CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from onnx import helper, numpy_helper

from axlora.compiler.frontend.host_graph import live, stages_after
from axlora.compiler.frontend.tvm_import import compiled, import_onnx, merged, refused
from axlora.compiler.layer import Host

Values = dict[str, npt.NDArray[Any]]


class HostPart:
    """A compiled host graph."""

    def __init__(self, host: Host) -> None:
        """Compile; takes a second or a few.

        Raises:
            UnsupportedOperator: TVM does not take an operator.
        """
        self.host = host
        graph = host.model.graph
        read = {name for node in graph.node for name in node.input} - set(host.outputs)
        self._constants: Values = {  # those that are outputs, or that a linear reads
            i.name: np.asarray(numpy_helper.to_array(i)) for i in graph.initializer if i.name not in read
        }
        arrivals = dict(host.arrivals)
        known = stages_after(graph.node, arrivals)
        self.last = max([0, *arrivals.values(), *known.values()])
        self._wanted: list[tuple[list[str], list[str]]] = []
        modules = {}
        for stage in range(self.last + 1):
            part, needs, gives = _stage_model(host.model, known, stage)
            self._wanted.append((needs, gives))
            if gives:
                modules[f"stage_{stage}"] = import_onnx(part, constants=True)
        self._vm: Any = None
        if modules:
            try:
                self._vm = compiled(merged(modules))
            except Exception as error:  # TVM and LLVM raise several types here
                raise refused(host.model, error) from error

    def run_stage(self, stage: int, values: Values) -> None:
        """Add to `values` what can be computed once the results of the stages before have arrived in it."""
        needs, gives = self._wanted[stage]
        if not gives:
            return
        result = self._vm[f"stage_{stage}"](*[tvm.runtime.tensor(np.asarray(values[name], order="C")) for name in needs])
        found = [result] if len(gives) == 1 else list(result)
        values.update({name: value.numpy() for name, value in zip(gives, found, strict=True)})

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], machine: Callable[[int, Values], Values]) -> Values:
        """Every stage in turn.

        Args:
            inputs: the model's inputs, of the model's types and shapes.
            machine: (stage, values so far) -> results of the linears of that stage.

        Returns:
            The model's outputs.
        """
        values = self._constants | dict(inputs)
        for stage in range(self.last + 1):
            self.run_stage(stage, values)
            if stage < self.last:
                values.update(machine(stage, values))
        return {name: values[name] for name in self.host.outputs}


def _stage_model(model: onnx.ModelProto, known: Mapping[str, int], stage: int) -> tuple[onnx.ModelProto, list[str], list[str]]:
    """The nodes of one stage as a model; the tensors that it takes and gives."""
    graph = model.graph
    nodes = [n for n in graph.node if known[n.output[0]] == stage]
    inside = {name for n in nodes for name in n.output if name}
    later = {name for n in graph.node if known[n.output[0]] > stage for name in n.input} | {o.name for o in graph.output}
    gives = [name for n in nodes for name in n.output if name in later]
    nodes = live(nodes, set(gives), set())
    used = list(dict.fromkeys(name for n in nodes for name in n.input if name))
    constants = {i.name: i for i in graph.initializer}
    needs = [name for name in used if name not in inside and name not in constants]
    kinds = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    part = helper.make_model(
        helper.make_graph(
            nodes,
            f"stage_{stage}",
            [kinds[name] for name in needs],
            [kinds[name] for name in gives],
            [constants[name] for name in used if name in constants],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    return part, needs, gives
