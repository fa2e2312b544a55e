"""The pages of docs/tutorials do what they show: their files are written, their commands run, what they print comes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from axlora.cli import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.S | re.M)
GUIDES = {"MODEL": "model", "DIR": "law", "edge-asic": "test", "batch=1 --shape sequence=64": "batch=4"}
"""Words of guides -> those of the tutorials' files."""
FIRST, CHECKOUT = "my-model", "new-operator"


def _ran(command: str, folder: Path, **environment: str) -> str:
    """What a line of a shell prints; one of axlora alone runs in this process, which has imported everything."""
    if command.startswith("axlora ") and not environment and ">" not in command:
        printed = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(shlex.split(command)[1:])
        text = printed.getvalue()
    else:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        line, own = ["bash", "-c", command], {**os.environ, "PATH": path, **environment}
        done = subprocess.run(line, cwd=folder, env=own, capture_output=True, text=True, check=False)
        code, text = done.returncode, done.stdout + done.stderr
    assert code == 0, f"{command}: {text}"
    return text


def _do(page: str, folder: Path, **environment: str) -> None:
    """Run a page in a folder: files with a title are written; of shown output every line comes, in this order."""
    found = ""
    for kind, title, text in BLOCK.findall((FOLDER / f"{page}.md").read_text()):
        if title:
            (folder / title).write_text(text)
        elif kind == "text":
            words = " ".join(re.sub("[│┃]", " ", found).split())
            for line in map(str.strip, text.splitlines()):
                _, there, words = words.partition(line)
                assert there, f"{page}: {line!r} is not in what came: {found}"
        else:
            assert kind in ("sh", "python"), f"{page}: a block of {kind} without a title"
            commands = text.splitlines() if kind == "sh" else [f"python -c {shlex.quote(text)}"]
            found = "".join(_ran(command, folder, **environment) for command in commands)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the first page leaves."""
    folder = tmp_path_factory.mktemp(FIRST)
    _do(FIRST, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["my-adapter", "my-target", "read-a-report", pytest.param("my-board", marks=pytest.mark.exhaustive)]
)
def test_a_page_runs_behind_the_first(page: str, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    _do(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["get-started", "my-own-model"])
def test_commands_of_guides_run(page: str, first: Path, tmp_path: Path) -> None:
    """Those in blocks, on the files of the tutorials."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    blocks = {title: text for _, title, text in BLOCK.findall((FOLDER / "my-adapter.md").read_text())}
    (tmp_path / "adapter.py").write_text(blocks["adapter.py"])
    _ran("python adapter.py", tmp_path)
    lines = re.findall(r"^    (axlora .*?)(?:   .*)?$", (FOLDER.parent / f"{page}.md").read_text(), re.M)
    assert lines
    for line in lines:
        for shown, own in GUIDES.items():
            line = line.replace(shown, own)
        _ran(line, tmp_path)


@pytest.mark.slow
def test_a_new_operator_in_a_copy_of_the_checkout(tmp_path: Path) -> None:
    for name in ("axlora", "compiler", "fpga", "isa", "report", "rtl", "sim", "timing"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "tests/compiler/rows", "tests/compiler/conftest.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    _do(CHECKOUT, tmp_path, PYTHONPATH=str(tmp_path))


def test_every_page_is_run() -> None:
    ran = {FIRST, CHECKOUT, "my-adapter", "my-target", "my-board", "read-a-report"}
    assert {path.stem for path in FOLDER.glob("*.md")} == ran
