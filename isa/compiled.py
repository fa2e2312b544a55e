"""Functions that numba compiles, kept between processes as long as nothing that they are made of changes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import ParamSpec, TypeVar

from numba import config, njit

from .kept import cache_folder, kept_folder

P = ParamSpec("P")
R = TypeVar("R")


def _stamp() -> str:
    """SHA-256 of the sources of isa, timing and sim: numba looks at the file of a function alone, not at what it calls."""
    key = hashlib.sha256()
    houses = Path(__file__).parent.parent
    for path in sorted(p for house in ("isa", "timing", "sim") for p in (houses / house).glob("*.py")):
        key.update(path.name.encode() + path.read_bytes())
    return key.hexdigest()[:24]


_STAMP = _stamp()


def kept() -> bool:
    """Whether this version's simulator was compiled before, where that is kept."""
    return any(_folder().glob("*/*.execute-*.nbc"))


def _folder() -> Path:
    """Of what is kept for these sources."""
    given = config.CACHE_DIR  # type: ignore[attr-defined]
    return (Path(given) if given else cache_folder("compiled")) / _STAMP


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """`numba.njit`, for a function that only compiled ones call: without what Python would call it by."""
    found: Callable[P, R] = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # type: ignore[call-overload]
    return found


def cached(function: Callable[P, R]) -> Callable[P, R]:
    """`numba.njit`, for a function that Python calls: compiled once for these sources, anew where nothing can be written.

    numba looks for what it kept by the path and the time of the function's file; here that is a file which stands for the
    sources, so that copies of them share it.
    """
    before, folder = config.CACHE_DIR, _folder()  # type: ignore[attr-defined]
    sources = folder / "sources"
    try:
        if before:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            kept_folder("compiled", _STAMP)
        with contextlib.suppress(FileExistsError):
            sources.open("x").close()
    except OSError:
        return njit()(function)
    code = function.__code__.replace(co_filename=str(sources))
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
    try:
        found: Callable[P, R] = njit(cache=True)(functools.update_wrapper(own, function))
    except RuntimeError:
        found = njit()(function)
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]
    return found
