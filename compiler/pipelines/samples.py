"""What calibration looks at: the first rows of sequences, given or random, and the magnitudes that they lead to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.calibrate import stacked
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.frontend.smoothing import Inputs, Widths, smoothing
from axlora.compiler.operators import Add, Affine, Attention, FakeQuantize, Mul, Norm
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.pipelines import adapted
from axlora.compiler.rows.float_forms import Product, Sample, embed, magnitudes
from axlora.compiler.rows.lower import HINT
from axlora.compiler.transformer import Stream, Transformer, order_of

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Found = tuple[FoundLinear, ...]
Data = Mapping[str, npt.NDArray[np.generic]]
RANDOM, RANDOM_TOKENS = 4, 64
"""Random token ids that stand in for calibration data."""
SEQUENCES = 64
"""Most sequences of calibration data that are looked at."""
Samples = list[Sample]


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


def peaks(model: Transformer, variants: Sequence[tuple[Found, Samples]], inputs: Inputs | None = None) -> dict[str, Float64]:
    """Largest magnitude of every feature of every value, whatever variant of the linears runs, each on its own samples.

    `inputs`: gets what the linears of every variant read.
    """
    most: dict[str, Float64] = {}
    for one, samples in variants:
        for name, value in magnitudes(model, samples, products(one), inputs, 1 / len(variants)).items():
            most[name] = np.maximum(most.get(name, 0.0), value)
    return most


def smoothed(model: Transformer, found: Found, inputs: Inputs, widths: Widths) -> tuple[Transformer, Found]:
    """Large channels of what linears read give part of their range to the weights, where that is predicted to be better."""
    by_name = {one.name: one for one in found}
    smooth: dict[str, Float64] = {}
    for value, names in _readers(model).items():
        if value in model.codes:
            continue
        by = smoothing(inputs, value, [by_name[name] for name in names], widths)
        if by is not None:
            smooth[value] = by
            for name in names:
                by_name[name] = adapted.smoothed(by_name[name], by)
    return replace(model, smooth=smooth), tuple(by_name[one.name] for one in found)


def with_grams(model: Transformer, found: Found, inputs: Inputs) -> Found:
    """The linears with what their weights are rounded for."""
    read = read_by(model)
    return tuple(adapted.with_gram(each, inputs, read[each.name]) for each in found)


def read_by(model: Transformer) -> dict[str, str]:
    """Linear -> the value that it reads."""
    return {op.name: op.x for op in model.operators if isinstance(op, LinearOp)}


def _readers(model: Transformer) -> dict[str, list[str]]:
    """Value -> the linears that read it."""
    found: dict[str, list[str]] = {}
    for op in model.operators:
        if isinstance(op, LinearOp):
            found.setdefault(op.x, []).append(op.name)
    return found


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


def _calibration(name: str, data: Data, shape: tuple[int, ...], where: str) -> npt.NDArray[Any]:
    """Samples [samples, *shape] of an input; raises `BadModel`: it is missing, of another shape, or not finite."""
    if name not in data:
        raise BadModel(f"calibration data lacks input {name!r}", where, "add it to the .npz")
    return stacked(name, data[name], shape, where)


def is_bounded(model: Transformer) -> bool:
    """Whether the file's own scales tell the range of every value that has no other."""
    needed = {*model.inputs}
    for op in model.operators:
        match op:
            case Norm() | Add() | Mul():
                needed.add(op.y)
            case Affine():
                needed |= {op.x, op.y}
            case Attention():
                needed |= {op.q, op.v}
    return needed <= model.bounds.keys()


def _random_rows(model: Transformer, input: str, shape: tuple[int, ...]) -> Float64:
    """Samples of an input of rows, in the range of its first codes."""
    (codes, *_) = (op.codes for op in model.operators if isinstance(op, FakeQuantize) and op.x == input)
    least, most = ((end - codes.zero) * codes.scale for end in (codes.low, codes.high))
    return np.random.default_rng(0).uniform(least, most, (RANDOM, *shape))


def _random(model: Transformer, parts: Sequence[Stream], where: str) -> Data:
    """Random samples [samples, 1, tokens] of ids, and of rows that are given, whose range the file's own scales must tell."""
    found: dict[str, npt.NDArray[Any]] = {}
    rng = np.random.default_rng(0)
    for own in parts:
        if own.given is not None and not is_bounded(model):
            what = f"input {own.given.input!r} of floats, whose range only calibration data tells"
            raise UnsupportedOperator(what, where, f"give --calibration, or {HINT}")
        if own.given is not None:
            found[own.given.input] = _random_rows(model, own.input, (1, *(own.shape or (own.rows, own.features))))
        picked = {x.input: len(x.table) for x in own.lookups if x.counted is None}
        found |= {name: rng.integers(0, count, (RANDOM, own.rows))[:, None] for name, count in picked.items()}
        if model.mask is not None and own is parts[model.masked]:
            found[model.mask] = np.ones((RANDOM, 1, own.rows), np.int64)
    return found


def of_sequences(model: Transformer, data: Data | None, batch: int, tokens: int, where: str) -> Samples:
    """The first rows of calibration data.

    Args:
        data: input -> samples of [batch, tokens], of given rows [batch, tokens, features], see `calibrate.stacked`.
        tokens: rows of the first stream.

    Raises:
        UnsupportedOperator: no data for rows that are given. BadModel: an input is missing, of another length, or holds ids
            outside its table.
    """
    parts = model.all_streams(tokens)
    batch, data = (1, _random(model, parts, where)) if data is None else (batch, data)
    given: dict[str, npt.NDArray[Any]] = {}
    tables = {x.input: (len(x.table), own.rows) for own in parts for x in own.lookups if x.counted is None}
    if model.mask is not None:
        tables[model.mask] = (0, parts[model.masked].rows)
    for name, (count, rows) in tables.items():
        value = _calibration(name, data, (batch, rows), where)
        if value.dtype.kind not in "iub":
            raise BadModel(f"calibration data of {name!r} has type {value.dtype}, must be integers", where, "token ids")
        given[name] = value.reshape(-1, rows)[:SEQUENCES]
        if count and (given[name].min() < 0 or given[name].max() >= count):
            raise BadModel(f"{name!r} must be from 0 to {count - 1}", "calibration", "check the tokenizer")
    for own in parts:
        if own.given is not None:
            shape = own.shape or (own.rows, own.features)
            whole = _calibration(own.given.input, data, (batch, *shape), where)
            given[own.given.input] = whole.reshape(-1, *shape)[:SEQUENCES]
    if len({len(value) for value in given.values()}) != 1:
        raise BadModel("inputs of different numbers of samples", "calibration", "as many of each")
    out = []
    for n in range(len(next(iter(given.values())))):
        sample = {name: value[n] for name, value in given.items()}
        sample |= {x.input: x.counted.of(sample[x.counted.input]) for own in parts for x in own.lookups if x.counted}
        masks = [sample[model.mask] if model.mask is not None and s == model.masked else None for s in range(len(parts))]
        orders = [order_of(mask, own.rows) for mask, own in zip(masks, parts, strict=True)]
        first, *more = ((embed(own, sample, order), keys) for own, (order, keys) in zip(parts, orders, strict=True))
        if orders[model.masked][1]:
            out.append(Sample(*first, tuple(more)))
    if not out:
        raise BadModel("every sample is padding alone", "calibration", "masks with ones")
    return out


def of_decoder(model: Transformer, data: Data | None, context: int) -> Samples:
    """Sequences of a language model, of at most `context` tokens; random ones without data. Errors as `_ids`."""
    return [Sample(embed(model, {model.tokens_input: i}), len(i)) for i in _ids(model, data, context)]


def of_rows(model: Transformer, data: Data | None, shape: tuple[int, ...], where: str) -> Samples:
    """Batches [*shape] of rows that nothing mixes. Errors as `of_sequences`."""
    assert model.given is not None
    if data is None:
        (part,) = model.all_streams(shape_rows(shape))
        data = {name: value.reshape(-1, *shape) for name, value in _random(model, [part], where).items()}
    samples = _calibration(model.given.input, data, shape, where)[:SEQUENCES]
    return [Sample(embed(model, {model.given.input: sample}), shape_rows(shape)) for sample in samples]


def shape_rows(shape: tuple[int, ...]) -> int:
    """Rows of a tensor: its elements over those of its last dimension."""
    return int(np.prod(shape[:-1]))
