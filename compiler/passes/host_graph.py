"""The whole model on the Relax VM: float host part, with the accelerator's regions as integer functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from tvm import relax

from axlora.compiler.frontend.tvm_import import import_onnx
from axlora.compiler.integer_graph import parameters
from axlora.compiler.layer import Lowered
from axlora.compiler.passes.lower_linears import lower_linears
from axlora.compiler.passes.partition import flatten, partition


def bind_host(module: tvm.IRModule) -> tvm.IRModule:
    """Bind the parameters that belong to no linear; those of linears keep their tag until they are lowered."""
    function = module["main"]
    count = int(function.attrs["num_input"])
    pairs = zip(function.params[count:], function.attrs["params"], strict=True)
    bound = {p: value for p, value in pairs if not str(p.name).startswith("ax")}
    return relax.transform.BindParams("main", bound)(module)


@dataclass(frozen=True)
class HostGraph:
    """The model; `run` is float in, float out. LLVM compiles it at the first run."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rank: int
    order: tuple[int, ...]
    """Linears in the order of their parameters."""
    lowered: Lowered
    module: Any
    """The Relax module after the last phase."""

    @cached_property
    def _vm(self) -> Any:
        return relax.VirtualMachine(relax.build(self.module, target="llvm"), tvm.cpu())

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], adapter: str | None = None) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs of the model by name, under one adapter or the base."""
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(inputs[name])) for name in self.inputs]
        for index in self.order:
            linear = self.lowered.linears[index]
            found = next((a for a in linear.adapters if a.name == adapter), None)
            arguments += [tvm.runtime.tensor(p) for p in parameters(linear, self.rank, found)]
        result = self._vm["main"](*arguments)
        values = [result] if len(self.outputs) == 1 else list(result)
        return {name: value.numpy() for name, value in zip(self.outputs, values, strict=True)}


def build_host_graph(
    model: onnx.ModelProto, lowered: Lowered, rank: int, bits: int, where: str, dump: Path | None = None
) -> HostGraph:
    """Run the phases on the canonical model and compile the result; each phase's text goes to `dump` if given."""
    order: list[int] = []

    def integers(module: tvm.IRModule) -> tvm.IRModule:
        result, found = lower_linears(module, lowered.linears, rank, bits)
        order.extend(found)
        return result

    phases: list[tuple[str, Callable[[tvm.IRModule], tvm.IRModule]]] = [
        ("bind_host", bind_host),
        ("lower_linears", integers),
        ("partition", lambda m: partition(m, rank)),
        ("flatten", flatten),
    ]
    module = import_onnx(model, where)
    _dump(dump, 0, "import", module)
    for number, (name, phase) in enumerate(phases, 1):
        module = phase(module)
        _dump(dump, number, name, module)
    constants = {i.name for i in model.graph.initializer}
    inputs = tuple(i.name for i in model.graph.input if i.name not in constants)
    outputs = tuple(o.name for o in model.graph.output)
    return HostGraph(inputs, outputs, rank, tuple(order), lowered, module)


def _dump(folder: Path | None, number: int, name: str, module: tvm.IRModule) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}_{name}.py").write_text(module.script())
