"""The drawings of docs/pictures are what the code, a compilation and a run say; the page's picture stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_drawings_are_not_stale() -> None:
    """`python docs/pictures.py` writes them anew."""
    line = [sys.executable, str(DOCS / "pictures.py"), "--check"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pictures_are_small_and_no_page_draws_by_a_script_of_a_network() -> None:
    """A README with a heavy picture, or a fence that only some viewers draw, is slow or broken somewhere."""
    assert all(path.stat().st_size < 150_000 for path in (DOCS / "pictures").iterdir())
    assert not [page for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")] if "```mermaid" in page.read_text()]
