"""Makes `proofs` importable by the tests of the proofs, and gives them the verdicts that are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from verdicts import Verdicts


@pytest.fixture(scope="session")
def verdicts(request: pytest.FixtureRequest) -> Verdicts:
    """Those of verdicts.json; with --prove-all none is looked up."""
    return Verdicts(prove_all=request.config.getoption("--prove-all"))
