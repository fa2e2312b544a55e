"""Exported models from the command line, each command in a process of its own: compile, simulate, near onnxruntime's result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import decoders as D
import exported as E
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported_runs import path_of

import axlora
from axlora.compiler.frontend.precision import to_float32

FILES = [f"{case.name}.{exporter}" for case in E.CASES for exporter in case.exporters]
DECODERS = [f"decoders/{path.stem}" for path in sorted(D.FOLDER.glob("*.onnx"))]
QUANTIZED = [
    *((f"{name}.{exporter}", form) for name in E.ADAPTED for exporter in E.EXPORTERS for form in ("qdq", "dynamic")),
    ("bert-lora.dynamo", "qdq-u8u8"),
    ("llama-lora.script", "dynamic-u8-channel"),
    ("gpt2-lora.script", "qdq-u8"),
]
INFINITE = [(file, "qdq") for file in ("gpt2.script", "distilbert.script")]
"""sdpa masks with -inf, to which onnxruntime's quantizer gives an infinite scale: it computes NaN there, and such pairs go."""
CASES = [(file, "float") for file in (*FILES, *DECODERS)] + QUANTIZED
KINDS = (
    ("bert-dora.script", "float"),
    ("llama-half.dynamo", "float"),
    ("decoders/qwen3", "float"),
    ("decoders/opt", "float"),
    ("distilbert.dynamo", "dynamic"),
    ("gpt2.script", "qdq"),
    ("bert-lora.dynamo", "qdq-u8u8"),
)
"""One of each kind; the others are for make test-all."""
MARKED = [pytest.param(*c, marks=pytest.mark.slow if c in KINDS else pytest.mark.exhaustive) for c in CASES]


def test_every_model_is_there() -> None:
    """All files of the folder but those of docs/forms.md and of `test_families`, and 19 quantized forms."""
    known = {path.relative_to(E.MODELS).with_suffix("").as_posix() for path in E.MODELS.rglob("*.onnx")}
    known = {name for name in known if not name.startswith(("forms/", "families/"))}
    assert known == {*FILES, *DECODERS}
    assert len(known) == 27
    assert len(QUANTIZED) == 19
    assert set(KINDS) <= set(CASES)


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`axlora` on one core."""
    one = {"OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "axlora", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | one)
    assert done.returncode == 0, done.stderr
    return done


def _inputs(file: str, batch: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """(values of the free dimensions, what the model is fed): `batch` sequences of `exported.feeds`, encoders' with padding."""
    feeds = list(E.feeds(batch))
    feed = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
    if file.startswith("gpt2"):  # causal models take masks of ones
        feed["attention_mask"][:] = 1
    if file in DECODERS:
        feed = {"input_ids": np.random.default_rng(0).integers(0, D.VOCABULARY, (1, 20))}
    given = onnx.load(E.MODELS / f"{file}.onnx", load_external_data=False).graph.input
    shapes: dict[str, int] = {}
    for value in given:
        for d, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
            shapes |= {d.dim_param: size} if d.dim_param else {}
    return shapes, {value.name: feed[value.name] for value in given}


def _wanted(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """onnxruntime's results; of half precision as float32 with its own weights."""
    proto = onnx.load(path)
    if "half" in path.name or "bfloat" in path.name:
        to_float32(proto)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(proto.SerializeToString(), options).run(None, feed))


@pytest.mark.parametrize(("file", "form"), MARKED)
def test_it_compiles_and_simulates_near_onnxruntime(file: str, form: str, tmp_path: Path) -> None:
    """Within 0.1 of the float model's result; with static scales, which alone put it 0.3 from there, of the file's own.

    A result of a classifier is three numbers, where one code that rounds the other way shows: four sequences are compared.
    What a causal model gives for padding means nothing, and is left out.
    """
    static = form.startswith("qdq")
    shapes, feed = _inputs(file, 4 if static else 1)
    path, package, result = path_of(file, form, tmp_path), tmp_path / "m.axl", tmp_path / "out.npz"
    options = [f"--shape={name}={size}" for name, size in shapes.items()]
    done = _command("compile", path, "-o", package, "--target", "edge-asic", *options)
    assert all(line.startswith("axlora compile: notice: ") for line in done.stderr.splitlines()), done.stderr
    program = axlora.load(package)
    assert sum(row.macs for row in program.placement if row.where == "accelerator") > 0
    np.savez(tmp_path / "in.npz", **feed)  # type: ignore[arg-type]
    _command("simulate", package, "--input", tmp_path / "in.npz", "--output", result)
    own = static and (file, form) not in INFINITE
    wanted = _wanted(path if own else E.MODELS / f"{file}.onnx", feed)
    with np.load(result) as outputs:
        assert len(outputs.files) == len(wanted)
        for name, value in zip(outputs.files, wanted, strict=True):
            assert np.isfinite(outputs[name]).all()
            assert outputs[name].shape == value.shape
            tokens = feed["attention_mask"] == 1 if file.startswith("llama") else ...
            assert np.linalg.norm((outputs[name] - value)[tokens]) < 0.1 * np.linalg.norm(value[tokens])
