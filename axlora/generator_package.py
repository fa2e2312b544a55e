"""The package of a language model: manifest.json, memory.bin, embedding.safetensors, linears.safetensors, adapters/."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from axlora.compiler.errors import BadPackage
from axlora.compiler.layer import Placement
from axlora.isa.instruction import BadInstruction, decode
from axlora.isa.opcodes import INSTRUCTION_BYTES, Opcode
from axlora.isa.target import BadTarget, Target

from .generator import Generator
from .layers import LayerInfo
from .manifest import Manifest
from .package import SCHEMA, digest, read_adapter, read_file, write_package

KIND = "generator"
_NUMBERS = (
    "adapter_address", "adapter_size", "slots", "rank", "context", "dim", "half", "input_fraction", "output_fraction",
    "input_words", "output_words", "vocabulary",
)  # fmt: skip


def _embedding(g: Generator) -> bytes:
    found = {"embedding": np.ascontiguousarray(g.embedding)}
    if g.positions is not None:
        found["positions"] = np.ascontiguousarray(g.positions)
    return bytes(save_tensors(found))


def save(g: Generator, path: Path) -> None:
    """Write the package: into a temporary folder beside it first, then renamed.

    Raises:
        BadPackage: something that is not a package is in the way.
    """
    embedding = _embedding(g)
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "target": dataclasses.asdict(g.target),
        "memory": {"file": "memory.bin", "sha256": digest(g.image)},
        "embedding": {"file": "embedding.safetensors", "sha256": digest(embedding)},
        "linears": {"file": "linears.safetensors", "sha256": digest(g.vectors)},
        "programs": [[rows, *place] for rows, place in sorted(g.programs.items())],
        "regions": [[name, *place] for name, place in g.regions.items()],
        "adapters": [
            {"name": a.name, "rank": a.rank, "pinned": a.pinned, "file": f"adapters/{a.name}.bin", "sha256": digest(a.block)}
            for a in g.adapters
        ],
        **{name: getattr(g, name) for name in _NUMBERS},
        "layers": [dataclasses.asdict(layer) for layer in g.layers],
        "placement": [dataclasses.asdict(p) for p in g.placement],
        "default_adapter": g.default_adapter,
        "sources": dict(g.sources),
    }
    files = {"memory.bin": g.image, "embedding.safetensors": embedding, "linears.safetensors": g.vectors}
    write_package(path, manifest, files | {f"adapters/{a.name}.bin": a.block for a in g.adapters})


def read(path: Path, m: Manifest) -> Generator:
    """The language model of an opened package.

    Raises:
        BadPackage: a file missing, truncated or edited, values that do not fit.
    """
    try:
        target = Target.from_mapping(m.get(dict[str, Any], "target"), str(path))
    except BadTarget as error:
        raise BadPackage(f"manifest.json: {error.message}", str(path), "compile again") from None
    data = read_file(path, m, "embedding.safetensors", "embedding")
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise BadPackage("embedding.safetensors is damaged", str(path), "compile again") from None
    adapters = m.get(tuple[dict[str, Any], ...], "adapters")
    numbers = {name: m.get(int, name) for name in _NUMBERS}
    g = Generator(
        target=target,
        image=read_file(path, m, "memory.bin", "memory"),
        programs={rows: (address, size) for rows, address, size in m.get(tuple[tuple[int, int, int], ...], "programs")},
        regions={name: (address, size) for name, address, size in m.get(tuple[tuple[str, int, int], ...], "regions")},
        adapters=tuple(read_adapter(path, number, a) for number, a in enumerate(adapters)),
        embedding=tensors.get("embedding", np.zeros((0, 0), np.float32)),
        positions=tensors.get("positions"),
        layers=m.get(tuple[LayerInfo, ...], "layers"),
        vectors=read_file(path, m, "linears.safetensors", "linears"),
        placement=m.get(tuple[Placement, ...], "placement"),
        default_adapter=m.get(str | None, "default_adapter"),
        sources=m.get(dict[str, str], "sources"),
        **numbers,
    )
    _check(g, path)
    return g


def _check_program(data: bytes, path: Path) -> None:
    """A straight line of legal instructions that ends with HALT: a damaged one can't run on without end.

    Raises:
        BadPackage: anything else.
    """
    try:
        program = [decode(data[at : at + INSTRUCTION_BYTES]) for at in range(0, len(data), INSTRUCTION_BYTES)]
    except (BadInstruction, struct.error) as error:
        raise BadPackage(f"memory.bin: {error}", str(path), "compile again") from None
    opcodes = [i.opcode for i in program]
    if opcodes[-1] is not Opcode.HALT or Opcode.LOOP in opcodes or Opcode.SET in opcodes:
        raise BadPackage("memory.bin: a program that is no straight line up to HALT", str(path), "compile again")


def _check(g: Generator, path: Path) -> None:
    """Sizes that fit each other, so that no damaged package takes memory or writes outside its regions."""
    t = g.target
    words = t.vector_word_bytes * t.tokens

    def refuse(what: str) -> BadPackage:
        return BadPackage(f"manifest.json: {what}", str(path), "compile again")

    if any(getattr(g, name) < 0 for name in _NUMBERS if not name.endswith("fraction")):
        raise refuse("a negative size")
    if set(g.programs) != {1, t.tokens}:
        raise refuse("programs for other numbers of rows than the target's")
    for address, size in g.programs.values():
        if address < 0 or size < 16 or address % 64 or address + size > len(g.image):
            raise refuse("a program outside memory.bin")
        _check_program(g.image[address : address + size], path)
    for name, need in (("input", g.input_words * words), ("output", g.output_words * words), ("token words", 4 * t.tokens)):
        if name not in g.regions or g.regions[name][1] < need:
            raise refuse(f"region {name!r} is missing or too small")
    for address, size in g.regions.values():
        if address < len(g.image) or size < 0 or address + size > g.adapter_address:
            raise refuse("a region outside the memory")
    blocks = max(1, len(g.adapters)) * g.adapter_size
    if g.adapter_address + blocks > 1 << 32 or g.adapter_address > len(g.image) + (1 << 30):
        raise refuse("more memory than the machine addresses")
    if any(len(a.block) != g.adapter_size or a.rank > g.rank for a in g.adapters):
        raise refuse("an adapter block of another size")
    e = g.embedding
    if (
        e.dtype != np.float32
        or e.ndim != 2
        or not e.size
        or e.shape[1] > g.input_words * t.vector_lanes
        or not np.isfinite(e).all()
    ):
        raise refuse("the embedding does not fit the input")
    p = g.positions
    if p is not None and (p.dtype != np.float32 or p.shape != (g.context, e.shape[1]) or not np.isfinite(p).all()):
        raise refuse("the positions do not fit the context")
    if g.vocabulary > g.output_words * t.vector_lanes or g.context > 1 << 15 or abs(g.input_fraction) > 62:
        raise refuse("sizes that do not fit each other")
