"""Functions that numba compiles, kept between processes as long as nothing that they are made of changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from numba import config, njit

P = ParamSpec("P")
R = TypeVar("R")


def cache_folder(kind: str) -> Path:
    """Where what was built is kept: simulators of the Verilog (`rtl`), boards, bitstreams, compiled functions."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "axlora" / kind


def _stamp() -> str:
    """SHA-256 of the sources of isa, timing and sim: numba looks at the file of a function alone, not at what it calls."""
    key = hashlib.sha256()
    houses = Path(__file__).parent.parent
    for path in sorted(p for house in ("isa", "timing", "sim") for p in (houses / house).glob("*.py")):
        key.update(path.name.encode() + path.read_bytes())
    return key.hexdigest()[:24]


_STAMP = _stamp()


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """`numba.njit`, for a function that only compiled ones call: without what Python would call it by."""
    found: Callable[P, R] = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # type: ignore[call-overload]
    return found


def cached(function: Callable[P, R]) -> Callable[P, R]:
    """`numba.njit`, for a function that Python calls: compiled once for these sources, anew where nothing can be written."""
    before = config.CACHE_DIR  # type: ignore[attr-defined]
    config.CACHE_DIR = str((Path(before) if before else cache_folder("compiled")) / _STAMP)  # type: ignore[attr-defined]
    try:
        found: Callable[P, R] = njit(cache=True)(function)
    except RuntimeError:
        found = njit()(function)
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]
    return found
