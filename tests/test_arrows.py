"""Arrows between the houses point one way (docs/architecture.md)."""

from __future__ import annotations

import ast
import graphlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "isa": set(),
    "timing": {"isa"},
    "compiler": {"isa", "timing"},
    "sim": {"isa", "timing"},
    "rtl": {"isa"},
    "fpga": {"isa", "rtl"},
    "report": set(),
    "axlora": {"isa", "timing", "compiler", "sim", "rtl", "fpga", "report"},
}


def _imports(path: Path) -> set[str]:
    """Houses that a file imports with `import axlora.X` or `from axlora.X`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("axlora.")}
    return found & set(ALLOWED)


@pytest.mark.parametrize("house", sorted(ALLOWED))
def test_house_imports_only_what_it_may(house: str) -> None:
    for path in (ROOT / house).rglob("*.py"):
        wrong = _imports(path) - ALLOWED[house] - {house}
        assert not wrong, f"{path} imports {wrong}"


def test_the_wheel_holds_every_package() -> None:
    """Each folder of a house with an __init__.py is one of pyproject.toml: an editable install would hide a missing one."""
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for house in ALLOWED for p in (ROOT / house).rglob("__init__.py")}
    named = {".".join(f.parts if f.parts[0] == "axlora" else ("axlora", *f.parts)) for f in folders}
    assert named == packages


def _front_door() -> dict[str, set[str]]:
    """Module of the front door -> the ones that it imports anywhere in its file, in functions and for types too."""
    files = {p.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): p for p in (ROOT / "axlora").rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        parts = name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                home = (
                    ".".join([*parts[: len(parts) + 1 - node.level], *filter(None, [node.module])])
                    if node.level
                    else node.module
                )
                names = [str(home)] + [f"{home}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found[name] |= {n for n in names if n in files} - {name}
    return found


def test_the_front_door_has_no_import_circles() -> None:
    """Not even through imports inside functions; the command line's lazy table of names is no import."""
    imports, order = _front_door(), graphlib.TopologicalSorter[str]()
    assert "axlora.machine" in imports["axlora.program"] | imports["axlora.stages"]
    for name, needed in imports.items():
        order.add(name, *needed)
    order.prepare()
