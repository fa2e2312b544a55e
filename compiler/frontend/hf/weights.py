"""The tensors of a directory's safetensors files; nothing is read before it is asked for, and nothing outside the directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.safetensors_file import Entry, entries

Array = npt.NDArray[Any]
_ONNX = {"F64": TensorProto.DOUBLE, "F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
"""Types of weights that stay in their file."""
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I32": "<i4", "I64": "<i8"}
FLOATS = ("F64", "F32", "F16", "BF16")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_BUFFERS = ("inv_freq", "position_ids", "weight_shape", "weight_format")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        BadModel: not there, or not an object.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadModel(f"no {path.name}", str(path.parent), "give a directory that save_pretrained wrote") from None
    except (OSError, ValueError) as error:
        raise BadModel(
            f"{path.name} cannot be read: {str(error).splitlines()[0]}", str(path.parent), "copy the directory again"
        ) from None
    if not isinstance(found, dict):
        raise BadModel(f"{path.name} holds no object", str(path.parent), "copy the directory again")
    return found


class Weights:
    """Tensors by name."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of `model.safetensors`, or of the files that `model.safetensors.index.json` names.

        Raises:
            BadModel: no such file, one outside of `folder`, or a damaged one.
        """
        self.folder, self.where = folder, str(folder)
        self.entries: dict[str, Entry] = {}
        self.read: set[str] = set()
        """Names of tensors that were asked for."""
        for name in self._files():
            path = folder / name
            if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
                hint = "keep weight files in the model's own folder; copy links of a cache as files (cp -L)"
                raise BadModel(f"weights lie at {name!r}, outside the model's folder", self.where, hint)
            if not path.is_file():
                raise BadModel(f"no file {name!r}, which {INDEX} names", self.where, "copy it beside the others")
            try:
                self.entries |= entries(path)
            except ValueError as error:
                raise BadModel(str(error), str(path), "copy the directory again") from None

    def _files(self) -> Sequence[str]:
        if (self.folder / INDEX).exists():
            named = read_json(self.folder / INDEX).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
                raise BadModel(f"{INDEX} holds no weight_map of names", self.where, "copy the directory again")
            return sorted(set(named.values()))
        if (self.folder / SINGLE).exists():
            return [SINGLE]
        pickles = sorted(path.name for kind in _PICKLES for path in self.folder.glob(kind))
        what = f"no {SINGLE}" + (f", only {pickles[0]} of PyTorch" if pickles else "")
        raise BadModel(what, self.where, "save it with save_pretrained(safe_serialization=True)")

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def renamed(self, old: str, new: str) -> None:
        """Call tensors by the names that transformers gives them now: the last component `old` becomes `new`."""
        ending = f".{old}"
        self.entries = {
            f"{name.removesuffix(ending)}.{new}" if name.endswith(ending) else name: own for name, own in self.entries.items()
        }

    def under(self, module: str) -> bool:
        """Whether a module has tensors."""
        return any(name.startswith(f"{module}.") for name in self.entries)

    def split(self, name: str) -> None:
        """Call the parts of a tensor [parts, ..], if it is there, `module.0.last.weight` and so on, of `module.last`."""
        found = self.entries.pop(name, None)
        if found is None or not found.shape:
            return
        module, last = name.rsplit(".", 1)
        size = (found.end - found.start) // max(found.shape[0], 1)
        for n in range(found.shape[0]):
            start = found.start + n * size
            own = replace(found, shape=found.shape[1:], start=start, end=start + size)
            self.entries[f"{module}.{n}.{last}.weight"] = own

    def unread(self) -> list[str]:
        """Tensors that nobody asked for, without buffers that the config tells as well."""
        return sorted(name for name in self.entries.keys() - self.read if name.rsplit(".", 1)[-1] not in _BUFFERS)

    def entry(self, name: str, shape: Sequence[int] | None = None, kinds: Sequence[str] = FLOATS) -> Entry:
        """The place of a tensor.

        Args:
            shape: that it must have; None: any.
            kinds: types that it may have.

        Raises:
            BadModel: not there, or of another shape or type.
        """
        wanted = "" if shape is None else f" {list(shape)}"
        if name not in self.entries:
            raise BadModel(
                f"no tensor {name!r}, expected{wanted or ' one'}",
                self.where,
                "config.json asks for it: do they belong together?",
            )
        found = self.entries[name]
        self.read.add(name)
        if shape is not None and found.shape != tuple(shape):
            what = f"tensor {name!r} is {list(found.shape)}, expected{wanted}"
            raise BadModel(what, self.where, "config.json and the weights must belong together")
        if found.kind not in kinds:
            hint = f"{', '.join(kinds)} {'are' if len(kinds) > 1 else 'is'} taken here"
            raise BadModel(f"tensor {name!r} is of type {found.kind}", self.where, hint)
        return found

    def array(self, name: str, shape: Sequence[int] | None = None, kinds: Sequence[str] = FLOATS) -> Array:
        """The values of a tensor, mapped from the file; bfloat16 as float32. Errors as those of `entry`."""
        found = self.entry(name, shape, kinds)
        if not found.end - found.start:
            return np.zeros(found.shape, _NUMPY[found.kind])
        raw = np.memmap(found.file, _NUMPY[found.kind], "r", found.start, found.shape)
        return (raw.astype(np.uint32) << 16).view(np.float32) if found.kind == "BF16" else raw

    def tensor(
        self, name: str, shape: Sequence[int], called: str = "", first: int = 0, rows: int | None = None
    ) -> onnx.TensorProto:
        """A constant whose data stays where it is.

        Args:
            called: its name, if it is not the tensor's.
            first, rows: the part of the tensor's first dimension that it is; None: all.

        Raises:
            BadModel: as `entry`.
        """
        found = self.entry(name, shape)
        count = shape[0] if rows is None else rows
        result = onnx.TensorProto(name=called or name, data_type=_ONNX[found.kind], dims=[count, *shape[1:]])
        result.data_location = TensorProto.EXTERNAL
        row = (found.end - found.start) // max(shape[0], 1)
        place = {"location": found.file.relative_to(self.folder), "offset": found.start + first * row, "length": count * row}
        for key, value in place.items():
            result.external_data.add(key=key, value=str(value))
        return result
