"""Read tensors of a file that torch.save wrote, without PyTorch and without running what a pickle may hold."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter

Tensor = npt.NDArray[Any]
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SAVE = "load it with PEFT and save_pretrained(DIR, safe_serialization=True)"
_KINDS = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "u1",
}  # fmt: skip
"""Storage of PyTorch -> its elements; bfloat16 is widened."""


class _Refused(Exception):
    """The pickle names something else than tensors."""


class _Tensors(pickle.Unpickler):
    """Only what a dictionary of tensors needs: storages by name, tensors on them, dictionaries."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(BytesIO(data))
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        """The few names that are allowed, none of which runs code of the file."""
        if module == "torch" and name in _KINDS:
            return name
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) not in allowed:
            raise _Refused(f"{module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """The elements of a storage."""
        kind, storage, key = pid[:3]
        if kind != "storage" or storage not in _KINDS or "/" in str(key):
            raise _Refused(f"a storage {storage}")
        raw = np.frombuffer(self._archive.read(f"{self._prefix}/data/{key}"), _KINDS[storage])
        return (raw.astype(np.uint32) << 16).view(np.float32) if storage == "BFloat16Storage" else raw


def _tensor(storage: Tensor, offset: int, shape: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    """A tensor on a storage; raises `ValueError` where it leaves the storage."""
    if min((offset, *shape, *stride), default=0) < 0 or len(shape) != len(stride):
        raise ValueError("a tensor with negative sizes")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if math.prod(shape) > storage.size:
        raise ValueError("a tensor larger than its storage")
    if offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) >= storage.size:
        raise ValueError("a tensor beyond its storage")
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def read_pickle(data: bytes, limit: int, where: str) -> dict[str, Tensor]:
    """The tensors by name: floats as they are (bfloat16 as float32), integers, booleans as bytes.

    Args:
        data: of a zip file that torch.save wrote (PyTorch 1.6 or later).
        limit: largest number of bytes in all.

    Raises:
        BadAdapter: another format, damaged, too large, or anything but a dictionary of tensors.
    """
    if data[:2] != b"PK":
        raise BadAdapter("it is no file of torch.save, or one of before PyTorch 1.6", where, _SAVE)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            size = sum(part.file_size for part in archive.infolist())
            if size > limit:
                raise BadAdapter(f"{size} bytes, the limit is {limit}", where, "save fewer modules")
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            prefix = name.removesuffix("/data.pkl")
            if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") != b"little":
                raise BadAdapter("it was saved on a big-endian machine", where, _SAVE)
            found = _Tensors(archive.read(name), archive, prefix).load()
    except BadAdapter:
        raise
    except _Refused as error:
        what = f"its pickle holds {str(error)[:80]}, which is no tensor; what a pickle names would run when it is read"
        raise BadAdapter(what, where, _SAVE) from None
    except Exception as error:  # a pickle of an attacker fails in any way
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise BadAdapter(f"damaged file of torch.save: {reason}", where, "copy or save the adapter again") from None
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in found.items()):
        raise BadAdapter("its pickle is no dictionary of tensors", where, _SAVE)
    return found
