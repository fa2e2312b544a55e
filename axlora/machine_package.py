"""Packages of whole transformers: manifest.json, memory.bin, arrays.safetensors, linears.safetensors, adapters/."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from axlora.compiler.errors import BadPackage
from axlora.compiler.layer import Placement
from axlora.isa.instruction import BadInstruction, decode
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS, Opcode
from axlora.isa.target import BadTarget, Target

from .generator import Generator
from .layers import LayerInfo
from .machine import Machine
from .manifest import Manifest
from .package import SCHEMA, adapter_entry, digest, read_adapter, read_file, write_package
from .validate_linears import Linears, validate_linears
from .whole import Operator, Result, Whole

_NUMBERS = (
    "adapter_address",
    "adapter_size",
    "slots",
    "max_loras",
    "rank",
    "context",
    "dim",
    "half",
    "input_fraction",
    "input_words",
)
_GENERATOR = ("output_fraction", "output_words", "vocabulary")
_WHOLE = ("tokens", "batch")
_OPERATORS = 1 << 20


def _arrays(g: Machine) -> dict[str, npt.NDArray[Any]]:
    """The arrays that the host reads; those of a group are named `group/key`."""
    found: dict[str, npt.NDArray[Any]] = {} if g.positions is None else {"positions": g.positions}
    if isinstance(g, Generator):
        found["embedding"] = g.embedding
    elif isinstance(g, Whole):
        for group, values in (("table", g.tables), ("fixed", g.fixed), ("index", g.indices)):
            found |= {f"{group}/{name}": value for name, value in values.items()}
        found["owners"] = g.owners
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def save(g: Machine, path: Path) -> None:
    """Write the package: into a temporary folder beside it first, then renamed.

    Raises:
        BadPackage: something that is not a package is in the way.
    """
    arrays = bytes(save_tensors(_arrays(g)))
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "target": dataclasses.asdict(g.target),
        "memory": {"file": "memory.bin", "sha256": digest(g.image)},
        "arrays": {"file": "arrays.safetensors", "sha256": digest(arrays)},
        "linears": {"file": "linears.safetensors", "sha256": digest(g.vectors)},
        "regions": [[name, *place] for name, place in g.regions.items()],
        "adapters": [adapter_entry(a) for a in g.adapters],
        **{name: getattr(g, name) for name in _NUMBERS},
        "layers": [dataclasses.asdict(layer) for layer in g.layers],
        "placement": [dataclasses.asdict(p) for p in g.placement],
        "default_adapter": g.default_adapter,
        "sources": dict(g.sources),
    }
    if isinstance(g, Generator):
        manifest |= {"kind": "generator", **{name: getattr(g, name) for name in _GENERATOR}}
        manifest["programs"] = [[rows, *place] for rows, place in sorted(g.programs.items())]
    elif isinstance(g, Whole):
        manifest |= {"kind": "whole", **{name: getattr(g, name) for name in _WHOLE}}
        manifest["programs"] = [[g.tokens, *g.program]]
        manifest |= {"inputs": [[name, kind] for name, kind in g.inputs.items()], "mask": g.mask}
        manifest["results"] = [dataclasses.asdict(r) for r in g.results]
        manifest["operators"] = [dataclasses.asdict(o) for o in g.operators]
    files = {"memory.bin": g.image, "arrays.safetensors": arrays, "linears.safetensors": g.vectors}
    write_package(path, manifest, files | {f"adapters/{a.name}.bin": a.block for a in g.adapters})


def read(path: Path, m: Manifest) -> Generator | Whole:
    """The program of an opened package.

    Raises:
        BadPackage: a file missing, truncated or edited, values that do not fit.
    """
    try:
        target = Target.from_mapping(m.get(dict[str, Any], "target"), str(path))
    except BadTarget as error:
        raise BadPackage(f"manifest.json: {error.message}", str(path), "compile again") from None
    data = read_file(path, m, "arrays.safetensors", "arrays")
    try:
        arrays = load_tensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise BadPackage("arrays.safetensors is damaged", str(path), "compile again") from None
    adapters = m.get(tuple[dict[str, Any], ...], "adapters")
    layers = m.get(tuple[LayerInfo, ...], "layers")
    programs = {rows: (address, size) for rows, address, size in m.get(tuple[tuple[int, int, int], ...], "programs")}
    fields: dict[str, Any] = {
        "target": target,
        "image": read_file(path, m, "memory.bin", "memory"),
        "regions": {name: (address, size) for name, address, size in m.get(tuple[tuple[str, int, int], ...], "regions")},
        "adapters": tuple(read_adapter(path, number, a, layers) for number, a in enumerate(adapters)),
        "positions": arrays.get("positions"),
        "layers": layers,
        "vectors": read_file(path, m, "linears.safetensors", "linears"),
        "placement": m.get(tuple[Placement, ...], "placement"),
        "default_adapter": m.get(str | None, "default_adapter"),
        "sources": m.get(dict[str, str], "sources"),
        **{name: m.get(int, name) for name in _NUMBERS},
    }
    if m.get(str, "kind") == "generator":
        fields |= {name: m.get(int, name) for name in _GENERATOR}
        g = Generator(programs=programs, embedding=arrays.get("embedding", np.zeros((0, 0), np.float32)), **fields)
        _check(g, programs, {0: (g.output_words, max(programs, default=1))}, path)
        _check_generator(g, path)
        return g
    if len(programs) != 1:
        raise BadPackage("manifest.json: programs of a model of whole sequences must be one", str(path), "compile again")
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {"table": {}, "fixed": {}, "index": {}}
    for name, value in arrays.items():
        group, _, key = name.partition("/")
        if key:
            groups.setdefault(group, {})[key] = value
    whole = Whole(
        program=next(iter(programs.values())),
        inputs=dict(m.get(tuple[tuple[str, str], ...], "inputs")),
        mask=m.get(str | None, "mask"),
        tables=groups["table"],
        fixed=groups["fixed"],
        results=m.get(tuple[Result, ...], "results"),
        indices=groups["index"],
        operators=m.get(tuple[Operator, ...], "operators"),
        owners=arrays.get("owners", np.zeros(0, np.int32)),
        **{name: m.get(int, name) for name in _WHOLE},
        **fields,
    )
    if programs.keys() != {whole.tokens}:
        raise BadPackage("manifest.json: a program for another number of tokens", str(path), "compile again")
    _check(whole, programs, {r.region: (r.words, r.rows) for r in whole.results}, path)
    _check_whole(whole, path)
    return whole


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


def _refuse(what: str, path: Path) -> BadPackage:
    return BadPackage(f"manifest.json: {what}", str(path), "compile again")


def _check(g: Machine, programs: dict[int, tuple[int, int]], outputs: dict[int, tuple[int, int]], path: Path) -> None:
    """Sizes that fit each other, so that no damaged package takes memory or writes outside its regions."""
    t = g.target
    rows = max(programs, default=0)
    if any(getattr(g, name) < 0 for name in _NUMBERS if not name.endswith("fraction")):
        raise _refuse("a negative size", path)
    if rows < 1 or min(programs) < 1 or rows > max(t.tokens, g.context) or g.context > 1 << 15:
        raise _refuse("programs for numbers of rows that the context does not hold", path)
    for address, size in programs.values():
        if address < 0 or size < 16 or address % 64 or address + size > len(g.image):
            raise _refuse("a program outside memory.bin", path)
        _check_program(g.image[address : address + size], path)
    word = t.vector_word_bytes
    needs = [("input", g.input_words * word * rows), ("token words", 4)]
    needs += [(f"output {n}", words * word * count) for n, (words, count) in outputs.items()]
    for name, need in needs:
        if name not in g.regions or g.regions[name][1] < need:
            raise _refuse(f"region {name!r} is missing or too small", path)
    for address, size in g.regions.values():
        if address < len(g.image) or size < 0 or address + size > g.adapter_address:
            raise _refuse("a region outside the memory", path)
    blocks = max(1, len(g.adapters)) * g.adapter_size
    if g.adapter_address + blocks > 1 << 32 or g.adapter_address > len(g.image) + (1 << 30):
        raise _refuse("more memory than the machine addresses", path)
    if any(len(a.block) != g.adapter_size or a.rank > g.rank for a in g.adapters):
        raise _refuse("an adapter block of another size", path)
    if g.slots > 1 or g.max_loras > SLOTS or bool(g.slots) != bool(g.max_loras):
        raise _refuse("numbers of adapter slots that do not fit each other", path)
    if sum(a.pinned for a in g.adapters) > g.max_loras:
        raise _refuse("more adapters pinned than a batch may have", path)
    if abs(g.input_fraction) > 62:
        raise _refuse("sizes that do not fit each other", path)
    validate_linears(Linears(t, g.layers, g.vectors, g.image, g.slots, g.rank), str(path))


def _table(g: Machine, table: npt.NDArray[Any], path: Path) -> None:
    """A table of embeddings."""
    wide = table.ndim == 2 and bool(table.size) and table.shape[1] <= g.input_words * g.target.vector_lanes
    if table.dtype != np.float32 or not wide or not np.isfinite(table).all():
        raise _refuse("the embedding does not fit the input", path)
    p = g.positions
    if p is not None and (p.dtype != np.float32 or p.shape != (g.context, table.shape[1]) or not np.isfinite(p).all()):
        raise _refuse("the positions do not fit the context", path)


def _check_generator(g: Generator, path: Path) -> None:
    _table(g, g.embedding, path)
    if 1 not in g.programs or g.regions["token words"][1] < 4 * max(g.programs):
        raise _refuse("no program for one row", path)
    if g.vocabulary > g.output_words * g.target.vector_lanes:
        raise _refuse("sizes that do not fit each other", path)


def _check_whole(g: Whole, path: Path) -> None:
    known = set(g.tables) | set(g.fixed) | ({g.mask} if g.mask else set())
    if not g.tables or not known <= set(g.inputs) or not 1 <= g.batch <= 1 << 15 or g.tokens != g.context:
        raise _refuse("inputs that do not fit each other", path)
    for table in g.tables.values():
        _table(g, table, path)
    if len({table.shape[1] for table in g.tables.values()}) != 1:
        raise _refuse("tables of different widths", path)
    for value in g.fixed.values():
        if value.shape != (1, g.tokens) or value.dtype.kind not in "iubf":
            raise _refuse("a fixed input of another shape", path)
    for kind in g.inputs.values():
        if kind not in ("int8", "int16", "int32", "int64", "uint8", "bool", "float32"):
            raise _refuse(f"an input of type {kind!r}", path)
    if len({r.name for r in g.results}) != len(g.results):
        raise _refuse("two outputs of one name", path)
    for r in g.results:
        size = int(np.prod([max(0, n) for n in r.shape], dtype=np.int64))
        index = g.indices.get(r.name)
        whole = r.rows * r.width
        picked = (
            index is not None
            and index.dtype == np.int64
            and index.size == size
            and bool(((index >= 0) & (index < whole)).all())
        )
        if r.rows not in (1, g.tokens) or not 0 < r.width <= r.words * g.target.vector_lanes or abs(r.fraction) > 62:
            raise _refuse(f"output {r.name!r} does not fit its rows", path)
        if not r.shape or r.shape[0] != 1 or not (picked if r.picked else size == whole):
            raise _refuse(f"output {r.name!r} has a shape that its rows do not fill", path)
    owners = g.owners
    if owners.dtype != np.int32 or owners.ndim != 1 or len(owners) * INSTRUCTION_BYTES != g.program[1] or not g.results:
        raise _refuse("owners of another number of instructions", path)
    if not 0 < len(g.operators) <= _OPERATORS or (owners < 0).any() or (owners >= len(g.operators)).any():
        raise _refuse("instructions of unknown operators", path)
    for name in ("row weights", "row count"):
        if name in g.regions and g.regions[name][1] < 4 * (g.tokens if name == "row weights" else 1):
            raise _refuse(f"region {name!r} is too small", path)
