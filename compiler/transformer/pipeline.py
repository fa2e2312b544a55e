"""An ONNX language model to a program that generates: recognised, calibrated, quantized, placed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.backend.link import adapter_block
from axlora.compiler.errors import BadModel
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.cut import without_scales
from axlora.compiler.frontend.found import Activation, FoundLinear
from axlora.compiler.frontend.recognise import recognise
from axlora.compiler.frontend.transformer import read_transformer
from axlora.compiler.layer import Linear, Lowered, Placement, Tensor
from axlora.compiler.passes.adapters import GRAPH, add_adapter, graph_branch
from axlora.compiler.passes.quantize_adapter import quantize_adapter
from axlora.compiler.passes.quantize_linear import quantize_linear
from axlora.isa.target import Target

from .build import Image, build
from .ops import Attention, Op, Transformer
from .ops import Linear as LinearOp
from .real import Product, magnitudes

_LOG = logging.getLogger(__name__)
CONTEXT = 1 << 15
GROUP = 32
"""Rows of a scale group, for weights of 4 bits and less."""
SAMPLES, SAMPLE_TOKENS = 4, 64
"""Random token ids that stand in for calibration data."""


@dataclass(frozen=True)
class Generated:
    """A language model for the machine."""

    model: Transformer
    lowered: Lowered
    """Linears with adapters, inputs, placement."""
    largest: Mapping[str, float]
    """Value -> largest magnitude seen."""
    image: Image
    blocks: Mapping[str, tuple[int, bytes]]
    """Adapter -> (rank, its block)."""


def _shapes(model: onnx.ModelProto | str | Path, context: int, given: Mapping[str, int] | None) -> dict[str, int]:
    """Values of the free dimensions: the first of an input is one sequence, the others are `context` tokens."""
    proto = model if isinstance(model, onnx.ModelProto) else onnx_reader.load(model)[0].model
    constant = {i.name for i in proto.graph.initializer}
    found: dict[str, int] = {}
    for value in proto.graph.input:
        if value.name not in constant:
            for axis, d in enumerate(value.type.tensor_type.shape.dim):
                if d.dim_param:
                    found.setdefault(d.dim_param, 1 if axis == 0 else context)
    return found | dict(given or {})


def _product(found: FoundLinear) -> Product:
    """What a linear makes of rows, in floating point, branches of the graph included."""
    weight = found.weight
    for lora in found.loras:
        weight = weight + lora.scale * (lora.a @ lora.b)
    gain = found.loras[0].gain if found.loras and found.loras[0].gain is not None else 1.0
    return lambda x: x @ (weight * gain) + found.bias


def _ids(model: Transformer, data: Mapping[str, npt.NDArray[np.generic]] | None, context: int) -> npt.NDArray[np.int64]:
    """Calibration sequences [m, n].

    Raises:
        BadModel: not the input of token ids, or ids outside the vocabulary.
    """
    vocabulary = model.embedding.shape[0]
    if data is None:
        _LOG.warning("no calibration data: magnitudes come from random token ids")
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


def _placement(model: Transformer, linears: Sequence[Linear], context: int) -> tuple[Placement, ...]:
    """One row an operator; multiply-accumulates of one token, attention's at a full context."""
    sizes = {linear.name: linear.k * linear.n for linear in linears}

    def row(op: Op) -> Placement:
        macs = 0
        if isinstance(op, LinearOp):
            macs = sizes[op.name]
        elif isinstance(op, Attention):
            macs = 2 * op.heads * op.dim * context
        return Placement(
            f"{type(op).__name__} {op.name if isinstance(op, LinearOp) else op.y}", "accelerator", "integer rows", macs
        )

    first = Placement(f"Gather {model.input}", "host", "picks the rows of embeddings", 0)
    return (first, *(row(op) for op in model.operators))


def lower_generator(
    model: onnx.ModelProto | str | Path,
    target: Target,
    *,
    context: int,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None,
    weight_bits: int = 8,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    base: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Generated:
    """A plain export of a decoder (no caches) as prefill and decode programs with a cache of `context` tokens.

    Args:
        calibration: the input of token ids -> [samples, tokens].
        others: as `passes.pipeline.lower`.

    Raises:
        UnsupportedOperator: a node that is not understood, or is not causal. BadModel, BadAdapter: as `lower`.
    """
    if not 1 <= context <= CONTEXT:
        raise BadModel(f"context of {context} tokens", "max_context", f"1 to {CONTEXT}")
    unit = max(target.lanes, target.ports)
    rounded = -(-context // unit) * unit
    tell = progress or (lambda _: None)
    tell("reading the model")
    proto, where = onnx_reader.read(model, _shapes(model, context, shapes))
    g, found = recognise(proto)
    if any(f.x is not None for f in found):
        g, found = recognise(without_scales(g))
    transformer = read_transformer(g, found, where)
    tell("calibrating")
    products = {f.name: _product(f) for f in found}
    largest, _ = magnitudes(transformer, _ids(transformer, calibration, context), products)
    grouped = weight_bits <= 4 and target.group_scales and GROUP % target.lanes == 0
    group = GROUP if grouped else 0
    linears, inputs = [], []
    for each in found:
        tell(f"quantizing {each.name}")
        x = Activation(each.x_name, "", 1.0, 0, target.activation_bits, per_token=True)
        linear, _ = quantize_linear(each, x, target, weight_bits, group=group)
        if each.loras:
            own = quantize_adapter(linear, GRAPH, graph_branch(each.loras), target, x.bits)
            linear = replace(linear, adapters=(own,))
        linears.append(linear)
        inputs.append(Tensor(linear.input, 1, linear.k, (1, linear.k), x.bits, 1.0, 0, True))
    own_name = GRAPH if any(x.adapters for x in linears) else None
    placement = _placement(transformer, linears, rounded)
    names = (GRAPH,) if own_name else ()
    lowered = Lowered(tuple(linears), tuple(inputs), (), placement, names, own_name)
    for name, path in (adapters or {}).items():
        lowered = add_adapter(lowered, name, path, target, adapter_map, max_lora_rank, base)
    ranks = {n: max(a.rank for li in lowered.linears for a in li.adapters if a.name == n) for n in lowered.adapters}
    rank = max([max_lora_rank or 0, *ranks.values()])
    slots = (1 if rank else 0) if max_loras is None else max_loras
    tell("placing")
    image = build(target, transformer, lowered.linears, largest, context=context, slots=slots, rank=rank)
    blocks = {n: (r, adapter_block(target, lowered.linears, n, r, image.tilings)) for n, r in ranks.items()}
    return Generated(transformer, lowered, largest, image, blocks)
