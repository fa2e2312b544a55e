"""The package NAME.axl: a directory of manifest.json, program.bin, weights.bin, host.onnx, adapters/; no native code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from axlora.compiler.errors import BadPackage
from axlora.compiler.layer import By, Host, ModuleMatch, Placement
from axlora.isa.target import BadTarget, Target

from .choice import ADAPTER_NAME, AdapterInfo
from .generator import Generator
from .layers import LayerInfo
from .manifest import Manifest
from .program import InputInfo, OutputInfo, Program
from .validate import validate
from .validate_linears import MEMORY_LIMIT
from .whole import Whole

SCHEMA = 1


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _host_bytes(program: Program) -> bytes:
    return bytes(program.host.model.SerializeToString(deterministic=True))


def _manifest(program: Program) -> dict[str, Any]:
    host = program.host
    return {
        "schema": SCHEMA,
        "kind": "program",
        "target": dataclasses.asdict(program.target),
        "program": {"file": "program.bin", "sha256": digest(program.program), "starts": program.starts},
        "host": {
            "file": "host.onnx",
            "sha256": digest(_host_bytes(program)),
            "inputs": host.inputs,
            "outputs": host.outputs,
            "arrivals": host.arrivals,
        },
        "weights": {"file": "weights.bin", "sha256": digest(program.weights), "address": program.weights_address},
        "inputs": [dataclasses.asdict(i) for i in program.inputs],
        "outputs": [dataclasses.asdict(o) for o in program.outputs],
        "adapters": [adapter_entry(a) for a in program.adapters],
        "adapter_address": program.adapter_address,
        "adapter_size": program.adapter_size,
        "slots": program.slots,
        "rank": program.rank,
        "layers": [dataclasses.asdict(layer) for layer in program.layers],
        "linears": {"file": "linears.safetensors", "sha256": digest(program.vectors)},
        "placement": [dataclasses.asdict(p) for p in program.placement],
        "default_adapter": program.default_adapter,
        "sources": program.sources,
    }


def save(program: Program, path: Path) -> None:
    """Write the package: into a temporary folder beside it first, then renamed.

    Raises:
        BadPackage: something that is not a package is in the way.
    """
    adapters = {f"adapters/{a.name}.bin": a.block for a in program.adapters}
    files = {"program.bin": program.program, "weights.bin": program.weights, "linears.safetensors": program.vectors}
    write_package(path, _manifest(program), files | {"host.onnx": _host_bytes(program)} | adapters)


def write_package(path: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> None:
    """Write manifest and files: into a temporary folder beside it first, then renamed.

    Raises:
        BadPackage: something that is not a package is in the way.
    """
    if path.exists() and not (path / "manifest.json").is_file():
        raise BadPackage(f"{path} exists and is not a package", str(path), "choose another name for the output")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (folder / "adapters").mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        manifest["sha256"] = digest(json.dumps(manifest, sort_keys=True).encode())
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        _proved(folder)
        os.chmod(folder, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _proved(folder: Path) -> None:
    """Read a package that was just written: what does not load is a fault of ours, and is never put in place."""
    try:
        load_any(folder)
    except BadPackage as error:
        raise RuntimeError(f"the package that was made does not load: {error.message}") from error


def _bytes(path: Path, name: str) -> bytes:
    """A file of the package; never one outside it."""
    file = path / name
    if ".." in Path(name).parts or Path(name).is_absolute() or not file.resolve().is_relative_to(path.resolve()):
        raise BadPackage(f"{name} leaves the package's folder", str(path), "compile again")
    if not file.is_file():
        raise BadPackage(f"{name} is missing", str(path), "compile again")
    if file.stat().st_size > MEMORY_LIMIT:
        raise BadPackage(f"{name} has {file.stat().st_size} bytes, the limit is {MEMORY_LIMIT}", str(path), "compile again")
    return file.read_bytes()


def read_file(path: Path, manifest: Manifest, name: str, *field: str) -> bytes:
    """The file that the manifest names in `field`, which must be `name`, if its hash holds."""
    found = manifest.get(str, *field, "file")
    if found != name:
        leaves = ".." in Path(found).parts or Path(found).is_absolute()
        what = f"{found} leaves the package's folder" if leaves else f"{'.'.join(field)}.file is {found[:80]!r}, must be {name}"
        raise BadPackage(what, str(path), "compile again")
    data = _bytes(path, name)
    if digest(data) != manifest.get(str, *field, "sha256"):
        raise BadPackage(f"{name} was changed or truncated: its SHA-256 is not the manifest's", str(path), "compile again")
    return data


def _host(path: Path, manifest: Manifest) -> Host:
    data = read_file(path, manifest, "host.onnx", "host")
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's own error has no typed home
        raise BadPackage("host.onnx is not an ONNX file", str(path), "compile again") from None
    inputs, outputs = (manifest.get(tuple[str, ...], "host", field) for field in ("inputs", "outputs"))
    return Host(model, inputs, outputs, manifest.get(tuple[tuple[str, int], ...], "host", "arrivals"))


def adapter_entry(a: AdapterInfo) -> dict[str, Any]:
    """What the manifest says of an adapter."""
    found = {"name": a.name, "rank": a.rank, "pinned": a.pinned, "file": f"adapters/{a.name}.bin", "sha256": digest(a.block)}
    return found | {"modules": [[m.module, m.linear, m.by.value] for m in a.modules]}


def _matches(one: Manifest, number: int, layers: Sequence[LayerInfo]) -> tuple[ModuleMatch, ...]:
    """The linears of an adapter's modules; a package of an earlier version has none."""
    field, known = f"adapters[{number}].modules", {layer.name for layer in layers}
    found = []
    for module, linear, by in one.get(tuple[tuple[str, str, str], ...], "modules") if one.has("modules") else ():
        if linear not in known:
            raise one.refuse(field, linear, "linears of the package")
        if by not in tuple(By):
            raise one.refuse(field, by, f"one of {', '.join(By)}")
        found.append(ModuleMatch(module, linear, By(by)))
    if len({m.linear for m in found}) != len(found):
        raise one.refuse(field, "a linear twice", "each linear once")
    return tuple(found)


def read_adapter(path: Path, number: int, data: dict[str, Any], layers: Sequence[LayerInfo]) -> AdapterInfo:
    """An adapter of the manifest.

    Raises:
        BadPackage: a field or the file is damaged, or it names linears that are not among `layers`.
    """
    one = Manifest(data, str(path))
    name = one.get(str, "name")
    if not ADAPTER_NAME.fullmatch(name):
        raise one.refuse(f"adapters[{number}].name", name, "a file name")
    block = read_file(path, Manifest({"adapter": data}, str(path)), f"adapters/{name}.bin", "adapter")
    return AdapterInfo(name, one.get(int, "rank"), block, one.get(bool, "pinned"), _matches(one, number, layers))


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
    if found != digest(json.dumps(data, sort_keys=True).encode()):
        raise BadPackage("manifest.json was edited: its SHA-256 does not hold", str(path), "compile again")
    return Manifest(data, str(path))


def load(path: str | Path) -> Program | Whole:
    """Read a package of a model that takes inputs and gives outputs.

    Raises:
        BadPackage: as `load_any`; also the package of a language model.
    """
    found = load_any(path)
    if isinstance(found, Generator):
        raise BadPackage("this package generates text", str(path), "axlora generate runs it")
    return found


def load_generator(path: str | Path) -> Generator:
    """Read a package of a language model (`axlora.compile` with `generate`).

    Raises:
        BadPackage: as `load_any`; also another model's package.
    """
    found = load_any(path)
    if not isinstance(found, Generator):
        raise BadPackage("this package does not generate", str(path), "compile with --generate, or run axlora simulate")
    return found


def load_any(path: str | Path) -> Program | Whole | Generator:
    """Read a package.

    Raises:
        BadPackage: not a package, another schema version, a file missing, truncated or edited, values that do not fit
            (`axlora.validate`).
    """
    path = Path(path)
    m = _open(path)
    if m.get(str, "kind") in ("generator", "whole"):
        from .machine_package import read

        return read(path, m)
    try:
        target = Target.from_mapping(m.get(dict[str, Any], "target"), str(path))
    except BadTarget as error:
        raise BadPackage(f"manifest.json: {error.message}", str(path), "compile again") from None
    adapters = m.get(tuple[dict[str, Any], ...], "adapters")
    layers = m.get(tuple[LayerInfo, ...], "layers")
    program = Program(
        target=target,
        program=read_file(path, m, "program.bin", "program"),
        starts=m.get(tuple[int, ...], "program", "starts"),
        host=_host(path, m),
        weights_address=m.get(int, "weights", "address"),
        weights=read_file(path, m, "weights.bin", "weights"),
        inputs=m.get(tuple[InputInfo, ...], "inputs"),
        outputs=m.get(tuple[OutputInfo, ...], "outputs"),
        adapters=tuple(read_adapter(path, number, a, layers) for number, a in enumerate(adapters)),
        adapter_address=m.get(int, "adapter_address"),
        adapter_size=m.get(int, "adapter_size"),
        slots=m.get(int, "slots"),
        rank=m.get(int, "rank"),
        layers=layers,
        vectors=read_file(path, m, "linears.safetensors", "linears"),
        placement=m.get(tuple[Placement, ...], "placement"),
        default_adapter=m.get(str | None, "default_adapter"),
        sources=m.get(dict[str, str], "sources"),
    )
    validate(program, str(path))
    return program
