"""docs/phases.md is what the compiler does, and what it says of a line stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "phases.md").read_text()


def test_the_page_of_phases_is_that_of_the_compiler() -> None:
    """`python docs/phases.py` writes it anew."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "phases.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_sentences_name_what_its_excerpts_show() -> None:
    """Functions and registers that the prose names stand in a dump too; nothing in it is an address of Python's."""
    blocks = "\n".join(re.findall(r"```\w+\n(.*?)```", TEXT, re.S))
    prose = re.sub(r"```\w+\n.*?```", "", TEXT, flags=re.S)
    named = set(re.findall(r"\bax_\w+|\br[xz]=\d+", prose))
    assert len(named) > 8
    assert {name for name in named if not re.search(rf"\b{name}\b", blocks)} == set()
    assert "0x" not in blocks


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 200
