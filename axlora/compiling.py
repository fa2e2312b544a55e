"""compile: an ONNX model with adapters to a program of one of three kinds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axlora.compiler.backend.link import link
from axlora.compiler.dump import Dump
from axlora.compiler.errors import BadModel, DoesNotFit, UnsupportedOperator
from axlora.compiler.frontend.mixtures import parts_of
from axlora.compiler.frontend.onnx_reader import has_scales, input_types, takes_ids, takes_rows, with_fixed_inputs
from axlora.compiler.frontend.peft import adapter_base, adapter_files
from axlora.compiler.frontend.source import Model, opened
from axlora.compiler.frontend.storage import weights_hash
from axlora.compiler.passes.placement import computes_on_host
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.compiler.rows.read_region import read_linears
from axlora.isa.target import Target

from .building import generator_program, linears_program, whole_program
from .program import Program

_LOG = logging.getLogger(__name__)


def compile(model: Model, target: Target | str | Path, **keywords: Any) -> Program:
    """Compile a model, with LoRA adapters, for a target.

    What comes back has been proved to run: its host part is built and has run on a sample.

    Args:
        model: path of an ONNX file or of a Hugging Face directory, or ModelProto.
        target: a Target, a preset's name, or the path of a TOML file.
        keywords: the fields of `CompileOptions`.

    Raises:
        axlora.Error: bad target, model or adapter; an operator that is not understood; a target that is too small.
    """
    options = CompileOptions(**keywords)
    target = target if isinstance(target, Target) else Target.load(target)
    model = opened(model)
    if options.fixed_inputs:
        model = with_fixed_inputs(model, options.fixed_inputs)
    asked, operators = options.special(target.activation_bits), options.operators
    if asked and options.asks_whole:
        other = "generate" if options.generate else "operators all"
        raise BadModel(f"{asked[0]} with {other}", asked[0].split()[0], "leave one of them out")
    why = tried = ""
    if operators == "auto" and not options.generate:
        why = f"{asked[0]} is asked for" if asked else _no_whole(model, options)
    if options.asks_whole or (operators == "auto" and not why):
        try:
            program = _proved(compile_whole(model, target, options))
            _notice_bases(options.files)
            return program
        except (UnsupportedOperator, DoesNotFit) as error:  # what the user got wrong is no reason to do less
            if options.asks_whole:
                raise
            why = tried = f"{error.message} ({error.where})"
    try:
        program = compile_program(model, target, options)
        options.tell("building the host part")
        _proved(program)
    except (UnsupportedOperator, BadModel) as error:
        if not tried or tried == f"{error.message} ({error.where})":
            raise
        raise type(error)(f"{error.message}; and not as a whole: {tried}", error.where, error.hint) from None
    if operators == "auto":  # not before: an error is one line
        _notice(program, why)
    _notice_bases(options.files)
    return program


def _no_whole(model: Model, options: CompileOptions) -> str:
    """Why `auto` does not try a model as a whole; "" where it does."""
    if takes_ids(model):
        return ""
    if not takes_rows(model):
        return "no input of token ids, and not one of rows of floats alone"
    told = options.calibration is not None or has_scales(model)
    return "" if told else "no calibration data for the input of floats"


def _proved(program: Program) -> Program:
    """The program, once what the host does in a run was tried on a sample, and embeddings under every adapter."""
    for adapter in program.adapters:
        program.interface.check_reach(adapter)
    program.interface.prove(program)
    return program


def _notice_bases(adapters: Mapping[str, str | Path]) -> None:
    """Say which bases adapters name, where they name several: one of them was not trained on this model."""
    parts = [(name, adapter_base(part)) for name, path in adapters.items() for part, _ in parts_of(path)]
    named = {name: base for name, base in parts if base is not None}
    if len({Path(base).name.lower() for base in named.values()}) > 1:
        listed = ", ".join(f"{name} {base!r}" for name, base in named.items())
        _LOG.warning("the adapters' configurations name different bases: %s; --base HF_DIR compares the weights", listed)


def _notice(program: Program, why: str) -> None:
    """Say what runs on the host, and why."""
    rows = computes_on_host(program.placement)
    if rows:
        count = f"{len(rows)} operators" if len(rows) > 1 else "1 operator"
        first = f"first {rows[0].operator}: {rows[0].reason}"
        _LOG.warning("only the linears run on the accelerator (%s); %s on the host, %s", why, count, first)


def compile_whole(model: Model, target: Target, options: CompileOptions) -> Program:
    """Compile a model of token ids, or of rows of floats, to one program from the first rows to the outputs.

    A start takes a sequence or, where nothing mixes rows (an MLP), as many rows of the batch as fit. Attention may be causal,
    or see every token that is no padding. The sequences of a batch run one after another, each with an adapter of its own; rows
    that nothing mixes may have different adapters in one start. A file's static scales of activations stay where
    `CompileOptions.activation` says so; else every row has its own.

    With `generate`, an export of a decoder becomes prefill and decode programs; nothing but picking embeddings is left.

    Raises:
        axlora.Error: as `compile`; with `generate` also attention that is not causal.
    """
    found, sources = lower_whole(model, target, options), _sources(model, options.files)
    if options.generate:
        return generator_program(found, target, sources, options.max_loras)
    return whole_program(found, target, input_types(model), sources, options.max_loras)


def compile_program(model: Model, target: Target, options: CompileOptions) -> Program:
    """Compile the linears of a model to stages; the host runs what lies between them.

    Raises:
        axlora.Error: as `compile`.
    """
    dump = Dump(options.dump)
    lowered, _ = lower(model, target, options, dump)
    if not lowered.linears:
        raise BadModel(
            "no linear of the model can run on the accelerator", "model", "see the placement table in docs/numerics.md"
        )
    used = {li.name for li in lowered.linears if li.adapters}
    adaptable = used if used and options.lora_linears == "used" else None
    rank = options.max_lora_rank or 0
    assert lowered.regions is not None
    calls = read_linears(lowered.regions, lowered.linears)
    linked = link(target, calls, slots=options.max_loras, rank=rank, adaptable=adaptable, progress=options.progress)
    dump.programs({"program": linked.program})
    for notice in lowered.notices:
        _LOG.warning("%s", notice)
    return linears_program(target, lowered, linked, _sources(model, options.files))


def _sources(model: Model, adapters: Mapping[str, str | Path]) -> dict[str, str]:
    """SHA-256 of the files that a program was made of, and of the base's weights wherever they lie."""
    source = opened(model)
    if source.file is None:
        data = {"model": source.proto.SerializeToString(deterministic=True)}
    else:
        data = {"model": source.file.read_bytes()}
    for name, path in adapters.items():
        parts = parts_of(path)
        for number, (part, _) in enumerate(parts):
            of = f"adapters/{name}" + (f"/{number}" if len(parts) > 1 else "")
            data |= {f"{of}/{file.name}": file.read_bytes() for file in adapter_files(part)}
    hashes = {name: hashlib.sha256(value).hexdigest() for name, value in data.items()}
    return hashes | {"weights": weights_hash(source.proto, source.folder or Path(), source.name)}
