"""Shared inputs: the MiniLM example, built once a session."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

# Before NumPy and TVM load: with a worker on every core, threads of one would only wait for those of the other.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

ROOT = Path(__file__).parents[1]

# Verilator's runtime library is compiled once for all simulators.
os.environ.setdefault("OBJCACHE", f"{sys.executable} -S {ROOT / 'tests' / 'support' / 'objcache.py'}")
os.environ.setdefault("AXLORA_OBJECTS", str(ROOT / "build" / "cache" / "objects"))

os.environ.pop("COLUMNS", None)  # xdist's 80: tables are tested as a pipe gets them

import numpy as np  # noqa: E402
import pytest  # noqa: E402

TOKENS = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of tests/rtl/formal."""
    parser.addoption("--prove-all", action="store_true", help="look no verdict of a formal proof up: prove everything")


@pytest.fixture(scope="session")
def minilm_build() -> ModuleType:
    """The module examples/minilm/build.py."""
    spec = importlib.util.spec_from_file_location("minilm_build", ROOT / "examples" / "minilm" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def minilm(minilm_build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of MiniLM's attention linears, two adapters, 100 inputs of 8 tokens."""
    folder = tmp_path_factory.mktemp("minilm")
    minilm_build.build(folder, tokens=TOKENS, layers=1, samples=100)
    return folder


@pytest.fixture(scope="session")
def minilm_all(minilm_build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 24 attention linears, two adapters, 100 inputs of 8 tokens."""
    folder = tmp_path_factory.mktemp("minilm_all")
    minilm_build.build(folder, tokens=TOKENS, layers=6, samples=100)
    return folder


@pytest.fixture(scope="session")
def sample(minilm: Path) -> dict[str, np.ndarray]:
    """The first input."""
    with np.load(minilm / "sample.npz") as data:
        return {name: data[name] for name in data.files}
