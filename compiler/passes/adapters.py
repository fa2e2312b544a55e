"""Attach adapters to quantized linears: from the graph itself, or from PEFT directories, at compile time or later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from axlora.compiler.errors import BadAdapter, UnsupportedOperator
from axlora.compiler.frontend.attach import find_linear
from axlora.compiler.frontend.base_weights import BaseWeights, linear_of_weights
from axlora.compiler.frontend.found import GraphLora
from axlora.compiler.frontend.peft import PeftModule, read_peft, read_peft_modules
from axlora.compiler.layer import Adapter, Linear, Lowered
from axlora.compiler.passes.quantize_adapter import Branch, quantize_adapter
from axlora.isa.target import Target

GRAPH = "graph"
"""Name of the adapter that a model's own branches make."""


def graph_branch(loras: tuple[GraphLora, ...]) -> Branch:
    """Branches of one linear as a single one: A side by side, s B below each other, biases added."""
    if len(loras) == 1:
        only = loras[0]
        bias = None if only.bias is None else only.bias / (only.scale or 1.0)
        return Branch(only.a, only.b, only.scale, bias, gain=only.gain)
    if any(x.gain is not None for x in loras):
        raise UnsupportedOperator("DoRA beside another branch on one linear", "graph", "export one adapter at a time")
    a = np.concatenate([x.a for x in loras], axis=1)
    b = np.concatenate([x.scale * x.b for x in loras], axis=0)
    biases = [x.bias for x in loras if x.bias is not None]
    return Branch(a, b, 1.0, np.sum(biases, axis=0) if biases else None)


def input_bits(lowered: Lowered) -> dict[str, int]:
    """Bits of the codes of every tensor that a linear reads."""
    return {t.name: t.bits for t in lowered.inputs}


def peft_adapters(
    linears: tuple[Linear, ...],
    bits: Mapping[str, int],
    name: str,
    path: str | Path,
    target: Target,
    adapter_map: Mapping[str, str] | None = None,
    max_lora_rank: int | None = None,
    base: str | Path | None = None,
) -> dict[str, Adapter]:
    """Quantize a PEFT directory for `linears`: linear's name -> its adapter.

    Args:
        bits: of the codes of every tensor that a linear reads.
        adapter_map: module -> node, where names do not tell.
        max_lora_rank: refuse wider ones.
        base: directory of the model it was trained on: where names do not tell, equal weights do.

    Raises:
        BadAdapter: see `read_peft`, `find_linear`, `quantize_adapter`; also shapes that do not fit, two modules for one linear.
    """
    result: dict[str, Adapter] = {}
    where = f"adapter {name!r} ({path})"

    def add(module: str, linear: Linear, branch: Branch) -> None:
        if linear.name in result:
            raise BadAdapter(f"two modules mean the linear {linear.name!r}", where, "give --adapter-map")
        if (branch.a.shape[0], branch.b.shape[1]) != (linear.inputs, linear.n):
            raise BadAdapter(
                f"module {module!r} is {branch.a.shape[0]} to {branch.b.shape[1]}, linear {linear.name!r} is "
                f"{linear.inputs} to {linear.n}",
                where,
                "this adapter belongs to another base",
            )
        smooth = linear.grid.smooth if linear.grid is not None else None
        scaled = branch if smooth is None else replace(branch, a=branch.a * smooth[:, None])
        result[linear.name] = quantize_adapter(linear, name, scaled, target, bits[linear.input])

    weights = BaseWeights(base) if base is not None else None

    def find(module: str) -> Linear:
        try:
            return find_linear(module, linears, adapter_map, where)
        except BadAdapter:
            if weights is None:
                raise
        return linear_of_weights(module, linears, weights, where)

    known = {x.node for x in linears} | {x.name for x in linears}
    for module, node in (adapter_map or {}).items():
        if node not in known:
            raise BadAdapter(f"adapter map sends {module[:80]!r} to {node[:80]!r}, no linear", where, "fix the map")
    for lora in read_peft(path, max_lora_rank):
        linear = find(lora.module)
        add(lora.module, linear, Branch(lora.a, lora.b, lora.scale, lora.bias, lora.magnitude, base_bias=lora.base_bias))
    for whole in read_peft_modules(path):
        linear = find(whole.module)
        add(whole.module, linear, whole_branch(linear, whole, max_lora_rank, where))
    return result


def whole_branch(linear: Linear, module: PeftModule, max_lora_rank: int | None, where: str) -> Branch:
    """A module that was trained whole as a branch of full rank: its difference from the base, beside an identity.

    Raises:
        BadAdapter: another shape than the linear's, or a rank over the limit.
    """
    bias = module.bias
    if module.weight is None:
        return Branch(np.zeros((linear.inputs, 1)), np.zeros((1, linear.n)), 1.0, base_bias=bias)
    shapes = [module.weight.shape, module.weight.shape[::-1]]
    if (linear.inputs, linear.n) not in shapes or linear.grid is None:
        raise BadAdapter(
            f"module {module.module!r} is {' x '.join(map(str, module.weight.shape))}, linear {linear.name!r} is "
            f"{linear.inputs} x {linear.n}",
            where,
            "this adapter belongs to another base",
        )
    weight = module.weight if module.weight.shape == (linear.inputs, linear.n) else module.weight.T
    rank = min(linear.inputs, linear.n)
    if max_lora_rank is not None and rank > max_lora_rank:
        raise BadAdapter(f"module {module.module!r} needs rank {rank}, over the limit {max_lora_rank}", where, "raise it")
    base = linear.matrix() * linear.grid.w_scale
    if linear.grid.smooth is not None:
        base = base / linear.grid.smooth[:, None]
    delta = weight - base
    a, b = (delta, np.eye(rank)) if linear.n <= linear.inputs else (np.eye(rank), delta)
    return Branch(a, b, 1.0, base_bias=bias)


def add_adapter(
    lowered: Lowered,
    name: str,
    path: str | Path,
    target: Target,
    adapter_map: Mapping[str, str] | None = None,
    max_lora_rank: int | None = None,
    base: str | Path | None = None,
) -> Lowered:
    """`lowered` with one more adapter, read from a PEFT directory; nothing else changes.

    Raises:
        BadAdapter: as `peft_adapters`; also a name that is taken.
    """
    if name in lowered.adapters or not name:
        raise BadAdapter(f"adapter name {name!r} is taken or empty", str(path), "choose another name")
    found = peft_adapters(lowered.linears, input_bits(lowered), name, path, target, adapter_map, max_lora_rank, base)
    linears = tuple(replace(x, adapters=(*x.adapters, found[x.name])) if x.name in found else x for x in lowered.linears)
    return replace(lowered, linears=linears, adapters=(*lowered.adapters, name))
