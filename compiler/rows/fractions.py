"""Where the binary point of a value lies, and numbers as factors and shifts."""

from __future__ import annotations

import math

from axlora.compiler.operators import Quantization

SPARE_BITS = 2
"""Bits above the largest magnitude seen."""
TABLE_FRACTION = 18
"""Of what goes through a function and comes out: one table serves every layer; values reach +-2**13 (`functions.MOST`)."""
SQUARE_SHIFT = 28
FACTOR_BITS = 14
"""A factor of MAC is at most 2**14."""
EXP_FRACTION = 30
SCORE_FRACTION = 20
"""Scores reach +-2**11."""
CACHE_CODE = 127
"""Largest code of keys and values: 8 bits, whatever the activations have."""
KEY_BITS = 6
"""Bits below a code of the scales of keys and values."""


def fraction(largest: float, spare: int = SPARE_BITS) -> int:
    """The fraction at which `largest` leaves `spare` bits of 31."""
    return 30 - spare - math.ceil(math.log2(max(largest, 2.0**-12)))


def seen(fraction: int) -> float:
    """Inverse of `fraction`: the power of two up to which magnitudes were seen."""
    return math.ldexp(1.0, 30 - SPARE_BITS - fraction)


def ratio(value: float, bits: int = 16) -> tuple[int, int]:
    """value ~ factor / 2**shift with a factor below 2**bits."""
    _, exponent = math.frexp(value)
    factor = round(math.ldexp(value, bits - exponent))
    return (factor >> 1, bits - exponent - 1) if factor == 1 << bits else (factor, bits - exponent)


def held_zero(codes: Quantization, bits: int) -> int:
    """The code of 0 where a linear reads codes of `bits` bits, whose range is symmetric.

    Codes that fill the bits lose one end, the one that is further from zero: its value is that of the code beside it.
    """
    return codes.zero + int(codes.zero < 0 and codes.bits == bits)
