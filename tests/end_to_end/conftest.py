"""The whole MiniLM, built once a session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "compiler" / "rows"))
from whole_minilm import Whole, build_whole


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The three ONNX files, and what belongs to them."""
    return build_whole(tmp_path_factory.mktemp("whole"))
