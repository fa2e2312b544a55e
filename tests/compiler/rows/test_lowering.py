"""The lowering on integers against floating point, and that it does not matter how tokens are cut into starts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from tiny_decoder import VOCABULARY, IntegerReference, Sizes, random_branches, random_decoder

from axlora.compiler.layer import Linear as Quantized
from axlora.compiler.operators import Function, NormKind
from axlora.compiler.rows import float_forms
from axlora.compiler.rows.fractions import fraction, ratio
from axlora.isa.target import Target

LLAMA = Sizes()
GELU_LAYER = Sizes(norm=NormKind.LAYER, function=Function.GELU)
PACKED = Sizes(norm=NormKind.LAYER, function=Function.GELU_TANH, packed=True)


def _target(bits: int) -> Target:
    target = Target.load("test")
    return target if bits == 8 else dataclasses.replace(target, activation_bits=16, accumulator_bits=48)


def _products(linears: Mapping[str, Quantized]) -> dict[str, float_forms.Product]:
    """What the weights' codes stand for, in floating point."""
    held = {}
    for name, linear in linears.items():
        assert linear.grid is not None
        held[name] = (linear.weight.weights() * linear.grid.w_scale, linear.grid.bias)
    return {name: (lambda x, w=w, b=b: x @ w + b) for name, (w, b) in held.items()}


@pytest.mark.parametrize(("bits", "bound", "own"), [(8, 0.03, 0.02), (16, 0.02, 0.005)])
@pytest.mark.parametrize("sizes", [LLAMA, GELU_LAYER, PACKED], ids=["rms-silu", "layer-gelu", "packed"])
def test_integers_are_near_floating_point(sizes: Sizes, bits: int, bound: float, own: float) -> None:
    """Root mean square over all logits: of the model (8-bit weights count), and of the model with those very weights.

    16 bits are the reference's alone (no program has attention with them): weights of values keep 9 bits there.
    """
    decoder, target = random_decoder(sizes), _target(bits)
    linears = decoder.quantized(target)
    ids = np.random.default_rng(3).integers(0, VOCABULARY, sizes.context)
    reference = IntegerReference(decoder, linears, bits, sizes.context)
    got = np.ldexp(reference.feed(ids).astype(float), -reference.output_fraction)
    for those, most in ((decoder.products, bound), (_products(linears), own)):
        wanted = float_forms.evaluate(decoder.model, decoder.rows(ids), those)["logits"]
        error = np.sqrt(((got - wanted) ** 2).mean() / (wanted**2).mean())
        assert error < most


@pytest.mark.parametrize("norm", [NormKind.RMS, NormKind.LAYER])
def test_norms_linears_and_rotary_keep_thirteen_bits(norm: NormKind) -> None:
    """With 16-bit activations, before the first attention: the largest error over the largest magnitude."""
    decoder = random_decoder(Sizes(layers=1, norm=norm))
    linears = decoder.quantized(_target(16))
    ids = np.random.default_rng(3).integers(0, VOCABULARY, decoder.sizes.context)
    reference = IntegerReference(decoder, linears, 16, decoder.sizes.context)
    reference.feed(ids)
    wanted = float_forms.evaluate(decoder.model, decoder.rows(ids), _products(linears))
    for name in ("h", "n0", "q0", "k0", "v0", "rq0", "rk0"):
        got = reference.values[name].astype(float)
        unit = 2.0 ** np.rint(np.log2(np.abs(wanted[name]).max() / np.abs(got).max()))
        assert np.abs(got * unit - wanted[name]).max() < 2.0**-13 * np.abs(wanted[name]).max(), name


@pytest.mark.parametrize("sizes", [LLAMA, GELU_LAYER, PACKED], ids=["rms-silu", "layer-gelu", "packed"])
@pytest.mark.parametrize("chunks", [[1] * 20, [7, 13], [2] * 10, [1, 3, 5, 11]], ids=str)
def test_chunks_do_not_matter(sizes: Sizes, chunks: Sequence[int]) -> None:
    """Logits of a sequence bit for bit, whether its tokens come at once, in chunks or one by one; with adapters too."""
    decoder, target = random_decoder(sizes), Target.load("test")
    linears = decoder.quantized(target, {"a": random_branches(decoder, 4, 5)})
    ids = np.random.default_rng(4).integers(0, VOCABULARY, sum(chunks))
    names = [None, "a", "a"] * len(ids)
    whole = IntegerReference(decoder, linears, 8, sizes.context).feed(ids, names[: len(ids)])
    parts = IntegerReference(decoder, linears, 8, sizes.context)
    at = np.cumsum([0, *chunks])
    got = [parts.feed(ids[a:b], names[a:b]) for a, b in itertools.pairwise(at)]
    assert np.array_equal(np.concatenate(got), whole)


def test_a_later_token_changes_no_logits_before_it() -> None:
    decoder, target = random_decoder(LLAMA), Target.load("test")
    linears = decoder.quantized(target)
    ids = np.random.default_rng(4).integers(0, VOCABULARY, 9)
    other = np.append(ids[:-1], (ids[-1] + 1) % VOCABULARY)
    a, b = (IntegerReference(decoder, linears, 8, 16).feed(x) for x in (ids, other))
    assert np.array_equal(a[:-1], b[:-1])
    assert not np.array_equal(a[-1], b[-1])


@pytest.mark.parametrize("largest", [1e-9, 2.0**-12, 0.7, 1.0, 1.0001, 100.0, 2.0**20])
def test_fraction_leaves_two_bits_above_the_largest(largest: float) -> None:
    held = max(largest, 2.0**-12) * 2.0 ** fraction(largest)
    assert 2**27 < held <= 2**28


@pytest.mark.parametrize("value", [1.0, 1 / 127, 1 / 3, 65535.5 / 65536, 2.0**-20, 12345.678])
@pytest.mark.parametrize("bits", [14, 16])
def test_ratio_is_within_half_a_unit_of_its_factor(value: float, bits: int) -> None:
    factor, shift = ratio(value, bits)
    assert 2 ** (bits - 1) <= factor < 2**bits
    assert abs(factor - value * 2.0**shift) <= 0.5
