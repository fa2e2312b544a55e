"""Adapters of ONNX Runtime: the same branches as of the PEFT directory that they were made of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime import AdapterFormat, OrtValue

import axlora
from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.peft import adapter_files, read_content

Write = Callable[..., Path]
K, N, RANK = 12, 20, 4
SCALE = 2.0
PATHS = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]


def _arrays(dtype: type = np.float32) -> dict[str, np.ndarray]:
    """lora_A [in, r] and lora_B [r, out] by module and part."""
    rng = np.random.default_rng(0)
    shapes = {"lora_A": (K, RANK), "lora_B": (RANK, N)}
    return {f"{path}.{part}": rng.normal(size=shape).astype(dtype) for path in PATHS for part, shape in shapes.items()}


def _written(arrays: dict[str, np.ndarray], folder: Path) -> Path:
    """The directory of an adapter with these tensors."""
    folder.mkdir(exist_ok=True)
    adapter = AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({name: OrtValue.ortvalue_from_numpy(value) for name, value in arrays.items()})
    adapter.export_adapter(str(folder / "law.onnx_adapter"))
    return folder


@pytest.mark.parametrize("ending", [".weight", ".MatMul.weight"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("alone", [False, True])
def test_it_holds_what_the_peft_directory_holds(
    ending: str, dtype: type, alone: bool, write_peft: Write, tmp_path: Path
) -> None:
    arrays = _arrays(dtype)
    folder = _written({f"{name}{ending}": value for name, value in arrays.items()}, tmp_path / "law")
    scaled = {f"base_model.model.{n}.weight": (v / SCALE if "lora_B" in n else v).T for n, v in arrays.items()}
    wanted = read_content(write_peft(scaled, r=RANK, lora_alpha=SCALE * RANK))
    got = read_content(folder / "law.onnx_adapter" if alone else folder)
    assert [x.module for x in got.loras] == [x.module for x in wanted.loras] == PATHS
    for one, other in zip(got.loras, wanted.loras, strict=True):
        np.testing.assert_allclose(one.scale * (one.a @ one.b), other.scale * (other.a @ other.b), rtol=1e-2 / 8)
    assert adapter_files(folder) == (folder / "law.onnx_adapter",)


BROKEN: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = {
    "no B": (lambda x: {n: v for n, v in x.items() if "lora_B" not in n}, "has lora_A but no lora_B"),
    "codes": (lambda x: {n: v.astype(np.int8) for n, v in x.items()}, "has type int8, must be floats"),
    "NaN": (lambda x: {n: v * np.float32("nan") for n, v in x.items()}, "NaN or infinity"),
    "ranks differ": (lambda x: {n: v[:, 1:] if "lora_A" in n else v for n, v in x.items()}, "do not pair"),
    "a whole weight": (lambda x: {"model.layers.0.q_proj.weight": np.ones((3, 4), np.float32)}, "is no branch"),
    "another name": (lambda x: {"law": np.ones((3, 4), np.float32)}, "none that PEFT's LoRA saves"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_branch_is_refused(case: str, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    tensors = {f"{n}.weight": v for n, v in _arrays().items()} if case not in ("a whole weight", "another name") else {}
    with pytest.raises(BadAdapter, match=message):
        read_content(_written(change(tensors), tmp_path / "law"))


@pytest.mark.parametrize("size", [0, 3, 60, 200])
def test_a_damaged_file_is_an_error_of_one_line(size: int, tmp_path: Path) -> None:
    folder = _written({f"{n}.weight": v for n, v in _arrays().items()}, tmp_path / "law")
    file = folder / "law.onnx_adapter"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(BadAdapter, match="damaged adapter of ONNX Runtime") as error:
        read_content(folder)
    assert "\n" not in str(error.value)


def test_a_package_has_it(build: Any, tmp_path: Path) -> None:
    """Compiled in beside the base, by the file's own name among the sources."""
    x = build.qdq("x", 0.02, -8)
    y = build.node("MatMul", x, build.weight(K, N))
    build.nodes[-1].name = f"/{PATHS[0].replace('.', '/')}/MatMul"
    model = build.model({"x": [3, K]}, [build.qdq(y, 0.02, 3, out="y")])
    own = {f"{n}.weight": v for n, v in _arrays().items() if n.startswith(PATHS[0])}
    program = axlora.compile(model, "test", adapters={"law": _written(own, tmp_path / "law")})
    (match,) = program.adapters[0].modules
    assert match.module == PATHS[0]
    assert "adapters/law/law.onnx_adapter" in program.sources


def test_without_onnxruntime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _written({f"{n}.weight": v for n, v in _arrays().items()}, tmp_path / "law")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadAdapter, match="needs onnxruntime, which is not installed") as error:
        read_content(folder)
    assert "axlora[adapters]" in error.value.hint
