"""How far every value of a whole model is from the float model's, after all that came before it: one sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from axlora.compiler.layer import Linear
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows.float_forms import Product, Sample, evaluate
from axlora.compiler.rows.fractions import fraction
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import Region
from axlora.compiler.transformer import Transformer
from axlora.isa.numerics import to_fixed

Float64 = npt.NDArray[np.float64]


def value_errors(
    model: Transformer,
    region: Region,
    linears: tuple[Linear, ...],
    held: Mapping[str, Product],
    sample: Sample,
    bits: int,
    context: int,
) -> dict[str, float]:
    """Value -> root mean square of (integer - float) over that of the float value, rows of padding left out, no adapter.

    Args:
        model: the float form. region: the same model's.
        held: the linears in floating point.
        sample: the first rows of a run.
    """
    values, known = sample.values(model), sample.keys_of(model)
    first, *more = ((to_fixed(values[x], fraction(region.largest[x])), known[x]) for x in region.inputs)
    run = Reference({li.name: li for li in linears}, [None] * len(first[0]), Cache(), bits, *first, more)
    with threadpool_limits(1, "blas"):  # of products as small as `magnitudes` has
        _, fractions = lower(region, run, bits, context)
        wanted = evaluate(model, sample.rows, held, sample.keys, sample.more)
    errors = {}
    for op in region.operators:
        found = run.values[op.y] if op.y in run.values else run.outputs[region.outputs[op.y]]
        got, exact = np.ldexp(found.astype(np.float64), -fractions[op.y])[: known[op.y]], wanted[op.y][: known[op.y]]
        errors[op.y] = float(np.sqrt(((got - exact) ** 2).mean() / max(float((exact**2).mean()), 1e-30)))
    return errors
