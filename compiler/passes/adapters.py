"""Attach adapters to quantized linears: from the graph itself, or from PEFT directories, at compile time or later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from axlora.compiler.errors import BadAdapter, UnsupportedOperator
from axlora.compiler.frontend.adapter_content import PeftModule
from axlora.compiler.frontend.embeddings import Table
from axlora.compiler.frontend.held import of_found, of_linear
from axlora.compiler.frontend.recognised import FoundLinear, GraphLora, in_model_order
from axlora.compiler.frontend.resolve import Matching, Resolved, resolve
from axlora.compiler.layer import Adapter, By, Linear, Lowered, ModuleMatch
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


@dataclass(frozen=True)
class Origin:
    """What an adapter is compared with besides codes: the file's own weights, at compile time, and the model's embeddings."""

    found: Sequence[FoundLinear] = ()
    """The linears of the graph; without them the codes of the quantized ones are taken."""
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Attached:
    """A PEFT directory quantized for linears."""

    adapters: Mapping[str, Adapter]
    """Linear's name -> its adapter."""
    resolved: Resolved


def graph_matches(linears: Sequence[Linear]) -> tuple[ModuleMatch, ...]:
    """The linears that the model's own branches change."""
    return tuple(sorted((ModuleMatch(x.name, x.name, By.GRAPH) for x in linears if x.adapters), key=lambda m: m.module))


def peft_adapters(
    linears: tuple[Linear, ...],
    bits: Mapping[str, int],
    name: str,
    path: str | Path,
    target: Target,
    matching: Matching | None = None,
    max_lora_rank: int | None = None,
    origin: Origin | None = None,
) -> Attached:
    """Quantize a PEFT directory for `linears`.

    Args:
        bits: of the codes of every tensor that a linear reads.
        matching: how its modules find their linears.
        max_lora_rank: refuse wider ones.

    Raises:
        BadAdapter: see `resolve`, `quantize_adapter`.
    """
    origin = origin or Origin()
    choice = [of_found(f) for f in origin.found] or [of_linear(linear) for linear in linears]
    resolved = resolve(name, path, choice, origin.tables, matching, max_lora_rank)
    where = f"adapter {name!r} ({path})"
    by_name = {linear.name: linear for linear in linears}
    branches = {
        own: Branch(x.a, x.b, x.scale, x.bias, x.magnitude, x.gain, x.base_bias) for x, own in resolved.loras
    }  # fmt: skip
    branches |= {own: whole_branch(by_name[own], x, max_lora_rank, where) for x, own in resolved.modules}

    def quantized(linear: Linear, branch: Branch) -> Adapter:
        smooth, order = (None, None) if linear.grid is None else (linear.grid.smooth, linear.grid.order)
        branch = branch if order is None else branch.ordered(order)
        scaled = branch if smooth is None else replace(branch, a=branch.a * smooth[:, None])
        return quantize_adapter(linear, name, scaled, target, bits[linear.input])

    return Attached({own: quantized(by_name[own], branch) for own, branch in branches.items()}, resolved)


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
    base = in_model_order(linear.matrix() * linear.grid.w_scale, linear.grid.order)
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
    matching: Matching | None = None,
    max_lora_rank: int | None = None,
    origin: Origin | None = None,
) -> Lowered:
    """`lowered` with one more adapter, read from a PEFT directory; nothing else changes.

    Raises:
        BadAdapter: as `peft_adapters`; also a name that is taken.
    """
    if name in lowered.adapters or not name:
        raise BadAdapter(f"adapter name {name!r} is taken or empty", str(path), "choose another name")
    made = peft_adapters(lowered.linears, input_bits(lowered), name, path, target, matching, max_lora_rank, origin)
    found = made.adapters
    linears = tuple(replace(x, adapters=(*x.adapters, found[x.name])) if x.name in found else x for x in lowered.linears)
    return replace(
        lowered,
        linears=linears,
        adapters=(*lowered.adapters, name),
        matches={**lowered.matches, name: made.resolved.matches},
        notices=(*lowered.notices, *made.resolved.notices),
        rows={**lowered.rows, name: made.resolved.rows},
    )
