"""Merge low-rank branches into the weights, before quantization: the model then has no adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.attach import find_linear
from axlora.compiler.frontend.found import FoundLinear
from axlora.compiler.frontend.peft import PeftLora, read_peft, read_peft_modules

Float64 = npt.NDArray[np.float64]


def merge_graph(found: tuple[FoundLinear, ...]) -> tuple[FoundLinear, ...]:
    """The linears with the branches of the graph in their weights; codes of the file give way to floats there."""
    return tuple(_with_branches(f) if f.loras else f for f in found)


def _with_branches(found: FoundLinear) -> FoundLinear:
    weight, bias = found.weight, found.bias
    for lora in found.loras:
        weight = weight + lora.scale * (lora.a @ lora.b)
        weight = weight if lora.gain is None else weight * lora.gain
        bias = bias if lora.bias is None else bias + lora.bias
    return replace(found, reals=weight, codes=None, bias=bias, loras=())


def _with_peft(found: FoundLinear, lora: PeftLora) -> FoundLinear:
    weight = found.weight + lora.scale * (lora.a @ lora.b)
    if lora.magnitude is not None:
        weight = weight * (lora.magnitude / np.maximum(np.linalg.norm(weight, axis=0), 1e-30))
    bias = found.bias if lora.base_bias is None else lora.base_bias
    bias = bias if lora.bias is None else bias + lora.scale * lora.bias
    return replace(found, reals=weight, codes=None, bias=bias)


def merge_peft(
    found: tuple[FoundLinear, ...], name: str, path: str | Path, adapter_map: Mapping[str, str] | None
) -> tuple[FoundLinear, ...]:
    """The linears with a PEFT directory merged into their weights.

    Raises:
        BadAdapter: as `read_peft` and `find_linear`; shapes that do not fit.
    """
    where = f"adapter {name!r} ({path})"
    result = {f.name: f for f in found}

    def linear(module: str, shape: tuple[int, ...]) -> FoundLinear:
        chosen = result[find_linear(module, tuple(result.values()), adapter_map, where).name]
        if shape not in (chosen.shape, ()):
            what = f"module {module!r} is {' to '.join(map(str, shape))}, linear {chosen.name!r} is {chosen.shape[0]} to "
            what += str(chosen.shape[1])
            raise BadAdapter(what, where, "this adapter belongs to another base")
        return chosen

    for lora in read_peft(path):
        chosen = linear(lora.module, (lora.a.shape[0], lora.b.shape[1]))
        result[chosen.name] = _with_peft(chosen, lora)
    for whole in read_peft_modules(path):
        chosen = linear(whole.module, ())
        if whole.weight is not None:
            weight = whole.weight if whole.weight.shape == chosen.shape else whole.weight.T
            if weight.shape != chosen.shape:
                raise BadAdapter(f"module {whole.module!r} does not have the shape of {chosen.name!r}", where, "another base")
            chosen = replace(chosen, reals=weight, codes=None)
        result[chosen.name] = chosen if whole.bias is None else replace(chosen, bias=whole.bias)
    return tuple(result.values())
