"""Mutations: each changes the files of one case in place, from a seed, and says what is still to be expected.

A case is (kind, number). Its folder holds copies of the base files; `CASES` spreads the kinds, and `mutate` applies one
mutator of the kind, in turn, so that every mutator is used about equally often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Random = np.random.Generator

SAME, REFUSED, ANY = "same", "refused", "any"
"""What a mutation expects: the result of the unmutated files, a named error, or either of a result and an error."""


@dataclass(frozen=True)
class Mutation:
    """One way to change a case's files."""

    name: str
    change: Callable[[Path, Random], str]
    """(folder, random) -> what was done, for the report."""
    expects: str = ANY


def flip_bits(data: bytes, rng: Random, most: int = 4) -> bytes:
    """One to `most` bits flipped."""
    changed = bytearray(data)
    for place in rng.integers(0, max(1, len(changed)), rng.integers(1, most + 1)):
        if changed:
            changed[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def truncate(data: bytes, rng: Random) -> bytes:
    """Shorter by some bytes, or down to few."""
    return data[: int(rng.integers(0, max(1, len(data))))] if rng.integers(2) else data[: -int(rng.integers(1, 9))]


def splice(data: bytes, rng: Random) -> bytes:
    """A stretch of bytes copied over another place, removed, or doubled."""
    size = int(rng.integers(1, max(2, min(64, len(data)))))
    a, b = (int(v) for v in rng.integers(0, max(1, len(data) - size), 2))
    part = data[a : a + size]
    how = int(rng.integers(3))
    if how == 0:
        return data[:b] + part + data[b + size :]
    return data[:a] + data[a + size :] if how == 1 else data[:b] + part + data[b:]


def noise(data: bytes, rng: Random) -> bytes:
    """A stretch of random bytes, zeros or ones."""
    size = int(rng.integers(1, 33))
    at = int(rng.integers(0, max(1, len(data))))
    fill = [rng.bytes(size), bytes(size), b"\xff" * size][int(rng.integers(3))]
    return data[:at] + fill + data[at + size :]


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "bits": flip_bits, "truncated": truncate, "splice": splice, "noise": noise,
}  # fmt: skip


def of_bytes(file: Callable[[Path, Random], Path]) -> list[Mutation]:
    """The mutations of raw bytes for the file that `file` picks."""

    def make(name: str, change: Callable[[bytes, Random], bytes]) -> Mutation:
        def apply(folder: Path, rng: Random) -> str:
            path = file(folder, rng)
            path.write_bytes(change(path.read_bytes(), rng))
            return f"{name} of {path.name}"

        return Mutation(f"bytes-{name}", apply)

    return [make(name, change) for name, change in BYTES.items()]


ABSURD: tuple[object, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 63, 255, 4096, 65536, 2**31 - 1, 2**31, 2**32, 2**40, 2**63, 2**70, -(2**40), 0.5,
    -0.0, 1e-300, 1e308, -1.5, float("nan"), float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "a\nb", "é" * 300, [],
    [1, 2], [[]], {}, {"a": 1},
)  # fmt: skip
"""What a JSON value becomes."""


def _places(data: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path] if path else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += _places(value, (*path, key))
    return found


def _near(value: object, rng: Random) -> object:
    """A value of the same type, near or far."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        steps = (1, -1, 2, 3, 4, 8, 64, value, -2 * value, 1 << int(rng.integers(4, 45)))
        return value + int(steps[int(rng.integers(len(steps)))])
    if isinstance(value, float):
        return value * (-1.0, 0.0, 1e-30, 1e30, 2.0)[int(rng.integers(5))]
    if isinstance(value, str):
        return (value + "x", value[:-1], "../" + value, value.upper(), "a/" + value)[int(rng.integers(5))]
    if isinstance(value, list):
        return (value[:-1], [*value, *value[-1:]], value[::-1])[int(rng.integers(3))]
    return value


def edit_json(data: object, rng: Random) -> str:
    """Change, remove or double one value somewhere in `data`, in place; returns what."""
    places = _places(data)
    if rng.integers(2):  # not only the longest list
        tops = sorted({str(p[0]) for p in places})
        top = tops[int(rng.integers(len(tops)))]
        places = [p for p in places if str(p[0]) == top]
    path = places[int(rng.integers(len(places)))]
    inner = data
    for key in path[:-1]:
        inner = inner[key]  # type: ignore[index]
    last, how = path[-1], int(rng.integers(10))
    name = ".".join(map(str, path))
    if how == 0:
        del inner[last]  # type: ignore[attr-defined]
        return f"{name} removed"
    if how == 1 and isinstance(inner, dict):
        inner[f"{last}_"] = inner.pop(last)
        return f"{name} renamed"
    old = inner[last]  # type: ignore[index]
    new = ABSURD[int(rng.integers(len(ABSURD)))] if how < 5 else _near(old, rng)
    inner[last] = new  # type: ignore[index]
    return f"{name}: {str(old)[:40]!r} -> {str(new)[:40]!r}"
