"""Packages of whole transformers: saved and read, adapters, wrong inputs, damage, the command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from same import assert_same

import axlora
from axlora.adapters import add_adapter, remove_adapter
from axlora.cli import main

MODELS = Path(__file__).parents[1] / "compiler" / "models"
TOKENS, BATCH = 8, 2


@pytest.fixture(scope="module")
def program() -> axlora.Program:
    """BERT with its PEFT directory beside the graph's own branches; pooled, with padding."""
    shapes = {"batch": BATCH, "sequence": TOKENS}
    model = MODELS / "bert-lora.dynamo.onnx"
    made = axlora.compile(model, "test", shapes=shapes, adapters={"a": MODELS / "bert-lora"}, operators="all")
    assert made.kind == "whole"
    return made


@pytest.fixture
def package(program: axlora.Program, tmp_path: Path) -> Path:
    program.save(tmp_path / "m.axl")
    return tmp_path / "m.axl"


def _feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.array([[1] * TOKENS, [1, 1, 0, 1, 1, 0, 0, 0]])
    return {"input_ids": rng.integers(0, 30, (BATCH, TOKENS)), "attention_mask": mask}


def test_a_package_runs_without_tvm(package: Path) -> None:
    """It takes a second to import; nothing of a whole model's run is TVM's."""
    run = "p = axlora.load(sys.argv[1]); axlora.simulate(p, p.random_inputs(0))"
    script = f"import sys, axlora; {run}; assert 'tvm' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, package], check=True)


def test_save_load_gives_the_same_package_and_run(program: axlora.Program, package: Path) -> None:
    again = axlora.load(package)
    assert again.kind == "whole"
    assert_same(program, again)
    first, second = (axlora.simulate(p, _feed(), ["a", None]) for p in (program, again))
    assert first.counters == second.counters
    assert all(np.array_equal(first.codes[name], second.codes[name]) for name in first.codes)
    again.save(package.with_name("b.axl"))
    for file in sorted(f.relative_to(package) for f in package.rglob("*") if f.is_file()):
        assert (package / file).read_bytes() == (package.with_name("b.axl") / file).read_bytes()


def test_a_batch_is_its_rows_one_by_one(program: axlora.Program) -> None:
    """Cycles and counters add up; each row has the adapter that is named for it."""
    feed = _feed()
    both = axlora.simulate(program, feed, ["a", None])
    swapped = axlora.simulate(program, {key: value[::-1] for key, value in feed.items()}, [None, "a"])
    assert both.counters == swapped.counters
    (y,), (z,) = both.outputs.values(), swapped.outputs.values()
    assert np.array_equal(y, z[::-1])
    assert not np.array_equal(y, next(iter(axlora.simulate(program, feed, "a").outputs.values())))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": np.zeros((1, TOKENS), int)}, r"has shape \(1, 8\), compiled for \(2, 8\)"),
        ({"input_ids": np.full((BATCH, TOKENS), 10**6)}, "ids outside 0 to"),
        ({"input_ids": np.full((BATCH, TOKENS), 0.5)}, "no int64"),
        ({"input_ids": np.full((BATCH, TOKENS), np.nan)}, "no int64"),
        ({"attention_mask": np.zeros((BATCH, TOKENS), int)}, "a row without a token"),
        ({"other": np.zeros(1)}, "unknown input 'other'"),
    ],
    ids=["shape", "ids", "fractions", "nan", "no token", "name"],
)
def test_wrong_inputs_are_refused(program: axlora.Program, change: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(axlora.BadInput, match=words):
        axlora.simulate(program, _feed() | change)
    with pytest.raises(axlora.BadInput, match="is missing"):
        axlora.simulate(program, {"input_ids": _feed()["input_ids"]})


@pytest.mark.parametrize(("adapter", "words"), [("law", "no adapter 'law'"), (["a"], "1 adapters named for 2")])
def test_wrong_adapters_are_refused(program: axlora.Program, adapter: str | list[str], words: str) -> None:
    with pytest.raises(axlora.BadAdapter, match=words):
        axlora.simulate(program, _feed(), adapter)


def test_padding_in_a_causal_model_is_not_seen() -> None:
    """Other ids under it leave the tokens' logits as they are."""
    made = axlora.compile(MODELS / "gpt2.dynamo.onnx", "test", shapes={"batch": BATCH, "sequence": TOKENS}, operators="all")
    feed = _feed()
    tokens = feed["attention_mask"] > 0
    assert not tokens.all()
    other = feed | {"input_ids": np.where(tokens, feed["input_ids"], (feed["input_ids"] + 7) % 32)}
    (a,), (b,) = (axlora.simulate(made, each, timing=False).outputs.values() for each in (feed, other))
    assert np.array_equal(a[tokens], b[tokens])
    assert not np.array_equal(a, b)


def test_adapters_added_later_have_the_bytes_of_those_compiled_in(program: axlora.Program, package: Path) -> None:
    again = remove_adapter(axlora.load(package), "a")
    assert [a.name for a in again.adapters] == ["graph"]
    again = add_adapter(again, "a", MODELS / "bert-lora")
    assert again.adapters == program.adapters


def test_a_whole_model_does_not_generate(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(package), "--prompt", "x"]) == 2
    assert "does not generate" in capsys.readouterr().err


def test_a_package_of_an_older_compiler_is_read(program: axlora.Program, package: Path) -> None:
    """A field that has a default may be missing."""
    manifest = json.loads((package / "manifest.json").read_text())
    assert [manifest.pop(name) for name in ("given", "padding", "unread")] == [None, "anywhere", {}]
    manifest.pop("sha256")
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))
    assert_same(program, axlora.load(package))


@pytest.mark.parametrize("file", ["manifest.json", "memory.bin", "arrays.safetensors", "linears.safetensors", "adapters/a.bin"])
@pytest.mark.parametrize("damage", ["truncate", "edit", "remove"])
def test_damage_is_refused(package: Path, file: str, damage: str) -> None:
    data = (package / file).read_bytes()
    if damage == "truncate":
        (package / file).write_bytes(data[:-5])
    elif damage == "edit":
        (package / file).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    else:
        (package / file).unlink()
    with pytest.raises(axlora.BadPackage):
        axlora.load(package)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("context", 7),
        ("adapter_address", 0),
        ("adapter_size", 64),
        ("input_words", 1),
        ("input_fraction", 1000),
        ("mask", "other"),
        ("inputs", []),
        ("inputs", [["input_ids", "object"], ["attention_mask", "int64"]]),
        ("operators", []),
        ("results", []),
        ("functions", []),
        ("functions", [{"name": "main", "rows": TOKENS, "address": 0, "size": 64}]),
        ("functions", [{"name": "main", "rows": TOKENS, "address": 3, "size": 64}]),
        ("regions", []),
        ("target", {}),
        ("kind", "linears"),
    ],
    ids=str,
)
def test_a_signed_manifest_with_sizes_that_do_not_fit_is_refused(package: Path, field: str, value: object) -> None:
    manifest = json.loads((package / "manifest.json").read_text()) | {field: value}
    manifest.pop("sha256")
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(axlora.BadPackage):
        axlora.load(package)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 3},
        {"width": 99},
        {"words": 1 << 20},
        {"shape": [1, 99]},
        {"shape": []},
        {"picked": True},
        {"fraction": 99},
        {"region": 7},
    ],
    ids=str,
)
def test_a_signed_manifest_with_an_output_that_does_not_fit_is_refused(package: Path, change: dict[str, object]) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["results"][0] |= change
    manifest.pop("sha256")
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(axlora.BadPackage):
        axlora.load(package)


def test_the_commands(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compile, simulate with random inputs, disasm with the operators as comments, adapter list."""
    model = str(MODELS / "bert-lora.dynamo.onnx")
    shape = ["--shape", f"batch={BATCH}", "--shape", f"sequence={TOKENS}"]
    peft = ["--adapter", f"a={MODELS / 'bert-lora'}"]
    assert main(["compile", model, "-o", str(tmp_path / "b.axl"), "--target", "test", *shape, *peft, "--operators", "all"]) == 0
    assert (tmp_path / "b.axl" / "memory.bin").read_bytes() == (package / "memory.bin").read_bytes()
    assert main(["simulate", str(package), "--random", "1", "--adapter", "a,-", "--json", str(tmp_path / "run.json")]) == 0
    report = json.loads((tmp_path / "run.json").read_text())
    assert sum(layer["cycles"] for layer in report["layers"]) == report["cycles"]
    capsys.readouterr()
    assert main(["disasm", str(package)]) == 0
    text = capsys.readouterr().out
    assert text.count("MATMUL") > 20
    assert "# linear" in text
    assert main(["adapter", "list", str(package)]) == 0
    assert main(["simulate", str(package), "--random", "1", "--adapter", "law"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
