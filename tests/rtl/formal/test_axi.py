"""Unbounded proofs of the handshake rules of the AXI4-Lite slave and of the AXI4 master; each notices its faults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from axi_proofs import FAULTS, LITE, MASTER, PROOFS
from proofs import HERE, Fault, Proof
from verdicts import Verdicts

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("proof", PROOFS, ids=lambda p: p.name)
def test_axi_proof_holds(proof: Proof, verdicts: Verdicts, tmp_path: Path) -> None:
    verdict = verdicts.of(proof, tmp_path)
    assert verdict.status == "PASS", verdict.log[-4000:]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_axi_rule_fails_on_its_fault(fault: Fault, verdicts: Verdicts, tmp_path: Path) -> None:
    verdict = verdicts.of(fault.proof, tmp_path, fault)
    assert verdict.status == "FAIL", verdict.log[-4000:]
    assert all(place.endswith(f": {fault.assertion}") for place in verdict.failed), verdict.failed
    assert verdict.failed


@pytest.mark.parametrize("proof", [LITE, MASTER], ids=lambda p: p.name)
def test_every_rule_has_a_fault(proof: Proof) -> None:
    """Rules are the assertions before those that only help the induction."""
    text = (HERE / f"{proof.top}.v").read_text()
    rules, _ = re.split("// what the induction needs", text, flags=re.IGNORECASE)
    assert set(re.findall(r"(\w+): assert", rules)) <= {f.assertion for f in FAULTS if f.proof == proof}
