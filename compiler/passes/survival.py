"""How much of a change that was merged into weights is left once they are rounded to codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.passes.quantize_linear import rounded
from axlora.isa.target import Target

Float64 = npt.NDArray[np.float64]


def survived(
    before: tuple[FoundLinear, ...], after: tuple[FoundLinear, ...], target: Target, weight_bits: int
) -> tuple[str, ...]:
    """A line on the linears whose weights differ: the part of their change that the change in codes has along it.

    Codes that a file holds are the base's; floats are rounded as `quantize_linear` does, before what calibration smooths.
    """

    parts: dict[str, float] = {}
    wanted = kept = along = 0.0
    for old, new in zip(before, after, strict=True):
        if old.reals is new.reals:
            continue
        weight, base = new.weight, old.weight
        delta = weight - base
        change = rounded(weight, weight_bits, target) - (base if old.codes is not None else rounded(base, weight_bits, target))
        own, common = float((delta**2).sum()), float((delta * change).sum())
        if own == 0:
            continue
        parts[old.name] = common / own
        wanted, kept, along = wanted + own, kept + float((change**2).sum()), along + common
    if not parts:
        return ()
    least = min(parts, key=lambda name: parts[name])
    linears = f"{len(parts)} linear{'s' if len(parts) > 1 else ''}"
    one = f"merged into the codes of {linears}: {along / wanted:.1%} of the change is left"
    rest = f"least in {least!r}, {parts[least]:.1%}; the change in codes has {np.sqrt(kept / wanted):.3f} times its norm"
    return (f"{one} ({rest})",)
