"""What a user meets first is quick, and comes from where they stand: lazy imports, a checkout that nobody installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import axlora
from axlora.cli import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("tvm", "onnx", "numba", "cocotb", "onnxruntime")
"""They take seconds to import."""

_WATCH = """
import json, sys
done = []
for line in json.loads(sys.argv[1]):
    {call}
    done.append([name for name in json.loads(sys.argv[2]) if name in sys.modules])
sys.stderr.write("\\n" + json.dumps(done))
"""
_MAIN = """
    from axlora.cli import main
    try:
        code = main(line)
    except SystemExit as error:
        code = error.code
    assert code in (0, None), (line, code)
"""


def _loaded(lines: list[list[str]], call: str) -> list[list[str]]:
    """The heavy modules that are loaded after each line, all lines in one process."""
    script = _WATCH.replace("    {call}\n", call.lstrip("\n"))
    command = [sys.executable, "-c", script, json.dumps(lines), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stderr.splitlines()[-1]))


def test_help_version_and_targets_import_nothing_heavy() -> None:
    lines = [["--help"], ["--version"], ["targets"], ["targets", "test"], *([name, "--help"] for name in COMMANDS)]
    lines += [["adapter", action, "--help"] for action in ("add", "list", "remove", "pin")]
    for line, found in zip(lines, _loaded(lines, _MAIN), strict=True):
        assert not found, line


def test_import_axlora_imports_nothing_heavy() -> None:
    assert _loaded([[]], "    import axlora\n") == [[]]


def test_a_refused_command_line_imports_nothing_heavy() -> None:
    """An option that is not there is told at once."""
    code = f"""
import sys
from axlora.cli import main
try:
    main(["compile", "m.onnx", "--nope"])
except SystemExit as error:
    assert error.code == 2
assert not [name for name in {HEAVY} if name in sys.modules]
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", axlora.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(axlora, name)
    assert callable(value)
    assert name in dir(axlora)
    assert getattr(axlora, name) is value


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = axlora.nothing
    assert not hasattr(axlora, "load_any")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources that git tracks, and nothing that was built or installed."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if (
            name.startswith(("axlora/", "compiler/", "isa/", "sim/", "timing/", "report/", "rtl/", "fpga/"))
            or name == "pyproject.toml"
        ):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return folder


def _python(checkout: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_checkout_runs_without_being_installed(checkout: Path) -> None:
    """`python -m axlora` in a copy of the sources is that copy's."""
    assert _python(checkout, "-m", "axlora", "--version").strip() == f"axlora {axlora.__version__}"
    assert "zcu104" in _python(checkout, "-m", "axlora", "targets")


def test_a_checkout_imports_its_own_files(checkout: Path) -> None:
    houses = ("isa.target", "compiler.errors", "sim.errors", "timing", "report.compare", "cli", "extras")
    names = ", ".join(f"axlora.{house}" for house in houses)
    shown = "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('axlora')), sep='\\n')"
    code = f"import sys, axlora, {names}; {shown}"
    files = [Path(line) for line in _python(checkout, "-c", code).split("\n") if line not in ("", "None")]
    assert len(files) > len(houses)
    for file in files:
        assert file.resolve().is_relative_to(checkout.resolve()), file


def test_a_checkout_without_the_dependencies_says_what_is_missing() -> None:
    """`-S` leaves site-packages out: the version is known, and a command names the package that it lacks in one line."""
    line = [sys.executable, "-S", "-m", "axlora"]
    shown = subprocess.run([*line, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("axlora ")
    done = subprocess.run([*line, "targets"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'rich' is not installed" in done.stderr
