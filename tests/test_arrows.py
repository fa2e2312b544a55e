"""Arrows between the houses, and between the rooms of compiler/, point one way (docs/architecture.md)."""

from __future__ import annotations

import ast
import graphlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED: dict[str, set[str]] = {
    "isa": set(),
    "timing": {"isa"},
    "compiler": {"isa", "timing"},
    "sim": {"isa", "timing"},
    "rtl": {"isa"},
    "fpga": {"isa", "rtl"},
    "report": set(),
    "axlora": {"isa", "timing", "compiler", "sim", "rtl", "fpga", "report"},
}
SHARED = {"boundary", "dump", "errors", "functions", "host", "layer", "operators", "row_changes", "transformer"}
"""Files of compiler/ that every room may import."""
ROOMS: dict[str, set[str]] = {
    "frontend": set(),
    "passes": {"frontend"},
    "rows": {"frontend", "passes"},
    "backend": {"frontend", "passes", "rows"},
    "reference": {"frontend", "passes", "rows"},
    "pipelines": {"frontend", "passes", "rows", "backend", "reference"},
}
DRIVER = ROOT / "fpga" / "zynq" / "pynq"
"""Data of fpga/: what runs on the board beside the front door; nothing here imports it."""


def _files(house: str) -> list[Path]:
    return [path for path in sorted((ROOT / house).rglob("*.py")) if DRIVER not in path.parents]


def _name(path: Path) -> str:
    """Dotted name of a file as an installation has it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "axlora" else ("axlora", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere: relative ones too, in functions, for types, and names out of modules."""
    name, package = _name(path), path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                above = name.split(".")
                above = above[: len(above) + (1 if package else 0) - node.level]
                home = ".".join([*above, *filter(None, [node.module])])
            yield home
            yield from (f"{home}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wrong_houses(path: Path, house: str) -> set[str]:
    """What a file of a house imports of ours and may not: another house, or a file of the front door."""
    ours = {n.split(".")[1] for n in _imports(path) if n.startswith("axlora.")}
    return set() if house == "axlora" else ours - ALLOWED[house] - {house}


def wrong_rooms(path: Path, room: str) -> set[str]:
    """What a file of a room imports of compiler/ and may not; `room` is empty for the files that all share."""
    parts = [n.split(".") for n in _imports(path)]
    ours = {p[2] for p in parts if len(p) > 2 and p[:2] == ["axlora", "compiler"]}
    allowed = {"frontend"} if not room else ROOMS[room] | {room}
    return ours - SHARED - allowed


@pytest.mark.parametrize("house", sorted(ALLOWED))
def test_house_imports_only_what_it_may(house: str) -> None:
    for path in _files(house):
        assert not wrong_houses(path, house), path


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_room_of_the_compiler_imports_only_what_it_may(room: str) -> None:
    """The frontend knows nobody but what all share; rows and backend come after the passes; a pipeline knows all."""
    paths = [p for p in _files("compiler") if (p.parent.name if p.parent.name != "compiler" else "") == room]
    assert paths
    for path in paths:
        assert not wrong_rooms(path, room), path


@pytest.mark.parametrize(
    ("house", "text"),
    [
        ("fpga", "from axlora.execute import run"),
        ("fpga", "from ..sim import run"),
        ("sim", "def f():\n    from axlora.rtl.runner import run"),
        ("isa", "import axlora.timing.matrix"),
    ],
)
def test_a_wrong_arrow_between_houses_is_seen(house: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / house / "wrong.py"
    path.parent.mkdir()
    path.write_text(text)
    assert wrong_houses(path, house)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("frontend", "from axlora.compiler.passes.dataflow import Dataflow"),
        ("passes", "from ..rows import tables"),
        ("backend", "from axlora.compiler.reference import numpy_rows"),
        ("rows", "def f():\n    import axlora.compiler.backend.emit"),
    ],
)
def test_a_wrong_arrow_between_rooms_is_seen(room: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "compiler" / room / "wrong.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert wrong_rooms(path, room)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even through imports inside functions; the lazy tables of names of the front door and its commands are no imports."""
    files = {_name(p) for house in ALLOWED for p in _files(house)}
    order = graphlib.TopologicalSorter[str]()
    found = {_name(p): {n for n in _imports(p) if n in files} - {_name(p)} for house in ALLOWED for p in _files(house)}
    assert "axlora.compiler.frontend.tvm_import" in found["axlora.compiler.passes.dataflow"]
    for name, needed in found.items():
        order.add(name, *(needed - {package for package in needed if name.startswith(f"{package}.")}))
    order.prepare()


def test_the_wheel_holds_every_package() -> None:
    """Each folder of a house with an __init__.py is one of pyproject.toml: an editable install would hide a missing one."""
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for house in ALLOWED for p in (ROOT / house).rglob("__init__.py")}
    named = {".".join(f.parts if f.parts[0] == "axlora" else ("axlora", *f.parts)) for f in folders}
    assert named == packages
