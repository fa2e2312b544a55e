"""compile: an ONNX model with adapters to a program of one of three kinds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from axlora.compiler.backend.link import link
from axlora.compiler.errors import BadModel, DoesNotFit, UnsupportedOperator
from axlora.compiler.frontend.onnx_reader import input_types, takes_ids, with_fixed_inputs
from axlora.compiler.passes.pipeline import lower
from axlora.compiler.passes.placement import computes_on_host
from axlora.compiler.transformer.build import PREFILL
from axlora.compiler.transformer.lower import one_row, output_numbers, widths
from axlora.compiler.transformer.ops import Linear
from axlora.compiler.transformer.pipeline import lower_generator, lower_whole
from axlora.isa.assembly import encode_program
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.target import Target

from .choice import adapter_infos
from .generator import Generator
from .layers import layer_info, layer_vectors
from .machine import machine_fields
from .options import CompileOptions
from .program import InputInfo, OutputInfo, Program, TileInfo
from .proof import prove_generator, prove_program, prove_whole
from .whole import Operator, Result, Whole

_LOG = logging.getLogger(__name__)

Model = str | Path | onnx.ModelProto


def compile(model: Model, target: Target | str | Path, **keywords: Any) -> Program | Whole | Generator:
    """Compile an ONNX model, with LoRA adapters, for a target.

    What comes back has been proved to run: its host part is built and has run on a sample.

    Args:
        model: path or ModelProto.
        target: a Target, a preset's name, or the path of a TOML file.
        keywords: the fields of `CompileOptions`.

    Raises:
        axlora.Error: bad target, model or adapter; an operator that is not understood; a target that is too small.
    """
    options = CompileOptions(**keywords)
    target = target if isinstance(target, Target) else Target.load(target)
    if options.fixed_inputs:
        model = with_fixed_inputs(model, options.fixed_inputs)
    asked, operators = options.special(target.activation_bits), options.operators
    if asked and (options.generate or operators == "all"):
        other = "generate" if options.generate else "operators all"
        raise BadModel(f"{asked[0]} with {other}", asked[0].split()[0], "leave one of them out")
    if options.generate:
        generator = compile_generator(model, target, options)
        prove_generator(generator)
        return generator
    why = ""
    if operators == "all" or (operators == "auto" and not asked and takes_ids(model)):
        try:
            whole = compile_whole(model, target, options)
        except (UnsupportedOperator, DoesNotFit) as error:  # what the user got wrong is no reason to do less
            if operators == "all":
                raise
            why = f"{error.message} ({error.where})"
        else:
            prove_whole(whole)
            return whole
    try:
        program = compile_program(model, target, options)
        if options.progress is not None:
            options.progress("building the host part")
        prove_program(program)
    except (UnsupportedOperator, BadModel) as error:
        if not why or why == f"{error.message} ({error.where})":
            raise
        raise type(error)(f"{error.message}; and not as a whole: {why}", error.where, error.hint) from None
    if operators == "auto":  # not before: an error is one line
        _notice(program, why or (f"{asked[0]} is asked for" if asked else "no input of token ids"))
    return program


def _notice(program: Program, why: str) -> None:
    """Say what runs on the host, and why."""
    rows = computes_on_host(program.placement)
    if rows:
        count = f"{len(rows)} operators" if len(rows) > 1 else "1 operator"
        first = f"first {rows[0].operator}: {rows[0].reason}"
        _LOG.warning("only the linears run on the accelerator (%s); %s on the host, %s", why, count, first)


def compile_whole(model: Model, target: Target, options: CompileOptions) -> Whole:
    """Compile a transformer of token ids to one program that takes a sequence from its rows of embeddings to the outputs.

    Attention may be causal, or see every token that is no padding. The sequences of a batch run one after another, each with
    an adapter of its own. With `operators` all, a file's static scales of activations are dropped: every row has its own.

    Raises:
        axlora.Error: as `compile`.
    """
    given = {"shapes": options.shapes, "calibration": options.calibration, "progress": options.progress}
    found = lower_whole(model, target, options.whole, **given)  # type: ignore[arg-type]
    image, whole = found.image, found.model
    width = widths(whole, {li.name: li.n for li in found.lowered.linears})
    single, places = one_row(whole), output_numbers(whole)
    return Whole(
        **machine_fields(found, target, _sources(model, options.adapters or {}), options.max_loras),
        program=(image.addresses[found.tokens], INSTRUCTION_BYTES * len(image.programs[found.tokens])),
        tokens=found.tokens,
        batch=found.batch,
        inputs=input_types(model),
        mask=whole.mask,
        tables={x.input: x.table.astype(np.float32) for x in whole.lookups},
        fixed=dict(whole.fixed),
        results=tuple(
            Result(
                o.name,
                o.shape,
                places[o.value],
                1 if o.value in single else found.tokens,
                width[o.value],
                image.output_words[places[o.value]],
                image.fractions[o.value],
                o.index is not None,
            )
            for o in whole.outputs
        ),
        indices={o.name: o.index for o in whole.outputs if o.index is not None},
        operators=tuple(
            Operator(op.name if isinstance(op, Linear) else op.y, type(op).__name__, found.errors.get(op.y))
            for op in whole.operators
        ),
        owners=np.array(image.owners[found.tokens], np.int32),
    )


def compile_generator(model: Model, target: Target, options: CompileOptions) -> Generator:
    """Compile an export of a decoder to prefill and decode programs; nothing but picking embeddings is left.

    Raises:
        axlora.Error: as `compile`; also attention that is not causal.
    """
    found = lower_generator(
        model,
        target,
        options.whole,
        context=options.max_context,
        chunk=PREFILL if options.chunk is None else options.chunk,
        shapes=options.shapes,
        calibration=options.calibration,
        progress=options.progress,
    )
    image, value = found.image, found.model.output
    return Generator(
        **machine_fields(found, target, _sources(model, options.adapters or {}), options.max_loras),
        programs={rows: (image.addresses[rows], INSTRUCTION_BYTES * len(p)) for rows, p in image.programs.items()},
        output_fraction=image.fractions[value],
        output_words=image.output_words[0],
        vocabulary=widths(found.model, {li.name: li.n for li in found.lowered.linears})[value],
        embedding=found.model.embedding.astype(np.float32),
    )


def compile_program(model: Model, target: Target, options: CompileOptions) -> Program:
    """Compile the linears of a model to stages; the host runs what lies between them.

    Raises:
        axlora.Error: as `compile`.
    """
    activation = f"token{target.activation_bits}" if options.activation == "auto" else options.activation
    lowered, _ = lower(
        model,
        target,
        adapters=dict(options.adapters or {}),
        adapter_map=options.adapter_map,
        shapes=options.shapes,
        calibration=options.calibration,
        activation=activation,
        weight_bits=options.weight_bits,
        max_lora_rank=options.max_lora_rank,
        merge=options.merge,
        mode=options.mode,
        base=options.base,
        dump_passes=options.dump,
        partial_adapters=options.partial_adapters,
    )
    if not lowered.linears:
        raise BadModel(
            "no linear of the model can run on the accelerator", "model", "see the placement table in docs/numerics.md"
        )
    used = {li.name for li in lowered.linears if li.adapters}
    adaptable = used if used and options.lora_linears == "used" else None
    linked = link(
        target,
        lowered,
        slots=options.max_loras,
        rank=options.max_lora_rank or 0,
        adaptable=adaptable,
        progress=options.progress,
    )
    for notice in lowered.notices:
        _LOG.warning("%s", notice)
    assert lowered.host is not None
    tensors = {t.name: t for t in lowered.inputs}
    outputs = {t.name: t for t in lowered.outputs}
    stages = {name: li.stage for li in lowered.linears for name in (f"in {li.input}", f"out {li.output}")}
    marks: dict[str, int] = {}
    for first, name in linked.marks:
        marks.setdefault(name, first)
    return Program(
        target=target,
        program=encode_program(linked.program),
        starts=linked.starts,
        host=lowered.host,
        weights_address=linked.weights_address,
        weights=linked.weights,
        inputs=tuple(
            InputInfo(tensors[i.name], i.address, i.token_words, i.blocks, stages[f"in {i.name}"]) for i in linked.inputs
        ),
        outputs=tuple(
            OutputInfo(
                outputs[o.name],
                o.element,
                tuple(TileInfo(t.first, t.groups, t.address, t.stride) for t in o.tiles),
                stages[f"out {o.name}"],
            )
            for o in linked.outputs
        ),
        adapters=adapter_infos(linked.adapters, lowered),
        adapter_address=linked.adapter_address,
        adapter_size=linked.adapter_size,
        slots=linked.slots,
        rank=linked.rank,
        layers=tuple(
            layer_info(li, tensors[li.input].bits, marks[li.name], linked.tilings[li.name], lowered.errors.get(li.name))
            for li in lowered.linears
        ),
        vectors=layer_vectors(lowered.linears),
        placement=lowered.placement,
        default_adapter=lowered.default_adapter,
        sources=_sources(model, options.adapters or {}),
    )


def _sources(model: Model, adapters: Mapping[str, str | Path]) -> dict[str, str]:
    if isinstance(model, onnx.ModelProto):
        data = {"model": model.SerializeToString(deterministic=True)}
    else:
        data = {"model": Path(model).read_bytes()}
    for name, folder in adapters.items():
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            data[f"adapters/{name}/{file}"] = (Path(folder) / file).read_bytes()
    return {name: hashlib.sha256(value).hexdigest() for name, value in data.items()}
