"""compile: an ONNX model with adapters to a program of one of three kinds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.backend.link import link
from axlora.compiler.dump import Dump
from axlora.compiler.errors import BadAdapter, BadModel, DoesNotFit, UnsupportedOperator
from axlora.compiler.passes.placement import computes_on_host
from axlora.compiler.transformer.lower import one_row, output_numbers
from axlora.compiler.transformer.ops import Linear
from axlora.isa.assembly import encode_program
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.target import Target

from .choice import adapter_infos
from .generator import Generator
from .layers import layer_info, layer_vectors
from .machine import machine_fields
from .package import ADAPTER_NAME
from .program import InputInfo, OutputInfo, Program, TileInfo
from .proof import prove_generator, prove_program, prove_whole
from .whole import Operator, Result, Whole

_LOG = logging.getLogger(__name__)


OPERATORS = ("auto", "all", "linears")


def compile(
    model: str | Path | onnx.ModelProto,
    target: Target | str | Path,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None,
    activation: str | None = None,
    weight_bits: int = 8,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    lora_linears: str = "used",
    merge: bool = False,
    mode: str = "fused",
    base: str | Path | None = None,
    dump_passes: str | Path | None = None,
    generate: bool = False,
    max_context: int | None = None,
    chunk: int | None = None,
    operators: str = "auto",
    partial_adapters: bool = False,
    fixed_inputs: Mapping[str, float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Program | Whole | Generator:
    """Compile an ONNX model, with LoRA adapters, for a target.

    What comes back has been proved to run: its host part is built and has run on a sample.

    Args:
        activation: as `compile_program`; `auto`: a scale a token and the target's bits. Values between linears have 32 bits
            everywhere, so nothing else is to be chosen; with calibration data each operator's error is measured and reported.
        generate: a decoder as prefill and decode programs: `compile_generator`; `max_context` and `chunk` go with it.
        operators: what the accelerator runs. `all`: every operator between the rows of embeddings and the outputs
            (`compile_whole`); `linears`: the linears, and the host the rest (`compile_program`); `auto`: all where the model
            and the target allow it and no option asks for something else, with a notice that says why where they don't.
        fixed_inputs: inputs of the model that become constants, and the value of all their elements: the condition of a
            merged decoder, for example, which picks a branch.
        others: as those functions.

    Raises:
        axlora.Error: as those functions.
    """
    from axlora.compiler.frontend.onnx_reader import takes_ids, with_fixed_inputs

    if fixed_inputs:
        model = with_fixed_inputs(model, fixed_inputs)
    common = {
        "adapters": adapters,
        "adapter_map": adapter_map,
        "shapes": shapes,
        "calibration": calibration,
        "weight_bits": weight_bits,
        "max_loras": max_loras,
        "max_lora_rank": max_lora_rank,
        "base": base,
        "dump_passes": dump_passes,
        "partial_adapters": partial_adapters,
        "progress": progress,
    }
    target = target if isinstance(target, Target) else Target.load(target)
    activation = f"token{target.activation_bits}" if activation == "auto" else activation
    if operators not in OPERATORS:
        raise BadModel(f"operators is {operators!r}", "operators", f"one of {', '.join(OPERATORS)}")
    own = {
        "mode exact": mode != "fused",
        f"activation {activation}": activation not in (None, f"token{target.activation_bits}"),
        f"lora_linears {lora_linears}": generate and lora_linears != "used",
    }
    asked = [name for name, given in own.items() if given]
    if generate:
        asked += ["merge"] * merge + ["operators linears"] * (operators == "linears")
        if asked:
            raise BadModel(f"{asked[0]} with generate", asked[0].split()[0], "leave one of them out")
        generator = compile_generator(model, target, max_context=max_context, chunk=chunk, **common)  # type: ignore[arg-type]
        prove_generator(generator)
        return generator
    for name, value in (("chunk", chunk), ("max_context", max_context)):
        if value is not None:
            raise BadModel(f"{name} without generate", name, "it is of language models: generate=True, --generate")
    if operators == "all" and asked:
        raise BadModel(f"{asked[0]} with operators all", asked[0].split()[0], "leave one of them out")
    why = ""
    if operators == "all" or (operators == "auto" and not asked and takes_ids(model)):
        try:
            keep = {"merge": merge, "lora_linears": lora_linears, "drop_scales": operators == "all"}
            whole = compile_whole(model, target, **keep, **common)  # type: ignore[arg-type]
        except (UnsupportedOperator, DoesNotFit) as error:  # what the user got wrong is no reason to do less
            if operators == "all":
                raise
            why = f"{error.message} ({error.where})"
        else:
            prove_whole(whole)
            return whole
    more = {"activation": activation, "lora_linears": lora_linears, "merge": merge, "mode": mode}
    try:
        program = compile_program(model, target, **common, **more)  # type: ignore[arg-type]
        if progress is not None:
            progress("building the host part")
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


def compile_whole(
    model: str | Path | onnx.ModelProto,
    target: Target | str | Path,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None,
    weight_bits: int = 8,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    lora_linears: str = "used",
    merge: bool = False,
    base: str | Path | None = None,
    drop_scales: bool = True,
    dump_passes: str | Path | None = None,
    partial_adapters: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Whole:
    """Compile a transformer of token ids to one program that takes a sequence from its rows of embeddings to the outputs.

    Attention may be causal, or see every token that is no padding. The sequences of a batch run one after another, each with
    an adapter of its own.

    Args:
        calibration: input -> [samples, batch, tokens]; None: random ids.
        drop_scales: take a file that carries static scales of activations; every row gets a scale of its own instead.
        dump_passes: directory for the graph, its operators and the program as text.
        others: as `compile_program`.

    Raises:
        axlora.Error: bad target, model or adapter; an operator that is not understood; a target that is too small.
    """
    from axlora.compiler.frontend.onnx_reader import input_types
    from axlora.compiler.transformer.lower import widths
    from axlora.compiler.transformer.pipeline import Options, lower_whole

    target = target if isinstance(target, Target) else Target.load(target)
    _check_names(adapters)
    options = Options(
        adapters or {},
        adapter_map,
        weight_bits,
        max_loras,
        max_lora_rank,
        base,
        merge,
        lora_linears,
        drop_scales,
        dump=Dump(Path(dump_passes) if dump_passes is not None else None),
        partial_adapters=partial_adapters,
    )
    found = lower_whole(model, target, options, shapes=shapes, calibration=calibration, progress=progress)
    image, whole = found.image, found.model
    width = widths(whole, {li.name: li.n for li in found.lowered.linears})
    single, places = one_row(whole), output_numbers(whole)
    return Whole(
        **machine_fields(found, target, _sources(model, adapters or {}), max_loras),
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


def compile_generator(
    model: str | Path | onnx.ModelProto,
    target: Target | str | Path,
    *,
    max_context: int | None = None,
    chunk: int | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None,
    weight_bits: int = 8,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    base: str | Path | None = None,
    dump_passes: str | Path | None = None,
    partial_adapters: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Generator:
    """Compile a plain export of a decoder (no caches) to prefill and decode programs; nothing but picking embeddings is left.

    Args:
        max_context: most tokens of prompt and answer; the cache is made for it. None: what the export is fixed to, else 256.
        chunk: most tokens of a prompt that a start takes, 32 if None; the target's T are always taken, and no more than fit.
        calibration: the input of token ids -> [samples, tokens]; None: random ids.
        others: as `compile_program`.

    Raises:
        axlora.Error: bad target, model or adapter; an operator that is not understood, or attention that is not causal.
    """
    from axlora.compiler.transformer.build import PREFILL
    from axlora.compiler.transformer.lower import widths
    from axlora.compiler.transformer.pipeline import Options, lower_generator

    target = target if isinstance(target, Target) else Target.load(target)
    _check_names(adapters)
    options = Options(
        adapters or {},
        adapter_map,
        weight_bits,
        max_loras,
        max_lora_rank,
        base,
        dump=Dump(Path(dump_passes) if dump_passes is not None else None),
        partial_adapters=partial_adapters,
    )
    found = lower_generator(
        model,
        target,
        options,
        context=max_context,
        chunk=PREFILL if chunk is None else chunk,
        shapes=shapes,
        calibration=calibration,
        progress=progress,
    )
    image, value = found.image, found.model.output
    return Generator(
        **machine_fields(found, target, _sources(model, adapters or {}), max_loras),
        programs={rows: (image.addresses[rows], INSTRUCTION_BYTES * len(p)) for rows, p in image.programs.items()},
        output_fraction=image.fractions[value],
        output_words=image.output_words[0],
        vocabulary=widths(found.model, {li.name: li.n for li in found.lowered.linears})[value],
        embedding=found.model.embedding.astype(np.float32),
    )


def compile_program(
    model: str | Path | onnx.ModelProto,
    target: Target | str | Path,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None,
    activation: str | None = None,
    weight_bits: int = 8,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    lora_linears: str = "used",
    merge: bool = False,
    mode: str = "fused",
    base: str | Path | None = None,
    dump_passes: str | Path | None = None,
    partial_adapters: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Program:
    """Compile an ONNX model, with LoRA adapters, for a target.

    Args:
        model: path or ModelProto.
        target: a Target, a preset's name, or the path of a TOML file.
        adapters: name to PEFT directory.
        adapter_map: adapter module to ONNX node, where names do not tell.
        shapes: values of the model's symbolic dimensions.
        calibration: input name to samples; only for models without scales of their own.
        activation: `token8` or `token16` (a scale for each token at run time), `static8` or `static16` (the file's scales, or
            from `calibration`); None: the file's scales where it has them, `token8` elsewhere.
        weight_bits: 2, 3, 4 or 8, for weights that the file holds as floats.
        max_loras: different adapters in one batch, 0 to 8; default 1 if there are adapters.
        max_lora_rank: largest rank that the program takes; default that of the adapters given.
        lora_linears: `used`: the linears that the given adapters change (all, if none are given) can be adapted, now and
            later; `all`: every linear, which costs each some cycles for its adapter columns.
        base: Hugging Face directory of the model that the adapters were trained on: where names do not tell which linear an
            adapter's module means, equal weights do.
        mode: `fused` joins base and branches in one wide sum and rounds once; `exact` honours every Q/DQ pair of the file.
        merge: put the model's own branches, and the one adapter given, into the weights; the program has no adapter then.
        dump_passes: directory for the Relax module after every phase.
        partial_adapters: take the part of an adapter that fits, with a notice of what is left out; by default modules that are
            no linears of the model are refused.
        progress: called with the name of each linear as it is placed.

    Raises:
        axlora.Error: bad target, model or adapter; unsupported operator.
    """
    from axlora.compiler.passes.pipeline import lower

    target = target if isinstance(target, Target) else Target.load(target)
    if lora_linears not in ("used", "all"):
        raise BadModel(f"lora_linears is {lora_linears!r}", "lora_linears", "must be used or all")
    _check_names(adapters)
    lowered, _ = lower(
        model,
        target,
        adapters=dict(adapters or {}),
        adapter_map=adapter_map,
        shapes=shapes,
        calibration=calibration,
        activation=activation,
        weight_bits=weight_bits,
        max_lora_rank=max_lora_rank,
        merge=merge,
        mode=mode,
        base=base,
        dump_passes=Path(dump_passes) if dump_passes is not None else None,
        partial_adapters=partial_adapters,
    )
    if not lowered.linears:
        raise BadModel(
            "no linear of the model can run on the accelerator", "model", "see the placement table in docs/numerics.md"
        )
    used = {li.name for li in lowered.linears if li.adapters}
    adaptable = used if used and lora_linears == "used" else None
    linked = link(target, lowered, slots=max_loras, rank=max_lora_rank or 0, adaptable=adaptable, progress=progress)
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
        sources=_sources(model, adapters or {}),
    )


def _check_names(adapters: Mapping[str, str | Path] | None) -> None:
    """Adapters become files.

    Raises:
        BadAdapter: a name that cannot be a file's.
    """
    for name in adapters or {}:
        if not ADAPTER_NAME.fullmatch(name):
            raise BadAdapter(f"adapter name {name!r} cannot be a file name", "adapter", "letters, digits, '_', '.', '-'")


def _sources(model: str | Path | onnx.ModelProto, adapters: Mapping[str, str | Path]) -> dict[str, str]:
    if isinstance(model, onnx.ModelProto):
        data = {"model": model.SerializeToString(deterministic=True)}
    else:
        data = {"model": Path(model).read_bytes()}
    for name, folder in adapters.items():
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            data[f"adapters/{name}/{file}"] = (Path(folder) / file).read_bytes()
    return {name: hashlib.sha256(value).hexdigest() for name, value in data.items()}
