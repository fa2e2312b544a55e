"""The command line as a user types it: exit codes, one-line errors, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import axlora
from axlora.cli import main


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def package(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "m.axl"
    arguments = ["compile", minilm / "minilm.onnx", "-o", out, "--target", "test", "--shape", "tokens=8"]
    arguments += [f"--adapter={name}={minilm / 'adapters' / name}" for name in ("law", "med")]
    assert main([str(a) for a in arguments]) == 0
    return out


def test_simulate_report_diff(package: Path, minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for adapter in ("law", "med"):
        code, out, _ = _run(
            capsys, "simulate", package, "--input", minilm / "sample.npz", "--adapter", adapter,
            "--json", tmp_path / f"{adapter}.json", "--output", tmp_path / f"{adapter}.npz",
        )  # fmt: skip
        assert code == 0
        assert "removed" in out
    with np.load(tmp_path / "law.npz") as a, np.load(tmp_path / "med.npz") as b:
        assert a["layer0.query"].shape == (8, 384)
        assert (a["layer0.query"] != b["layer0.query"]).any()
        assert (a["layer0.key"] == b["layer0.key"]).all()
    data = json.loads((tmp_path / "law.json").read_text())
    for key in ("target", "engine", "clock_mhz", "cycles", "counters", "stalls", "macs", "multiplications", "layers", "fpga"):
        assert key in data
    assert _run(capsys, "diff", tmp_path / "law.json", tmp_path / "law.json")[0] == 0
    code, out, _ = _run(capsys, "diff", tmp_path / "law.json", tmp_path / "med.json")
    assert code == 1
    assert "output layer0.query differs" in out
    assert "first at instruction" in out
    code, out, _ = _run(capsys, "report", tmp_path / "law.json", tmp_path / "med.json")
    assert code == 0
    assert "ms at clock" in out


def test_rtl_test_says_equal(package: Path, minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "rtl-test", package, "--input", minilm / "sample.npz", "--adapter", "med")
    assert code == 0
    assert "Verilog = simulator" in out


def test_disasm_asm_round_trip(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = _run(capsys, "disasm", package)
    assert code == 0
    (tmp_path / "p.s").write_text(text)
    assert _run(capsys, "asm", tmp_path / "p.s", "-o", tmp_path / "p.bin")[0] == 0
    program, assembled = axlora.load(package), (tmp_path / "p.bin").read_bytes()
    assert len(assembled) >= sum(f.size for f in program.functions) > 0
    assert assembled == program.image[: len(assembled)]


def test_random_inputs_are_seeded(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        assert _run(capsys, "simulate", package, "--random", 3, "--no-timing", "--output", tmp_path / f"{name}.npz")[0] == 0
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert all((a[n] == b[n]).all() for n in a.files)


def test_targets_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "targets")[0] == 0
    code, out, _ = _run(capsys, "targets", "zcu104")
    assert code == 0
    assert 'name = "zcu104"' in out
    assert _run(capsys, "doctor")[0] == 0


def test_what_is_not_installed_is_said_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axlora.cli.doctor.version", lambda _: None)
    code, out, _ = _run(capsys, "doctor")
    assert code == 1
    assert "pip install 'axlora[rtl]'" in out
    code = "import sys; sys.modules['serial'] = None; from axlora.cli import main; sys.exit(main(['area', 'test']))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the package 'serial' is not installed (pip install 'axlora[fpga]'" in done.stderr


def _bad(folder: Path, model: Path) -> dict[str, tuple[list[object], str]]:
    (folder / "junk.onnx").write_bytes(b"this is not a model")
    (folder / "cut.onnx").write_bytes(model.read_bytes()[:50_000])
    (folder / "junk.npz").write_bytes(b"PK junk")
    (folder / "junk.json").write_text("[1]")
    (folder / "bad.s").write_text("MATMUL segments=0\nHALT")
    (folder / "bad.toml").write_text("colour = 1\n")
    (folder / "bad-adapter").mkdir()
    (folder / "bad-adapter" / "adapter_config.json").write_text("{}")
    compile_ = ["compile", model, "-o", folder / "out.axl", "--shape", "tokens=8", "--target"]
    return {
        "not a model": (["compile", folder / "junk.onnx", "-o", folder / "out.axl", "--target", "test"], "junk.onnx"),
        "truncated model": (["compile", folder / "cut.onnx", "-o", folder / "out.axl", "--target", "test"], "cut.onnx"),
        "no such model": (["compile", folder / "none.onnx", "-o", folder / "out.axl", "--target", "test"], "none.onnx"),
        "unknown target": ([*compile_, "nope"], "no target 'nope'"),
        "unknown target field": ([*compile_, folder / "bad.toml"], "unknown field 'colour'"),
        "bad shape": (["compile", model, "-o", folder / "out.axl", "--target", "test", "--shape", "tokens=x"], "--shape"),
        "free dimension": (["compile", model, "-o", folder / "out.axl", "--target", "test"], "tokens"),
        "bad adapter": ([*compile_, "test", "--adapter", f"x={folder / 'bad-adapter'}"], "adapter"),
        "bad adapter name": ([*compile_, "test", "--adapter", f"../x={folder / 'bad-adapter'}"], "adapter"),
        "no such package": (["simulate", folder / "none.axl", "--random", "1"], "not a package"),
        "bad runs": (["diff", folder / "junk.json", folder / "junk.json"], "not a RUN.json"),
        "bad assembly": (["asm", folder / "bad.s", "-o", folder / "p.bin"], "line 1"),
        "no source": (["asm", folder / "none.s", "-o", folder / "p.bin"], "none.s"),
    }


CASES = [
    "not a model", "truncated model", "no such model", "unknown target", "unknown target field", "bad shape", "free dimension",
    "bad adapter", "bad adapter name", "no such package", "bad runs", "bad assembly", "no source",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_one_line_and_exit_2(
    name: str, minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = _bad(tmp_path, minilm / "minilm.onnx")[name]
    before = sorted(tmp_path.rglob("*"))
    code, _, err = _run(capsys, *arguments)
    assert code == 2, err
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_npz_is_refused(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junk.npz").write_bytes(b"PK junk")
    code, _, err = _run(capsys, "simulate", package, "--input", tmp_path / "junk.npz")
    assert code == 2
    assert err.count("\n") == 1


def test_module_runs_and_help_lists_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "axlora", "--help"], capture_output=True, text=True, check=True)
    for command in ("doctor", "targets", "compile", "simulate", "rtl-test", "diff", "disasm", "asm", "report"):
        assert command in done.stdout


def test_adapters_come_and_go_in_a_package(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """add, list, pin, remove; a pinned one stays, and bad names and directories are one line with exit 2."""
    package, model = tmp_path / "m.axl", minilm / "minilm.onnx"
    law, med = (minilm / "adapters" / name for name in ("law", "med"))
    shape = ("--target", "test", "--shape", "tokens=8", "--max-loras", 2, "--max-lora-rank", 16)
    assert _run(capsys, "compile", model, "-o", package, *shape)[0] == 0
    assert _run(capsys, "adapter", "add", package, f"law={law}", f"med={med}")[0] == 0
    listed = _run(capsys, "adapter", "list", package)[1]
    assert "law" in listed
    assert "med" in listed
    assert _run(capsys, "adapter", "pin", package, "law")[0] == 0
    for arguments, text in (
        (("remove", package, "law"), "pinned"),
        (("remove", package, "tax"), "no adapter 'tax'"),
        (("add", package, f"law={law}"), "has an adapter 'law'"),
        (("add", package, f"x={tmp_path}"), "adapter_config.json"),
        (("add", package, "nothing"), "NAME=VALUE"),
    ):
        code, _, error = _run(capsys, "adapter", *arguments)
        assert code == 2
        assert text in error
        assert error.count("\n") == 1
    assert _run(capsys, "adapter", "pin", package, "law", "--off")[0] == 0
    assert _run(capsys, "adapter", "remove", package, "law")[0] == 0
    assert "law" not in _run(capsys, "adapter", "list", package)[1]
    run = ("simulate", package, "--input", minilm / "sample.npz", "--adapter", "med", "--no-timing")
    assert _run(capsys, *run)[0] == 0
