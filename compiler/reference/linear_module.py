"""A model with a host part as one Relax module run by LLVM: host, boundaries and the integers of the linears."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from onnx import numpy_helper

from axlora.compiler.frontend.bounds import bound_indices
from axlora.compiler.frontend.tvm_import import compiled
from axlora.compiler.layer import Lowered
from axlora.compiler.passes.linear_calls import parameters
from axlora.compiler.passes.partition import flatten


class LinearModule:
    """Runs `Lowered.regions`; LLVM compiles it at the first `run`."""

    def __init__(self, lowered: Lowered) -> None:
        """`lowered`: of a model, not of linears made by hand."""
        assert lowered.regions is not None
        assert lowered.host is not None
        self._lowered, self._regions, self._host = lowered, lowered.regions, lowered.host

    @cached_property
    def _run(self) -> Any:
        return compiled(bound_indices(flatten(self._regions.module)))["main"]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], adapter: str | None = None) -> dict[str, npt.NDArray[Any]]:
        """The model's outputs by name, of the base or under an adapter.

        Args:
            inputs: the model's inputs, of its types and shapes.
        """
        weights = {i.name: i for i in self._host.model.graph.initializer}
        arguments = [inputs[n] if n in inputs else numpy_helper.to_array(weights[n]) for n in self._regions.arguments]
        by_name = {linear.name: linear for linear in self._lowered.linears}
        for linear in (by_name[name] for name in self._regions.linears):
            own = next((a for a in linear.adapters if a.name == adapter), None)
            arguments += parameters(linear, self._regions.rank, own)
        result = self._run(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments])
        return {name: value.numpy() for name, value in zip(self._host.outputs, result, strict=True)}
