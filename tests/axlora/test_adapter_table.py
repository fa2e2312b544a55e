"""The table of module to linear stands in every kind of package, and a damaged one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import axlora
from axlora.adapters import add_adapter, module_rows, remove_adapter
from axlora.compiler.layer import By, ModuleMatch
from axlora.package import seal

MODELS = Path(__file__).parent.parent / "compiler" / "models"
SHAPES = {"batch": 1, "sequence": 16}
KINDS: dict[str, dict[str, Any]] = {
    "linears": {"operators": "linears"},
    "whole": {"operators": "all"},
    "generator": {"generate": True, "max_context": 16, "chunk": 4},
}


def compiled(kind: str, file: str = "gpt2.dynamo") -> Any:
    """The plain export with its adapter; a generator takes no shapes."""
    shapes = None if kind == "generator" else SHAPES
    name = file.split(".")[0]
    return axlora.compile(
        MODELS / f"{file}.onnx", "test", adapters={"law": MODELS / f"{name}-lora"}, shapes=shapes, **KINDS[kind]
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        compiled(kind).save(folder / f"{kind}.axl")
    return {kind: folder / f"{kind}.axl" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_in_the_package(packages: dict[str, Path], kind: str) -> None:
    """Every module with its linear, by the scopes that the exporter wrote; the same for an adapter that comes later."""
    program = axlora.load(packages[kind])
    (law,) = program.adapters
    parts = ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")
    names = sorted(f"transformer.h.{i}.{part}" for i in (0, 1) for part in parts)
    assert law.modules == tuple(ModuleMatch(name, name, By.SCOPE) for name in names)
    assert module_rows(law) == [(name, name, "scope metadata") for name in names]
    again = add_adapter(remove_adapter(program, "law"), "law", MODELS / "gpt2-lora")
    assert again.adapters == program.adapters


def test_node_paths_and_branches_of_the_model() -> None:
    script = compiled("linears", "bert.script")
    assert {m.by for m in script.adapters[0].modules} == {By.NODE}
    own = axlora.compile(MODELS / "bert-lora.script.onnx", "test", shapes=SHAPES, operators="linears")
    (graph,) = own.adapters
    assert {m.by for m in graph.modules} == {By.GRAPH}
    assert [m.linear for m in graph.modules] == [m.linear for m in script.adapters[0].modules]


def rewrite(path: Path, change: Any, part: str = "adapters") -> None:
    """Edit the manifest and mend its hash."""
    data = json.loads((path / "manifest.json").read_text())
    data.pop("sha256")
    change(data[part][0])
    data["sha256"] = seal(data)
    (path / "manifest.json").write_text(json.dumps(data))


DAMAGES: list[Any] = [
    None, 3, "x", {}, [3], [["a"]], [["a", "b", "c"]], [[1, 2, 3]], [["m", "transformer.h.0.attn.c_attn", "guessed"]],
    [["m", "nowhere", "node path"]], [["m\n", "transformer.h.0.attn.c_attn", "node path"]],
    [["m", "transformer.h.0.attn.c_attn", "node path"]] * 2,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_table_is_refused_and_a_missing_one_is_empty(packages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    program = axlora.load(packages[kind])
    for number, damage in enumerate(DAMAGES):
        program.save(tmp_path / f"{number}.axl")
        rewrite(tmp_path / f"{number}.axl", lambda adapter, damage=damage: adapter.update(modules=damage))
        with pytest.raises(axlora.BadPackage, match="modules"):
            axlora.load(tmp_path / f"{number}.axl")
    program.save(tmp_path / "old.axl")
    rewrite(tmp_path / "old.axl", lambda adapter: adapter.pop("modules"))
    assert [a.modules for a in axlora.load(tmp_path / "old.axl").adapters] == [()]
    for scopes in (-1, 9, "x"):
        program.save(tmp_path / "scopes.axl")
        rewrite(tmp_path / "scopes.axl", lambda layer, scopes=scopes: layer.update(scopes=scopes), "layers")
        with pytest.raises(axlora.BadPackage, match="scopes"):
            axlora.load(tmp_path / "scopes.axl")
