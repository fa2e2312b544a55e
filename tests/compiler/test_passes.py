"""Every pass is needed: without it no package comes out, or another one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import pytest

import axlora
from axlora.compiler.frontend import tvm_import
from axlora.compiler.layer import Lowered
from axlora.compiler.passes import pipeline
from axlora.compiler.passes.lower_linears import Names
from axlora.compiler.pipelines import linears, transformers

SHAPES = {"batch": 1, "sequence": 8}
IDS = {"input_ids": np.arange(8)[None], "attention_mask": np.ones((1, 8), np.int64)}
KINDS: dict[str, dict[str, Any]] = {
    "linears": {"operators": "linears", "shapes": SHAPES},
    "static": {"operators": "linears", "shapes": SHAPES, "activation": "static8", "calibration": IDS},
    "encoder": {"operators": "all", "shapes": SHAPES},
    "decoder": {"generate": True, "max_context": 16},
}
LINEARS, WHOLE = ("linears", "static"), ("encoder", "decoder")


def _passes() -> dict[str, tuple[str, ...]]:
    """Every pass of the lists, and the kinds of model that it is for."""
    nothing = Lowered((), (), (), (), ())
    lowering = pipeline.lower_linears(Names({}, [], {}), nothing, {}, 0, 8)
    lists = ((pipeline.READ_LINEARS, LINEARS), (lowering, LINEARS), (pipeline.READ_WHOLE, WHOLE))
    return {str(each.info.name): kinds for passes, kinds in lists for each in passes}


def _compiled(kind: str, folder: Path) -> dict[str, bytes]:
    """The files of the package of a small model with LoRA, in the graph and from a directory."""
    name = "gpt2-lora" if kind == "decoder" else "bert-lora"
    model = E.MODELS / f"{name}.dynamo.onnx"
    axlora.compile(model, "test", adapters={"z": E.MODELS / name}, **KINDS[kind]).save(folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    return functools.cache(lambda kind: _compiled(kind, tmp_path_factory.mktemp("whole") / "p.axl"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_compiles_without_the_import(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*args: object, **more: object) -> None:
        raise RuntimeError("no import")

    monkeypatch.setattr(tvm_import, "from_onnx", fails)
    with pytest.raises(axlora.Error):
        _compiled(kind, tmp_path / "p.axl")


@pytest.mark.parametrize("name", _passes())
def test_without_a_pass_compiling_fails_or_the_package_differs(
    name: str, package: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def without(passes: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(each for each in passes if each.info.name != name)

    kinds = _passes()[name]
    wanted = {kind: package(kind) for kind in kinds}
    monkeypatch.setattr(linears, "READ_LINEARS", without(pipeline.READ_LINEARS))
    monkeypatch.setattr(linears, "lower_linears", lambda *given: without(pipeline.lower_linears(*given)))
    monkeypatch.setattr(transformers, "READ_WHOLE", without(pipeline.READ_WHOLE))
    for kind in kinds:
        try:
            found = _compiled(kind, tmp_path / f"{kind}.axl")
        except (axlora.Error, AssertionError, ValueError):
            continue
        assert found != wanted[kind], kind
