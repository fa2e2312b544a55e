"""docs/errors.md is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_of_errors_is_that_of_the_code() -> None:
    """`python docs/errors.py` writes it anew."""
    command = [sys.executable, str(ROOT / "docs" / "errors.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
