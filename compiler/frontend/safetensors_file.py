"""The header of a safetensors file: what it holds and where. Values stay in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

_HEADER_LIMIT = 100 << 20
BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4,
    "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Of an element, by the type's name in the header."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file."""

    file: Path
    kind: str
    """Type by its name in the header."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    end: int

    def read(self) -> bytes:
        """Its bytes."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)


def entries(file: Path) -> dict[str, Entry]:
    """Name -> place of every tensor of a file.

    Raises:
        ValueError: a damaged file, in words.
    """
    try:
        with file.open("rb") as f:
            size, total = int.from_bytes(f.read(8), "little"), file.stat().st_size
            if size > min(_HEADER_LIMIT, total):
                raise ValueError("header too long")
            header = json.loads(f.read(size))
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = (int(v) + 8 + size for v in entry["data_offsets"])
            own = Entry(file, str(entry["dtype"]), tuple(int(d) for d in entry["shape"]), start, end)
            needed = prod(own.shape) * BYTES.get(own.kind, 0)
            if not 8 + size <= start <= end <= total or (needed and end - start != needed):
                raise ValueError(f"{name} is {own.kind} {list(own.shape)} at bytes {start} to {end} of {total}")
            found[name] = own
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged safetensors file: {error}") from None
