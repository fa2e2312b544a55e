"""Verdicts that are kept: looked up for the same question alone, and written by proofs alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import verdicts as module
from axi_proofs import FAULTS as AXI_FAULTS
from axi_proofs import PROOFS as AXI_PROOFS
from proofs import FAULTS, PROOFS, RTL, SEMAPHORES, Fault, Proof, Verdict, question
from verdicts import FILE, Verdicts, key

FAULT = next(f for f in FAULTS if f.proof == SEMAPHORES)


@pytest.fixture
def rtl(tmp_path: Path) -> Path:
    """A copy of the Verilog that may be changed."""
    folder = tmp_path / "rtl"
    folder.mkdir()
    for path in (*RTL.glob("*.v"), *RTL.glob("*.vh")):
        shutil.copy(path, folder)
    return folder


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_one_byte_of_verilog_leads_to_a_new_proof(rtl: Path, tmp_path: Path) -> None:
    """Proved, looked up, proved again after a change of a comment."""
    (tmp_path / "kept").mkdir()
    kept, folder, file = Verdicts(tmp_path / "kept" / "verdicts.json"), tmp_path / "work", rtl / "semaphores.v"
    text = file.read_text()
    proved = []
    for content in (text, text, text.replace("// ", "//-", 1)):
        file.write_text(content)
        assert kept.of(SEMAPHORES, _empty(folder), rtl=rtl).status == "PASS"
        proved.append((folder / "proof" / "PASS").exists())
        assert json.loads(kept.file.read_text())[SEMAPHORES.name]["key"] == key(question(SEMAPHORES, rtl=rtl))
    assert proved == [True, False, True]


@pytest.mark.slow
def test_a_fault_has_a_verdict_of_its_own(rtl: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    kept = Verdicts(tmp_path / "kept" / "verdicts.json")
    first = kept.of(SEMAPHORES, _empty(tmp_path / "work"), FAULT, rtl)
    assert first.status == "FAIL"
    again = kept.of(SEMAPHORES, _empty(tmp_path / "work"), FAULT, rtl)
    assert (again.status, again.failed) == (first.status, first.failed)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("proof", "fault"), [*((p, None) for p in (*PROOFS, *AXI_PROOFS)), *((f.proof, f) for f in (*FAULTS, *AXI_FAULTS))]
)
def test_every_file_of_a_question_counts(proof: Proof, fault: Fault | None) -> None:
    """One byte more in any file that sby reads, its own script included, is another question."""
    files = question(proof, fault)
    keys = {key(files), *(key(files | {name: text + " "}) for name, text in files.items())}
    assert len(keys) == len(files) + 1
    assert set(files) == {*proof.files, *proof.checkers, *proof.free, f"{proof.top}.v", "axlora_isa.vh", "proof.sby"}


def test_other_tools_are_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(question(SEMAPHORES))
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "0" if name == "z3-solver" else "1")
    assert key(question(SEMAPHORES)) != before


@pytest.mark.parametrize("status", ["FAIL", "UNKNOWN", "ERROR"])
def test_what_a_proof_did_not_show_is_not_kept(status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the verdict before it."""
    answers = ["PASS", status, "PASS"]
    monkeypatch.setattr(module, "run", lambda files, folder: Verdict(answers.pop(0)))
    kept = Verdicts(tmp_path / "verdicts.json", prove_all=True)
    for held in (True, False, True):
        kept.of(SEMAPHORES, tmp_path)
        assert (SEMAPHORES.name in json.loads(kept.file.read_text())) == held
    assert not answers
    assert Verdicts(kept.file).of(SEMAPHORES, tmp_path).status == "PASS"


def test_every_verdict_in_the_repository_is_of_a_proof_or_a_fault_that_there_is() -> None:
    names = {p.name for p in (*PROOFS, *AXI_PROOFS)} | {f"{f.proof.name}: {f.name}" for f in (*FAULTS, *AXI_FAULTS)}
    assert len(names) == len(PROOFS) + len(AXI_PROOFS) + len(FAULTS) + len(AXI_FAULTS)
    assert set(json.loads(FILE.read_text())) <= names
