"""The package NAME.axl: a directory of manifest.json, memory.bin, arrays and linears.safetensors, host.onnx, adapters/.

Only a model with a host part has host.onnx. No file holds native code.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save as save_tensors

from axlora.compiler.errors import BadPackage
from axlora.compiler.layer import ADAPTER_NAME, By, Host, ModuleMatch
from axlora.compiler.row_changes import RowChange
from axlora.isa.target import BadTarget, Target

from .choice import AdapterInfo, Rows
from .inputs import Kind
from .interface import KINDS, Interface
from .layers import Arrays, LayerInfo, read_arrays
from .machine import Machine
from .manifest import Manifest
from .validate import FILE_LIMIT, Check

SCHEMA = 5
_OWN = {"target", "image", "adapters", "vectors", "host"}
"""Fields of `Machine` that are not in the manifest as they are."""
_PLAIN = {f.name: f for f in dataclasses.fields(Machine) if f.name not in _OWN}
_SCALARS = "iubf"
"""Kinds of NumPy types of arrays that may be any numbers."""


_dumps = functools.partial(json.dumps, default=dataclasses.asdict)


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write(machine: Machine, interface: Interface, path: Path) -> None:
    """Write the package: into a temporary folder beside it first, then renamed.

    Raises:
        BadPackage: something that is not a package is in the way.
    """
    if path.exists() and not (path / "manifest.json").is_file():
        raise BadPackage(f"{path} exists and is not a package", str(path), "choose another name for the output")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        _fill(machine, interface, folder)
        os.chmod(folder, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(machine: Machine, interface: Interface, folder: Path) -> None:
    """Write manifest and files, and read them again: what does not load is a fault of ours, and is never put in place."""

    def modules(a: AdapterInfo) -> tuple[tuple[str, str, By], ...]:
        return tuple((m.module, m.linear, m.by) for m in a.modules)

    plain, arrays = _split(interface)
    files = {
        "memory.bin": machine.image,
        "arrays.safetensors": bytes(save_tensors(arrays)),
        "linears.safetensors": machine.vectors,
        **{f"adapters/{a.name}.bin": a.block for a in machine.adapters},
        **{f"adapters/{a.name}.safetensors": bytes(save_tensors(_row_arrays(a))) for a in machine.adapters if a.rows},
    }
    host = None
    if machine.host is not None:
        files["host.onnx"] = bytes(machine.host.model.SerializeToString(deterministic=True))
        host = {name: getattr(machine.host, name) for name in ("inputs", "outputs", "arrivals")}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": interface.kind,
        "target": machine.target,
        **{name: getattr(machine, name) for name in _PLAIN},
        "adapters": [_Adapter(a.name, a.rank, a.pinned, modules(a), _row_modules(a)) for a in machine.adapters],
        "host": host,
        **plain,
        "arrays": list(arrays),
        "files": {name: digest(data) for name, data in files.items()},
    }
    (folder / "adapters").mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest["sha256"] = seal(manifest)
    (folder / "manifest.json").write_text(_dumps(manifest, indent=1) + "\n")
    try:
        read(folder)
    except BadPackage as error:
        raise RuntimeError(f"the package that was made does not load: {error.message}") from error


def seal(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest without one, in whatever order its fields are."""
    return digest(_dumps(manifest, sort_keys=True).encode())


@dataclasses.dataclass(frozen=True)
class _Adapter:
    """What the manifest says of an adapter; its block is a file. A table of modules that is missing is empty."""

    name: str
    rank: int
    pinned: bool
    modules: tuple[tuple[str, str, By], ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    """Modules and inputs of changes of embeddings, which are a second file: `N/left`, `N/right` and `N/ids` of change N."""


def _row_modules(a: AdapterInfo) -> tuple[tuple[str, str], ...]:
    return tuple((change.module, input) for input, found in a.rows.items() for change in found)


def _row_arrays(a: AdapterInfo) -> Arrays:
    changes = enumerate(change for found in a.rows.values() for change in found)
    parts = {f"{n}/{part}": value for n, x in changes for part, value in (("left", x.left), ("right", x.right), ("ids", x.ids))}
    return {name: np.ascontiguousarray(value) for name, value in parts.items() if value is not None}


def _read_rows(path: Path, m: Manifest, one: _Adapter) -> Rows:
    """What an adapter adds to rows of embeddings; the interface checks it against its tables."""
    if not one.rows:
        return {}
    name = f"adapters/{one.name}.safetensors"
    arrays = read_arrays(_read_file(path, m, name), name)
    found: dict[str, tuple[RowChange, ...]] = {}
    for n, (module, input) in enumerate(one.rows):
        left, right, ids = (arrays.get(f"{n}/{part}") for part in ("left", "right", "ids"))
        if left is None or any(v is not None and v.ndim != d for v, d in ((left, 2), (right, 2), (ids, 1))):
            raise BadPackage(f"{name}: {n}/left is missing, or an array has other dimensions", str(path), "compile again")
        found[input] = (*found.get(input, ()), RowChange(module, left, right, ids))
    return found


# Fields of interfaces: arrays, dicts of arrays, and the rest


def _scalar(hint: Any) -> Any:
    """The NumPy type of an array's type; None if a field holds no array. `Any`: any number."""
    found = next((kind for kind in typing.get_args(hint) or () if typing.get_origin(kind) is np.ndarray), hint)
    if typing.get_origin(found) is not np.ndarray:
        return None
    return typing.get_args(typing.get_args(found)[1])[0]


def _array_fields(cls: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Field -> (NumPy type, whether it is a dict of arrays)."""
    hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if name != "kind"}
    return {n: (_scalar(h), typing.get_origin(h) is dict) for n, h in hints.items() if _scalar(h) is not None}


def _split(interface: Interface) -> tuple[dict[str, Any], Arrays]:
    """The fields for the manifest, and the arrays; those of a dict are named `field/key`."""
    found, arrays, plain = _array_fields(type(interface)), Arrays(), {}
    for name, value in vars(interface).items():
        if name not in found:
            plain[name] = value
        elif found[name][1]:
            arrays |= {f"{name}/{key}": np.ascontiguousarray(one) for key, one in value.items()}
        elif value is not None:
            arrays[name] = np.ascontiguousarray(value)
    return plain, arrays


def _joined(cls: type[Any], m: Manifest, arrays: Arrays) -> Interface:
    """Inverse of `_split`.

    Raises:
        BadPackage: a field or array is missing, of another type, or not known.
    """
    groups = _array_fields(cls)
    fields: dict[str, Any] = {name: {} if group else None for name, (_, group) in groups.items()}
    names = m.get(tuple[str, ...], "arrays")
    if sorted(names) != sorted(arrays):
        raise m.refuse("arrays", names, "the names of arrays.safetensors")
    for name in names:  # dicts keep their order: that of inputs, of sums
        value = arrays[name]
        field, _, key = name.partition("/")
        scalar, group = groups.get(field, (None, False))
        good = value.dtype.kind in _SCALARS if scalar is Any else scalar is not None and value.dtype == np.dtype(scalar)
        if not good or group != bool(key):
            what = f"arrays.safetensors: {name[:80]!r} of type {value.dtype} is no array of this package"
            raise BadPackage(what, m.where, "compile again")
        if group:
            fields[field][key] = value
        else:
            fields[field] = value
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if f.name not in groups and (needed or f.name in m):
            fields[f.name] = m.get(hints[f.name], f.name)
    made: Interface = cls(**fields)
    return made


# Reading


def read(path: Path) -> tuple[Machine, Interface]:
    """Read and check a package.

    Raises:
        BadPackage: not a package, another schema version, a file missing, truncated or edited, values that do not fit.
    """
    m = _open(path)
    where = str(path)
    try:
        target = Target.from_mapping(m.get(dict[str, Any], "target"), where)
    except BadTarget as error:
        raise BadPackage(f"manifest.json: {error.message}", where, "compile again") from None
    hints = typing.get_type_hints(Machine)
    fields = {name: m.get(hints[name], name) for name in _PLAIN}
    adapters = enumerate(m.get(tuple[_Adapter, ...], "adapters"))
    machine = Machine(
        target=target,
        image=_read_file(path, m, "memory.bin"),
        adapters=tuple(_read_adapter(path, m, number, one, fields["layers"]) for number, one in adapters),
        vectors=_read_file(path, m, "linears.safetensors"),
        host=_read_host(path, m),
        **fields,
    )
    arrays = read_arrays(_read_file(path, m, "arrays.safetensors"), "arrays.safetensors")
    interface = _joined(KINDS[m.get(Kind, "kind")], m, arrays)
    check = Check(machine, where)
    check.machine()
    interface.validate(check)
    return machine, interface


def _bytes(path: Path, name: str) -> bytes:
    """A file of the package; never one outside it."""
    file = path / name
    if not file.resolve().is_relative_to(path.resolve()):
        raise BadPackage(f"{name} leaves the package's folder", str(path), "compile again")
    if not file.is_file():
        raise BadPackage(f"{name} is missing", str(path), "compile again")
    if file.stat().st_size > FILE_LIMIT:
        raise BadPackage(f"{name} has {file.stat().st_size} bytes, the limit is {FILE_LIMIT}", str(path), "compile again")
    return file.read_bytes()


def _open(path: Path) -> Manifest:
    """The manifest, if it is of this schema and its hash holds."""
    try:
        data = json.loads(_bytes(path, "manifest.json"))
    except (OSError, BadPackage) as error:
        if isinstance(error, BadPackage) and "missing" not in error.message:
            raise
        raise BadPackage(f"{path} is not a package: it has no manifest.json", str(path), "axlora compile makes one") from None
    except (ValueError, RecursionError):
        raise BadPackage("manifest.json is not JSON", str(path), "compile again") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise BadPackage(f"schema version {str(found)[:40]!r}, this version reads {SCHEMA}", str(path), "compile again")
    found = data.pop("sha256", None)
    if found != seal(data):
        raise BadPackage("manifest.json was edited: its SHA-256 does not hold", str(path), "compile again")
    return Manifest(data, str(path))


def _read_file(path: Path, m: Manifest, name: str) -> bytes:
    """A file whose hash is the manifest's."""
    files = m.get(dict[str, str], "files")
    if name not in files:
        raise BadPackage(f"manifest.json: files has no {name}", str(path), "compile again")
    data = _bytes(path, name)
    if digest(data) != files[name]:
        raise BadPackage(f"{name} was changed or truncated: its SHA-256 is not the manifest's", str(path), "compile again")
    return data


def _read_host(path: Path, m: Manifest) -> Host | None:
    if m.get(dict[str, Any] | None, "host") is None:
        return None
    try:
        model = onnx.load_model_from_string(_read_file(path, m, "host.onnx"))
    except BadPackage:
        raise
    except Exception:  # protobuf's own error has no typed home
        raise BadPackage("host.onnx is not an ONNX file", str(path), "compile again") from None
    inputs, outputs = (m.get(tuple[str, ...], "host", field) for field in ("inputs", "outputs"))
    return Host(model, inputs, outputs, m.get(tuple[tuple[str, int], ...], "host", "arrivals"))


def _read_adapter(path: Path, m: Manifest, number: int, one: _Adapter, layers: Sequence[LayerInfo]) -> AdapterInfo:
    """An adapter with its block.

    Raises:
        BadPackage: the name or the file is damaged, or it names linears that are not among `layers`.
    """
    field, linears = f"adapters[{number}].modules", [linear for _, linear, _ in one.modules]
    if not ADAPTER_NAME.fullmatch(one.name):
        raise m.refuse(f"adapters[{number}].name", one.name, "a file name")
    if not {*linears} <= {layer.name for layer in layers}:
        raise m.refuse(field, linears, "linears of the package")
    if len({*linears}) != len(linears):
        raise m.refuse(field, "a linear twice", "each linear once")
    block = _read_file(path, m, f"adapters/{one.name}.bin")
    found, rows = tuple(ModuleMatch(*row) for row in one.modules), _read_rows(path, m, one)
    return AdapterInfo(one.name, one.rank, block, one.pinned, found, rows)
