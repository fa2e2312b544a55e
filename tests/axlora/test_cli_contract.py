"""What every command promises its terminal: exit codes, one line of error, notices after success, whole files or none."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
import axlora.package
from axlora.cli import COMMANDS, main
from axlora.cli.terminal import UNWRAPPED, show
from axlora.compiler.errors import BadPackage

K, N = 24, 16
BOXES = re.compile(r"[\u2500-\u257f\x1b]")
"""Box-drawing characters, and escape sequences."""


def _model(*nodes: onnx.NodeProto, output: str = "y", more: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """x [4, K] times a weight, then a Relu, then `nodes`."""
    weight = np.random.default_rng(0).normal(0, 0.2, (K, N)).astype(np.float32)
    first = [helper.make_node("MatMul", ["x", "w"], ["m"], name="linear"), helper.make_node("Relu", ["m"], ["y"], name="relu")]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, K]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["a", "b"])]
    graph = helper.make_graph([*first, *nodes], "g", inputs, outputs, [numpy_helper.from_array(weight, "w"), *more])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _branches() -> onnx.NodeProto:
    """An If that computes both branches, which is worth a notice."""
    sides = {}
    for side, kind in (("then_branch", "Neg"), ("else_branch", "Abs")):
        result = helper.make_tensor_value_info(side, TensorProto.FLOAT, None)
        sides[side] = helper.make_graph([helper.make_node(kind, ["y"], [side], name=kind)], side, [], [result])
    return helper.make_node("If", ["flag"], ["z"], name="choice", **sides)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One linear, and a Relu that the host runs."""
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(_model(), path)
    return path


@pytest.fixture(scope="module")
def package(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "m.axl"
    axlora.compile(model, "test").save(out)
    return out


@pytest.fixture(scope="module")
def run_json(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.json"
    assert main(["simulate", str(package), "--random", "1", "--json", str(path)]) == 0
    return path


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files of this process go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit code, stdout, stderr) of a command line."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _outside(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, piped."""
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "AXLORA_LOG")} | environment
    command = [sys.executable, "-m", "axlora", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=kept, check=False)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else b"" for f in sorted(folder.rglob("*"))}


# Faults of ours


@pytest.mark.parametrize("error", [KeyError("w"), RuntimeError("several\nlines"), AssertionError()], ids=repr)
def test_a_fault_of_ours_is_exit_3_and_names_the_file_that_holds_it(
    error: Exception, model: Path, tmp_path: Path, scratch: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(axlora, "compile", boom)
    code, _, err = run("compile", model, "-o", tmp_path / "m.axl", "--target", "test")
    assert code == 3
    assert err.count("\n") == 1
    assert err.startswith("axlora compile: a fault of axlora, not of the input: ")
    assert type(error).__name__ in err
    found = re.search(r"\(details: (.*)\)$", err.strip())
    assert found
    log = Path(found[1])
    assert log.parent == scratch
    text = log.read_text()
    assert "Traceback" in text
    assert "in boom" in text
    assert type(error).__name__ in text


def test_nothing_is_logged_where_nothing_is_wrong(model: Path, tmp_path: Path, scratch: Path, run: Run) -> None:
    """After success, and after an error of the user's, no log is left."""
    assert run("compile", model, "-o", tmp_path / "m.axl", "--target", "test")[0] == 0
    assert run("compile", model, "-o", tmp_path / "m.axl", "--target", "nope")[0] == 2
    assert run("simulate", tmp_path / "m.axl", "--random", 1)[0] == 0
    assert not list(scratch.glob("axlora-*"))


def test_compile_in_a_process_of_its_own_says_only_its_notices(model: Path, tmp_path: Path) -> None:
    """No line of a library on stderr, no log left, and each phase once on stdout."""
    (tmp_path / "tmp").mkdir()
    done = _outside("compile", model, "-o", tmp_path / "m.axl", "--target", "test", TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    assert done.stderr
    assert all(line.startswith("axlora compile: notice: ") for line in done.stderr.splitlines())
    assert not list((tmp_path / "tmp").iterdir())
    lines = done.stdout.splitlines()
    phases = [line for line in lines if line in ("reading the model", "building the host part", "writing the package")]
    assert phases == ["reading the model", "building the host part", "writing the package"]
    assert lines[0] == "reading the model"
    assert not BOXES.search(done.stdout)


def test_what_libraries_write_on_stderr_goes_to_the_log(tmp_path: Path) -> None:
    """File descriptor 2 is the log's while a command runs; ours still reaches the terminal."""
    code = """
import os, sys
import axlora.cli.targets as t
def run(options):
    os.write(2, b"a library talks\\n")
    os.system("echo a child talks >&2")
    if os.environ["WRONG"]:
        raise KeyError("x")
    return 0
t.run = run
from axlora.cli import main
sys.exit(main(["targets"]))
"""
    for wrong in ("", "1"):
        environment = os.environ | {"TMPDIR": str(tmp_path), "WRONG": wrong}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == (3 if wrong else 0)
        assert "talks" not in done.stderr
        logs = list(tmp_path.glob("axlora-*.log"))
        assert len(logs) == bool(wrong)
        assert done.stderr.count("\n") == bool(wrong)
    text = logs[0].read_text()
    assert "a library talks" in text
    assert "a child talks" in text
    assert "KeyError" in text


# Notices


def test_notices_come_after_success_alone(tmp_path: Path, run: Run) -> None:
    """A model that has a notice and is then refused is one line."""
    onnx.save(_model(_branches(), output="z"), tmp_path / "good.onnx")
    code, _, err = run("compile", tmp_path / "good.onnx", "-o", tmp_path / "good.axl", "--target", "test")
    assert code == 0
    assert "notice: " in err
    assert "both branches of If choice are computed" in err
    assert all(line.startswith("axlora compile: notice: ") for line in err.splitlines())
    late = helper.make_node("NonZero", ["z"], ["where"], name="late")
    back = helper.make_node("Cast", ["where"], ["v"], name="back", to=TensorProto.FLOAT)
    onnx.save(_model(_branches(), late, back, output="v"), tmp_path / "bad.onnx")
    code, _, err = run("compile", tmp_path / "bad.onnx", "-o", tmp_path / "bad.axl", "--target", "test")
    assert code == 2
    assert err.count("\n") == 1
    assert "notice" not in err
    assert "'late'" in err


# Usage


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("simulate", "p", "--random", "1", "--nope"), "usage: axlora simulate "),
        (("adapter", "list", "p", "--nope"), "usage: axlora adapter list "),
        (("adapter", "pin", "p", "a", "--nope"), "usage: axlora adapter pin "),
        (("compile", "m", "-o", "p", "--target", "test", "--nope"), "usage: axlora compile "),
        (("targets", "--nope"), "usage: axlora targets "),
    ],
)
def test_an_unknown_option_shows_the_usage_of_its_own_command(arguments: tuple[str, ...], usage: str, run: Run) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert not out
    assert err.startswith(usage)
    assert "--nope" in err.splitlines()[-1]


def test_an_unknown_command_is_exit_2_and_says_which_there_are(run: Run) -> None:
    for arguments in (("nope",), ("--nope",), ()):
        code, out, err = run(*arguments)
        assert code == 2
        assert not out
        assert "usage: axlora" in err
    _, _, err = run("nope")
    assert "'nope'" in err
    assert all(name in err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_has_the_exit_codes(name: str, run: Run) -> None:
    code, out, err = run(name, "--help")
    assert code == 0
    assert not err
    assert out.startswith(f"usage: axlora {name} ")
    assert "Exit codes: 0 done" in out


# Tables


def test_tables_in_pipes_are_plain_and_unbroken(run_json: Path) -> None:
    done = _outside("report", run_json, run_json)
    assert done.returncode == 0, done.stderr
    assert not BOXES.search(done.stdout)
    done = _outside("targets")
    assert done.returncode == 0
    assert not BOXES.search(done.stdout)
    assert any(re.match(r"test +\w+ +\d+", line) for line in done.stdout.splitlines())


def test_tables_honour_columns(run_json: Path) -> None:
    for arguments in (("targets",), ("report", run_json, run_json)):
        wide, narrow = (_outside(*arguments, **more) for more in ({}, {"COLUMNS": "60"}))
        assert narrow.returncode == 0
        assert max(map(len, narrow.stdout.splitlines())) <= 60
        assert len(wide.stdout.splitlines()) <= len(narrow.stdout.splitlines())
    assert max(map(len, _outside("targets").stdout.splitlines())) > 60


def test_no_cell_is_broken_without_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    cell = "a long cell " * 200
    assert len(cell) < UNWRAPPED
    table = Table("short", "long", title="the title")
    table.add_row("1", cell)
    stream = io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    show(table)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "the title"
    assert len(lines) == 3
    assert cell.strip() in lines[2]


# Files


def test_diff_and_report_say_what_they_were_given(package: Path, run_json: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text(json.dumps({"schema": 1, "cycles": 3}))
    (tmp_path / "schema.json").write_text(json.dumps(json.loads(run_json.read_text()) | {"schema": 99}))
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    cases: list[tuple[Path, str]] = [
        (tmp_path / "folder", "is a folder, not a RUN.json"),
        (package, "is a package, not a RUN.json"),
        (tmp_path / "none.json", "no such file"),
        *((tmp_path / f"{n}.json", "is not a RUN.json") for n in ("list", "other", "schema", "text", "bytes", "deep")),
    ]
    for path, words in cases:
        for arguments in (("report", path), ("report", run_json, path), ("diff", run_json, path), ("diff", path, run_json)):
            code, out, err = run(*arguments)
            assert code == 2, arguments
            assert not out
            assert err.count("\n") == 1
            assert words in err
            assert path.name in err


@pytest.mark.parametrize("option", ["--json", "--output"])
def test_a_result_that_cannot_be_written_is_refused_and_leaves_nothing(
    option: str, package: Path, tmp_path: Path, scratch: Path, run: Run
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    before = _tree(tmp_path)
    for path, words in (
        (tmp_path / "none" / "r.json", "no folder for"),
        (tmp_path / "taken", "is a folder"),
        (tmp_path / "file" / "r.json", "no folder for"),
    ):
        code, _, err = run("simulate", package, "--random", 1, option, path)
        assert code == 2
        assert err.count("\n") == 1
        assert words in err
        assert _tree(tmp_path) == before


def test_of_two_results_none_is_written_if_one_cannot_be(package: Path, tmp_path: Path, scratch: Path, run: Run) -> None:
    before = _tree(tmp_path)
    code, _, _ = run("simulate", package, "--random", 1, "--output", tmp_path / "o.npz", "--json", tmp_path / "none" / "r.json")
    assert code == 2
    assert _tree(tmp_path) == before


def test_a_refused_compile_leaves_the_older_package_and_nothing_else(model: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "m.axl"
    assert run("compile", model, "-o", out, "--target", "test")[0] == 0
    before = _tree(tmp_path)
    wrong = onnx.load(model)
    wrong.graph.node[1].op_type = "NonZero"
    onnx.save(wrong, tmp_path.parent / f"{tmp_path.name}-bad.onnx")
    bad = tmp_path.parent / f"{tmp_path.name}-bad.onnx"
    for arguments in (
        ("compile", bad, "-o", out, "--target", "test"),
        ("compile", model, "-o", out, "--target", "nope"),
        ("compile", model, "-o", out, "--target", "test", "--generate"),
        ("compile", model, "-o", out, "--target", "test", "--shape", "tokens=4"),
        ("compile", bad, "-o", tmp_path / "new.axl", "--target", "test"),
    ):
        code, _, err = run(*arguments)
        assert code == 2, err
        assert _tree(tmp_path) == before


def test_what_is_no_package_is_never_overwritten(model: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file.txt").write_text("dear")
    before = _tree(tmp_path)
    for name in ("mine", "file.txt"):
        code, _, err = run("compile", model, "-o", tmp_path / name, "--target", "test")
        assert code == 2
        assert "is not a package" in err
        assert _tree(tmp_path) == before


def test_a_package_that_would_not_load_is_never_put_in_place(
    model: Path, tmp_path: Path, scratch: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a fault of ours; the older package stays."""
    out = tmp_path / "m.axl"
    assert run("compile", model, "-o", out, "--target", "test")[0] == 0
    before = _tree(out)

    def refuse(path: object) -> None:
        raise BadPackage("it is odd", str(path), "compile again")

    monkeypatch.setattr(axlora.package, "read", refuse)
    for name in ("m.axl", "new.axl"):
        code, _, err = run("compile", model, "-o", tmp_path / name, "--target", "test")
        assert code == 3
        assert "it is odd" in err
        assert err.count("\n") == 1
    assert _tree(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.axl", "scratch"]
