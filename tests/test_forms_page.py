"""docs/forms.md is what comes of every form of every model, and at least nine cells in ten run whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forms_page", ROOT / "docs" / "forms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = _writer()
SAID = PAGE.parsed(PAGE.PAGE.read_text())
CELLS = [(tiny, form) for tiny in PAGE.MODELS for form in PAGE.FORMS if SAID[tiny.title, form] != "-"]
IMAGES = ("MobileNet", "ResNet", "U-Net")
"""Whose host parts take long to build."""
QUICK = [tiny for tiny in PAGE.MODELS if tiny.title not in IMAGES and not tiny.own]
DIAGONAL = {(tiny.title, [*PAGE.FORMS][5 * n % len(PAGE.FORMS)]) for n, tiny in enumerate(QUICK)} | {("U-Net", "QOperator")}
"""Every model and every form at least once."""


def _marked(tiny: object, form: str) -> object:
    title = getattr(tiny, "title", "")
    mark = pytest.mark.slow if (title, form) in DIAGONAL else pytest.mark.exhaustive
    return pytest.param(tiny, form, marks=mark, id=f"{title}, {form}")


@pytest.mark.parametrize(("tiny", "form"), [_marked(*cell) for cell in CELLS])
def test_a_cell_is_what_the_page_says(tiny: object, form: str) -> None:
    assert PAGE.differs(SAID[tiny.title, form], PAGE.measured(tiny, form), form) == ""  # type: ignore[attr-defined]


def test_the_page_has_every_cell_and_nine_in_ten_run_whole() -> None:
    assert SAID.keys() == {(tiny.title, form) for tiny in PAGE.MODELS for form in PAGE.FORMS}
    assert {form for title, form in DIAGONAL if SAID[title, form] != "-"} == {*PAGE.FORMS}
    known = [said for said in SAID.values() if said != "-"]
    assert sum(map(PAGE.is_whole, known)) >= 0.9 * len(known)


@pytest.mark.parametrize(
    ("said", "cell", "how"),
    [
        ("0.020", PAGE.Cell(error=0.02), ""),
        ("0.020", PAGE.Cell(error=0.03), "further off"),
        ("0.020", PAGE.Cell(error=0.02, host=3), "the page says"),
        ("0.020, host 3", PAGE.Cell(error=0.02), "the page says"),
        ("0.020 (1.05)", PAGE.Cell(error=0.02, ratio=1.2), "bound"),
        ("0.020", PAGE.Cell(refusal="what"), "the page says"),
        ("refused: what", PAGE.Cell(refusal="what"), ""),
        ("-", None, ""),
        ("0.020", None, "the page says"),
    ],
)
def test_a_cell_that_differs_is_told(said: str, cell: object, how: str) -> None:
    found = PAGE.differs(said, cell, "dynamic int8")
    assert how in found
    assert bool(how) == bool(found)
