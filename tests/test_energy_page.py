"""docs/energy.md: its tables are what is measured, and its answers are what the tables say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "energy.md").read_text()


@pytest.mark.slow
def test_the_tables_are_what_is_measured() -> None:
    """`python docs/energy.py` writes them anew."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "energy.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_answers_are_what_the_tables_say() -> None:
    heads, *rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| (?:weights|int).*", TEXT, re.M)]
    found = {
        (row[0], row[1]): dict(zip(heads[2:], [float(c.strip("%").replace(",", "") or 0) for c in row[2:]], strict=True))
        for row in rows
    }
    for how in ("int8 per tensor", "int8 per channel", "int4 per channel"):
        one, eight, reuse, table = (found[how, name] for name in ("mac, 1", "mac, 8", "reuse, 1", "table, 1"))
        assert reuse["cycles"] < 0.3 * one["cycles"]
        assert eight["cycles"] < reuse["cycles"] < 1.1 * eight["cycles"]
        assert reuse["LUTs of a lane"] > eight["LUTs of a lane"] > 3 * table["LUTs of a lane"]
        assert reuse["cache"] > one["multiplier"] + reuse["multiplier"]
        assert reuse["all"] > one["all"]
        assert table["cache"] > one["multiplier"]
        assert one["buffers"] + one["dram"] > 0.9 * one["all"]
    assert 0.5 < found["int4 per channel", "mac, 1"]["dram"] / found["int8 per channel", "mac, 1"]["dram"] < 0.55
