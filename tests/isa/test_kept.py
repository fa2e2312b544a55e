"""What was built is kept as long as it is used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from axlora.isa.kept import DAYS, cache_folder, kept_folder


def test_what_was_not_used_for_long_is_removed_when_something_else_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    used, unused, other = kept_folder("rtl", "used"), kept_folder("rtl", "unused"), kept_folder("hls", "other")
    assert used == cache_folder("rtl") / "used" == tmp_path / "axlora" / "rtl" / "used"
    (unused / "part").write_text("x")
    long_ago = time.time() - (DAYS + 1) * 24 * 3600
    for folder in (used, unused, other):
        os.utime(folder, (long_ago, long_ago))
    assert kept_folder("rtl", "used").stat().st_mtime > long_ago  # it counts as used now, and nothing is built
    assert unused.is_dir()
    kept_folder("rtl", "new")
    assert used.is_dir()
    assert not unused.exists()
    assert other.is_dir()  # of another kind
