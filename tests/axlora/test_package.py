"""Packages: what is saved loads again; damage is refused; nothing half-written is left."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save_file

import axlora
from axlora.adapters import add_adapter, pin_adapter, remove_adapter
from axlora.inputs import BadInput


@pytest.fixture(scope="module")
def program(minilm: Path) -> axlora.Program:
    adapters = {name: minilm / "adapters" / name for name in ("law", "med")}
    return axlora.compile(minilm / "minilm.onnx", "test", adapters=adapters, shapes={"tokens": 8})


def _same_again(program: axlora.Program, folder: Path) -> None:
    """What is loaded is what was saved: saved again, every file has the same bytes, and all but the arrays are equal."""
    program.save(folder / "a.axl")
    loaded = axlora.load(folder / "a.axl")
    loaded.save(folder / "b.axl")
    first, second = (
        {f.relative_to(p): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in (folder / "a.axl", folder / "b.axl")
    )
    assert first == second
    assert len(first) > 4
    fields = {f.name for f in dataclasses.fields(program)} - {"interface"}
    assert all(getattr(loaded, name) == getattr(program, name) for name in fields)
    assert loaded.interface.owners.keys() == program.interface.owners.keys()
    assert all((loaded.interface.owners[name] == owners).all() for name, owners in program.interface.owners.items())


def test_save_load_is_identity_and_bytes_are_reproducible(program: axlora.Program, tmp_path: Path) -> None:
    _same_again(program, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.axl", "b.axl"]


@pytest.mark.parametrize("file", ["memory.bin", "adapters/law.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "edit", "remove"])
def test_damage_is_refused(program: axlora.Program, tmp_path: Path, file: str, damage: str) -> None:
    path = tmp_path / "m.axl"
    program.save(path)
    data = (path / file).read_bytes()
    if damage == "truncate":
        (path / file).write_bytes(data[:-5])
    elif damage == "edit":
        (path / file).write_bytes(data[:100].replace(data[40:41], b"7" if data[40:41] != b"7" else b"8") + data[100:])
    else:
        (path / file).unlink()
    with pytest.raises(axlora.BadPackage):
        axlora.load(path)


def test_a_path_that_leaves_the_folder_is_refused(program: axlora.Program, tmp_path: Path) -> None:
    path = tmp_path / "m.axl"
    program.save(path)
    (path / "memory.bin").rename(tmp_path / "memory.bin")
    (path / "memory.bin").symlink_to(tmp_path / "memory.bin")
    with pytest.raises(axlora.BadPackage, match="leaves the package"):
        axlora.load(path)


def test_save_never_replaces_what_is_not_a_package(program: axlora.Program, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").write_text("mine")
    with pytest.raises(axlora.BadPackage, match="not a package"):
        program.save(tmp_path / "work")
    assert (tmp_path / "work" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: {k: v[:4] for k, v in i.items()}, "compiled for"),
        (lambda i: {**i, "other": np.zeros(3)}, "unknown input 'other'"),
        (lambda i: dict(list(i.items())[:1]), "is missing"),
        (lambda i: {k: np.full_like(v, np.nan) for k, v in i.items()}, "NaN"),
        (lambda i: {k: v.astype(str) for k, v in i.items()}, "must be numbers"),
    ],
)
def test_wrong_inputs_are_refused(program: axlora.Program, sample: dict[str, np.ndarray], change: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        axlora.simulate(program, change(sample))  # type: ignore[operator]


def test_unknown_and_too_many_adapters_are_refused(program: axlora.Program, sample: dict[str, np.ndarray]) -> None:
    with pytest.raises(axlora.BadAdapter, match="no adapter 'nope'"):
        axlora.simulate(program, sample, "nope")
    with pytest.raises(axlora.BadAdapter, match="1 slots"):
        axlora.simulate(program, sample, ["law", "med"])


def test_a_run_reports_sums_that_hold(program: axlora.Program, sample: dict[str, np.ndarray]) -> None:
    run = axlora.simulate(program, sample, "law")
    data = run.to_json()
    assert data["cycles"] == sum(layer.cycles for layer in run.layers)
    assert all(sum(causes.values()) == run.cycles for causes in run.stalls.values())
    assert {layer.operator for layer in run.layers} == {"linear", "linear+lora"}
    assert program.host_macs == 0
    untimed = axlora.simulate(program, sample, "law", timing=False)
    assert untimed.cycles == 0
    assert all((untimed.codes[name] == value).all() for name, value in run.codes.items())


def test_an_adapter_added_later_has_the_bytes_of_one_compiled_in(minilm: Path, tmp_path: Path) -> None:
    """Weights are read back from the package, so nothing of the model is needed."""
    adapters = {name: minilm / "adapters" / name for name in ("law", "med")}
    arguments = {"shapes": {"tokens": 8}, "max_loras": 2}
    both = axlora.compile(minilm / "minilm.onnx", "test", adapters=adapters, lora_linears="all", **arguments)
    none = axlora.compile(minilm / "minilm.onnx", "test", max_lora_rank=16, **arguments)
    assert none.image == both.image
    none.save(tmp_path / "a.axl")
    program = axlora.load(tmp_path / "a.axl")
    for name, path in adapters.items():
        program = add_adapter(program, name, path)
    assert {a.name: a.block for a in program.adapters} == {a.name: a.block for a in both.adapters}
    assert program.image == both.image
    _same_again(program, tmp_path)


def test_pinned_adapters_keep_their_slots(minilm: Path) -> None:
    adapters = {name: minilm / "adapters" / name for name in ("law", "med")}
    program = axlora.compile(minilm / "minilm.onnx", "test", adapters=adapters, shapes={"tokens": 8})
    pinned = pin_adapter(program, "law")
    assert pinned.slot_of("law")[0] == ["law"]
    with pytest.raises(axlora.BadAdapter, match="pinned"):
        pinned.slot_of("med")
    with pytest.raises(axlora.BadAdapter, match="pinned"):
        remove_adapter(pinned, "law")
    with pytest.raises(axlora.BadAdapter, match="all 1 slots"):
        pin_adapter(pinned, "med")
    assert [a.name for a in remove_adapter(pin_adapter(pinned, "law", False), "law").adapters] == ["med"]
    with pytest.raises(axlora.BadAdapter, match="it has: law, med"):
        remove_adapter(program, "tax")


def test_an_adapter_of_other_linears_than_the_program_has_columns_for(minilm: Path, tmp_path: Path) -> None:
    program = axlora.compile(
        minilm / "minilm.onnx", "test", adapters={"law": minilm / "adapters" / "law"}, shapes={"tokens": 8}
    )
    with (minilm / "adapters" / "law" / "adapter_model.safetensors").open("rb") as file:
        tensors = {key.replace(".query.", ".key."): value for key, value in load(file.read()).items()}
    (tmp_path / "other").mkdir()
    shutil.copy(minilm / "adapters" / "law" / "adapter_config.json", tmp_path / "other")
    save_file(tensors, tmp_path / "other" / "adapter_model.safetensors")
    with pytest.raises(axlora.BadAdapter, match=r"key.*no adapter columns.*--lora-linears all"):
        add_adapter(program, "other", tmp_path / "other")
