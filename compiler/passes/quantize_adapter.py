"""One adapter of one linear to integers: y += s g (x.A).B joins the base's 64-bit sum (docs/numerics.md, adapters).

v = rne((xq.Aq + bias_a) m1_a / 2^shift_a) is x.A in the common unit q_v; u = v / 2^e its 8 or 16 bits; the branch is
(u.Bq) m2 2^e in the base's unit, 2^-shift[n] of the output step. m2 is an integer first (rounded up), and the scale of the
codes of B follows from it, so m2 itself has no error: what it rounds up is resolution of B, below 1/m2 of it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter, BadModel
from axlora.compiler.layer import Adapter, Codes, Int64, Linear, Records
from axlora.compiler.passes.offsets import fitted
from axlora.compiler.passes.quantize_linear import code_bound, prove_accumulator, prove_wide, quantize_weight
from axlora.isa.formats import Format
from axlora.isa.numerics import quantize_scale
from axlora.isa.target import Target

_LOG = logging.getLogger(__name__)
Float64 = npt.NDArray[np.float64]

M2_TYPICAL = 32
"""m2 of the median column: larger takes bits from x.A, smaller takes resolution from B."""


@dataclass(frozen=True)
class Branch:
    """A low-rank branch as reals: y = g (x.W + scale (x.A).B) + bias + scale * lora_bias."""

    a: Float64
    """[K, r]."""
    b: Float64
    """[r, N]."""
    scale: float
    bias: Float64 | None = None
    """lora_bias [N]."""
    magnitude: Float64 | None = None
    """DoRA's column magnitude m [N]: g = m / norm(W + scale A B) (Liu et al., arXiv:2402.09353, equation 5)."""
    gain: Float64 | None = None
    """g itself [N], where the graph holds it."""
    base_bias: Float64 | None = None
    """In place of the base's bias [N]."""

    def ordered(self, order: npt.NDArray[np.int64]) -> Branch:
        """With its columns in another order: `order` [N] as `Grid.order`."""
        bias, magnitude, gain, base_bias = (
            None if own is None else own[order] for own in (self.bias, self.magnitude, self.gain, self.base_bias)
        )
        return replace(self, b=self.b[:, order], bias=bias, magnitude=magnitude, gain=gain, base_bias=base_bias)


def _unit(bound: float, per_unit: Float64, bits: int, where: str) -> float:
    """q_v: m2 of the median column near M2_TYPICAL, |v| proved between 2**(bits+6) and 2**(bits+16 at most 30)."""
    used = per_unit[per_unit > 0]
    if not used.size or bound == 0:
        return 1.0
    wished = M2_TYPICAL / float(np.median(used))
    unit = float(np.clip(wished, bound / 2.0 ** min(bits + 16, 30), bound / 2.0 ** (bits + 6)))
    unit = min(unit, 65535 / float(used.max()))
    if bound / unit >= 1 << 30:
        raise BadAdapter("the adapter is too large beside the base's output step", where, "check lora_alpha and the values")
    return unit


def _a_records(linear: Linear, codes: Int64, scale: Float64, unit: float) -> Records:
    """Records that bring x.Aq to the unit: (acc - zx sum Aq) sx sa / unit."""
    assert linear.grid is not None
    bias = np.rint(np.ldexp(-linear.grid.x_zero * codes.sum(axis=0).astype(np.float64), -linear.bias_shift))
    pairs = [quantize_scale(float(linear.grid.x_scale * s / unit)) if s > 0 else (0, 1) for s in scale]
    return Records(bias.astype(np.int64), *(np.array(v, np.int64) for v in zip(*pairs, strict=True)))


def quantize_adapter(linear: Linear, name: str, branch: Branch, target: Target, x_bits: int) -> Adapter:
    """Quantize `branch` for `linear`.

    Raises:
        BadAdapter: a value that no integer form holds, naming adapter, linear and column.
    """
    where = f"adapter {name!r}, linear {linear.name!r}"
    grid, shift = linear.grid, linear.records.shift
    if grid is None:
        raise BadAdapter("the linear does not carry its scales", where, "compile the model again")
    gain = np.ones(linear.n)
    if branch.magnitude is not None:
        full = linear.matrix() * grid.w_scale + branch.scale * (branch.a @ branch.b)
        if grid.smooth is not None:
            full = full / grid.smooth[:, None]
        gain = branch.magnitude / np.maximum(np.linalg.norm(full, axis=0), 1e-30)
    if branch.gain is not None:
        gain = branch.gain
    m1 = np.rint(linear.records.m1 * gain).astype(np.int64)
    if (gain < 0).any() or (m1 > 65535).any():
        n = int(np.argmax(np.where(gain < 0, np.inf, m1)))
        raise BadAdapter(f"column {n}: DoRA magnitude is {gain[n]:.3g} times the base's norm", where, "0 to 4 is supported")
    a_codes, a_scale = quantize_weight(branch.a, 8)
    if linear.offset_rows:
        a_codes, a_scale = fitted(branch.a, a_codes, a_scale, linear.offset_rows)
    a_reach = (code_bound(x_bits) + abs(grid.x_zero)) * np.abs(a_codes).sum(axis=0)
    bound = float((a_reach * grid.x_scale * a_scale).max(initial=0))
    per_scale = np.abs(branch.scale) * gain * np.exp2(shift.astype(np.float64)) / grid.y_scale
    largest = np.abs(branch.b).max(axis=0, initial=0) / 127
    unit = _unit(bound, per_scale * largest, target.activation_bits, where)
    with np.errstate(divide="ignore", invalid="ignore"):
        m2 = np.where(largest > 0, np.clip(np.ceil(per_scale * largest * unit - 1e-6), 1, 65535), 0).astype(np.int64)
        b_codes = np.where(m2 > 0, np.sign(branch.scale) * branch.b * per_scale * unit / m2, 0)
    b_codes = np.clip(np.rint(b_codes), -127, 127).astype(np.int64)
    bias = linear.records.bias
    if any(v is not None for v in (branch.bias, branch.magnitude, branch.gain, branch.base_bias)):
        total = grid.bias if branch.base_bias is None else branch.base_bias
        total = total if branch.bias is None else total + branch.scale * branch.bias
        if linear.bias_end:
            exact = total / grid.bias_step
        else:
            exact = total / (grid.x_scale * grid.w_scale * np.where(gain > 0, gain, 1))
            exact = exact - grid.x_zero * linear.weight.weights().sum(axis=0)
        bias = np.rint(np.ldexp(exact, -linear.bias_shift)).astype(np.int64)
        if np.abs(bias).max(initial=0) >= 1 << 31:
            raise BadAdapter(f"column {int(np.argmax(np.abs(bias)))}: bias leaves 32 bits", where, "check the magnitude")
    records = _a_records(linear, a_codes, a_scale, unit)
    adapter = Adapter(name, branch.a.shape[1], Codes(a_codes, Format.S8), records, Codes(b_codes, Format.S8), bias, m1, m2)
    _prove(linear, adapter, x_bits, target, where)
    return adapter


def _prove(linear: Linear, adapter: Adapter, x_bits: int, target: Target, where: str) -> None:
    """No accumulator, intermediate or wide sum of the branch overflows, from the codes themselves."""
    a, b, records, bits = adapter.a.values(), adapter.b.values(), adapter.a_records, target.activation_bits
    try:
        prove_accumulator(np.abs(a).sum(axis=0), x_bits, target, where)
        prove_accumulator(np.abs(b).sum(axis=0), bits, target, where)
        v = 0
        for total, bias, m, s in zip(np.abs(a).sum(axis=0), records.bias, records.m1, records.shift, strict=True):
            reach = (code_bound(x_bits) * int(total) + (abs(int(bias)) << linear.bias_shift)) * int(m)
            prove_wide([reach], [1], [0], where)
            v = max(v, (reach >> int(s)) + 1)
        exponent = max(min(v, (1 << 31) - 1).bit_length() - (bits - 1), 0)
        base = code_bound(x_bits) * np.abs(linear.weight.weights()).sum(axis=0)
        front = np.zeros_like(adapter.bias) if linear.bias_end else adapter.bias
        reach_base = [int(r) + (abs(int(c)) << linear.bias_shift) for r, c in zip(base, front, strict=True)]
        b_total = np.abs(b).sum(axis=0)
        side = [(code_bound(bits) * int(t) * int(m)) << exponent for t, m in zip(b_total, adapter.m2, strict=True)]
        prove_wide(reach_base, [int(m) for m in adapter.m1], side, where)
    except BadModel as error:
        raise BadAdapter(error.message, where, "check lora_alpha and the adapter's values") from None
    if linear.output_bits == 32:
        wide = [r * int(m) + s for r, m, s in zip(reach_base, adapter.m1, side, strict=True)]
        if any(w >> int(s) >= 1 << 31 for w, s in zip(wide, linear.records.shift, strict=True)):
            _prove_value(linear, adapter, x_bits, reach_base, where)


def _prove_value(linear: Linear, adapter: Adapter, x_bits: int, reach_base: list[int], where: str) -> None:
    """A result of 32 bits, which saturates, holds base and branch together.

    max over x of |x.(W m1 + A c B m2)| is code_bound times the sum of magnitudes in a column, c what the records of A multiply
    with: tighter than the bound of each step, which assumes the worst of x.A in every component at once. What only that one x
    could reach has a notice; what codes of usual spread reach (code_bound times the norm of a column) is refused.

    Raises:
        BadAdapter: a column that would saturate.
    """
    a, b = adapter.a.values().astype(np.float64), adapter.b.values().astype(np.float64)
    middle = np.ldexp(adapter.a_records.m1.astype(np.float64), -adapter.a_records.shift)
    base = linear.weight.weights()
    full = base * adapter.m1 + (a * middle) @ b * adapter.m2
    alone = np.array(reach_base, np.float64) - code_bound(x_bits) * np.abs(base).sum(axis=0)  # of the bias
    usual, most = (
        np.ldexp(code_bound(x_bits) * of_column + alone * adapter.m1, -linear.records.shift).max() / 2.0**31
        for of_column in (np.sqrt((full**2).sum(axis=0)), np.abs(full).sum(axis=0))
    )
    if usual >= 1:
        what = f"base and adapter together reach {usual:.1f} times what the result's 32 bits hold"
        raise BadAdapter(what, where, "the adapter is far larger than its base: check lora_alpha, or compile with --merge")
    if most >= 1:
        _LOG.warning("%s: base and adapter together could reach %.1f times what 32 bits hold, and saturate", where, most)
