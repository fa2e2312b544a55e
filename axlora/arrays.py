"""Arrays from .npz files, whose headers are not believed before they are checked."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from .inputs import BadInput

LIMIT = 1 << 30
"""Bytes of all arrays of a file, unpacked."""
_HINT = "numpy.savez(path, name=array)"
_BROKEN = (ValueError, OSError, EOFError, KeyError, TypeError, SyntaxError, RecursionError, NotImplementedError, RuntimeError,
           zipfile.BadZipFile, zlib.error, tokenize.TokenError)  # fmt: skip
"""What zipfile and numpy raise for damaged files."""


def _promised(file: IO[bytes]) -> int:
    """Bytes that the header of a .npy file promises."""
    version = npy.read_magic(file)
    shape, _, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    return prod(shape) * dtype.itemsize if all(d >= 0 for d in shape) else LIMIT + 1


def read_arrays(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name.

    Raises:
        BadInput: no such file, no .npz file, damaged, objects in it, or more than `LIMIT` bytes.
    """
    where = str(path)
    if not Path(path).is_file():
        raise BadInput(f"no file {where}", where, "give an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    total = max(total, _promised(file))
        if total > LIMIT:
            raise BadInput(f"{where} holds {total} bytes, the limit is {LIMIT}", where, "fewer or smaller arrays")
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except _BROKEN:
        raise BadInput(f"{where} is not an .npz file of arrays", where, _HINT) from None
