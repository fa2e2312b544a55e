"""Unbounded proofs (k-induction, z3) of the result cache, FIFO places and semaphores; each notices its faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from proofs import FAULTS, PROOFS, Fault, Proof
from verdicts import Verdicts

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("proof", PROOFS, ids=lambda p: p.name)
def test_proof_holds(proof: Proof, verdicts: Verdicts, tmp_path: Path) -> None:
    verdict = verdicts.of(proof, tmp_path)
    assert verdict.status == "PASS", verdict.log[-4000:]


@pytest.mark.parametrize(
    "fault", [pytest.param(f, id=f.name, marks=[pytest.mark.exhaustive] if f.deep else []) for f in FAULTS]
)
def test_proof_fails_on_a_fault(fault: Fault, verdicts: Verdicts, tmp_path: Path) -> None:
    verdict = verdicts.of(fault.proof, tmp_path, fault)
    assert verdict.status == "FAIL", verdict.log[-4000:]
    assert verdict.failed


def test_every_proof_has_a_fault() -> None:
    """Proofs of one checker with other parameters share its faults."""
    assert {p.top for p in PROOFS} == {f.proof.top for f in FAULTS}
