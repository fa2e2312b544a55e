"""Mutations of packages of every kind: model.axl in the case's folder. Those that say `rehashed` pass the hash check."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mutate import BYTES, REFUSED, SAME, Mutation, Random, edit_json, of_bytes
from mutate_models import MODEL
from safetensors.numpy import load, save

Manifest = dict[str, Any]
_ROWS = ("inputs", "outputs", "layers", "adapters", "functions")


def _pick(items: Any, rng: Random) -> Any:
    found = list(items)
    return found[int(rng.integers(len(found)))]


def _any_file(folder: Path, rng: Random) -> Path:
    path: Path = _pick(sorted(p for p in (folder / "model.axl").rglob("*") if p.is_file()), rng)
    return path


def _sealed(folder: Path, change: Callable[[Manifest], str], **dump: Any) -> str:
    """Edit the manifest and make every hash hold again."""
    package = folder / "model.axl"
    manifest = json.loads((package / "manifest.json").read_text())
    del manifest["sha256"]
    text = change(manifest)
    manifest.pop("sha256", None)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest, **dump))
    return text


def _rehash(folder: Path, text: str) -> str:
    def change(manifest: Manifest) -> str:
        for name in manifest["files"]:
            manifest["files"][name] = hashlib.sha256((folder / "model.axl" / name).read_bytes()).hexdigest()
        return text

    return _sealed(folder, change)


def _edited(folder: Path, rng: Random) -> str:
    return _sealed(folder, lambda m: edit_json(m, rng))


def _twice(folder: Path, rng: Random) -> str:
    return _sealed(folder, lambda m: edit_json(m, rng) + "; " + edit_json(m, rng))


_HUGE = (
    -1,
    -64,
    0,
    1,
    3,
    7,
    8,
    64,
    1000,
    1 << 15,
    1 << 16,
    1 << 20,
    (1 << 31) - 8,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 62,
    1 << 64,
)


def _numbers(folder: Path, rng: Random) -> str:
    """A number of the machine's view: addresses, sizes, counts, stages, tiles."""

    def leaves(data: Any, path: str = "") -> list[tuple[Any, Any, str]]:
        found = []
        for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.append((data, key, f"{path}.{key}"))
            else:
                found += leaves(value, f"{path}.{key}")
        return found

    def change(m: Manifest) -> str:
        parts = (*_ROWS, "results", "regions", "regions", "host", "target")
        part = _pick(["adapter", *(name for name in parts if m.get(name))], rng)
        if part == "adapter":
            within, key = m, _pick(("adapter_address", "adapter_size", "slots", "max_loras", "rank"), rng)
            where = key
        else:
            data = m[part]
            if isinstance(data, list):
                data = _pick(data, rng)
            within, key, where = _pick(leaves(data, part), rng)
        old = within[key]
        if isinstance(old, float):
            within[key] = _pick((float("nan"), float("inf"), 0.0, -old, 1e-320, 1e300, 2 * old), rng)
        else:
            within[key] = _pick(_HUGE, rng) if rng.integers(2) else old + _pick((-64, -8, -1, 1, 2, 8, 64, 4096, old), rng)
        return f"{where}: {old} -> {within[key]}"

    return _sealed(folder, change)


def _overlap(folder: Path, rng: Random) -> str:
    """Two addresses of the manifest made equal, or exchanged."""

    def change(m: Manifest) -> str:
        places: list[tuple[Any, Any]] = [(m, "adapter_address")]
        places += [(place, 0) for place in m["regions"].values()] + [(f, "address") for f in m["functions"]]
        (a, x), (b, y) = (_pick(places, rng) for _ in range(2))
        if rng.integers(2):
            a[x], b[y] = b[y], a[x]
        else:
            a[x] = b[y]
        return f"{x} {a[x]} and {y} {b[y]}"

    return _sealed(folder, change)


def _names(folder: Path, rng: Random) -> str:
    """File names that leave the package, names that are no file names, names that mean nothing."""

    def change(m: Manifest) -> str:
        bad = _pick(
            ("../secret.bin", "/etc/passwd", "adapters/../../secret.bin", "", ".", "a\0b", "x" * 5000, 3, None, "link"), rng
        )
        where = _pick(sorted(m["files"]), rng)
        how = int(rng.integers(4))
        if how == 0:
            m["files"][where] = bad
        elif how == 1:
            m["files"][str(bad)] = m["files"].pop(where)
        elif how == 2:
            m["adapters"][0]["name"] = _pick(("../x", "a/b", "", ".", "..", "x" * 300, "é", 3, "a\nb"), rng)
        else:
            part = _pick(("inputs", "outputs"), rng)
            _pick(m[part], rng)["tensor"][_pick(("name", "source"), rng)] = _pick(("nope", "", "x", "y", 3, None), rng)
        return f"{how} {where} {bad!r}"[:80]

    (folder / "model.axl" / "link").symlink_to(folder.parent / "secret.bin")
    return _sealed(folder, change)


def _rows(folder: Path, rng: Random) -> str:
    """Rows of a table removed, doubled, exchanged."""

    def change(m: Manifest) -> str:
        name = _pick((name for name in (*_ROWS, "placement") if isinstance(m.get(name), list)), rng)
        rows = m[name]
        how = int(rng.integers(4))
        if how == 0:
            del rows[int(rng.integers(len(rows)))]
        elif how == 1:
            rows.append(_pick(rows, rng))
        elif how == 2:
            rows.reverse()
        else:
            m[name] = _pick(([], {}, None, rows * 50, [rows]), rng)
        return f"{name} {how}"

    return _sealed(folder, change)


def _rehashed(pattern: str) -> Callable[[Path, Random], str]:
    def apply(folder: Path, rng: Random) -> str:
        path = _pick(sorted((folder / "model.axl").glob(pattern)), rng)
        name = _pick(sorted(BYTES), rng)
        path.write_bytes(BYTES[name](path.read_bytes(), rng))
        return _rehash(folder, f"{name} of {path.name}, rehashed")

    return apply


def _program(folder: Path, rng: Random) -> str:
    """Bytes of a function's instructions."""
    package = folder / "model.axl"
    function = _pick(json.loads((package / "manifest.json").read_text())["functions"], rng)
    data, name = bytearray((package / "memory.bin").read_bytes()), _pick(sorted(BYTES), rng)
    first, end = function["address"], function["address"] + function["size"]
    found = BYTES[name](bytes(data[first:end]), rng)[: end - first]
    data[first : first + len(found)] = found
    (package / "memory.bin").write_bytes(data)
    return _rehash(folder, f"{name} of {function['name']}, rehashed")


def _vectors(folder: Path, rng: Random) -> str:
    """Vectors of the linears, arrays of the host: NaN, other shapes, other types, missing."""
    path = folder / "model.axl" / _pick(("linears.safetensors", "linears.safetensors", "arrays.safetensors"), rng)
    arrays = load(path.read_bytes())
    name = _pick(sorted(arrays), rng)
    value, how = arrays.pop(name), int(rng.integers(5))
    if how == 0:
        value = value[:-1]
    elif how == 1:
        value = value.astype(_pick((np.float32, np.int64, np.uint8, np.bool_), rng))
    elif how == 2:
        value = np.full_like(value, np.nan if value.dtype.kind == "f" else 255)
    elif how == 3:
        value = -value
    if how < 4:
        arrays[name] = np.ascontiguousarray(value)
    path.write_bytes(save(arrays))
    return _rehash(folder, f"{name} {how}")


def _host(folder: Path, rng: Random) -> str:
    """The host graph by a mutation of models, or another valid model."""
    path = folder / "model.axl" / "host.onnx"
    mutation = _pick([m for m in MODEL if m.name not in ("shape-argument", "options", "no-file", "outside-link")], rng)
    shutil.copyfile(path, folder / "model.onnx")
    text: str = mutation.change(folder, rng)
    shutil.copyfile(folder / "model.onnx", path)
    return _rehash(folder, f"host: {text}")


def _other_host(folder: Path, rng: Random) -> str:
    path = folder / "model.axl" / "host.onnx"
    if rng.integers(2):
        other = _pick(sorted((folder.parent / "base" / "models").glob("*/model.onnx")), rng)
        shutil.copyfile(other, path)
        return _rehash(folder, f"host is {other.parent.name}")
    model = onnx.load(path)
    model.graph.ClearField(_pick(("node", "input", "output", "value_info", "initializer"), rng))
    path.write_bytes(model.SerializeToString())
    return _rehash(folder, "host without a part")


def _missing(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    path.unlink()
    if rng.integers(3) == 0:
        path.mkdir()
    return f"no {path.name}"


def _link(folder: Path, rng: Random) -> str:
    """A file of the package is a link to the same bytes outside."""
    path = _any_file(folder, rng)
    outside = folder.parent / f"outside-{path.name}"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    os.symlink(outside, path)
    return f"{path.name} is a link"


def _not_json(folder: Path, rng: Random) -> str:
    text = _pick(
        ("", "[]", "null", "{}", "[" * 100000, '{"schema": 1}', "9" * 5000, "\ud800", '{"schema": 2}', '{"schema": "1"}'), rng
    )
    (folder / "model.axl" / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    return text[:20]


def _harmless(folder: Path, rng: Random) -> str:
    """Another layout of the manifest, and a file that is not the package's."""
    (folder / "model.axl" / "README.txt").write_text("mine")
    return _sealed(folder, lambda m: "harmless", indent=int(rng.integers(0, 4)), sort_keys=False)


PACKAGE = [
    *of_bytes(_any_file),
    *[Mutation("edited", _edited)] * 5,
    *[Mutation("edited-twice", _twice)] * 2,
    *[Mutation("numbers", _numbers)] * 6,
    *[Mutation("overlap", _overlap)] * 2,
    *[Mutation("names", _names)] * 2,
    *[Mutation("rows", _rows)] * 2,
    *[Mutation("program", _program)] * 4,
    *[Mutation("memory", _rehashed("memory.bin"))] * 2,
    *[Mutation("adapter-files", _rehashed("adapters/*"))] * 2,
    Mutation("linears-bytes", _rehashed("linears.safetensors")),
    *[Mutation("vectors", _vectors)] * 2,
    *[Mutation("host", _host)] * 4,
    Mutation("host-bytes", _rehashed("host.onnx")),
    Mutation("other-host", _other_host),
    Mutation("missing", _missing, REFUSED),
    Mutation("link", _link, REFUSED),
    Mutation("not-json", _not_json, REFUSED),
    Mutation("harmless", _harmless, SAME),
]
