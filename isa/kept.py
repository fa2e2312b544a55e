"""Where what was built is kept between runs, and for how long."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

DAYS = 30
"""What nobody has used for so long is removed when something else is built."""


def cache_folder(kind: str) -> Path:
    """Where what was built is kept: simulators of the Verilog (`rtl`), boards, bitstreams, compiled functions."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "axlora" / kind


def kept_folder(kind: str, key: str) -> Path:
    """The folder of what is built from what `key` stands for, made if it is not there; it counts as used now.

    Before one is made, those of its kind that were not used for `DAYS` are removed: each version of the sources has its own.
    """
    folder = cache_folder(kind) / key
    if not folder.is_dir():
        _remove_unused(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.utime(folder)
    return folder


def _remove_unused(parent: Path) -> None:
    oldest = time.time() - DAYS * 24 * 3600
    for other in parent.glob("*/"):
        with contextlib.suppress(OSError):  # another process may be at it
            if other.stat().st_mtime < oldest:
                shutil.rmtree(other)
