"""The package NAME.axl: a directory of manifest.json, program.bin, weights.bin, host.onnx, adapters/; no native code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx

from axlora.compiler.backend.link import Tiling
from axlora.compiler.backend.plan import Plan, Shape
from axlora.compiler.errors import BadPackage
from axlora.compiler.layer import Host, Placement, Tensor
from axlora.isa.target import BadTarget, Target

from .layers import LayerInfo
from .program import AdapterInfo, InputInfo, OutputInfo, Program, TileInfo

SCHEMA = 1
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What an adapter may be called: it becomes a file name."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _host_bytes(program: Program) -> bytes:
    return bytes(program.host.model.SerializeToString(deterministic=True))


def _manifest(program: Program) -> dict[str, Any]:
    host = program.host
    return {
        "schema": SCHEMA,
        "target": dataclasses.asdict(program.target),
        "program": {"file": "program.bin", "sha256": _digest(program.program), "starts": program.starts},
        "host": {
            "file": "host.onnx",
            "sha256": _digest(_host_bytes(program)),
            "inputs": host.inputs,
            "outputs": host.outputs,
            "arrivals": host.arrivals,
        },
        "weights": {"file": "weights.bin", "sha256": _digest(program.weights), "address": program.weights_address},
        "inputs": [dataclasses.asdict(i) for i in program.inputs],
        "outputs": [dataclasses.asdict(o) for o in program.outputs],
        "adapters": [
            {"name": a.name, "rank": a.rank, "pinned": a.pinned, "file": f"adapters/{a.name}.bin", "sha256": _digest(a.block)}
            for a in program.adapters
        ],
        "adapter_address": program.adapter_address,
        "adapter_size": program.adapter_size,
        "slots": program.slots,
        "rank": program.rank,
        "layers": [dataclasses.asdict(layer) for layer in program.layers],
        "linears": {"file": "linears.safetensors", "sha256": _digest(program.vectors)},
        "placement": [dataclasses.asdict(p) for p in program.placement],
        "default_adapter": program.default_adapter,
        "sources": program.sources,
    }


def save(program: Program, path: Path) -> None:
    """Write the package: into a temporary folder beside it first, then renamed.

    Raises:
        BadPackage: something that is not a package is in the way.
    """
    if path.exists() and not (path / "manifest.json").is_file():
        raise BadPackage(f"{path} exists and is not a package", str(path), "choose another name for the output")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (folder / "adapters").mkdir()
        (folder / "program.bin").write_bytes(program.program)
        (folder / "weights.bin").write_bytes(program.weights)
        (folder / "linears.safetensors").write_bytes(program.vectors)
        (folder / "host.onnx").write_bytes(_host_bytes(program))
        for adapter in program.adapters:
            (folder / "adapters" / f"{adapter.name}.bin").write_bytes(adapter.block)
        manifest = _manifest(program)
        manifest["sha256"] = _digest(json.dumps(manifest, sort_keys=True).encode())
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        os.chmod(folder, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read(path: Path, entry: dict[str, Any]) -> bytes:
    file = path / str(entry["file"])
    if not file.resolve().is_relative_to(path.resolve()):
        raise BadPackage(f"{entry['file']} leaves the package's folder", str(path), "compile again")
    try:
        data = file.read_bytes()
    except OSError:
        raise BadPackage(f"{entry['file']} is missing", str(path), "compile again") from None
    if _digest(data) != entry["sha256"]:
        raise BadPackage(
            f"{entry['file']} was changed or truncated: its SHA-256 is not the manifest's", str(path), "compile again"
        )
    return data


def _host(path: Path, entry: dict[str, Any]) -> Host:
    try:
        model = onnx.load_model_from_string(_read(path, entry))
    except Exception:  # protobuf's own error has no typed home
        raise BadPackage("host.onnx is not an ONNX file", str(path), "compile again") from None
    arrivals = tuple((str(name), int(stage)) for name, stage in entry["arrivals"])
    return Host(model, tuple(entry["inputs"]), tuple(entry["outputs"]), arrivals)


def _layer(data: dict[str, Any]) -> LayerInfo:
    tiling = data["tiling"]
    return LayerInfo(
        **{
            **data,
            "modules": tuple(data["modules"]),
            "tiling": Tiling(Shape(**tiling["shape"]), Plan(**tiling["plan"]), tuple(tiling["weights"])),
        }
    )


def _tensor(data: dict[str, Any]) -> Tensor:
    return Tensor(**{**data, "shape": tuple(data["shape"])})


def load(path: str | Path) -> Program:
    """Read a package.

    Raises:
        BadPackage: not a package, another schema version, a file missing, truncated or edited.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except OSError:
        raise BadPackage(f"{path} is not a package: it has no manifest.json", str(path), "axlora compile makes one") from None
    except ValueError:
        raise BadPackage("manifest.json is not JSON", str(path), "compile again") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise BadPackage(f"schema version {found!r}, this version reads {SCHEMA}", str(path), "compile again")
    digest = manifest.pop("sha256", None)
    if digest != _digest(json.dumps(manifest, sort_keys=True).encode()):
        raise BadPackage("manifest.json was edited: its SHA-256 does not hold", str(path), "compile again")
    try:
        return Program(
            target=Target.from_mapping(manifest["target"], str(path)),
            program=_read(path, manifest["program"]),
            starts=tuple(manifest["program"]["starts"]),
            host=_host(path, manifest["host"]),
            weights_address=manifest["weights"]["address"],
            weights=_read(path, manifest["weights"]),
            inputs=tuple(InputInfo(**{**i, "tensor": _tensor(i["tensor"])}) for i in manifest["inputs"]),
            outputs=tuple(
                OutputInfo(_tensor(o["tensor"]), o["element"], tuple(TileInfo(**tile) for tile in o["tiles"]), o["stage"])
                for o in manifest["outputs"]
            ),
            adapters=tuple(AdapterInfo(a["name"], a["rank"], _read(path, a), a["pinned"]) for a in manifest["adapters"]),
            adapter_address=manifest["adapter_address"],
            adapter_size=manifest["adapter_size"],
            slots=manifest["slots"],
            rank=manifest["rank"],
            layers=tuple(_layer(layer) for layer in manifest["layers"]),
            vectors=_read(path, manifest["linears"]),
            placement=tuple(Placement(**p) for p in manifest["placement"]),
            default_adapter=manifest["default_adapter"],
            sources=manifest["sources"],
        )
    except (KeyError, TypeError, BadTarget) as error:
        raise BadPackage(f"manifest.json is not complete: {error}", str(path), "compile again") from None
