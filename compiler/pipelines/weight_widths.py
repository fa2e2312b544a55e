"""How many bits weights of floats get, linear by linear: the least error on calibration data for so many bytes.

A linear's error is that of its results, weights rounded to the nearest, as a part of those results; errors of linears add
up. What it costs is the bytes that are loaded of its weights, for these are what decoding waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import optimize

from axlora.compiler.backend.plan import Shape, tile_lines
from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.frontend.smoothing import Inputs
from axlora.compiler.passes.quantize_linear import SIGNED, group_rows, rounded
from axlora.compiler.pipelines.options import WEIGHT_BITS, CompileOptions
from axlora.isa.target import Target

Float64 = npt.NDArray[np.float64]
GAP = 1e-3
"""How near to the best choice the solver's is proved to be."""


def _bytes(found: FoundLinear, bits: int, target: Target) -> int:
    """What is loaded of a linear's weights, scales of groups too."""
    k, n = found.shape
    group = group_rows(target, bits)
    shape = Shape.sized(target, n, -(-k // target.lanes), SIGNED[bits], 32, group // target.lanes, 1, 0, 0)
    scales = shape.blocks // shape.per_group * shape.groups if shape.per_group else 0
    lines = tile_lines(shape, shape.groups, shape.blocks)
    return lines * target.wbuf_line_bytes + scales * target.sbuf_line_bytes


def _error(found: FoundLinear, rows: Float64, bits: int, target: Target) -> float:
    """||x (W - W')||^2 / ||x W||^2 over rows x [m, k] of calibration data."""
    weight = found.weight
    energy = float(((rows @ weight) ** 2).sum())
    return float(((rows @ (weight - rounded(weight, bits, target))) ** 2).sum()) / energy if energy else 0.0


def solved(errors: Float64, costs: Float64, budget: float) -> npt.NDArray[np.int64]:
    """The choice of each of n things that has the least sum of errors, the sum of their costs being within a budget.

    Args:
        errors, costs: [n, choices].

    Returns:
        [n]: the choices. A budget that some choice keeps is given.

    Raises:
        ValueError: no choice keeps the budget.
    """
    n, choices = errors.shape
    one = np.kron(np.eye(n), np.ones((1, choices)))
    limits = [optimize.LinearConstraint(one, 1, 1), optimize.LinearConstraint(costs.reshape(1, -1), -np.inf, budget)]
    bounds, options = optimize.Bounds(0, 1), {"mip_rel_gap": GAP}
    found = optimize.milp(
        errors.reshape(-1), integrality=np.ones(n * choices), bounds=bounds, constraints=limits, options=options
    )
    if found.x is None:
        raise ValueError(found.message)
    return np.asarray(found.x.reshape(n, choices).argmax(axis=1), np.int64)


def with_widths(
    found: Sequence[FoundLinear], reads: Mapping[str, str], inputs: Inputs, target: Target, options: CompileOptions
) -> tuple[tuple[FoundLinear, ...], tuple[str, ...]]:
    """The linears with the bits of their weights, where those are to be chosen, and a notice of what was.

    Args:
        reads: linear -> the value that it reads, under which `inputs` keeps rows of it.

    Raises:
        BadModel: the file holds codes for every weight.
    """
    if options.mean_bits is None:
        return tuple(found), ()
    own = [each for each in found if each.codes is None and reads.get(each.name) in inputs.rows]
    if not own:
        raise BadModel("the file holds codes for every weight", "weight-bits auto", "leave --weight-bits out")
    errors, costs = np.zeros((2, len(own), len(WEIGHT_BITS)))
    for n, each in enumerate(own):
        options.tell(each.name)
        rows = inputs.rows[reads[each.name]] / (1 if each.smooth is None else each.smooth)
        errors[n] = [_error(each, rows, bits, target) for bits in WEIGHT_BITS]
        costs[n] = [_bytes(each, bits, target) for bits in WEIGHT_BITS]
    chosen = solved(errors, costs, float(np.interp(options.mean_bits, WEIGHT_BITS, costs.sum(axis=0))))
    bits = {each.name: WEIGHT_BITS[choice] for each, choice in zip(own, chosen, strict=True)}
    counts = ", ".join(f"{count} of {width} bits" for width, count in sorted(Counter(bits.values()).items()))
    usual = WEIGHT_BITS.index(options.usual_bits)
    more, less = (each[np.arange(len(own)), chosen].sum() / each[:, usual].sum() - 1 for each in (costs, errors))
    notice = f"weights of linears: {counts}; {more:+.0%} bytes and {less:+.0%} error beside 4 bits everywhere"
    return tuple(replace(each, bits=bits.get(each.name)) for each in found), (notice,)
