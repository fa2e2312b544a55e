"""Linears whose columns are in another order than the model's: one in which a rotary embedding turns halves of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.recognised import FoundLinear, GraphLora

Int64 = npt.NDArray[np.int64]


def ordered(found: Sequence[FoundLinear], orders: Mapping[str, Int64]) -> tuple[FoundLinear, ...]:
    """The linears with their columns in these orders.

    Args:
        orders: linear -> [n]: the model's output that each column is to be; a linear without stays as it is.
    """
    return tuple(_in_order(each, orders[each.name]) if each.name in orders else each for each in found)


def _in_order(found: FoundLinear, order: Int64) -> FoundLinear:
    reals = found.reals
    return replace(
        found,
        reals=(lambda: reals()[:, order]) if callable(reals) else reals[:, order],
        codes=None if found.codes is None else found.codes.ordered(order),
        bias=found.bias[order],
        loras=tuple(_branch(lora, order) for lora in found.loras),
        order=order,
    )


def _branch(lora: GraphLora, order: Int64) -> GraphLora:
    bias, gain = (None if own is None else own[order] for own in (lora.bias, lora.gain))
    return replace(lora, b=lora.b[:, order], bias=bias, gain=gain)
