"""Several adapters as one, each with a weight: `DIR@0.7,DIR@0.3`, whose branches are stacked (PEFT's combination `cat`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import Base, Dense, PeftChange, PeftContent, PeftLora
from axlora.compiler.frontend.peft import read_content

_WEIGHTED = re.compile(r"(.+)@([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
Part = tuple[Path, float]


def parts_of(path: str | Path) -> list[Part]:
    """The adapters that a text names, and the weight of each; 1 where it says none, or where it is the path of one."""
    text = str(path)
    if Path(text).exists():
        return [(Path(text), 1.0)]
    pieces = [(piece, _WEIGHTED.fullmatch(piece)) for piece in text.split(",")]
    return [(Path(found[1]), float(found[2])) if found else (Path(piece), 1.0) for piece, found in pieces]


def read_mixture(path: str | Path, max_lora_rank: int | None = None) -> PeftContent:
    """What `read_content` gives of one adapter, or of the weighted sum of several: y += sum of weight * scale * (x.A).B.

    Raises:
        BadAdapter: as `read_content` of each; of a sum also what does not add up (DoRA, trained biases and modules), or a rank
            over `max_lora_rank` in all.
    """
    parts = parts_of(path)
    if len(parts) == 1 and parts[0][1] == 1:
        return read_content(parts[0][0], max_lora_rank)
    contents = [(read_content(part, max_lora_rank), weight, str(part)) for part, weight in parts]
    for content, _, where in contents:
        _check_sum(content, where)
    branches: dict[str, list[tuple[PeftLora, float]]] = {}
    changes: dict[str, list[tuple[PeftLora | PeftChange, float]]] = {}
    for content, weight, _ in contents:
        for lora in content.loras:
            branches.setdefault(lora.module, []).append((lora, weight))
        for change in content.changes:
            changes.setdefault(change.module, []).append((change, weight))
    for module in changes.keys() & branches.keys():
        changes[module] += branches.pop(module)
    loras = tuple(_stacked(module, own, str(path), max_lora_rank) for module, own in sorted(branches.items()))
    embeddings = tuple(replace(rows, weight=weight) for content, weight, _ in contents for rows in content.embeddings)
    notices = tuple(notice for content, _, _ in contents for notice in content.notices)
    dense = tuple(_summed(own) for _, own in sorted(changes.items()))
    return PeftContent(loras, (), embeddings, dense, notices)


def _summed(parts: Sequence[tuple[PeftLora | PeftChange, float]]) -> PeftChange:
    """The weighted sum of changes of one module, some of which depend on its base; of its bias too."""
    module = parts[0][0].module
    tuner = " + ".join(sorted({x.tuner if isinstance(x, PeftChange) else "LoRA" for x, _ in parts}))

    def of(base: Base) -> Dense:
        delta, bias = np.zeros(base.shape), base.bias
        for part, weight in parts:
            change = part.of(base) if isinstance(part, PeftChange) else part
            if isinstance(change, Dense):
                delta += weight * change.delta
                bias = bias if change.bias is None else bias + weight * (change.bias - base.bias)
                continue
            delta += weight * change.scale * (change.a @ change.b)
            if change.gain is not None:
                delta += weight * (change.gain - 1) * base.weight
            if change.base_bias is not None:
                bias = bias + weight * (change.base_bias - base.bias)
            if change.bias is not None:
                bias = bias + weight * change.scale * change.bias
        return Dense(delta, bias)

    outputs = [x.outputs if isinstance(x, PeftChange) else x.b.shape[1] for x, _ in parts]
    return PeftChange(module, tuner, of, next((n for n in outputs if n is not None), None))


def _check_sum(content: PeftContent, where: str) -> None:
    """Raises `BadAdapter` for what has no sum with another adapter's."""
    hint = "give this adapter by itself, with weight 1"
    for lora in content.loras:
        if lora.magnitude is not None:
            raise BadAdapter(f"module {lora.module!r}: a magnitude of DoRA is part of no sum", where, hint)
        if lora.base_bias is not None:
            raise BadAdapter(f"module {lora.module!r}: a trained bias of the base is part of no sum", where, hint)
    for module in content.modules:
        if module.listed:
            raise BadAdapter(f"module {module.module!r} was trained whole and is part of no sum", where, hint)


def _stacked(module: str, parts: Sequence[tuple[PeftLora, float]], where: str, limit: int | None) -> PeftLora:
    """The branches of one module as one: A side by side, weight * scale * B below each other, biases added."""
    shapes = {(lora.a.shape[0], lora.b.shape[1]) for lora, _ in parts}
    if len(shapes) > 1:
        sizes = " and ".join(f"{k} x {n}" for k, n in sorted(shapes))
        raise BadAdapter(f"module {module!r} is {sizes}", where, "sum adapters of one model")
    rank = sum(lora.rank for lora, _ in parts)
    if limit is not None and rank > limit:
        raise BadAdapter(f"module {module!r}: rank {rank} in all is over the limit {limit}", where, "raise max_lora_rank")
    a = np.concatenate([lora.a for lora, _ in parts], axis=1)
    b = np.concatenate([weight * lora.scale * lora.b for lora, weight in parts], axis=0)
    biases = [weight * lora.scale * lora.bias for lora, weight in parts if lora.bias is not None]
    return PeftLora(module, a, b, 1.0, np.sum(biases, axis=0) if biases else None, None)
