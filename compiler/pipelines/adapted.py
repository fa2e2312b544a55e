"""What every pipeline does with branches and adapters: into the weights, or beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.embeddings import Table
from axlora.compiler.frontend.merge import Merged, merged
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.frontend.smoothing import Inputs
from axlora.compiler.layer import Linear, Lowered, Placement, Tensor
from axlora.compiler.passes.adapters import GRAPH, Origin, add_adapter, graph_branch, graph_matches
from axlora.compiler.passes.quantize_adapter import quantize_adapter
from axlora.compiler.passes.quantize_linear import quantize_linear
from axlora.compiler.passes.survival import survived
from axlora.compiler.pipelines.options import CompileOptions
from axlora.isa.target import Target

Float64 = npt.NDArray[np.float64]
Found = tuple[FoundLinear, ...]


def merge(found: Found, tables: Sequence[Table], target: Target, options: CompileOptions) -> tuple[Merged, CompileOptions]:
    """(the model with branches and adapters in its weights, the options without adapters), if that is asked for."""
    if not options.merge:
        return Merged(found), options
    after = merged(found, options.files, options.matching, tables)
    notices = after.notices + survived(found, after.linears, target, options.usual_bits)
    return replace(after, notices=notices), replace(options, adapters=None)


def with_gram(found: FoundLinear, inputs: Inputs, name: str) -> FoundLinear:
    """The linear with what its weight is rounded for, where the file holds floats and calibration looked at that value."""
    return found if found.codes is not None else replace(found, gram=inputs.grams.get(name))


def unrounded(found: Found, options: CompileOptions) -> tuple[str, ...]:
    """A notice where the quantizer that is asked for has no weight to round."""
    asked = options.quantizer == "gptq" and all(each.gram is None for each in found)
    return ("the file holds codes for every weight that calibration looks at: gptq changes none",) if asked else ()


def smoothed(found: FoundLinear, by: Float64) -> FoundLinear:
    """The linear whose weights, and whose branches' A, take what the channels of x are divided by [k]."""
    loras = tuple(replace(lora, a=lora.a * by[:, None]) for lora in found.loras)
    gram = None if found.gram is None else found.gram / np.outer(by, by)
    return replace(found, smooth=by, reals=found.weight * by[:, None], loras=loras, gram=gram)


def quantized(found: FoundLinear, x: Activation, target: Target, weight_bits: int, **layout: Any) -> tuple[Linear, Activation]:
    """(the linear, with the branches that the graph itself holds, and its result); `layout` as of `quantize_linear`."""
    linear, y = quantize_linear(found, x, target, weight_bits, **layout)
    if found.loras:
        own = quantize_adapter(linear, GRAPH, graph_branch(found.loras), target, x.bits)
        linear = replace(linear, adapters=(own,))
    return linear, y


def adapted(
    linears: Sequence[Linear],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    placement: tuple[Placement, ...],
    origin: Origin,
    target: Target,
    options: CompileOptions,
) -> Lowered:
    """The linears with their adapters.

    Raises:
        BadAdapter: as `add_adapter`.
    """
    own = (GRAPH,) if any(linear.adapters for linear in linears) else ()
    matches = dict.fromkeys(own, graph_matches(linears))
    default = own[0] if own else None
    lowered = Lowered(tuple(linears), tuple(inputs), tuple(outputs), placement, own, default, matches=matches)
    for name, path in options.files.items():
        lowered = add_adapter(lowered, name, path, target, options.matching, options.max_lora_rank, origin)
    return lowered
