"""How far each linear's result is from the float weights' on the same input: one sample through the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.layer import Lowered
from axlora.compiler.reference.integer_graph import IntegerGraph
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target


def layer_errors(
    lowered: Lowered, found: tuple[FoundLinear, ...], target: Target, sample: Mapping[str, npt.NDArray[Any]]
) -> dict[str, float]:
    """Linear's name -> root mean square of (result - float result) over that of the float result, without adapters."""
    reference = Reference(IntegerGraph.build(lowered, target))
    reference.run(sample)
    real = {f.name: f for f in found}
    tensors = {t.name: t for t in lowered.inputs}
    errors = {}
    for linear, out in zip(lowered.linears, lowered.outputs, strict=True):
        x = reference.values[tensors[linear.input].source].reshape(-1, linear.inputs)
        if x.dtype.kind == "i":
            t = tensors[linear.input]
            x = (x.astype(np.float64) - t.zero_point) * t.scale
        wanted = x.astype(np.float64) @ real[linear.name].weight + real[linear.name].bias
        got = (reference.codes[linear.output] - out.zero_point) * out.scale
        errors[linear.name] = float(np.sqrt(((got - wanted) ** 2).mean() / max(float((wanted**2).mean()), 1e-30)))
    return errors
