"""Every command in README.md is run by a test, or by .ci/run, or by another test that is named here; pages lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
ELSEWHERE = {"make demo": ".ci/run", "make test": ".ci/run"}
BOARDS = {"bitstream": "test_bitstream.py", "run": "test_board.py"}
"""Commands whose minutes are spent by a test of tests/fpga."""


def _commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    return [line for block in blocks for line in block.splitlines() if line]


def test_commands_that_ci_runs_are_in_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for command in _commands():
        if command in ELSEWHERE:
            assert command in script


def test_commands_of_boards_are_run_there() -> None:
    """With the options that README shows."""
    shown = {c.split()[1]: c for c in _commands() if c.split()[1] in BOARDS}
    assert set(shown) == set(BOARDS)
    for name, command in shown.items():
        text = (ROOT / "tests" / "fpga" / BOARDS[name]).read_text()
        for word in (f'"{name}"', '"--board"', *(f'"{w}"' for w in command.split() if w.startswith("--por") or w == "sim")):
            assert word in text, (name, word)


@pytest.mark.slow
def test_the_other_commands_run_as_written(minilm: Path, sample: dict[str, np.ndarray], tmp_path: Path) -> None:
    """On the MiniLM example under the README's file names; `simulate` once more for the base."""
    (tmp_path / "model.onnx").write_bytes((minilm / "minilm.onnx").read_bytes())
    (tmp_path / "in.npz").write_bytes((minilm / "sample.npz").read_bytes())
    commands = [c for c in _commands() if c not in ELSEWHERE and c.split()[1] not in BOARDS]
    assert [c.split()[1] for c in commands] == ["compile", "simulate", "rtl-test", "adapter", "report", "diff"]
    target = {"edge-asic": "test", "tokens=64": "tokens=8", "path/of/peft/dir": str(minilm / "adapters" / "law")}
    for command in commands:
        for old, new in target.items():
            command = command.replace(old, new)
        code = 1 if command.split()[1] == "diff" else 0  # base and law differ
        words = command.split()
        assert words[0] == "axlora"
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, (command, done.stderr)
        if words[1] == "simulate":
            base = [sys.executable, "-m", "axlora", "simulate", "model.axl", "--input", "in.npz", "--json", "base.json"]
            subprocess.run(base, cwd=tmp_path, check=True, capture_output=True)


def test_the_python_example_runs(minilm: Path, sample: dict[str, np.ndarray]) -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.S)[0]
    code = code.replace('"model.onnx"', f'"{minilm / "minilm.onnx"}"').replace(
        "path/of/peft/dir", str(minilm / "adapters" / "law")
    )
    code = code.replace('"edge-asic"', '"test"').replace('"tokens": 64', '"tokens": 8').replace('{"x": x}', "x")
    exec(compile(code, "README.md", "exec"), {"x": sample})


PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/results.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Files, and headings of pages; a heading's anchor is its words in small letters, joined by hyphens."""
    for link in re.findall(r"\]\(([^)]*)\)", (ROOT / page).read_text()):
        if link.startswith("https:"):
            continue
        path, _, anchor = link.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/results.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    """Words in code marks that begin with a folder of the checkout, as `tests/rtl`, or with one of them after a command."""
    folders = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"build"}
    code = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S))
    named = {word for span in code for word in span.split() if "/" in word and word.split("/")[0] in folders}
    assert named
    for word in sorted(named):
        assert list(ROOT.glob(word)), word
