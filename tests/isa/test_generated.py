"""Generated files are committed and not stale."""

from __future__ import annotations

from pathlib import Path

from axlora.isa.generate import files

ROOT = Path(__file__).parents[2]


def test_generated_files_are_fresh() -> None:
    for path, text in files(ROOT).items():
        assert path.read_text() == text, f"{path} is stale: run `python -m axlora.isa.generate`"
