"""The front half of the compiler: an ONNX model and adapters to integer linears, the host graph and the integer graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import numpy.typing as npt

from axlora.compiler.dump import Dump
from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.attach import check_map
from axlora.compiler.frontend.calibrate import calibrate, samples
from axlora.compiler.frontend.embeddings import Table, tables_of
from axlora.compiler.frontend.host_graph import cut
from axlora.compiler.frontend.one_sided_inputs import one_sided
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.frontend.smoothing import Inputs, Widths
from axlora.compiler.frontend.source import Model
from axlora.compiler.frontend.variants import variants
from axlora.compiler.layer import TOKENS, Linear, Lowered, Regions, Tensor
from axlora.compiler.passes.adapters import Origin
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.drop_scales import drop_scales
from axlora.compiler.passes.lower_linears import Smooth
from axlora.compiler.passes.pipeline import READ_LINEARS, lower_linears, run
from axlora.compiler.passes.placement import no_linear, place
from axlora.compiler.passes.quantize_linear import group_rows, offset_rows
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.pipelines.adapted import adapted, merge, quantized, smoothed, unrounded, with_gram
from axlora.compiler.pipelines.options import STATIC, CompileOptions
from axlora.compiler.pipelines.weight_widths import with_widths
from axlora.compiler.reference.integer_graph import IntegerGraph, widest
from axlora.compiler.reference.layer_errors import layer_errors
from axlora.compiler.rows.read_region import read_linears
from axlora.isa.target import Target

_LOG = logging.getLogger(__name__)


def _activations(g: Graph, found: tuple[FoundLinear, ...], wanted: str | None, where: str) -> tuple[FoundLinear, ...]:
    """Each linear with the activation type that it gets: the file's scale, or one a token.

    Args:
        wanted: `CompileOptions.activation`, not `auto`.

    Raises:
        BadModel: static activations are asked for, and a linear has no scale.
    """
    bits = 16 if wanted is not None and wanted.endswith("16") else 8
    result = []
    for each in found:
        if each.x is not None and (wanted is None or wanted.startswith("token") is each.x.per_token):
            result.append(_with_float_output(g, each) if each.x.per_token else each)
        elif wanted is None or wanted.startswith("token"):
            result.append(replace(_with_float_output(g, each), x=Activation(each.x_name, "", 1.0, 0, bits, per_token=True)))
        else:
            raise BadModel(f"input of linear {each.name!r} has no static scale", where, "give calibration data")
    return _named_apart(result)


def _named_apart(found: list[FoundLinear]) -> tuple[FoundLinear, ...]:
    """The linears with one name for each form in which a tensor is read: by the file's static scale, and by one a token."""
    names: dict[Activation, str] = {}
    taken: set[str] = set()
    result = []
    for each in found:
        assert each.x is not None
        if each.x not in names:
            name, count = each.x.tensor, 1
            while name in taken:
                count += 1
                name = f"{each.x.tensor}#{count}"
            names[each.x] = name
            taken.add(name)
        result.append(replace(each, x=replace(each.x, tensor=names[each.x])))
    return tuple(result)


def _with_float_output(g: Graph, found: FoundLinear) -> FoundLinear:
    """The linear without the QuantizeLinear behind it, which stays on the host: per-token inputs give float outputs."""
    if found.output is None:
        return found
    index = g.producer[found.result]
    name = str(g.nodes[index].input[0])
    return replace(found, output=None, output_name=name, result=name, nodes=tuple(i for i in found.nodes if i != index))


def _smoothed(found: FoundLinear, x: Activation, by: npt.NDArray[np.float64] | None) -> FoundLinear:
    """The linear with a calibrated input; its weights take what the channels of x are divided by."""
    return replace(found, x=x) if by is None else replace(smoothed(found, by), x=x)


def _source(g: Graph, found: FoundLinear, results: set[str]) -> str:
    """Tensor of the host graph that a linear reads: the float behind its codes, or the codes that another linear gives."""
    assert found.x is not None
    if not found.x.codes:
        return found.x.tensor if found.smooth is not None else found.x_name
    return found.x.codes if found.x.codes in results else str(g.nodes[g.producer[found.x.codes]].input[0])


def _quantized(
    seen: Dataflow, g: Graph, found: tuple[FoundLinear, ...], tables: Sequence[Table], target: Target, options: CompileOptions
) -> Lowered:
    """The linears with their adapters, and their inputs and outputs."""
    results = {each.result for each in found}
    linears: list[Linear] = []
    inputs: dict[str, Tensor] = {}
    outputs: list[Tensor] = []
    grouped = group_rows(target, options.usual_bits)
    rows = {} if grouped else _offset_rows(seen, g, found, target, options.usual_bits)  # they have no room for scale groups
    for each in found:
        assert each.x is not None
        offset = rows.get(each.x.tensor, 0)
        bits = each.bits or options.usual_bits
        linear, y = quantized(each, each.x, target, bits, rows=offset, group=0 if offset else group_rows(target, bits))
        linears.append(linear)
        source = _source(g, each, results)
        shape = g.shape(each.x_name if each.smooth is not None else source)
        inputs.setdefault(each.x.tensor, _tensor(each.x, source, shape, linear.k, linear.offset_rows))
        outputs.append(_tensor(y, each.result, g.shape(each.result), linear.n))
    return adapted(linears, [*inputs.values()], outputs, place(g, found), Origin(found, tables), target, options)


def _smoothing(found: tuple[FoundLinear, ...]) -> Smooth:
    """Tensor that linears read -> the tensor of the model, and what its channels are divided by."""
    return {f.x.tensor: (f.x_name, f.smooth) for f in found if f.x is not None and f.smooth is not None}


def _partitioned(seen: Dataflow, lowered: Lowered, smooth: Smooth, rank: int, bits: int, dump: Dump) -> Lowered:
    """The linears as regions of the model's module, in the order of the stages that they run in."""
    names = seen.names()
    made = run(seen.module, lower_linears(names, lowered, smooth, rank, bits))
    dump.modules(made)
    outputs = dict(zip((linear.name for linear in lowered.linears), lowered.outputs, strict=True))
    module = made[-1][1]
    regions = Regions(module, names.arguments(module["main"]), tuple(outputs), rank)
    linears = read_linears(regions, lowered.linears).linears
    return replace(lowered, linears=linears, outputs=tuple(outputs[linear.name] for linear in linears), regions=regions)


def _offset_rows(seen: Dataflow, g: Graph, found: tuple[FoundLinear, ...], target: Target, weight_bits: int) -> dict[str, int]:
    """Tensors with a scale a token that lie on one side of zero -> rows for the offset, enough for all their readers.

    None where a reader's weight has no room for them: blocks of the file have scales of their own.
    """
    rows: dict[str, int] = {}
    full: set[str] = set()
    for each in found:
        source = seen.strip(each.x_name)
        if each.x is not None and each.x.per_token and one_sided(g, source if seen.is_named(source) else each.x_name):
            needed = offset_rows(each, target, each.bits or weight_bits)
            rows[each.x.tensor] = max(rows.get(each.x.tensor, 0), needed)
            full |= {each.x.tensor} if not needed else set()
    return {name: needed for name, needed in rows.items() if name not in full}


def _tensor(activation: Activation, source: str, shape: tuple[int, ...], columns: int, offset: int = 0) -> Tensor:
    if not 0 < prod(shape[:-1]) <= TOKENS or shape[-1:] != (columns - offset,):
        what = f"tensor of shape {shape} is no 1 to {TOKENS} tokens of {columns - offset} values"
        raise BadModel(what, activation.tensor, "smaller --shape values")
    return Tensor(
        activation.tensor,
        prod(shape[:-1]),
        columns,
        shape,
        activation.bits,
        activation.scale,
        activation.zero_point,
        activation.per_token,
        source,
        offset,
    )


def lower(model: Model, target: Target, options: CompileOptions, dump: Dump | None = None) -> tuple[Lowered, IntegerGraph]:
    """Lower a model to integer linears, the host graph, and the integer graph.

    Args:
        model: path or proto of the ONNX model.
        target: the machine: bits of activations and accumulators.
        options: those of language models and of whole ones are not looked at. Calibration data is for models without scales
            of their own: static scales need it, and per-token ones are better with it, as it shows which channels are large.
        dump: of every phase as text; None: a new one of the options' directory.

    Raises:
        BadModel, BadAdapter, UnsupportedOperator: one line that says what, where and what to do.
    """
    activation = f"token{target.activation_bits}" if options.activation == "auto" else options.activation
    proto, where = onnx_reader.read(model, options.shapes, options.exact)
    dump = dump or Dump(options.dump)
    dump.model(proto)
    seen, found = recognise(proto, options.exact, READ_LINEARS)
    g = Graph(seen.model)
    if not found:
        raise UnsupportedOperator(no_linear(g), where, "MatMul and Gemm with a constant weight [K, N] on the right are taken")
    if activation in ("token8", "token16") and any(f.x is not None for f in found):
        seen, found = recognise(drop_scales(seen), passes=READ_LINEARS)
        g = Graph(seen.model)
    dump.modules(seen.phases)
    dump.recognised(found)
    tables = tables_of(g) if options.files else ()
    whole, options = merge(found, tables, target, options)
    found, notices = whole.linears, whole.notices
    if options.calibration is not None:
        without = tuple(f for f in found if f.x is None)
        if not without:
            _LOG.warning("%s carries its own scales: the calibration data is not used", where)
        else:
            bits = 16 if activation in ("static16", "token16") else 8
            floats = tuple(_with_float_output(g, f) for f in found)
            several = [one.linears for one in variants(floats, options.files, options.matching, tables)]
            widths = Widths(bits, options.usual_bits, activation not in STATIC, group_rows(target, options.usual_bits))
            inputs = Inputs(options.quantizer == "gptq")
            scales = calibrate(g, several, without, options.calibration, widths, where, inputs)
            found = tuple(f if f.x is not None else with_gram(f, inputs, f.x_name) for f in found)
            reads = {f.name: f.x_name for f in found}
            found = tuple(f if f.x is not None else _smoothed(f, *scales[f.x_name]) for f in found)
            found, chosen = with_widths(found, reads, inputs, target, options)
            notices += chosen
    found = _activations(g, found, activation, where)
    notices += unrounded(found, options)
    smooth = _smoothing(found)
    lowered = _quantized(seen, g, found, tables, target, options)
    lowered = replace(lowered, notices=(*notices, *lowered.notices))
    check_map(options.adapter_map, lowered.linears, where)
    rank = widest(lowered, options.max_lora_rank)
    lowered = _partitioned(seen, lowered, smooth, rank, target.activation_bits, dump)
    tensors = {t.name: t.source for t in lowered.inputs}
    sources = {y.source: tensors[li.input] for li, y in zip(lowered.linears, lowered.outputs, strict=True)}
    lowered = replace(lowered, host=cut(g, sources, smooth)[0])
    if options.calibration is not None:
        sample = samples(proto, options.calibration, where)[0]
        lowered = replace(lowered, errors=layer_errors(lowered, found, target, sample))
    return lowered, IntegerGraph.build(lowered, target, options.max_lora_rank)
