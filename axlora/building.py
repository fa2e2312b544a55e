"""Programs from what the compiler found: its images, places and names as the fields of a package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from axlora.compiler.backend.link import Linked, OutputPlace, Tiling
from axlora.compiler.layer import Lowered
from axlora.compiler.operators import Linear
from axlora.compiler.passes.lower_rows import one_row
from axlora.compiler.pipelines.transformers import Generated
from axlora.compiler.transformer import Output
from axlora.isa.assembly import encode_program
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS
from axlora.isa.target import Target

from .choice import adapter_infos
from .decoder import Decoder
from .layer_counters import Operator
from .layers import layer_info, layer_vectors
from .machine import Function
from .program import Program
from .sequences import Given, Part, Result, Sequences
from .stages import Stages
from .tensors import InputInfo, OutputInfo, TileInfo

Sources = dict[str, str]


def _transformer(found: Generated, target: Target, sources: Sources, max_loras: int | None) -> dict[str, Any]:
    """The fields of `Machine`."""
    image, linears = found.image, found.lowered.linears
    bits = {tensor.name: tensor.bits for tensor in found.lowered.inputs}
    alone = not found.model.rowwise and not image.cache

    return {
        "target": target,
        "image": image.data,
        "functions": tuple(
            Function(c.name, c.rows, c.address, INSTRUCTION_BYTES * len(c.instructions), c.batch, c.cycles) for c in image.codes
        ),
        "regions": dict(image.regions),
        "adapters": adapter_infos(found.blocks, found.lowered, found.tables),
        "adapter_address": image.adapter_address,
        "adapter_size": image.adapter_size,
        "slots": image.slots,
        "max_loras": (SLOTS if max_loras is None else max_loras) if image.slots == 1 and alone else image.slots,
        "rank": image.rank,
        "layers": tuple(layer_info(li, bits[li.input], image.tilings[li.name], None) for li in linears),
        "vectors": b"" if found.shared else layer_vectors(linears),
        "placement": found.lowered.placement,
        "default_adapter": found.lowered.default_adapter,
        "sources": sources,
        "host": None,
    }


def _rows(found: Generated, functions: Sequence[Function]) -> dict[str, Any]:
    """The fields of `Rows` but for the tables."""
    image, model, positions = found.image, found.model, found.model.positions
    return {
        "context": found.tokens,
        "dim": image.dim,
        "half": image.half,
        "input_fraction": image.input_fraction,
        "input_words": image.input_words,
        "owners": {f.name: np.array(code.owners, np.int32) for f, code in zip(functions, image.codes, strict=True)},
        "embedded": dict(found.tables),
        "positions": None if positions is None else positions[: found.tokens].astype(np.float32),
        "operators": tuple(
            Operator(op.name if isinstance(op, Linear) else op.y, type(op).__name__, found.errors.get(op.y))
            for op in model.operators
        ),
    }


def _parts(found: Generated) -> tuple[Part, ...]:
    """The first rows of further streams."""
    return tuple(
        Part(
            own.rows,
            fraction,
            words,
            tuple(x.input for x in own.lookups),
            *(("", 0) if own.given is None else (own.given.input, own.given.features)),
            shape=own.shape,
        )
        for own, (fraction, words) in zip(found.model.more, found.image.more, strict=True)
    )


def whole_program(
    found: Generated, target: Target, inputs: Mapping[str, str], sources: Sources, max_loras: int | None
) -> Program:
    """A model of whole sequences, or of rows that nothing mixes; `inputs` as `Sequences.inputs`."""
    image, whole, given = found.image, found.model, found.model.given
    width, single, places = found.region.widths, one_row(whole.operators), found.region.outputs

    def result(o: Output) -> Result:
        place, stream = places[o.value], found.region.streams[o.value]
        rows = 1 if o.value in single else whole.lengths(found.tokens)[stream]
        words, fraction = image.output_words[place], image.fractions[o.value]
        return Result(o.name, o.shape, place, rows, width[o.value], words, fraction, o.index is not None, stream)

    fields = _transformer(found, target, sources, max_loras)
    fields["functions"] = tuple(replace(f, name="main") for f in fields["functions"])
    interface = Sequences(
        **_rows(found, fields["functions"]),
        tables={x.input: x.table.astype(np.float32) for own in whole.all_streams(0) for x in own.lookups},
        counted={x.input: x.counted for own in whole.all_streams(0) for x in own.lookups if x.counted is not None},
        more=_parts(found),
        more_positions={
            str(n): own.positions[: own.rows].astype(np.float32)
            for n, own in enumerate(whole.more, 1)
            if own.positions is not None
        },
        masked=whole.masked,
        made=whole.lengths(0)[1 + len(whole.more) :],
        layouts={
            str(n): own.given.index
            for n, own in enumerate(whole.all_streams(0))
            if own.given is not None and own.given.index is not None
        },
        batch=found.shape[0] if found.shape else found.batch,
        inputs=dict(inputs),
        mask=whole.mask,
        padding=whole.padding,
        fixed=dict(whole.fixed),
        unread={name: shape[1:] for name, shape in whole.unread.items() if name in inputs},
        results=tuple(result(o) for o in whole.outputs),
        indices={o.name: o.index for o in whole.outputs if o.index is not None},
        given=None if given is None else Given(given.input, found.shape, given.features, whole.rowwise, bool(whole.shape)),
    )
    return Program(**fields, interface=interface)


def generator_program(found: Generated, target: Target, sources: Sources, max_loras: int | None) -> Program:
    """A language model."""
    image, model = found.image, found.model
    fields = _transformer(found, target, sources, max_loras)
    interface = Decoder(
        **_rows(found, fields["functions"]),
        tables={model.tokens_input: model.embedding.astype(np.float32)},
        together=max((code.rows for code in image.codes if code.batch), default=1),
        cache=image.cache,
        output=model.outputs[0].name,
        output_fraction=image.fractions[model.output],
        output_words=image.output_words[0],
        vocabulary=found.region.widths[model.output],
    )
    return Program(**fields, interface=interface)


def linears_program(target: Target, lowered: Lowered, linked: Linked, sources: Sources) -> Program:
    """A model whose linears run on the machine; places of weights become addresses."""
    code = encode_program(linked.program)
    weights = linked.weights_address
    image = code + bytes(weights - len(code)) + linked.weights
    inputs, outputs = {t.name: t for t in lowered.inputs}, {t.name: t for t in lowered.outputs}
    stages = {name: li.stage for li in lowered.linears for name in (f"in {li.input}", f"out {li.output}")}
    regions: dict[str, tuple[int, int]] = {}
    for i in linked.inputs:
        groups = -(-inputs[i.name].tokens // target.tokens)
        regions[f"input {i.name}"] = (i.address, groups * i.blocks * target.abuf_line_bytes)
        regions[f"token words {i.name}"] = (i.token_words, groups * target.tokens * 4)
    for o in linked.outputs:
        groups = -(-outputs[o.name].tokens // target.tokens)
        regions |= {f"output {o.name}/{n}": (t.address, t.stride * groups) for n, t in enumerate(o.tiles)}
    found_inputs = tuple(InputInfo(inputs[i.name], i.blocks, stages[f"in {i.name}"]) for i in linked.inputs)

    def function(stage: int, first: int, following: int) -> Function:
        rows = max(i.tensor.tokens for i in found_inputs if i.stage == stage)
        return Function(f"stage {stage}", rows, first * INSTRUCTION_BYTES, (following - first) * INSTRUCTION_BYTES)

    def tiling(name: str) -> Tiling:
        found = linked.tilings[name]
        return replace(found, weights=tuple(weights + place for place in found.weights))

    def tiles(o: OutputPlace) -> tuple[TileInfo, ...]:
        return tuple(TileInfo(t.first, t.groups, t.stride) for t in o.tiles)

    ends = list(pairwise([*linked.starts, len(linked.program)]))
    functions = tuple(function(stage, first, following) for stage, (first, following) in enumerate(ends))
    owners = {
        f.name: np.array(linked.owners[first:following], np.int32)
        for f, (first, following) in zip(functions, ends, strict=True)
    }
    return Program(
        target=target,
        image=image,
        functions=functions,
        regions=regions,
        adapters=adapter_infos(linked.adapters, lowered, {}),
        adapter_address=linked.adapter_address,
        adapter_size=linked.adapter_size,
        slots=linked.slots,
        max_loras=linked.slots,
        rank=linked.rank,
        layers=tuple(
            layer_info(li, inputs[li.input].bits, tiling(li.name), lowered.errors.get(li.name)) for li in lowered.linears
        ),
        vectors=layer_vectors(lowered.linears),
        placement=lowered.placement,
        default_adapter=lowered.default_adapter,
        sources=sources,
        host=lowered.host,
        interface=Stages(
            found_inputs,
            tuple(OutputInfo(outputs[o.name], o.element, tiles(o), stages[f"out {o.name}"]) for o in linked.outputs),
            owners,
        ),
    )
