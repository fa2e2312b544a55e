"""A whole ONNX model to programs of the machine: recognised, calibrated, quantized, placed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.backend.build_image import PREFILL, Image, build, whole_context
from axlora.compiler.backend.link import adapter_block
from axlora.compiler.dump import Dump
from axlora.compiler.errors import BadAdapter, BadModel, DoesNotFit, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.cache import is_cache
from axlora.compiler.frontend.calibrate import smoothing, stacked
from axlora.compiler.frontend.embeddings import Table, tables_of
from axlora.compiler.frontend.merge import merge_graph, merge_peft
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.frontend.resolve import Matching
from axlora.compiler.frontend.variants import variants
from axlora.compiler.layer import Linear, Lowered, Placement, Regions, Tensor
from axlora.compiler.operators import Add, Affine, Attention, FakeQuantize, Mul, Norm, Op, Transformer
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.passes.adapters import GRAPH, Origin, add_adapter, graph_branch, graph_matches
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.drop_scales import drop_scales
from axlora.compiler.passes.lower_rows import Calibrated, Starts
from axlora.compiler.passes.pipeline import READ_WHOLE, lower_rows, run
from axlora.compiler.passes.quantize_adapter import quantize_adapter
from axlora.compiler.passes.quantize_linear import group_rows, quantize_linear
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import read_rows, read_transformer, read_whole
from axlora.compiler.reference.integer_module import IntegerModule
from axlora.compiler.reference.operator_errors import value_errors
from axlora.compiler.reference.whole_module import WholeModule
from axlora.compiler.rows.float_forms import Product, embed, magnitudes
from axlora.compiler.rows.formulas import held_zero
from axlora.compiler.rows.lower import HINT
from axlora.compiler.rows.read_region import Region, read_region
from axlora.isa.opcodes import SLOTS
from axlora.isa.target import Target

_LOG = logging.getLogger(__name__)
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Found = tuple[FoundLinear, ...]
Data = Mapping[str, npt.NDArray[np.generic]]
Model = onnx.ModelProto | str | Path
CONTEXT = 256
"""Most tokens of a language model, unless a user says otherwise."""
MOST_CONTEXT = 1 << 15
"""Largest context of a language model."""
SAMPLES, SAMPLE_TOKENS = 4, 64
"""Random token ids that stand in for calibration data."""
EMBEDDING = "picks the rows of embeddings"
"""Why a Gather is on the host."""
UNCALIBRATED = "no calibration data: magnitudes come from random token ids"
"""Said when all else went well: an error is one line."""
SEQUENCES = 64
"""Most sequences of calibration data that are looked at."""


@dataclass(frozen=True)
class Generated:
    """A transformer for the machine."""

    model: Transformer
    lowered: Lowered
    """Linears with adapters, inputs, placement."""
    region: Region
    """What the module says of the model: the backend reads no more."""
    image: Image
    blocks: Mapping[str, tuple[int, bytes]]
    """Adapter -> (rank, its block)."""
    tokens: int
    """Of a sequence; of a language model: most of prompt and answer; of rows that nothing mixes: those of a start."""
    batch: int = 1
    """Sequences of a run."""
    shape: tuple[int, ...] = ()
    """Of the input of rows, for the whole batch, where the model has one."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Value -> its error on the first calibration sample (`value_errors`), where there is one."""

    def integers(self, bits: int, starts: Sequence[int] | None = None) -> IntegerModule:
        """The integer module: a function for each start of the machine, or for these. `bits`: of activations."""
        starts, context = starts or tuple(self.image.programs), self.image.context
        return IntegerModule(self.region, self.lowered.linears, bits=bits, context=context, starts=starts)

    def whole(self, bits: int) -> WholeModule:
        """The module that the passes end with, for LLVM. `bits`: of activations."""
        assert self.lowered.regions is not None
        return WholeModule(self.lowered.regions, self.region, self.lowered.linears, bits, self.image.context)


@dataclass(frozen=True)
class Options:
    """What a user may choose; see `axlora.compile`."""

    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    adapter_map: Mapping[str, str] | None = None
    weight_bits: int = 8
    max_loras: int | None = None
    max_lora_rank: int | None = None
    base: str | Path | None = None
    merge: bool = False
    lora_linears: str = "all"
    drop_scales: bool = True
    """Take a file that carries static scales of activations, and give every row a scale of its own instead."""
    static_bits: int = 0
    """Keep the file's static scales of activations, whose codes have no more bits than this; 0: drop or refuse them."""
    exact: bool = False
    """With these: join nothing of a linear across a Q/DQ pair."""
    dump: Dump = field(default_factory=lambda: Dump(None))
    """Of every phase as text."""
    partial_adapters: bool = False
    lone_linears: bool = True
    """Take a model of rows that is nothing but linears, for which a program of linears is as good."""

    @property
    def matching(self) -> Matching:
        """How adapters find their linears."""
        return Matching(self.adapter_map, self.base, self.partial_adapters)


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


def _unrounded(g: Dataflow, found: FoundLinear) -> FoundLinear:
    """The linear before the quantize that it ends with, if it does."""
    if found.output is None:
        return found
    name = g.nodes[g.producer[found.result]].inputs[0]
    return replace(found, output=None, output_name=name, result=name)


def _activations(g: Dataflow) -> list[Activation]:
    """What the file's Q/DQ pairs give a scale, constants left out."""
    pairs = [codes for node in g.nodes if node.op == "dequantize" and (codes := g.codes_of(node.outputs[0])) is not None]
    own = [codes for codes in pairs if g.constant(g.nodes[g.producer[codes]].inputs[0]) is None]
    return [found for codes in own if (found := g.activation(codes)) is not None]


def _check_codes(own: Sequence[Activation], bits: int) -> None:
    """Raises `BadModel`: no scale of the file's, or codes of more than `bits` bits, where its scales are to stay."""
    if not own:
        hint = "leave --activation out, or give --calibration and --operators linears"
        raise BadModel("the file carries no static scales of activations", f"activation static{bits}", hint)
    if (most := max(x.bits for x in own)) > bits:
        what = f"the file's activations have codes of {most} bits"
        raise BadModel(what, f"activation static{bits}", f"--activation static{most}")


def recognised(proto: onnx.ModelProto, where: str, options: Options) -> tuple[Dataflow, Found]:
    """The linears, without the file's scales of activations unless they stay: every row gets its own.

    Raises:
        UnsupportedOperator: it has such scales, and they are not to be dropped. BadModel: it has none, or wider ones, and
            they are to stay.
    """
    g, found = recognise(proto, options.exact, READ_WHOLE)
    own = _activations(g)
    if options.static_bits:
        _check_codes(own, options.static_bits)
        return g, tuple(_unrounded(g, f) for f in found)
    if not own:
        return g, found
    if not options.drop_scales:
        hint = f"{HINT}, or all: they are dropped, or kept by --activation static{max(x.bits for x in own)}"
        raise UnsupportedOperator("the file's own scales of activations", where, hint)
    return recognise(drop_scales(g, clips=False), passes=READ_WHOLE)


def _peaks(
    model: Transformer, sequences: Sequence[Any], found: Found, options: Options, tables: Sequence[Table]
) -> dict[str, Float64]:
    """Largest magnitude of every feature of every value over the sequences, under the base and under each adapter."""
    most: dict[str, Float64] = {}
    for one in variants(found, options.adapters, options.matching, tables):
        for name, value in magnitudes(model, sequences, products(one)).items():
            most[name] = np.maximum(most.get(name, 0.0), value)
    return most


def _smoothed(model: Transformer, found: Found, peaks: Mapping[str, Float64]) -> tuple[Transformer, Found]:
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


def _quantized(
    model: Transformer, found: Sequence[FoundLinear], target: Target, options: Options, tell: Callable[[str], None]
) -> tuple[list[Linear], list[Tensor]]:
    """The linears for inputs with a scale a row, or one of the file, and 32-bit outputs."""
    reads = {op.name: op.x for op in model.operators if isinstance(op, LinearOp)}
    group = group_rows(target, options.weight_bits)
    linears, inputs = [], []
    tell("quantizing linears")
    for each in found:
        tell(each.name)
        x = Activation(each.x_name, "", 1.0, 0, target.activation_bits, per_token=True)
        if (codes := model.codes.get(reads.get(each.name, ""))) is not None:
            x = Activation(each.x_name, "", codes.scale, held_zero(codes, target.activation_bits), codes.bits)
        linear, _ = quantize_linear(each, x, target, options.weight_bits, group=group)
        if each.loras:
            own = quantize_adapter(linear, GRAPH, graph_branch(each.loras), target, x.bits)
            linear = replace(linear, adapters=(own,))
        linears.append(linear)
        inputs.append(Tensor(linear.input, 1, linear.k, (1, linear.k), x.bits, x.scale, x.zero_point, x.per_token))
    return linears, inputs


def _placement(model: Transformer, linears: Sequence[Linear], keys: int, rows: int) -> tuple[Placement, ...]:
    """One row an operator; multiply-accumulates of `rows` tokens with `keys` keys."""
    sizes = {linear.name: linear.k * linear.n for linear in linears}

    def row(op: Op) -> Placement:
        macs = 0
        if isinstance(op, LinearOp):
            macs = sizes[op.name] * rows
        elif isinstance(op, Attention):
            macs = 2 * op.heads * op.dim * keys * rows
        return Placement(
            f"{type(op).__name__} {op.name if isinstance(op, LinearOp) else op.y}", "accelerator", "integer rows", macs
        )

    first = tuple(Placement(f"Gather {x.input}", "host", EMBEDDING, 0) for x in model.lookups)
    return (*first, *(row(op) for op in model.operators))


def _finished(
    model: Transformer,
    seen: Dataflow,
    found: Found,
    target: Target,
    options: Options,
    peaks: Mapping[str, Float64],
    tell: Callable[[str], None],
    *,
    tables: Sequence[Table],
    starts: Starts,
    rows: int,
    batch: int,
    smooth: bool,
    chunk: int = PREFILL,
) -> Generated:
    """Quantize, add the adapters, lower, place.

    Args:
        seen: the imported module.
        rows: of a sequence, of a batch of rows that nothing mixes, or of the context of a language model.
        batch: sequences of a run; 1 of rows that nothing mixes.
    """
    if smooth:
        model, found = _smoothed(model, found, peaks)
    largest = {name: float(peak.max()) for name, peak in peaks.items()}
    largest |= {name: max(bound, largest[name]) for name, bound in model.bounds.items()}
    largest |= {f"{name}/smooth": float((peaks[name] / by).max()) for name, by in model.smooth.items()}
    linears, inputs = _quantized(model, found, target, options, tell)
    own_name = GRAPH if any(x.adapters for x in linears) else None
    keys, count = (whole_context(target, rows), 1) if starts is Starts.DECODE else (rows, rows * batch)
    placement = _placement(model, linears, keys, count)
    own_names = (GRAPH,) if own_name else ()
    matches = {GRAPH: graph_matches(linears)} if own_name else {}
    lowered = Lowered(tuple(linears), tuple(inputs), (), placement, own_names, own_name, matches=matches)
    origin = Origin(found, tables)
    for name, path in () if options.merge else options.adapters.items():
        lowered = add_adapter(lowered, name, path, target, options.matching, options.max_lora_rank, origin)
    ranks = {n: max(a.rank for li in lowered.linears for a in li.adapters if a.name == n) for n in lowered.adapters}
    rank = max([options.max_lora_rank or 0, *ranks.values()])
    slots = (1 if rank else 0) if options.max_loras is None else options.max_loras
    if not 0 <= slots <= SLOTS:
        raise BadModel(f"{slots} adapter slots asked for, the machine has {SLOTS}", "max-loras", f"0 to {SLOTS}")
    if not model.rowwise:
        slots = min(slots, 1)  # a start runs one sequence, with its one adapter
    tell("placing the program")
    used = {li.name for li in lowered.linears if li.adapters}
    adaptable = used if used and options.lora_linears == "used" else None
    names = seen.names()
    phases = run(seen.module, lower_rows(names, Calibrated(model, largest, lowered.linears, starts, rank, adaptable)))
    options.dump.modules(phases)
    module = phases[-1][1]
    region = read_region(module, lowered.linears)
    called = tuple(linear.name for linear in lowered.linears if linear.name in region.steps)
    lowered = replace(lowered, regions=Regions(module, names.arguments(module["main"]), called, rank))
    try:
        image = build(target, module, lowered.linears, slots=slots, chunk=chunk)
    except DoesNotFit as error:
        where = f"target {target.name}" if error.where == "target" else error.where
        raise DoesNotFit(error.message, where, error.hint) from None
    own = max(image.programs) if starts is Starts.ROWS else rows
    made = Generated(model, lowered, region, image, {}, own, batch)
    if options.dump.wanted:
        options.dump.modules([("integers", made.integers(target.activation_bits).module)])
    options.dump.programs({f"program_{n}": program for n, program in image.programs.items()})
    blocks = {n: (r, adapter_block(target, lowered.linears, n, r, image.tilings)) for n, r in ranks.items()}
    return replace(made, blocks=blocks)


# Language models


def _context(dimensions: onnx_reader.Dimensions, context: int | None, given: Mapping[str, int]) -> tuple[int, dict[str, int]]:
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


def _ids(model: Transformer, data: Data | None, context: int) -> Int64:
    """Calibration sequences [m, n].

    Raises:
        BadModel: not the input of token ids, or ids outside the vocabulary.
    """
    vocabulary = model.embedding.shape[0]
    if data is None:
        return np.random.default_rng(0).integers(0, vocabulary, (SAMPLES, min(SAMPLE_TOKENS, context)))
    if model.tokens_input not in data:
        raise BadModel(
            f"no {model.tokens_input!r} in it", "calibration", f"token ids [samples, tokens] as {model.tokens_input!r}"
        )
    ids = np.asarray(data[model.tokens_input])
    ids = ids.reshape(-1, ids.shape[-1])[:, :context]
    if ids.dtype.kind not in "iu" or not ids.size or ids.min() < 0 or ids.max() >= vocabulary:
        raise BadModel(f"token ids must be integers from 0 to {vocabulary - 1}", "calibration", "check the tokenizer")
    return ids.astype(np.int64)


def lower_generator(
    model: onnx.ModelProto | str | Path,
    target: Target,
    options: Options,
    *,
    context: int | None,
    chunk: int = PREFILL,
    shapes: Mapping[str, int] | None = None,
    calibration: Data | None = None,
    progress: Callable[[str], None] | None = None,
) -> Generated:
    """An export of a decoder, plain or with caches, as prefill and decode programs with a cache of `context` tokens.

    Args:
        context: most tokens; None: what the export is fixed to, else `CONTEXT`.
        chunk: most rows of a prefill start; T at least are taken.
        calibration: the input of token ids -> [samples, tokens].

    Raises:
        UnsupportedOperator: a node that is not understood, or is not causal. BadModel, BadAdapter: as
            `pipelines.linears.lower`.
    """
    if context is not None and not 1 <= context <= MOST_CONTEXT:
        raise BadModel(f"context of {context} tokens", "max_context", f"1 to {MOST_CONTEXT}")
    if chunk < 1:
        raise BadModel(f"chunk of {chunk} tokens", "chunk", "1 or more")
    tell = progress or (lambda _: None)
    tell("reading the model")
    dimensions = {name: dims for name, dims in onnx_reader.dimensions(model).items() if not is_cache(name)}
    context, own = _context(dimensions, context, shapes or {})
    proto, where = onnx_reader.read(model, own, options.exact, empty_caches=True)
    options.dump.model(proto)
    g, found = recognised(proto, where, options)
    options.dump.modules(g.phases)
    transformer = read_transformer(g, found, where)
    options.dump.recognised(transformer.operators)
    tables = tables_of(Graph(g.model)) if options.adapters else ()
    tell("looking at magnitudes")
    ids = _ids(transformer, calibration, context)
    sequences = [(embed(transformer, {transformer.tokens_input: i}), len(i)) for i in ids]
    peaks = _peaks(transformer, sequences, found, options, tables)
    given = calibration is not None
    made = _finished(
        transformer,
        g,
        found,
        target,
        options,
        peaks,
        tell,
        tables=tables,
        starts=Starts.DECODE,
        rows=context,
        batch=1,
        smooth=given,
        chunk=chunk,
    )
    for notice in made.lowered.notices:
        _LOG.warning("%s", notice)
    if not given:
        _LOG.warning(UNCALIBRATED)
    return made


# Whole sequences


def _one_sequence(dimensions: onnx_reader.Dimensions, shapes: Mapping[str, int]) -> tuple[dict[str, int], int]:
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


def order_of(mask: npt.NDArray[Any] | None, tokens: int) -> tuple[Int64, int]:
    """(places of a sequence in the order of its rows, rows that are no padding): padding comes last, nothing else moves."""
    if mask is None:
        return np.arange(tokens), tokens
    return np.argsort(mask == 0, kind="stable"), int((mask != 0).sum())


Samples = list[tuple[Float64, int]]
"""The first rows of each sample, and how many of them are no padding."""


def _calibration(name: str, data: Data, shape: tuple[int, ...], where: str) -> npt.NDArray[Any]:
    """Samples [samples, *shape] of an input; raises `BadModel`: it is missing, of another shape, or not finite."""
    if name not in data:
        raise BadModel(f"calibration data lacks input {name!r}", where, "add it to the .npz")
    return stacked(name, data[name], shape, where)


def _is_bounded(model: Transformer) -> bool:
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
    return np.random.default_rng(0).uniform(least, most, (SAMPLES, *shape))


def _given(model: Transformer, data: Data | None, shape: tuple[int, ...], where: str) -> Data | None:
    """Calibration data, which rows that are given need, unless the file's own scales tell their range: then random rows."""
    if data is None and model.given is not None:
        if _is_bounded(model):
            return {model.given.input: _random_rows(model, shape)}
        what = f"input {model.given.input!r} of floats, whose range only calibration data tells"
        raise UnsupportedOperator(what, where, f"give --calibration, or {HINT}")
    return data


def _sequences(model: Transformer, data: Data | None, batch: int, tokens: int, where: str) -> Samples:
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
        ids = {x.input: rng.integers(0, len(x.table), (SAMPLES, tokens)) for x in model.lookups}
        return [(embed(model, {name: value[n] for name, value in ids.items()}), tokens) for n in range(SAMPLES)]
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


@dataclass(frozen=True)
class _Whole:
    """A model as it was read and recognised."""

    where: str
    g: Dataflow
    found: Found
    model: Transformer
    batch: int
    """Sequences of a run; 1 of rows that nothing mixes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input of ids or rows, as it was read: of one sequence, or of a batch of rows that nothing mixes."""
        return self.g.shape(self.model.rows_input)

    @property
    def rows(self) -> int:
        """Of a sequence, or of the batch of rows that nothing mixes."""
        return int(np.prod(self.shape)) // (1 if self.model.given is None else self.model.given.features)

    def samples(self, data: Data | None) -> Samples:
        """What calibration looks at; errors as `_sequences`."""
        given = self.model.given
        if given is None or not self.model.rowwise:
            return _sequences(self.model, data, self.batch, self.rows, self.where)
        data = _given(self.model, data, self.shape, self.where) or {}
        samples = _calibration(given.input, data, self.shape, self.where)[:SEQUENCES]
        return [(embed(self.model, {given.input: sample}), self.rows) for sample in samples]


Reader = Callable[[Dataflow, Found, str], Transformer]


def _read(model: Model, shapes: Mapping[str, int], batch: int, options: Options, reader: Reader) -> _Whole:
    """The model with its free dimensions fixed to `shapes`, as `reader` recognises it."""
    options.dump.restart()
    proto, where = onnx_reader.read(model, shapes, options.exact)
    options.dump.model(proto)
    g, found = recognised(proto, where, options)
    options.dump.modules(g.phases)
    transformer = reader(g, found, where)
    options.dump.recognised(transformer.operators)
    return _Whole(where, g, found, transformer, batch)


def _read_whole(model: Model, shapes: Mapping[str, int], options: Options) -> _Whole:
    """A model of rows that nothing mixes, where it is one, else of whole sequences.

    Raises:
        UnsupportedOperator: a node that is not understood, or linears alone where `Options` does not take them.
    """
    dimensions = onnx_reader.dimensions(model)
    if not onnx_reader.takes_rows(model):
        own, batch = _one_sequence(dimensions, shapes)
        return _read(model, own, batch, options, read_whole)
    try:
        found = _read(model, shapes, 1, options, read_rows)
    except UnsupportedOperator as error:
        (free,) = dimensions.values()
        if len(free) != 3:  # no sequences
            raise
        try:
            own, batch = _one_sequence(dimensions, shapes)
        except UnsupportedOperator:
            raise error from None
        return _read(model, own, batch, options, read_whole)
    if not options.lone_linears and all(isinstance(op, LinearOp) for op in found.model.operators):
        raise UnsupportedOperator("linears alone", found.where, HINT)
    return found


def lower_whole(
    model: onnx.ModelProto | str | Path,
    target: Target,
    options: Options,
    *,
    shapes: Mapping[str, int] | None = None,
    calibration: Data | None = None,
    progress: Callable[[str], None] | None = None,
) -> Generated:
    """A model of token ids or of rows of floats as one program from its first rows to its outputs.

    A start takes a sequence; where nothing mixes rows, as many rows of the batch as the buffers hold.

    Raises:
        UnsupportedOperator: a node that is not understood, or rows of floats without calibration data. BadModel,
            BadAdapter: as `pipelines.linears.lower`.
    """
    tell = progress or (lambda _: None)
    tell("reading the model")
    whole = _read_whole(model, shapes or {}, options)
    found, transformer, rows, batch = whole.found, whole.model, whole.rows, whole.batch
    tables = tables_of(Graph(whole.g.model)) if options.adapters else ()
    notices: tuple[str, ...] = ()
    if options.merge:
        if len(options.adapters) > 1:
            raise BadAdapter(f"{len(options.adapters)} adapters to merge", "--merge", "give one")
        found = merge_graph(found)
        for name, path in options.adapters.items():
            found, notices = merge_peft(found, name, path, options.matching, tables)
        options = replace(options, adapters={})
    tell("looking at magnitudes")
    sequences = whole.samples(calibration)
    peaks = _peaks(transformer, sequences, found, options, tables)
    given = calibration is not None
    made = _finished(
        transformer,
        whole.g,
        found,
        target,
        options,
        peaks,
        tell,
        tables=tables,
        starts=Starts.ROWS if transformer.rowwise else Starts.SEQUENCE,
        rows=rows,
        batch=batch,
        smooth=given,
    )
    for notice in (*notices, *made.lowered.notices):
        _LOG.warning("%s", notice)
    if transformer.given is not None:
        made = replace(made, shape=(batch * whole.shape[0], *whole.shape[1:]))
    if not given:
        if not _is_bounded(transformer):
            _LOG.warning(UNCALIBRATED)
        return made
    tell("measuring errors")
    held, bits = products(found), target.activation_bits
    errors = value_errors(made.model, made.region, made.lowered.linears, held, sequences[0], bits, made.image.context)
    return replace(made, errors=errors)
