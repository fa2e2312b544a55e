"""Reals to the machine's integers, for one linear: codes, bias, multipliers and the proof that nothing overflows.

With x = (xq - zx) sx, W[:, n] = Wq[:, n] sw[n] and y = (yq - zy) sy:

    yq - zy = M[n] (sum_k xq Wq + B[n]),  M[n] = sx sw[n] / sy,  B[n] = bias[n] / (sx sw[n]) - zx sum_k Wq[k, n]

(Jacob et al., arXiv:1712.05877, equation 4). M is m1 / 2^shift with m1 in [2^13, 2^14]: two bits are left for an adapter's
column magnitude. See docs/numerics.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.frontend.recognised import Activation, BlockCodes, FoundLinear
from axlora.compiler.layer import Codes, ColumnSums, Grid, Int64, Linear, Records
from axlora.compiler.passes.block_weights import AGAIN_BITS, GROUP_ROWS, held_blocks
from axlora.compiler.passes.offsets import rows_needed, with_offset_rows
from axlora.compiler.passes.rounding import best_steps, compensated
from axlora.isa.formats import Format
from axlora.isa.target import Target

Float64 = npt.NDArray[np.float64]

MANTISSA_BITS = 14
"""m1 is below 2**14: an adapter may multiply it by up to 4."""
WIDE_BITS = 62
"""|w| of a requantization stays below 2**62."""
_LOG = logging.getLogger(__name__)
SIGNED = {2: Format.S2, 3: Format.S3, 4: Format.S4, 8: Format.S8}


def multiplier(scale: Float64, where: str) -> tuple[Int64, Int64]:
    """m1 (at most 2**14) and shift (1..62) with scale ~ m1 / 2**shift, relative error at most 2**-14, elementwise.

    Raises:
        BadModel: a scale of 2**13 and above.
    """
    _, exponent = np.frexp(scale)
    shift = np.minimum(MANTISSA_BITS - exponent.astype(np.int64), WIDE_BITS)
    if (shift < 1).any():
        n = int(np.argmin(shift))
        raise BadModel(f"column {n}: output step is {scale[n]:.3g} accumulator steps", where, "output scale is too small")
    return np.rint(np.ldexp(scale, shift)).astype(np.int64), shift


def quantize_weight(weight: Float64, bits: int, gram: Float64 | None = None) -> tuple[Int64, Float64]:
    """Symmetric per column: codes [k, n] in +-(2**(bits-1) - 1) and scale [n].

    Args:
        gram: [k, k], the sum of x x^T over what the linear reads: codes and scales for the least error there, which may be
            -2**(bits-1) too; None: codes to the nearest, of the scale that clamps none.
    """
    high = (1 << (bits - 1)) - 1
    if gram is not None:
        scale = best_steps(weight, high, np.diag(gram))
        return compensated(weight, np.broadcast_to(scale, weight.shape), high, gram), scale
    scale = np.abs(weight).max(axis=0, initial=0) / high
    codes = np.rint(weight / np.where(scale > 0, scale, 1)).astype(np.int64)
    return np.clip(codes, -high, high), scale


GROUP = 32
"""Rows of the scale groups that float weights of 4 bits and less get."""


def group_rows(target: Target, weight_bits: int) -> int:
    """Rows of the scale groups of float weights: `GROUP` for 4 bits and less where the target has group scales, else 0."""
    return GROUP if weight_bits <= 4 and target.group_scales and GROUP % target.lanes == 0 else 0


def quantize_groups(weight: Float64, bits: int, rows: int, gram: Float64 | None = None) -> tuple[Codes, Float64]:
    """Symmetric per column and group of `rows` rows: codes, 8-bit group scales, and the column's scale [n].

    The column's scale is the largest group's by 255; a group's scale is rounded up, so that no code is clamped, or, with
    `gram` (`quantize_weight`), to the nearest.
    """
    high = (1 << (bits - 1)) - 1
    parts = [slice(first, first + rows) for first in range(0, weight.shape[0], rows)]
    if gram is not None:
        wished = np.stack([best_steps(weight[part], high, np.diag(gram)[part]) for part in parts])
    else:
        wished = np.stack([np.abs(weight[part]).max(axis=0) for part in parts]) / high
    scale = np.maximum(wished.max(axis=0), 2.0**-100) / 255
    if gram is not None:
        group = np.clip(np.rint(wished / scale), 1, 255).astype(np.int64)
        steps = np.repeat(group * scale, rows, axis=0)[: len(weight)]
        return Codes(compensated(weight, steps, high, gram).astype(np.int8), SIGNED[bits], None, rows, group), scale
    group = np.clip(np.ceil(wished / scale - 1e-9), 1, 255).astype(np.int64)
    codes = np.empty(weight.shape, np.int8)
    for part, step in zip(parts, group * scale, strict=True):
        codes[part] = np.clip(np.rint(weight[part] / step), -high, high)
    return Codes(codes, SIGNED[bits], None, rows, group), scale


def rounded(weight: Float64, bits: int, target: Target) -> Float64:
    """What the codes of a weight of floats [k, n] stand for, each rounded to the nearest."""
    group = group_rows(target, bits)
    if group:
        codes, scale = quantize_groups(weight, bits, group)
        return np.asarray(codes.weights() * scale, np.float64)
    plain, scale = quantize_weight(weight, bits)
    return np.asarray(plain * scale, np.float64)


def code_bound(bits: int) -> int:
    """Largest magnitude of a signed code."""
    return 1 << (bits - 1)


def prove_accumulator(total: Int64, x_bits: int, target: Target, where: str) -> None:
    """max|x| * sum_k |w| of every column stays inside the accumulator; `total`: the sums [n].

    Raises:
        BadModel: a column could overflow.
    """
    worst = int(np.argmax(total))
    bound = code_bound(x_bits) * int(total[worst])
    if bound >= 1 << (target.accumulator_bits - 1):
        raise DoesNotFit(
            f"accumulator could overflow: column {worst} reaches {bound}, {target.accumulator_bits} bits hold "
            f"{(1 << (target.accumulator_bits - 1)) - 1}",
            where,
            "use a target with accumulator_bits = 48, or fewer weight or activation bits",
        )


def integer_bias(bias: Float64, scale: Float64, correction: Int64, where: str) -> tuple[Int64, int]:
    """rint(bias / scale) - correction as s32 codes [n] and their common left shift 0..15 (the least that fits)."""
    exact = bias / scale - correction
    for shift in range(16):
        codes = np.rint(np.ldexp(exact, -shift))
        if np.abs(codes).max(initial=0) < 1 << 31:
            return codes.astype(np.int64), shift
    worst = int(np.argmax(np.abs(exact)))
    raise BadModel(f"bias of column {worst} is {exact[worst]:.3g} accumulator steps, more than 46 bits", where, "rescale it")


def _output(found: FoundLinear, step: Float64, bound: Float64) -> Activation:
    """The file's output scale, or a 32-bit one: a power of two that leaves 3 bits above the proven bound for adapters."""
    if found.output is not None:
        return found.output
    by_bound = int(np.ceil(np.log2(bound.max()))) - 28
    by_shift = int(np.ceil(np.log2(step.max()))) - 12
    return Activation(found.output_name, found.output_name, float(2.0 ** max(by_bound, by_shift)), 0, 32)


def offset_rows(found: FoundLinear, target: Target, weight_bits: int) -> int:
    """Rows that the linear's weight needs for the offset of a token; 0: it has scale groups, which leave no room for them."""
    weight, _ = _weight(found, target, weight_bits, 0, int)
    if isinstance(found.codes, BlockCodes):
        return 0 if weight.group else rows_needed(weight, weight.fmt.bits)
    return rows_needed(weight, weight_bits if found.codes is None else found.codes.bits)


def quantize_linear(
    found: FoundLinear,
    x: Activation,
    target: Target,
    weight_bits: int,
    rows: int = 0,
    group: int = 0,
    grouped: Callable[[int], int] = int,
) -> tuple[Linear, Activation]:
    """The linear without adapters, and its output.

    Args:
        rows: that the weight gets for the offset of a token; at least `offset_rows`.
        group: places of the scale groups that float weights get; 0: a scale a column.
        grouped: rows of a scale group of at least so many places; 0: x has no such groups.

    Raises:
        BadModel: values that no integer form holds, naming node and column.
    """
    where = found.name
    if x.bits > target.activation_bits:
        hint = "use a target with activation_bits = 16"
        raise DoesNotFit(f"activations have {x.bits} bits, the target takes {target.activation_bits}", where, hint)
    weight, w_scale = _weight(found, target, weight_bits, group, grouped)
    if rows:
        weight = with_offset_rows(weight, rows)
    sums = weight.sums(found.shape[0])
    empty = sums.magnitudes == 0
    if not np.isfinite(w_scale).all() or (w_scale[~empty] <= 0).any() or not np.isfinite(found.bias).all():
        raise BadModel("weight scale or bias is not finite, or a scale is not positive", where, "export the model again")
    w_scale = np.where(empty, w_scale[~empty].max(initial=0) or _of_bias(found.bias, x.scale), w_scale)
    prove_accumulator(sums.magnitudes, x.bits, target, where)
    if x.per_token:
        return per_token(found, x, weight, sums, w_scale, rows)
    step = x.scale * w_scale
    bias, bias_shift = integer_bias(found.bias, step, x.zero_point * sums.plain, where)
    reach = code_bound(x.bits) * sums.magnitudes + (np.abs(bias) << bias_shift)
    y = _output(found, step, np.maximum(step * np.maximum(reach, 1), x.scale * _own_reach(found, x.bits) / 4))
    m1, shift = multiplier(step / y.scale, where)
    prove_wide([int(v) for v in reach], [int(v) for v in m1], [0] * len(m1), where)
    linear = Linear(
        name=found.name,
        input=x.tensor,
        output=y.tensor,
        weight=weight,
        records=Records(bias, m1, shift),
        output_bits=y.bits,
        zero_point=y.zero_point,
        bias_shift=bias_shift,
        grid=Grid(x.scale, x.zero_point, w_scale, y.scale, found.bias, smooth=found.smooth, order=found.order),
        node=found.node,
        modules=found.modules,
        scopes=found.scopes,
    )
    return linear, y


def _of_bias(bias: Float64, x_scale: float) -> float:
    """Scale of a weight of zeros alone, which only sets the step in which the bias is held: 2^-20 of the largest."""
    most = float(np.abs(bias).max(initial=0))
    return most / x_scale / (1 << 20) if most else 1.0


def _weight(
    found: FoundLinear, target: Target, weight_bits: int, group: int, grouped: Callable[[int], int]
) -> tuple[Codes, Float64]:
    """The file's codes as the machine holds them, or codes of its floats; and the scale of each column.

    Codes with a zero point a column become signed ones in scale groups of scale 1: the machine subtracts zero points a group.
    """
    held = found.codes
    if isinstance(held, BlockCodes):
        kept = held_blocks(held, target, found.name, grouped)
        return kept if kept is not None else _signed_codes(found.weight, AGAIN_BITS)
    if held is None and group and grouped(group):
        return quantize_groups(found.weight, weight_bits, grouped(group), found.gram)
    if held is None:
        return _signed_codes(found.weight, weight_bits, found.gram)
    if held.zero is None:
        return Codes(held.codes, SIGNED[held.bits]), held.scale
    rows = grouped(GROUP_ROWS // target.lanes * target.lanes)
    if not target.group_scales or not rows:
        _LOG.warning("%s: weights with zero points are quantized again, target %s has no group scales", found.name, target.name)
        return _signed_codes(found.weight, held.bits)
    middle = 1 << (held.bits - 1)
    groups = -(-held.stored.shape[0] // rows)
    zero = np.repeat((held.zero - middle)[None], groups, axis=0)
    return Codes(held.codes - middle, SIGNED[held.bits], None, rows, np.ones_like(zero), zero), held.scale


def _signed_codes(weight: Float64, bits: int, gram: Float64 | None = None) -> tuple[Codes, Float64]:
    """Codes with a scale a column."""
    codes, scale = quantize_weight(weight, bits, gram)
    return Codes(codes, SIGNED[bits]), scale


def per_token(
    found: FoundLinear, x: Activation, weight: Codes, sums: ColumnSums, w_scale: Float64, rows: int
) -> tuple[Linear, Activation]:
    """y = s[t] (xq.Wq) sw + bias with the token scale s[t] 2^g = mantissa / 2^shift, g = bits - 8, in 32-bit steps of Y.

    value = rne(acc m1 / 2^shift) is xq.W in units of U = Y 2^g; codes = rne(value mantissa / 2^token_shift) + bias / Y.
    U leaves 3 bits above the proven bound for adapters. Y is at least 2^-16 of the largest column's norm: results of inputs
    of size 1 then have 16 bits below them and 15 above.
    """
    where, guard = found.name, x.bits - 8
    reach = code_bound(x.bits) * sums.magnitudes
    norm = np.sqrt(sums.squares) * w_scale
    exponent = max(
        int(np.ceil(np.log2(max(norm.max(initial=0), 2.0**-90)))) - 16 + guard,
        int(np.ceil(np.log2((w_scale * np.maximum(reach, 1)).max()))) - 28,
        int(np.ceil(np.log2(w_scale.max()))) - 12,
        int(np.ceil(np.log2(max(np.abs(found.bias).max(initial=0), 2.0**-90)))) - 30 + guard,
        int(np.ceil(np.log2(max(_own_reach(found, x.bits), 2.0**-90)))) - 30,
    )
    unit, step = float(2.0**exponent), float(2.0 ** (exponent - guard))
    m1, shift = multiplier(w_scale / unit, where)
    prove_wide([int(v) for v in reach], [int(v) for v in m1], [0] * len(m1), where)
    y = Activation(found.output_name, found.output_name, step, 0, 32)
    linear = Linear(
        name=found.name,
        input=x.tensor,
        output=y.tensor,
        weight=weight,
        records=Records(np.rint(found.bias / step).astype(np.int64), m1, shift),
        output_bits=32,
        bias_end=True,
        token_scale=True,
        grid=Grid(1.0, 0, w_scale, unit, found.bias, step, found.smooth, found.order),
        node=found.node,
        modules=found.modules,
        scopes=found.scopes,
        offset_rows=rows,
    )
    return linear, y


def _own_reach(found: FoundLinear, bits: int) -> float:
    """Largest magnitude of x.(W + the model's own branches) for codes of x of `bits` bits and a token scale of 1; 0 without."""
    if not found.loras:
        return 0.0
    full = found.weight
    for lora in found.loras:
        gain = 1.0 if lora.gain is None else lora.gain
        full = full * gain + lora.scale * (lora.a @ lora.b) * gain
    return float(code_bound(bits) * np.abs(full).sum(axis=0).max())


def prove_wide(reach: list[int], m1: list[int], branch: list[int], where: str) -> None:
    """|w| = reach * m1 + branch of every column stays below 2**62 (exact: Python integers).

    Raises:
        BadModel: a column could overflow.
    """
    for n, (r, m, b) in enumerate(zip(reach, m1, branch, strict=True)):
        if r * m + b >= 1 << WIDE_BITS:
            raise BadModel(f"column {n}: requantization could reach {r * m + b}, the limit is 2^62", where, "rescale it")
