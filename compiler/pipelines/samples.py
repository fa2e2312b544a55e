"""What calibration looks at: the first rows of sequences, given or random, and the magnitudes that they lead to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.calibrate import smoothing, stacked
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.operators import Add, Affine, Attention, FakeQuantize, Mul, Norm, Transformer
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.rows.float_forms import Product, embed, magnitudes
from axlora.compiler.rows.lower import HINT

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Found = tuple[FoundLinear, ...]
Data = Mapping[str, npt.NDArray[np.generic]]
RANDOM, RANDOM_TOKENS = 4, 64
"""Random token ids that stand in for calibration data."""
SEQUENCES = 64
"""Most sequences of calibration data that are looked at."""
Samples = list[tuple[Float64, int]]
"""The first rows of each sample, and how many of them are no padding."""


class _Products(Mapping[str, Product]):
    """What linears make of rows; a weight is read when its linear is looked up."""

    def __init__(self, found: Sequence[FoundLinear]) -> None:
        self._found = {one.name: one for one in found}

    def __getitem__(self, name: str) -> Product:
        weight, bias = self._found[name].weight, self._found[name].bias
        return lambda x: x @ weight + bias

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def products(found: Sequence[FoundLinear]) -> Mapping[str, Product]:
    """What linears make of rows, in floating point, without branches (`merge_graph` puts them into the weights)."""
    return _Products(found)


def peaks(model: Transformer, samples: Samples, variants: Sequence[Found]) -> dict[str, Float64]:
    """Largest magnitude of every feature of every value over the samples, whatever variant of the linears runs."""
    most: dict[str, Float64] = {}
    for one in variants:
        for name, value in magnitudes(model, samples, products(one)).items():
            most[name] = np.maximum(most.get(name, 0.0), value)
    return most


def smoothed(model: Transformer, found: Found, peaks: Mapping[str, Float64]) -> tuple[Transformer, Found]:
    """Large channels of what linears read give part of their range to the weights, as `frontend.calibrate` does."""
    by_name = {one.name: one for one in found}
    readers: dict[str, list[str]] = {}
    for op in model.operators:
        if isinstance(op, LinearOp):
            readers.setdefault(op.x, []).append(op.name)
    smooth: dict[str, Float64] = {}
    for value, names in readers.items():
        if value in model.codes:
            continue
        by = smoothing(peaks[value], [by_name[name] for name in names])
        if by is not None:
            smooth[value] = by
            for name in names:
                own = by_name[name]
                loras = tuple(replace(lora, a=lora.a * by[:, None]) for lora in own.loras)
                by_name[name] = replace(own, smooth=by, reals=own.weight * by[:, None], loras=loras)
    return replace(model, smooth=smooth), tuple(by_name[one.name] for one in found)


def _ids(model: Transformer, data: Data | None, context: int) -> Int64:
    """Calibration sequences [m, n].

    Raises:
        BadModel: not the input of token ids, or ids outside the vocabulary.
    """
    vocabulary = model.embedding.shape[0]
    if data is None:
        return np.random.default_rng(0).integers(0, vocabulary, (RANDOM, min(RANDOM_TOKENS, context)))
    if model.tokens_input not in data:
        raise BadModel(
            f"no {model.tokens_input!r} in it", "calibration", f"token ids [samples, tokens] as {model.tokens_input!r}"
        )
    ids = np.asarray(data[model.tokens_input])
    ids = ids.reshape(-1, ids.shape[-1])[:, :context]
    if ids.dtype.kind not in "iu" or not ids.size or ids.min() < 0 or ids.max() >= vocabulary:
        raise BadModel(f"token ids must be integers from 0 to {vocabulary - 1}", "calibration", "check the tokenizer")
    return ids.astype(np.int64)


def order_of(mask: npt.NDArray[Any] | None, tokens: int) -> tuple[Int64, int]:
    """(places of a sequence in the order of its rows, rows that are no padding): padding comes last, nothing else moves."""
    if mask is None:
        return np.arange(tokens), tokens
    return np.argsort(mask == 0, kind="stable"), int((mask != 0).sum())


def _calibration(name: str, data: Data, shape: tuple[int, ...], where: str) -> npt.NDArray[Any]:
    """Samples [samples, *shape] of an input; raises `BadModel`: it is missing, of another shape, or not finite."""
    if name not in data:
        raise BadModel(f"calibration data lacks input {name!r}", where, "add it to the .npz")
    return stacked(name, data[name], shape, where)


def is_bounded(model: Transformer) -> bool:
    """Whether the file's own scales tell the range of every value that has no other."""
    needed = {model.input}
    for op in model.operators:
        match op:
            case Norm() | Add() | Mul():
                needed.add(op.y)
            case Affine():
                needed |= {op.x, op.y}
            case Attention():
                needed |= {op.q, op.v}
    return needed <= model.bounds.keys()


def _random_rows(model: Transformer, shape: tuple[int, ...]) -> Float64:
    """Samples of the input of rows, in the range of its first codes."""
    (codes, *_) = (op.codes for op in model.operators if isinstance(op, FakeQuantize) and op.x == model.input)
    least, most = ((end - codes.zero) * codes.scale for end in (codes.low, codes.high))
    return np.random.default_rng(0).uniform(least, most, (RANDOM, *shape))


def _given(model: Transformer, data: Data | None, shape: tuple[int, ...], where: str) -> Data | None:
    """Calibration data, which rows that are given need, unless the file's own scales tell their range: then random rows."""
    if data is None and model.given is not None:
        if is_bounded(model):
            return {model.given.input: _random_rows(model, shape)}
        what = f"input {model.given.input!r} of floats, whose range only calibration data tells"
        raise UnsupportedOperator(what, where, f"give --calibration, or {HINT}")
    return data


def of_sequences(model: Transformer, data: Data | None, batch: int, tokens: int, where: str) -> Samples:
    """The first rows of calibration data.

    Args:
        data: input -> samples of [batch, tokens], of given rows [batch, tokens, features], see `calibrate.stacked`.

    Raises:
        UnsupportedOperator: no data for rows that are given. BadModel: an input is missing, of another length, or holds ids
            outside its table.
    """
    rows = (batch, tokens, model.features)
    data = _given(model, data, rows, where)
    if data is None:
        rng = np.random.default_rng(0)
        ids = {x.input: rng.integers(0, len(x.table), (RANDOM, tokens)) for x in model.lookups}
        return [(embed(model, {name: value[n] for name, value in ids.items()}), tokens) for n in range(RANDOM)]
    given: dict[str, npt.NDArray[Any]] = {}
    for name in (*(x.input for x in model.lookups), *([model.mask] if model.mask else [])):
        value = _calibration(name, data, (batch, tokens), where)
        if value.dtype.kind not in "iub":
            raise BadModel(f"calibration data of {name!r} has type {value.dtype}, must be integers", where, "token ids")
        given[name] = value.reshape(-1, tokens)[:SEQUENCES]
    for x in model.lookups:
        if given[x.input].min() < 0 or given[x.input].max() >= len(x.table):
            raise BadModel(f"{x.input!r} must be from 0 to {len(x.table) - 1}", "calibration", "check the tokenizer")
    if model.given is not None:
        own = _calibration(model.given.input, data, rows, where)
        given[model.given.input] = own.reshape(-1, tokens, model.given.features)[:SEQUENCES]
    if len({len(value) for value in given.values()}) != 1:
        raise BadModel("inputs of different numbers of samples", "calibration", "as many of each")
    out = []
    for n in range(len(given[model.rows_input])):
        order, keys = order_of(given[model.mask][n] if model.mask else None, tokens)
        if keys:
            out.append((embed(model, {name: value[n] for name, value in given.items()}, order), keys))
    if not out:
        raise BadModel("every sample is padding alone", "calibration", "masks with ones")
    return out


def of_decoder(model: Transformer, data: Data | None, context: int) -> Samples:
    """Sequences of a language model, of at most `context` tokens; random ones without data. Errors as `_ids`."""
    return [(embed(model, {model.tokens_input: i}), len(i)) for i in _ids(model, data, context)]


def of_rows(model: Transformer, data: Data | None, shape: tuple[int, ...], where: str) -> Samples:
    """Batches [*shape] of rows that nothing mixes. Errors as `ofof_sequences`."""
    assert model.given is not None
    data = _given(model, data, shape, where) or {}
    samples = _calibration(model.given.input, data, shape, where)[:SEQUENCES]
    return [(embed(model, {model.given.input: sample}), shape_rows(shape)) for sample in samples]


def shape_rows(shape: tuple[int, ...]) -> int:
    """Rows of a tensor: its elements over those of its last dimension."""
    return int(np.prod(shape[:-1]))
