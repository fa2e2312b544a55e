"""A whole ONNX model to programs of the machine: recognised, calibrated, quantized, placed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from axlora.compiler.backend.build_image import PREFILL, Image, build_region
from axlora.compiler.backend.emit_rows import whole_context
from axlora.compiler.backend.link import adapter_block
from axlora.compiler.backend.place import at_target
from axlora.compiler.dump import Dump
from axlora.compiler.errors import BadModel, DoesNotFit, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.cache import is_cache
from axlora.compiler.frontend.embeddings import Table, tables_of
from axlora.compiler.frontend.held import Candidate, Held, of_found
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.frontend.smoothing import Inputs, Widths
from axlora.compiler.frontend.source import Model
from axlora.compiler.frontend.variants import variants
from axlora.compiler.layer import Linear, Lowered, Placement, Regions, Tensor
from axlora.compiler.operators import Attention, FakeQuantize, Op
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.passes.adapters import Origin
from axlora.compiler.passes.column_order import ordered
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.drop_scales import drop_scales
from axlora.compiler.passes.lower_rows import Calibrated, Starts, widths
from axlora.compiler.passes.pipeline import READ_WHOLE, lower_rows, run
from axlora.compiler.passes.quantize_linear import group_rows
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import ONE_SEQUENCE, read_rows, read_transformer, read_whole
from axlora.compiler.pipelines import samples
from axlora.compiler.pipelines.adapted import adapted, merge, quantized, unrounded
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.samples import Data, Float64, Found, Samples
from axlora.compiler.pipelines.sequence_shapes import context_of, one_sequence
from axlora.compiler.pipelines.static_scales import with_static_scales
from axlora.compiler.pipelines.weight_widths import with_widths
from axlora.compiler.reference.integer_module import IntegerModule
from axlora.compiler.reference.operator_errors import value_errors
from axlora.compiler.reference.whole_module import WholeModule
from axlora.compiler.row_changes import TableChanges, TableInfo
from axlora.compiler.rows.fractions import held_zero
from axlora.compiler.rows.layout import WITHOUT, layouts
from axlora.compiler.rows.lower import HINT
from axlora.compiler.rows.read_region import Region, read_region
from axlora.compiler.transformer import Lookup, Transformer, with_rows
from axlora.isa.positions import SLOTS as POSITION_SLOTS
from axlora.isa.target import Target

_LOG = logging.getLogger(__name__)
EMBEDDING = "picks the rows of embeddings"
"""Why a Gather is on the host."""
LAYOUT = "lays out the elements of an input as rows"
UNCALIBRATED = "no calibration data: magnitudes come from random token ids"
"""Said when all else went well: an error is one line."""


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
    tables: Mapping[str, TableInfo] = field(default_factory=dict)
    """Input of ids -> its table."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Value -> its error on the first calibration sample (`value_errors`), where there is one."""

    @property
    def shared(self) -> bool:
        """Whether linears share weights in memory: then there is no package of it."""
        return self.image.saved > 0

    def integers(self, bits: int, starts: Sequence[int] | None = None) -> IntegerModule:
        """The integer module: a function for each start of the machine, or for these. `bits`: of activations."""
        starts, context = starts or tuple(self.image.programs), self.image.context
        return IntegerModule(self.region, self.lowered.linears, bits=bits, context=context, starts=starts)

    def whole(self, bits: int) -> WholeModule:
        """The module that the passes end with, for LLVM. `bits`: of activations."""
        assert self.lowered.regions is not None
        return WholeModule(self.lowered.regions, self.region, self.lowered.linears, bits, self.image.context)


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
        hint = "leave --activation out, or give --calibration"
        raise BadModel("the file carries no static scales of activations", f"activation static{bits}", hint)
    if (most := max(x.bits for x in own)) > bits:
        what = f"the file's activations have codes of {most} bits"
        raise BadModel(what, f"activation static{bits}", f"--activation static{most}")


def recognised(proto: onnx.ModelProto, where: str, options: CompileOptions, keep: bool | None = None) -> tuple[Dataflow, Found]:
    """The linears, without the file's scales of activations unless they stay: every row gets its own.

    Args:
        keep: whether its scales stay, where it has them; None: if the options keep them.

    Raises:
        UnsupportedOperator: it has no scales, and options of linears ask for some. BadModel: it has none, or wider ones than
            those that a whole model is to keep.
    """
    g, found = recognise(proto, options.exact, READ_WHOLE)
    own = _activations(g)
    if options.static_bits and options.asks_whole and (own or options.calibration is None):
        _check_codes(own, options.static_bits)
    if own and (options.keeps_scales if keep is None else keep):
        return g, tuple(_unrounded(g, f) for f in found)
    if (options.static_bits and not options.calibrates_scales) or options.exact:
        raise UnsupportedOperator("no static scales of activations in the file", where, HINT)
    return recognise(drop_scales(g, clips=False), passes=READ_WHOLE) if own else (g, found)


def check_batch(target: Target, batch: int) -> None:
    """Raises `DoesNotFit`: more sequences decode together than there are windows."""
    if batch > target.windows:
        hint = f"at most {target.windows}, or a target with more windows"
        raise DoesNotFit(f"{batch} sequences at once, the target has {target.windows} windows of registers", "max-batch", hint)


def codes_tensor(linear: Linear, x: Activation) -> Tensor:
    """The codes that a linear reads."""
    return Tensor(linear.input, 1, linear.k, (1, linear.k), x.bits, x.scale, x.zero_point, x.per_token)


def _quantized(
    model: Transformer, found: Sequence[FoundLinear], target: Target, options: CompileOptions
) -> tuple[list[Linear], list[Tensor]]:
    """The linears for inputs with a scale a row, or one of the file, and 32-bit outputs."""
    reads = {op.name: op.x for op in model.operators if isinstance(op, LinearOp)}
    shapes = {each.name: each.shape[1] for each in found}
    lie = layouts(model.operators, widths(model, shapes), model.ends, target.vector_lanes)
    linears, inputs = [], []
    options.tell("quantizing linears")
    for each in found:
        options.tell(each.name)
        x = Activation(each.x_name, "", 1.0, 0, target.activation_bits, per_token=True)
        if (codes := model.codes.get(reads.get(each.name, ""))) is not None:
            x = Activation(each.x_name, "", codes.scale, held_zero(codes, target.activation_bits), codes.bits)
        grouped = lie.get(reads.get(each.name, ""), WITHOUT).group
        bits = each.bits or options.usual_bits
        linear, _ = quantized(each, x, target, bits, group=group_rows(target, bits), grouped=grouped)
        linears.append(linear)
        inputs.append(codes_tensor(linear, x))
    return linears, inputs


def placement(
    model: Transformer, linears: Sequence[Linear], keys: Sequence[int], rows: Sequence[int], batch: int
) -> tuple[Placement, ...]:
    """One row an operator; multiply-accumulates of `rows` tokens of each stream with `keys` keys, for `batch` sequences."""
    sizes, streams = {linear.name: linear.k * linear.n for linear in linears}, model.streams

    def row(op: Op) -> Placement:
        macs = 0
        if isinstance(op, LinearOp):
            macs = sizes[op.name] * rows[streams[op.x]] * batch
        elif isinstance(op, Attention):
            macs = 2 * op.heads * op.dim * keys[streams[op.k]] * rows[streams[op.q]] * batch
        return Placement(
            f"{type(op).__name__} {op.name if isinstance(op, LinearOp) else op.y}", "accelerator", "integer rows", macs
        )

    parts = model.all_streams(0)
    first = [Placement(f"Gather {x.input}", "host", EMBEDDING, 0) for own in parts for x in own.lookups]
    given = [own.given for own in parts if own.given is not None and own.given.index is not None]
    first += [Placement(f"Gather {own.input}", "host", LAYOUT, 0) for own in given]
    return (*first, *(row(op) for op in model.operators))


@dataclass(frozen=True)
class _Read:
    """A model as it was read and recognised."""

    where: str
    g: Dataflow
    found: Found
    model: Transformer
    batch: int
    """Sequences of a run; 1 of rows that nothing mixes, and of a language model."""
    context: int = 0
    """Of a language model: most tokens."""

    @property
    def starts(self) -> Starts:
        """What a start of the machine takes."""
        if self.context:
            return Starts.DECODE
        return Starts.ROWS if self.model.rowwise else Starts.SEQUENCE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input of ids or rows, as it was read: of one sequence, or of a batch of rows that nothing mixes."""
        return self.g.shape(self.model.rows_input)

    @property
    def rows(self) -> int:
        """Of a sequence, of the batch of rows that nothing mixes, or of the context of a language model."""
        return self.context or (int(np.prod(self.shape)) if self.model.given is None else self.model.given.count(self.shape))

    def first_rows(self, data: Data | None) -> Samples:
        """What calibration looks at; errors as those of `samples`."""
        if self.context:
            return samples.of_decoder(self.model, data, self.context)
        if self.starts is Starts.ROWS:
            return samples.of_rows(self.model, data, self.shape, self.where)
        return samples.of_sequences(self.model, data, self.batch, self.rows, self.where)

    def with_rows(self, changes: TableChanges) -> _Read:
        """The same with changes of embeddings."""
        return replace(self, model=with_rows(self.model, changes))

    def tables(self) -> tuple[Table, ...]:
        """The embeddings of the graph; those that rows are picked from know which linears share them."""
        picked = {x.name: x for own in self.model.all_streams(0) for x in own.lookups}
        linears = [of_found(found) for found in self.found]
        tables = tables_of(Graph(self.g.model))
        return tuple(_picked(table, picked[table.name], linears) if table.name in picked else table for table in tables)


def _picked(table: Table, lookup: Lookup, linears: Sequence[Candidate]) -> Table:
    """A table that rows are picked from: in whatever form the file holds it, the model has its values."""
    own = replace(table, picked=True, held=lambda: table.held() or Held(lookup.table / lookup.scale))
    return replace(own, tied=own.shared_by(linears))


Reader = Callable[[Dataflow, Found, str], Transformer]


@dataclass(frozen=True)
class _Reading:
    """A model file, and what is to be made of it."""

    file: Model
    options: CompileOptions
    dump: Dump

    @property
    def keeps(self) -> bool:
        """Whether the file's scales stay: the options keep them, or nothing else may tell the range of an input of floats."""
        options = self.options
        if options.keeps_scales or options.activation is not None or options.calibration is not None:
            return options.keeps_scales
        return onnx_reader.takes_rows(self.file)

    def read(self, shapes: Mapping[str, int], batch: int, reader: Reader, context: int = 0) -> _Read:
        """The model with its free dimensions fixed to `shapes`, as `reader` recognises it; `context` of a language model."""
        self.dump.restart()
        proto, where = onnx_reader.read(self.file, shapes, self.options.exact, empty_caches=context > 0, whole=True)
        self.dump.model(proto)
        g, found = recognised(proto, where, self.options, self.keeps)
        self.dump.modules(g.phases)
        transformer = reader(g, found, where)
        self.dump.recognised(transformer.operators)
        return _Read(where, g, found, transformer, batch, context)

    def decoder(self) -> _Read:
        """A language model, plain or with caches.

        Raises:
            UnsupportedOperator: a node that is not understood, or is not causal. BadModel: another context than the export's.
        """
        dimensions = {name: dims for name, dims in onnx_reader.dimensions(self.file).items() if not is_cache(name)}
        for name, dims in dimensions.items():
            if len(dims) > 2:  # an encoder's rows
                raise UnsupportedOperator(f"input {name!r} beside the token ids", "model", ONE_SEQUENCE)
        context, own = context_of(dimensions, self.options.max_context, self.options.shapes or {})
        return self.read(own, 1, read_transformer, context)

    def whole(self) -> _Read:
        """A model of rows that nothing mixes, where it is one, else of whole sequences.

        Raises:
            UnsupportedOperator: a node that is not understood, or linears alone, for which a program of linears is as good,
                where none asks for a whole model.
        """
        dimensions, shapes = onnx_reader.dimensions(self.file), self.options.shapes or {}
        if not onnx_reader.takes_rows(self.file):
            return self.read(*one_sequence(dimensions, shapes), read_whole)
        try:
            found = self.read(shapes, 1, read_rows)
        except UnsupportedOperator as error:
            (free,) = dimensions.values()
            if len(free) < 3:  # no sequences
                raise
            try:
                sequence = one_sequence(dimensions, shapes)
            except UnsupportedOperator as fixed:
                raise (fixed if len(free) > 3 else error) from None  # rows of an image are its pixels
            return self.read(*sequence, read_whole)
        if not self.options.asks_whole and all(isinstance(op, LinearOp | FakeQuantize) for op in found.model.operators):
            raise UnsupportedOperator("linears alone", found.where, HINT)
        return found


def _lowered(read: _Read, target: Target, options: CompileOptions, tables: Sequence[Table]) -> tuple[Lowered, dict[str, int]]:
    """The linears with their adapters, quantized; and the rank of each adapter."""
    model = read.model
    linears, inputs = _quantized(model, read.found, target, options)
    decodes = read.starts is Starts.DECODE
    rows = model.lengths(read.rows)
    keys, count = ((whole_context(target, read.rows),), (1,)) if decodes else (rows, rows)
    places = placement(model, linears, keys, count, read.batch)
    lowered = adapted(linears, inputs, (), places, Origin(read.found, tables), target, options)
    ranks = {
        n: max((a.rank for li in lowered.linears for a in li.adapters if a.name == n), default=0) for n in lowered.adapters
    }
    return lowered, ranks


def _finished(
    read: _Read,
    target: Target,
    options: CompileOptions,
    peaks: Mapping[str, Float64],
    tables: Sequence[Table],
    dump: Dump,
    shared: bool,
    only: Set[str],
) -> Generated:
    """Quantize, add the adapters, lower, place.

    Args:
        peaks: value -> largest magnitude of each feature.
        shared, only: as `build_region`.
    """
    model = read.model
    largest = {name: float(peak.max()) for name, peak in peaks.items()}
    largest |= {name: max(bound, largest[name]) for name, bound in model.bounds.items()}
    largest |= {f"{name}/smooth": float((peaks[name] / by).max()) for name, by in model.smooth.items()}
    lowered, ranks = _lowered(read, target, options, tables)
    rank = max([options.max_lora_rank or 0, *ranks.values()])
    slots = (1 if rank else 0) if options.max_loras is None else options.max_loras
    batch = options.max_batch or 1
    check_batch(target, batch)
    if batch > 1:
        slots = min(batch, POSITION_SLOTS) if rank and options.max_loras is None else slots
    elif not model.rowwise:
        slots = min(slots, 1)  # a start runs one sequence, with its one adapter
    options.tell("placing the program")
    used = {li.name for li in lowered.linears if li.adapters}
    adaptable = used if used and options.lora_linears == "used" and not options.generate else None
    names = read.g.names()
    own = Calibrated(model, largest, lowered.linears, read.starts, rank, adaptable)
    phases = run(read.g.module, lower_rows(names, own))
    dump.modules(phases)
    module = phases[-1][1]
    region = read_region(module, lowered.linears)
    called = tuple(linear.name for linear in lowered.linears if linear.name in region.steps)
    lowered = replace(lowered, regions=Regions(module, names.arguments(module["main"]), called, rank))
    chunk = PREFILL if options.chunk is None else options.chunk
    with at_target(target):
        image = build_region(target, region, lowered.linears, slots=slots, chunk=chunk, batch=batch, shared=shared, only=only)
    tokens = max(image.programs) if read.starts is Starts.ROWS else read.rows
    shape = () if model.given is None else (read.batch * read.shape[0], *read.shape[1:])
    blocks = {n: (r, adapter_block(target, lowered.linears, n, r, image.tilings) if r else b"") for n, r in ranks.items()}
    known = {table.name: table for table in tables}
    infos = {x.input: known[x.name].info(x.scale) for own in model.all_streams(0) for x in own.lookups if x.name in known}
    made = Generated(model, lowered, region, image, blocks, tokens, read.batch, shape, infos)
    if dump.wanted:
        dump.modules([("integers", made.integers(target.activation_bits).module)])
    dump.programs({f"{'batch' if c.batch else 'program'}_{c.rows}": c.instructions for c in image.codes})
    return made


def lower_whole(
    file: Model, target: Target, options: CompileOptions, shared: bool = False, only: Set[str] = frozenset()
) -> Generated:
    """A model of token ids or of rows of floats as programs: of a decoder, with `generate`, around a cache; else from its
    first rows to its outputs.

    A start takes a sequence, rows of one, or, where nothing mixes rows, as many rows of the batch as the buffers hold.

    Args:
        shared, only: as `build_region`; estimates run such programs, which are no packages.

    Raises:
        UnsupportedOperator: a node that is not understood, rows of floats without calibration data, or a decoder that is not
            causal. BadModel, BadAdapter: as `pipelines.linears.lower`.
    """
    options.tell("reading the model")
    dump, data = Dump(options.dump), options.calibration
    reading = _Reading(file, options, dump)
    read = reading.decoder() if options.generate else reading.whole()
    tables = read.tables()
    merged, options = merge(read.found, tables, target, options)
    notices = merged.notices
    read = replace(read.with_rows(merged.rows), found=merged.linears)
    options.tell("looking at magnitudes")
    sequences = read.first_rows(data)
    orders = read.model.orders
    several = [
        (ordered(one.linears, orders), read.with_rows(one.rows).first_rows(data) if one.rows else sequences)
        for one in variants(read.found, options.files, options.matching, tables)
    ]
    read = replace(read, found=ordered(read.found, orders))
    inputs = None if data is None else Inputs(options.quantizer == "gptq")
    peaks = samples.peaks(read.model, several, inputs)
    held = samples.products(read.found)
    if inputs is not None:
        read = replace(read, found=samples.with_grams(read.model, read.found, inputs))
    if options.calibrates_scales and not read.model.codes:
        model, peaks = with_static_scales(read.model, peaks, options.static_bits)
        read = replace(read, model=model)
    elif inputs is not None:
        widths = Widths(target.activation_bits, options.usual_bits, True, group_rows(target, options.usual_bits))
        model, found = samples.smoothed(read.model, read.found, inputs, widths)
        read = replace(read, model=model, found=found)
    if inputs is not None:
        found, chosen = with_widths(read.found, samples.read_by(read.model), inputs, target, options)
        read, notices = replace(read, found=found), (*notices, *chosen)
    made = _finished(read, target, options, peaks, tables, dump, shared, only)
    for notice in (*notices, *unrounded(read.found, options), *made.lowered.notices):
        _LOG.warning("%s", notice)
    if data is None:
        if options.generate or not samples.is_bounded(read.model):
            _LOG.warning(UNCALIBRATED)
        return made
    if options.generate:
        return made
    options.tell("measuring errors")
    bits, context = target.activation_bits, made.image.context
    return replace(made, errors=value_errors(made.model, made.region, made.lowered.linears, held, sequences[0], bits, context))
