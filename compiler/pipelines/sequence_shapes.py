"""Free dimensions of a model's inputs: which are sequences, which are tokens."""

from __future__ import annotations

from collections.abc import Mapping

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader

CONTEXT = 256
"""Most tokens of a language model, unless a user says otherwise."""


def context_of(dimensions: onnx_reader.Dimensions, context: int | None, given: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """The context, and the values of the free dimensions: the first of an input is one sequence, the others are its tokens.

    Raises:
        BadModel: the export is fixed to another number of tokens or sequences, or --shape says another.
    """
    fixed = {d for dims in dimensions.values() for d in dims[1:] if not isinstance(d, str)}
    if context is None:
        context = min(fixed, default=CONTEXT)
    found: dict[str, int] = {}
    for name, dims in dimensions.items():
        for axis, d in enumerate(dims):
            wanted, what = (1, "sequences") if axis == 0 else (context, "tokens")
            value = given.get(d, wanted) if isinstance(d, str) else d
            if value != wanted:
                hint = f"--max-context {value}, or export a free dimension" if axis else "a language model takes one"
                raise BadModel(f"input {name!r} has {value} {what}, generation asks for {wanted}", name, hint)
            if isinstance(d, str):
                found[d] = value
    return context, dict(given) | found


def one_sequence(dimensions: onnx_reader.Dimensions, shapes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """(values of the free dimensions for one sequence, sequences of a run).

    Raises:
        BadModel: a free dimension without a value. UnsupportedOperator: inputs of several sequences, or of another form.
    """
    own = dict(shapes)
    batches = set()
    for name, dims in dimensions.items():
        for d in dims:
            if isinstance(d, str) and d not in shapes:
                raise BadModel(f"input {name!r} has a free dimension {d!r}", "shapes", f"pass --shape {d}=N")
        if not dims:
            raise UnsupportedOperator(f"input {name!r} without dimensions", "model", "[batch, tokens]")
        first = dims[0]
        batches.add(shapes[first] if isinstance(first, str) else first)
        if isinstance(first, str):
            own[first] = 1
            if first in [d for other in dimensions.values() for d in other[1:]]:
                raise UnsupportedOperator(f"dimension {first!r} is batch and tokens", "model", "[batch, tokens]")
        elif first != 1:
            raise UnsupportedOperator(f"input {name!r} is fixed to {first} sequences", "model", "export a free batch")
    if len(batches) != 1:
        raise UnsupportedOperator("inputs of different batches", "model", "[batch, tokens]")
    return own, batches.pop()
