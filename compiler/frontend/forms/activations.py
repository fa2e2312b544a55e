"""onnxruntime's activation functions as the standard operators that they stand for."""

from __future__ import annotations

import math

from axlora.compiler.frontend.forms.rewriter import Nodes, Rewriter

_CUBE = 0.044715
"""Factor of the cube in GELU's form with tanh."""
_QUICK = 1.702
"""QuickGelu's alpha where none is given."""


def gelu(to: Rewriter) -> Nodes:
    """Gelu(x) and BiasGelu(x, bias): x / 2 * (1 + erf(x / sqrt 2))."""
    x = to.sum(to.given(0), to.given(1))
    turned = to.add("Erf", [to.add("Mul", [x, to.constant("root", 1 / math.sqrt(2))])])
    return _halved(to, x, turned)


def fast_gelu(to: Rewriter) -> Nodes:
    """FastGelu(x, bias): x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    x = to.sum(to.given(0), to.given(1))
    cube = to.add("Mul", [to.add("Pow", [x, to.constant("three", 3)]), to.constant("cube", _CUBE)])
    inner = to.add("Mul", [to.add("Add", [x, cube]), to.constant("root", math.sqrt(2 / math.pi))])
    return _halved(to, x, to.add("Tanh", [inner]))


def quick_gelu(to: Rewriter) -> Nodes:
    """QuickGelu(x; alpha): x * sigmoid(alpha x)."""
    x = to.given(0)
    to.add("Mul", [x, to.add("Sigmoid", [to.add("Mul", [x, to.constant("alpha", to.number("alpha", _QUICK))])])])
    return to.finish()


def _halved(to: Rewriter, x: str, turned: str) -> Nodes:
    """x / 2 * (1 + turned)."""
    half = to.add("Mul", [x, to.constant("half", 0.5)])
    to.add("Mul", [half, to.add("Add", [turned, to.constant("one", 1)])])
    return to.finish()
