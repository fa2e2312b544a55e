"""Read an adapter: where it lies (`adapter_store`), whose names its tensors have (`peft_keys`, `foreign`), what its tuner does.

An adapter of ONNX Runtime (`onnx_adapter`) is read into the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import (
    Float64,
    PeftChange,
    PeftContent,
    PeftLora,
    PeftModule,
    check_rank,
    pair,
)
from axlora.compiler.frontend.adapter_formats import refuse_keys, refuse_path, refuse_type
from axlora.compiler.frontend.adapter_store import Stored, is_inside, locate, read_config, read_metadata, read_tensors
from axlora.compiler.frontend.embedding_parts import dora_magnitude, lora_scale, read_branch, read_tokens
from axlora.compiler.frontend.expert_parameters import experts_apart
from axlora.compiler.frontend.foreign import is_foreign, read_foreign
from axlora.compiler.frontend.onnx_adapter import adapter_file, read_parameters
from axlora.compiler.frontend.peft_keys import Key, Part, sorted_keys
from axlora.compiler.frontend.tuners.read import TUNERS, read_tuner
from axlora.compiler.frontend.tuners.tensors import Config, Tensor

_REFUSED = {
    "layer_replication": "replicated layers",
    "megatron_config": "Megatron layers",
    "alora_invocation_tokens": "activated LoRA, which depends on the token",
    "use_qalora": "QA-LoRA",
    "arrow_config": "Arrow routing, which depends on the token",
}
_CHANGED_BASES = {
    "pissa": "PiSSA takes the largest singular values out of the base's weights and trains them",
    "olora": "OLoRA takes the first columns of a QR decomposition out of the base's weights and trains them",
    "corda": "CorDA takes a part of the base's weights that data chose and trains it",
    "loftq": "LoftQ quantizes the base's weights and starts from their error",
    "lora_ga": "LoRA-GA takes a part of the base's weights that gradients chose and trains it",
}
"""Start of init_lora_weights -> what such an initialization does to the base; EVA and the others leave it as it is."""

Parts = dict[str, dict[str, Float64]]


def _check_lora(config: Config) -> None:
    """Raise `BadAdapter` for a field of a LoRA configuration that is not supported."""
    fields = config.fields
    for field, meaning in _REFUSED.items():
        if fields.get(field):
            what = f"{field} is set ({meaning}), which is not supported"
            routed = field in ("alora_invocation_tokens", "arrow_config")
            hint = "a branch is on for every token here" if routed else "merge it into the base before exporting"
            raise BadAdapter(what, config.where, hint)
    if fields.get("bias", "none") not in ("none", "all", "lora_only"):
        raise BadAdapter(f"bias is {fields['bias']!r}", config.where, "must be none, all or lora_only")
    start = fields.get("init_lora_weights")
    kind = next((k for k in _CHANGED_BASES if isinstance(start, str) and start.lower().startswith(k)), None)
    if kind is None and fields.get("corda_config"):
        kind = "corda"
    if kind is None and fields.get("loftq_config"):
        kind = "loftq"
    if kind is not None:
        what = f"init_lora_weights is {start!r}: it changed the base it was trained on: {_CHANGED_BASES[kind]}"
        hint = "save it with path_initial_model_for_weight_conversion, which makes it a LoRA of the original base"
        raise BadAdapter(what, config.where, hint)


def _saved_whole(module: str, kind: str, fields: Mapping[str, Any]) -> bool:
    """The configuration explains a tensor that is no branch's."""
    names = fields.get("modules_to_save") or ()
    listed = isinstance(names, list | tuple) and any(f".{module}".endswith(f".{n}") or f".{n}." in f".{module}" for n in names)
    return listed or (kind == "bias" and fields.get("bias", "none") != "none")


def adapter_files(path: str | Path) -> tuple[Path, ...]:
    """The files that `read_content` reads, for an adapter that it took."""
    file = adapter_file(Path(path))
    if file is not None:
        return (file,)
    stored = locate(Path(path))
    return () if stored is None else stored.files


def adapter_base(path: Path) -> str | None:
    """The model that an adapter's configuration says it was trained on, of an adapter that `read_content` took."""
    stored = locate(path)
    if stored is None or stored.config is None:
        return None
    base = read_config(stored.config).get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def _of_onnxruntime(file: Path, limit: int | None) -> PeftContent:
    """An adapter of ONNX Runtime, whose scale is in lora_B; raises `BadAdapter` for anything but branches of linears."""
    where = str(file)
    if not is_inside(file):
        raise BadAdapter(f"{file.name} links out of the adapter's folder", where, "copy the file into the folder")
    tensors = read_parameters(file)
    parts: Parts = {}
    for key, found in sorted_keys(tensors, where).items():
        if found.part is not Part.BRANCH or found.name not in ("lora_A", "lora_B"):
            hint = "give the PEFT directory that it was converted from"
            raise BadAdapter(f"tensor {key!r} is no branch of a linear (lora_A, lora_B)", where, hint)
        parts.setdefault(found.module, {})[found.name] = tensors[key]
    if not parts:
        raise BadAdapter("it holds no tensors", where, "convert the adapter again")
    pairs = {module: pair(module, part, where, limit) for module, part in sorted(parts.items())}
    return PeftContent(tuple(PeftLora(module, a.T, b.T, 1.0, None, None) for module, (a, b) in pairs.items()), (), ())


def read_content(path: str | Path, max_lora_rank: int | None = None) -> PeftContent:
    """All that an adapter holds.

    Raises:
        BadAdapter: missing or damaged files, a format or tuner that is not read (by its name), several adapters in one file,
            NaN, shapes that do not pair, a rank that differs from the configuration or passes `max_lora_rank`, no tensors.
    """
    folder, where = Path(path), str(Path(path))
    if (file := adapter_file(folder)) is not None:
        return _of_onnxruntime(file, max_lora_rank)
    stored = locate(folder)
    if stored is None:
        raise refuse_path(folder)
    config, tensors = _opened(stored, where)
    if is_foreign(tensors, config, stored.weights):
        return read_foreign(tensors, config, read_metadata(stored.weights), max_lora_rank).with_notices(*stored.notices)
    if stored.config is None:
        refuse_keys(tensors, where)
        raise BadAdapter("it is weights without a configuration", where, "give the directory that PEFT's save_pretrained wrote")
    kind = config.fields.get("peft_type")
    tuner = TUNERS.get(kind) if isinstance(kind, str) else None
    changes: list[PeftLora | PeftChange] = []
    if tuner is not None:
        changes, tensors = read_tuner(tuner, tensors, config)
    elif kind == "LORA":
        _check_lora(config)
        tensors = experts_apart(tensors, config)
    elif kind != "TRAINABLE_TOKENS":
        raise refuse_type(config.fields, str(stored.config))
    keys = sorted_keys(tensors, where)
    branch = next((key for key, found in keys.items() if found.part is Part.BRANCH), None)
    if tuner is not None and branch is not None:
        raise BadAdapter(f"tensor {branch!r} is of LoRA", config.where, f"its configuration says peft_type {kind}, not LORA")
    content = _content(keys, tensors, config, max_lora_rank, changes)
    return content.with_notices(*stored.notices)


def _opened(stored: Stored, where: str) -> tuple[Config, dict[str, Tensor]]:
    """The configuration, which may be none, and the tensors."""
    if stored.config is None:
        return Config({}, where), read_tensors(stored.weights)
    return Config(read_config(stored.config), str(stored.config)), read_tensors(stored.weights)


def _content(
    keys: Mapping[str, Key],
    tensors: Mapping[str, Tensor],
    config: Config,
    limit: int | None,
    changes: list[PeftLora | PeftChange],
) -> PeftContent:
    """What PEFT's names say: branches, modules that were saved whole, embeddings."""
    where = config.where
    parts: Parts = {}
    whole: Parts = {}
    tokens: Parts = {}
    into = {Part.WHOLE: whole, Part.TOKENS: tokens}
    for key, found in keys.items():
        into.get(found.part, parts).setdefault(found.module, {})[found.name] = tensors[key]
    embedded = {found.module for found in keys.values() if found.part is Part.EMBEDDING}
    embeddings = tuple(read_branch(module, parts[module], config) for module in sorted(embedded))
    embeddings += tuple(read_tokens(module, part, config) for module, part in sorted(tokens.items()))
    branches = {module: part for module, part in sorted(parts.items()) if module not in embedded}
    loras = [x for x in changes if isinstance(x, PeftLora)]
    for lora in loras:
        check_rank(lora.module, lora.rank, limit, where)
    for module, part in branches.items():
        lora = _branch(module, part, config, limit)
        bias = whole.get(module, {}).get("bias")
        if bias is not None and bias.shape != (lora.b.shape[1],):
            raise BadAdapter(f"module {module!r}: bias {bias.shape} does not fit lora_B", where, "save the adapter again")
        loras.append(replace(lora, base_bias=bias))
    own = {m: v for m, v in sorted(whole.items()) if "weight" in v or m not in branches}
    modules = tuple(_module(module, values, config) for module, values in own.items())
    if not loras and not changes and not embeddings and not any(m.listed for m in modules):
        what = f"it holds {len(modules)} whole weights and no branch (lora_A, lora_B)" if modules else "it holds no tensors"
        raise BadAdapter(what, where, "save the adapter, not the model" if modules else "save the adapter again")
    dense = tuple(x for x in changes if isinstance(x, PeftChange))
    return PeftContent(tuple(loras), modules, embeddings, dense)


def _module(module: str, values: dict[str, Float64], config: Config) -> PeftModule:
    weight, bias = values.get("weight"), values.get("bias")
    if weight is not None and weight.ndim not in (1, 2):
        raise BadAdapter(f"module {module!r}: weight of shape {weight.shape}", config.where, "linears can be replaced")
    if bias is not None and (bias.ndim != 1 or (weight is not None and bias.size != weight.shape[0])):
        what = f"module {module!r}: bias of shape {bias.shape} does not fit"
        raise BadAdapter(what, config.where, "save the adapter again")
    listed = any(_saved_whole(module, kind, config.fields) for kind in values)
    tied = bool(config.fields.get("ensure_weight_tying")) or not listed
    return PeftModule(module, None if weight is None else weight.T, bias, listed, tied)


def read_peft(path: str | Path, max_lora_rank: int | None = None) -> tuple[PeftLora, ...]:
    """The adapter's branches by module, sorted by name; `read_content` reads what else it holds, and may raise as that."""
    return read_content(path, max_lora_rank).loras


def _branch(module: str, part: dict[str, Float64], config: Config, limit: int | None) -> PeftLora:
    where = config.where
    a, b = pair(module, part, where, limit)
    scale = lora_scale(module, a.shape[0], config)
    magnitude = dora_magnitude(module, part, config)
    for vector in (magnitude, part.get("bias")):
        if vector is not None and vector.size != b.shape[0]:
            raise BadAdapter(f"module {module!r}: a vector has {vector.size} values, needs {b.shape[0]}", where, "save again")
    bias = part.get("bias")
    return PeftLora(
        module, a.T, b.T, scale, None if bias is None else bias.reshape(-1),
        None if magnitude is None else magnitude.reshape(-1),
    )  # fmt: skip
