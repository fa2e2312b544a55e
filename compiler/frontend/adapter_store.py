"""Where an adapter's configuration and tensors lie: a directory of PEFT, a checkpoint of a training run, shards, one file.

Nothing outside the adapter's folder is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.torch_pickle import SUFFIXES, read_pickle

FILE_LIMIT = 1 << 30
"""Bytes of an adapter's files; reading them takes about four times as much."""
CONFIG = "adapter_config.json"
_STEMS = ("adapter_model", "adapters", "pytorch_lora_weights", "adapter")
"""Names of the file of tensors before its suffix: PEFT's, MLX', diffusers', torchtune's."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SAFE = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}
_AGAIN = "copy or save the adapter again"

Tensor = npt.NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """An adapter's files."""

    config: Path | None
    """adapter_config.json; None: the format has none."""
    weights: tuple[Path, ...]
    """Its tensors: one file, or shards."""
    notices: tuple[str, ...] = ()
    """What was chosen where there are several, a line each."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read."""
        return (*([self.config] if self.config is not None else []), *self.weights)


def is_inside(path: Path, folder: Path | None = None) -> bool:
    """A file of the adapter's own folder, or a link into the blobs of a Hugging Face cache (snapshots/REVISION/FILE)."""
    folder, real = (folder or path.parent).resolve(), path.resolve()
    cache = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    return real.is_relative_to(folder) or real.is_relative_to(cache)


def read_bytes(path: Path, limit: int = FILE_LIMIT) -> bytes:
    """The file.

    Raises:
        BadAdapter: it is a link out of its folder, or has more than `limit` bytes.
    """
    if not is_inside(path):
        raise BadAdapter(f"{path.name} links out of the adapter's folder", str(path), "copy the file into the folder")
    if path.stat().st_size > limit:
        raise BadAdapter(f"{path.stat().st_size} bytes, the limit is {limit}", str(path), "save fewer modules")
    return path.read_bytes()


def locate(path: Path) -> Stored | None:
    """The files of an adapter; None: none are found there.

    Args:
        path: a directory, or the file of its tensors or of its configuration.

    Raises:
        BadAdapter: an index that names files outside the folder or that are missing.
    """
    if path.is_file():
        if path.name == CONFIG:
            return locate(path.parent)
        if path.suffix.lower() != ".safetensors" and path.suffix.lower() not in SUFFIXES:
            return None
        config = path.parent / CONFIG
        return Stored(config if config.is_file() else None, (path,))
    if not path.is_dir():
        return None
    config = path / CONFIG
    weights = _weights(path)
    if weights:
        return Stored(config if config.is_file() else None, weights)
    if config.exists():
        return None
    inside = {p.name: p for p in path.iterdir() if p.is_dir() and (p / CONFIG).is_file()}
    steps = {int(step[1]): p for name, p in inside.items() if (step := _CHECKPOINT.fullmatch(name))}
    chosen = next(iter(inside.values())) if len(inside) == 1 else None
    if len(inside) > 1 and len(steps) == len(inside):
        chosen = steps[max(steps)]
    if chosen is None or not is_inside(chosen, path) or (found := locate(chosen)) is None:
        return None
    others = f", the last of {len(steps)} checkpoints" if len(inside) > 1 else ""
    return Stored(found.config, found.weights, (*found.notices, f"{path}: taken is the adapter in {chosen.name}{others}"))


def _weights(folder: Path) -> tuple[Path, ...]:
    """The files of tensors in a directory, safetensors before pickles; none where there is no one set."""
    for suffix in (".safetensors", ".bin", ".pt"):
        for stem in _STEMS:
            whole, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
            if whole.is_file():
                return (whole,)
            if index.is_file():
                return _indexed(index)
            if shards := tuple(sorted(folder.glob(f"{stem}-*-of-*{suffix}"))):
                return _complete(shards, folder)
    single = tuple(p for p in sorted(folder.glob("*.safetensors")) if p.is_file())
    whole_model = (folder / "config.json").is_file() and not (folder / CONFIG).is_file()
    return single if len(single) == 1 and not whole_model else ()


def _indexed(index: Path) -> tuple[Path, ...]:
    """The shards that an index names."""
    try:
        names = sorted(set(json.loads(read_bytes(index))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadAdapter("it is no index of shards (weight_map)", str(index), _AGAIN) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise BadAdapter(f"it names {str(name)[:80]!r}, which is no file of the adapter's folder", str(index), _AGAIN)
        if not (index.parent / name).is_file():
            raise BadAdapter(f"it names {name[:80]!r}, which is missing", str(index), _AGAIN)
    if not names:
        raise BadAdapter("it names no shard", str(index), _AGAIN)
    return tuple(index.parent / name for name in names)


def _complete(shards: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """The shards, none of which is missing."""
    found = re.search(r"-of-0*(\d+)\.", shards[0].name)
    if found is None or int(found[1]) != len(shards):
        wanted = found[1] if found else "?"
        raise BadAdapter(f"{len(shards)} of {wanted} shards ({shards[0].name}, ..)", str(folder), "copy the adapter again")
    return tuple(shards)


def read_tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    """Tensors of all files by name: floats as float64, integers as int64.

    Raises:
        BadAdapter: a file that is damaged, too large or outside its folder; an element type that no adapter has; NaN or
            infinity; a tensor in two files.
    """
    values: dict[str, Tensor] = {}
    left = FILE_LIMIT
    for file in files:
        data = read_bytes(file, left)
        left -= len(data)
        pickled = file.suffix.lower() in SUFFIXES
        found = read_pickle(data, FILE_LIMIT, str(file)) if pickled else _safetensors(data, str(file))
        for name, value in found.items():
            if name in values:
                raise BadAdapter(f"tensor {name!r} is in two files", str(file), _AGAIN)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise BadAdapter(f"tensor {name!r} holds NaN or infinity", str(file), "train or save the adapter again")
            values[name] = value.astype(np.float64 if value.dtype.kind == "f" else np.int64)
    return values


def _safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        parts = deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise BadAdapter(f"damaged safetensors file: {error}", where, _AGAIN) from None
    values = {}
    for name, part in parts:
        if part["dtype"] not in _SAFE:
            raise BadAdapter(f"tensor {name!r} has type {part['dtype']}", where, "save in F32, F16 or BF16")
        raw = np.frombuffer(bytes(part["data"]), _SAFE[part["dtype"]]).reshape(part["shape"])
        values[name] = (raw.astype(np.uint32) << 16).view(np.float32) if part["dtype"] == "BF16" else raw
    return values


def read_metadata(files: Sequence[Path]) -> dict[str, Any]:
    """The configuration that diffusers writes into a safetensors file: fields as `unet.lora_alpha`; empty where it has none."""
    if len(files) != 1 or files[0].suffix.lower() != ".safetensors":
        return {}
    data = read_bytes(files[0])
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        found = json.loads(header.get("__metadata__", {}).get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def read_config(path: Path) -> dict[str, Any]:
    """The configuration.

    Raises:
        BadAdapter: it is no JSON object.
    """
    try:
        config = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise BadAdapter(f"not JSON: {error}", str(path), "save the adapter again") from None
    if not isinstance(config, dict):
        raise BadAdapter("not a JSON object", str(path), "save the adapter again")
    return config
