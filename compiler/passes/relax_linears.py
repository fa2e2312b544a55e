"""The linears of a model through the Relax passes: canonical float form in, integer `ax_*` regions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from axlora.compiler.dump import Dump
from axlora.compiler.frontend.canonical import canonical
from axlora.compiler.frontend.tvm_import import compiled, import_onnx
from axlora.compiler.layer import Int64, Lowered
from axlora.compiler.passes.linear_calls import parameters
from axlora.compiler.passes.lower_linears import lower_linears
from axlora.compiler.passes.partition import flatten, linears_of, partition


@dataclass(frozen=True)
class RelaxLinears:
    """The lowered module; LLVM compiles it at the first `run`."""

    lowered: Lowered
    rank: int
    order: tuple[int, ...]
    """Linears in the order of their parameters."""
    module: Any
    """The Relax module after the last phase."""

    @cached_property
    def _vm(self) -> Any:
        return compiled(flatten(self.module))

    def run(
        self,
        codes: Mapping[str, Int64],
        adapter: str | None = None,
        token_scales: Mapping[str, tuple[Int64, Int64]] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Results by `Linear.output`: codes, or float32 where the output has 32 bits; arguments as `IntegerGraph.run`."""
        arguments = []
        for t in self.lowered.inputs:
            arguments.append(codes[t.name].astype(f"int{t.bits}"))
            if t.per_token:
                mantissa, shift = (token_scales or {})[t.name]
                arguments += [mantissa.reshape(-1, 1).astype(np.uint16), shift.reshape(-1, 1).astype(np.uint8)]
        for index in self.order:
            linear = self.lowered.linears[index]
            found = next((a for a in linear.adapters if a.name == adapter), None)
            arguments += parameters(linear, self.rank, found)
        result = self._vm["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments])
        values = [result] if len(self.lowered.linears) == 1 else list(result)
        return {linear.output: value.numpy() for linear, value in zip(self.lowered.linears, values, strict=True)}


def lower_to_relax(lowered: Lowered, rank: int, bits: int, dump: Dump | None = None) -> RelaxLinears:
    """Run the phases; each phase's text goes to `dump` if given.

    Args:
        rank: of the adapter branches; 0 for none.
        bits: the target's activation bits.
    """
    order: list[int] = []

    def integers(module: tvm.IRModule) -> tvm.IRModule:
        result, found = lower_linears(module, lowered, rank, bits)
        order.extend(found)
        return result

    phases: list[tuple[str, Callable[[tvm.IRModule], tvm.IRModule]]] = [
        ("lower_linears", integers),
        ("partition", lambda m: partition(m, rank)),
    ]
    module = import_onnx(canonical(lowered, rank))
    made = [("linears", module)]
    for name, phase in phases:
        module = phase(module)
        made.append((name, module))
    if dump is not None:
        dump.modules(made)
    on_accelerator = linears_of(module)
    lost = [linear.name for i, linear in enumerate(lowered.linears) if i not in on_accelerator]
    assert not lost, f"the passes put these linears into no region of the accelerator: {', '.join(lost)}"
    return RelaxLinears(lowered, rank, tuple(order), module)
