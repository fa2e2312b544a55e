"""Mutations of the small files: in.npz, map.json, target.toml in the case's folder."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mutate import ABSURD, REFUSED, SAME, Mutation, Random, edit_json, of_bytes


def _pick(items: Any, rng: Random) -> Any:
    found = list(items)
    return found[int(rng.integers(len(found)))]


def _arrays(folder: Path, rng: Random) -> str:
    """Other shapes, types and values."""
    path = folder / "in.npz"
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    name = _pick(sorted(arrays), rng)
    x = arrays[name]
    changes: dict[str, Callable[[], Any]] = {
        "nan": lambda: np.full_like(x, np.nan), "inf": lambda: np.full_like(x, np.inf), "huge": lambda: x * 1e30,
        "double": lambda: x.astype(np.float64) * 1e300, "complex": lambda: x.astype(complex), "text": lambda: x.astype(str),
        "objects": lambda: x.astype(object), "far": lambda: x + 10**6, "negative": lambda: x - 10**6,
        "flat": lambda: x.reshape(-1), "none": lambda: x[:0], "scalar": lambda: x[0, 0],
        "big": lambda: np.zeros((4096, 1024), np.float32), "dates": lambda: np.zeros(x.shape, "M8[s]"),
        "record": lambda: np.zeros(x.shape, [("a", "f4")]), "bool": lambda: x > 0, "bytes": lambda: x.astype("S4"),
        "half": lambda: x.astype(np.float16), "wide": lambda: x.astype(np.longdouble), "ints": lambda: x.astype(np.int64),
        "swapped": lambda: x.astype(">f4"),
    }  # fmt: skip
    how = _pick(sorted(changes), rng)
    arrays[name] = changes[how]()
    if rng.integers(8) == 0:
        arrays[_pick(("", "y", "x\n", "../x", "file"), rng)] = x
    np.savez(path, **arrays)
    return how


def _header(folder: Path, rng: Random) -> str:
    """A .npy header inside the .npz that promises other shapes and types."""
    path = folder / "in.npz"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = sorted(parts)[0]
    text = parts[name][10 : 10 + int.from_bytes(parts[name][8:10], "little")].decode()
    shape = _pick(
        ("(1099511627776, 1024)", "(-1, 3)", "(0,)", "()", "(4, 16", "__import__('os')", "(2147483648,)", "((4,),)"), rng
    )
    descr = _pick(("'<f4'", "'|O'", "'<f99'", "'x'", "3", "[('a', '<f4')]", "'<U1000000'"), rng)
    if rng.integers(2):
        text = re.sub(r"'shape': \([^)]*\)", f"'shape': {shape}", text)
    else:
        text = re.sub(r"'descr': '[^']*'", f"'descr': {descr}", text)
    body = parts[name][10 + int.from_bytes(parts[name][8:10], "little") :]
    raw = text.rstrip().encode() + b"\n"
    parts[name] = parts[name][:8] + len(raw).to_bytes(2, "little") + raw + body
    with zipfile.ZipFile(path, "w") as file:
        for key, value in parts.items():
            file.writestr(key, value)
    return text[:100]


def _not_a_zip(folder: Path, rng: Random) -> str:
    path = folder / "in.npz"
    how = int(rng.integers(5))
    path.unlink()
    if how == 0:
        path.write_bytes(b"")
    elif how == 1:
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.with_suffix(".npy").rename(path)
    elif how == 2:
        path.mkdir()
    elif how == 3:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", b"")
    return f"not a zip {how}"


def _same_arrays(folder: Path, rng: Random) -> str:
    path = folder / "in.npz"
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    wider = {np.dtype(np.float32): np.float64}
    np.savez_compressed(path, **{n: v.astype(wider.get(v.dtype, v.dtype)) for n, v in reversed(arrays.items())})
    return "compressed"


def _map(folder: Path, rng: Random) -> str:
    path = folder / "map.json"
    data = json.loads(path.read_text())
    text = edit_json(data, rng)
    path.write_text(json.dumps(data))
    return text


def _not_a_map(folder: Path, rng: Random) -> str:
    text = _pick(("[]", "null", "3", "", '{"a": 1}', "[" * 100000, '{"a": null}', '{"x": "y"}', "\udc80", "9" * 5000), rng)
    (folder / "map.json").write_bytes(text.encode(errors="surrogateescape"))
    return text[:20]


def _same_map(folder: Path, rng: Random) -> str:
    path = folder / "map.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items())), indent=2))
    return "order"


def _target(folder: Path, rng: Random) -> str:
    path = folder / "target.toml"
    lines = path.read_text().splitlines()
    at = int(rng.integers(len(lines)))
    field, _, value = lines[at].partition(" = ")
    how = int(rng.integers(6))
    if how == 0:
        new = ""
    elif how == 1:
        new = f"{field}x = {value}"
    elif how == 2:
        new = lines[at] + "\n" + lines[at]
    elif how == 3 and value.isdigit():
        new = f"{field} = {_pick((int(value) * 2, int(value) // 2, int(value) * 8, int(value) + 1, 2**40, -1, 0, 10**30), rng)}"
    else:
        text = _pick(
            ("[]", "{}", "true", "nan", "inf", "1.5", '"x"', "1979-05-27", "[[1]]", '"\\n"', "-1", *map(repr, ABSURD[4:9])), rng
        )
        new = f"{field} = {text}"
    lines[at] = new
    path.write_text("\n".join(lines))
    return new.replace("\n", "; ")


def _not_a_target(folder: Path, rng: Random) -> str:
    path = folder / "target.toml"
    text = _pick(("", "[", "lanes = 8", "name = 1", "[target]\nname = 'x'", "x = " + "[" * 20000, "\udc80", "a.b.c.d = 1"), rng)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return text[:30]


def _same_target(folder: Path, rng: Random) -> str:
    path = folder / "target.toml"
    lines = path.read_text().splitlines()
    path.write_text("# mine\n" + "\n".join(lines[int(i)] for i in rng.permutation(len(lines))))
    return "order"


INPUT = [
    *of_bytes(lambda folder, rng: folder / "in.npz"),
    *[Mutation("arrays", _arrays)] * 4,
    *[Mutation("header", _header)] * 2,
    Mutation("not-a-zip", _not_a_zip, REFUSED),
    Mutation("harmless", _same_arrays, SAME),
]
MAP = [
    *of_bytes(lambda folder, rng: folder / "map.json"),
    *[Mutation("map", _map)] * 2,
    Mutation("not-a-map", _not_a_map, REFUSED),
    Mutation("harmless", _same_map, SAME),
]
TARGET = [
    *of_bytes(lambda folder, rng: folder / "target.toml"),
    *[Mutation("target", _target)] * 5,
    Mutation("not-a-target", _not_a_target, REFUSED),
    Mutation("harmless", _same_target, SAME),
]
