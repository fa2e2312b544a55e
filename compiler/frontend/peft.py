"""Read a PEFT LoRA directory: adapter_config.json and adapter_model.safetensors, whose names `peft_keys` takes apart.

An adapter of ONNX Runtime (`onnx_adapter`) is read into the same.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_formats import refuse_path, refuse_type
from axlora.compiler.frontend.onnx_adapter import adapter_file, read_parameters
from axlora.compiler.frontend.peft_keys import Part, sorted_keys

Float64 = npt.NDArray[np.float64]

_REFUSED = {
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapters of bare parameters",
    "megatron_config": "Megatron layers",
    "alora_invocation_tokens": "activated LoRA, which depends on the token",
    "use_qalora": "QA-LoRA",
    "arrow_config": "Arrow routing",
    "eva_config": "",
    "corda_config": "CorDA, which changes the base",
    "loftq_config": "LoftQ, which changes the base",
}
FILE_LIMIT = 1 << 30
"""Bytes of a file of an adapter; reading it takes about four times as much."""
_MOST = 1e30
"""Largest magnitude of a number in the configuration."""
_REPEATS = 3
_PATH = 160
"""Most repetitions in a key of rank_pattern or alpha_pattern, and characters of a path that it is matched with: the time of a
match grows with the power of the one in the other."""
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class PeftLora:
    """The low-rank branch of one module: y += scale * (x.A).B, and what DoRA and lora_bias add."""

    module: str
    """Dotted path in the base model."""
    a: Float64
    """[in, r]."""
    b: Float64
    """[r, out]."""
    scale: float
    """lora_alpha / r, lora_alpha / sqrt(r) with rsLoRA, or 1 where B has it."""
    bias: Float64 | None
    """lora_bias [out], before the scale."""
    magnitude: Float64 | None
    """DoRA's column magnitude [out]."""
    base_bias: Float64 | None = None
    """Trained bias of the base [out], in place of the base's own (bias='all' or 'lora_only')."""

    @property
    def rank(self) -> int:
        """r."""
        return int(self.a.shape[1])


@dataclass(frozen=True)
class PeftModule:
    """A module that was saved whole, or only its bias: both replace the base's.

    The configuration lists some (modules_to_save, bias='all'); PEFT saves heads and embeddings unasked too.
    """

    module: str
    """Dotted path in the base model."""
    weight: Float64 | None
    """[in, out] of a torch Linear (PEFT stores [out, in]; of a Conv1D this is [out, in]); [n] of a normalization; None: the
    base's own."""
    bias: Float64 | None
    """[out]; None: the base's own."""
    listed: bool = True
    """The configuration says that it was trained."""


@dataclass(frozen=True)
class PeftContent:
    """All that an adapter's directory holds, by module and sorted by name."""

    loras: tuple[PeftLora, ...]
    modules: tuple[PeftModule, ...]
    """Without biases of modules that have a branch: `PeftLora.base_bias` holds them."""
    embeddings: tuple[str, ...]
    """Modules that have a branch of an embedding (lora_embedding_A), which no linear takes."""


def _is_inside(path: Path) -> bool:
    """A file of the adapter's own folder, or a link into the blobs of a Hugging Face cache (snapshots/REVISION/FILE)."""
    folder, real = path.parent.resolve(), path.resolve()
    cache = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    return real.is_relative_to(folder) or real.is_relative_to(cache)


def _bytes(path: Path) -> bytes:
    """The file, unless it is a link out of the folder or too large."""
    if not _is_inside(path):
        raise BadAdapter(f"{path.name} links out of the adapter's folder", str(path), "copy the file into the folder")
    if path.stat().st_size > FILE_LIMIT:
        raise BadAdapter(f"{path.stat().st_size} bytes, the limit is {FILE_LIMIT}", str(path), "save fewer modules")
    return path.read_bytes()


def _tensors(path: Path) -> dict[str, Float64]:
    where = str(path)
    if not path.is_file():
        raise BadAdapter("no adapter_model.safetensors", str(path.parent), "give a PEFT directory")
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    values = {}
    try:
        parts = deserialize(_bytes(path))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise BadAdapter(f"damaged safetensors file: {error}", where, "copy or save the adapter again") from None
    for name, part in parts:
        if part["dtype"] not in kinds:
            raise BadAdapter(f"tensor {name!r} has type {part['dtype']}", where, "save in F32, F16 or BF16")
        raw = np.frombuffer(bytes(part["data"]), kinds[part["dtype"]]).reshape(part["shape"])
        value = (raw.astype(np.uint32) << 16).view(np.float32) if part["dtype"] == "BF16" else raw
        if not np.isfinite(value).all():
            raise BadAdapter(f"tensor {name!r} holds NaN or infinity", where, "train or save the adapter again")
        values[name] = value.astype(np.float64)
    return values


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadAdapter("no adapter_config.json", str(path.parent), "give the directory that PEFT's save_pretrained wrote")
    try:
        config = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"not JSON: {error}", str(path), "save the adapter again") from None
    if not isinstance(config, dict):
        raise BadAdapter("not a JSON object", str(path), "save the adapter again")
    if config.get("peft_type") != "LORA":
        refuse_type(config, str(path))
    for field, meaning in _REFUSED.items():
        if config.get(field) and meaning:
            raise BadAdapter(f"{field} is set ({meaning}), which is not supported", str(path), "merge it into the base")
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        raise BadAdapter(f"bias is {config['bias']!r}", str(path), "must be none, all or lora_only")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING):
        hint = "convert it with path_initial_model_for_weight_conversion"
        raise BadAdapter(f"init_lora_weights is {start!r}: it changed the base it was trained on", str(path), hint)
    return config


def _patterned(module: str, config: dict[str, Any], field: str, default: float, where: str) -> float:
    """PEFT's rule: the first key that matches the end of the module's path."""
    pattern = config.get(field)
    if not pattern:
        return default
    if not isinstance(pattern, dict):
        raise BadAdapter(f"{field} is {_short(pattern)}, must be an object", where, f"fix {field}")
    for key, value in pattern.items():
        if len(re.findall(r"[*+{]", key)) > _REPEATS or re.search(r"\)[*+{]", key) or len(module) > _PATH:
            raise BadAdapter(f"{field} has the key {_short(key)}: too many repetitions", where, "name the modules in full")
        try:
            found = re.match(rf"(.*\.)?({key})$", module)
        except (re.error, RecursionError, OverflowError):
            raise BadAdapter(f"{field} has the key {_short(key)}: no regular expression", where, f"fix {field}") from None
        if found:
            return _real(value, f"{field}[{_short(key)}]", where)
    return default


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _real(value: object, field: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
        raise BadAdapter(f"{field} is {_short(value)}, must be a number", where, f"fix {field}")
    return float(value)


def _number(config: dict[str, Any], field: str, where: str) -> float:
    return _real(config.get(field), field, where)


Parts = dict[str, dict[str, Float64]]


def _saved_whole(module: str, kind: str, config: dict[str, Any]) -> bool:
    """The configuration explains a tensor that is no branch's."""
    names = config.get("modules_to_save") or ()
    listed = isinstance(names, list | tuple) and any(f".{module}".endswith(f".{n}") or f".{n}." in f".{module}" for n in names)
    return listed or (kind == "bias" and config.get("bias", "none") != "none")


def adapter_files(path: str | Path) -> tuple[Path, ...]:
    """The files that `read_content` reads, for an adapter that it took."""
    file = adapter_file(Path(path))
    return (file,) if file is not None else (Path(path) / "adapter_config.json", Path(path) / "adapter_model.safetensors")


def _of_onnxruntime(file: Path, limit: int | None) -> PeftContent:
    """An adapter of ONNX Runtime, whose scale is in lora_B; raises `BadAdapter` for anything but branches of linears."""
    where = str(file)
    if not _is_inside(file):
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
    pairs = {module: _pair(module, part, where, limit) for module, part in sorted(parts.items())}
    return PeftContent(tuple(PeftLora(module, a.T, b.T, 1.0, None, None) for module, (a, b) in pairs.items()), (), ())


def read_content(path: str | Path, max_lora_rank: int | None = None) -> PeftContent:
    """All that a PEFT LoRA directory holds.

    Raises:
        BadAdapter: missing or damaged files, another format or kind of adapter (by its name), several adapters in one file,
            NaN, shapes that do not pair, a rank that differs from the configuration or passes `max_lora_rank`, no tensors.
    """
    folder, where = Path(path), str(Path(path))
    if (file := adapter_file(folder)) is not None:
        return _of_onnxruntime(file, max_lora_rank)
    refuse_path(folder)
    config = _config(folder / "adapter_config.json")
    tensors = _tensors(folder / "adapter_model.safetensors")
    keys = sorted_keys(tensors, where)
    parts: Parts = {}
    whole: Parts = {}
    for key, found in keys.items():
        into = whole if found.part is Part.WHOLE else parts
        into.setdefault(found.module, {})[found.name] = tensors[key]
    embeddings = tuple(sorted({found.module for found in keys.values() if found.part is Part.EMBEDDING}))
    branches = {module: part for module, part in sorted(parts.items()) if module not in embeddings}
    loras = []
    for module, part in branches.items():
        lora = _branch(module, part, config, where, max_lora_rank)
        bias = whole.get(module, {}).get("bias")
        if bias is not None and bias.shape != (lora.b.shape[1],):
            raise BadAdapter(f"module {module!r}: bias {bias.shape} does not fit lora_B", where, "save the adapter again")
        loras.append(replace(lora, base_bias=bias))
    own = {m: v for m, v in sorted(whole.items()) if "weight" in v or m not in branches}
    modules = tuple(_module(module, values, config, where) for module, values in own.items())
    if not loras and not embeddings and not any(m.listed for m in modules):
        what = f"it holds {len(modules)} whole weights and no branch (lora_A, lora_B)" if modules else "it holds no tensors"
        raise BadAdapter(what, where, "save the adapter, not the model" if modules else "save the adapter again")
    return PeftContent(tuple(loras), modules, embeddings)


def _module(module: str, values: dict[str, Float64], config: dict[str, Any], where: str) -> PeftModule:
    weight, bias = values.get("weight"), values.get("bias")
    if weight is not None and weight.ndim not in (1, 2):
        raise BadAdapter(f"module {module!r}: weight of shape {weight.shape}", where, "linears can be replaced")
    if bias is not None and (bias.ndim != 1 or (weight is not None and bias.size != weight.shape[0])):
        raise BadAdapter(f"module {module!r}: bias of shape {bias.shape} does not fit", where, "save the adapter again")
    listed = any(_saved_whole(module, kind, config) for kind in values)
    return PeftModule(module, None if weight is None else weight.T, bias, listed)


def read_peft(path: str | Path, max_lora_rank: int | None = None) -> tuple[PeftLora, ...]:
    """The adapter's branches by module, sorted by name; `read_content` reads what else it holds, and may raise as that."""
    return read_content(path, max_lora_rank).loras


def _pair(module: str, part: dict[str, Float64], where: str, limit: int | None) -> tuple[Float64, Float64]:
    """lora_A [r, in] and lora_B [out, r] of a module; of a convolution `in` are the patches' elements (frontend/convolutions).

    Raises:
        BadAdapter: one is missing, they do not pair, or r is over `limit`.
    """
    for name, other in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
        if name not in part:
            raise BadAdapter(f"module {module!r} has {other} but no {name}", where, "save the adapter again")
    a, b = part["lora_A"], part["lora_B"]
    if a.ndim > 2 and b.ndim == a.ndim and math.prod(b.shape[2:]) == 1:
        a, b = np.moveaxis(a.reshape(*a.shape[:2], -1), 1, 2).reshape(len(a), -1), b.reshape(b.shape[:2])
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise BadAdapter(
            f"module {module!r}: lora_A {a.shape} and lora_B {b.shape} do not pair",
            where,
            "linears and convolutions have branches",
        )
    if limit is not None and a.shape[0] > limit:
        raise BadAdapter(f"module {module!r}: rank {a.shape[0]} is over the limit {limit}", where, "raise max_lora_rank")
    return a, b


def _branch(module: str, part: dict[str, Float64], config: dict[str, Any], where: str, limit: int | None) -> PeftLora:
    a, b = _pair(module, part, where, limit)
    rank = a.shape[0]
    wanted = _patterned(module, config, "rank_pattern", _number(config, "r", where), where)
    if rank != wanted:
        raise BadAdapter(f"module {module!r}: lora_A has rank {rank}, the configuration says {wanted:g}", where, "fix r")
    alpha = _patterned(module, config, "alpha_pattern", _number(config, "lora_alpha", where), where)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    magnitude = part.get("lora_magnitude_vector")
    if bool(config.get("use_dora")) != (magnitude is not None):
        raise BadAdapter(f"module {module!r}: use_dora and the magnitude vector disagree", where, "save the adapter again")
    for vector in (magnitude, part.get("bias")):
        if vector is not None and vector.size != b.shape[0]:
            raise BadAdapter(f"module {module!r}: a vector has {vector.size} values, needs {b.shape[0]}", where, "save again")
    bias = part.get("bias")
    return PeftLora(
        module, a.T, b.T, scale, None if bias is None else bias.reshape(-1),
        None if magnitude is None else magnitude.reshape(-1),
    )  # fmt: skip
