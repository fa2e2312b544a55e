"""Every pass is needed: without it no package comes out, or another one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

import axlora
from axlora.compiler.frontend import tvm_import
from axlora.compiler.layer import Lowered
from axlora.compiler.passes import pipeline
from axlora.compiler.passes.lower_linears import Names
from axlora.compiler.passes.lower_rows import Calibrated, Starts
from axlora.compiler.pipelines import linears, transformers
from axlora.compiler.transformer import Transformer

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
    names = Names({}, [], {})
    rows = pipeline.lower_rows(names, Calibrated(Transformer((), None, "", (), ()), {}, [], Starts.SEQUENCE))
    lowering = pipeline.lower_linears(names, nothing, {}, 0, 8)
    lists = ((pipeline.READ_LINEARS, LINEARS), (lowering, LINEARS), (pipeline.READ_WHOLE, WHOLE), (rows, WHOLE))
    found: dict[str, tuple[str, ...]] = {}
    for passes, kinds in lists:
        for each in passes:
            name = str(each.info.name)
            found[name] = (*found.get(name, ()), *kinds)
    return found


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
    monkeypatch.setattr(transformers, "lower_rows", lambda *given: without(pipeline.lower_rows(*given)))
    for kind in kinds:
        try:
            found = _compiled(kind, tmp_path / f"{kind}.axl")
        except (axlora.Error, AssertionError, ValueError):
            continue
        assert found != wanted[kind], kind


# What the backend reads of a whole model

CHANGES: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "epsilon of a norm": ("encoder", "norm.eps", lambda eps: 1000 * eps),
    "magnitude of a norm's result": ("encoder", "norm.largest", lambda largest: 4 * largest),
    "scale of an attention": ("encoder", "attention.scale", lambda scale: 2 * scale),
    "first feature of its heads": ("decoder", "attention.first", lambda first: [first[1], first[0], first[2]]),
    "whether it is causal": ("encoder", "attention.causal", lambda causal: not causal),
    "function": ("encoder", "apply.function", lambda name: "silu" if name != "silu" else "relu"),
    "sign of a sum": ("encoder", "add.sign", lambda sign: -sign),
    "step of a linear": ("encoder", "linear.step", lambda step: 2 * step),
    "row that a pool makes": ("encoder", "pool.kind", lambda kind: "mean" if kind == "first" else "first"),
    "magnitude of the first rows": ("decoder", "input.largest", lambda largest: 4 * largest),
}
"""What is changed -> kind of model, composite function and attribute, and how."""


@mutator
class _Changed(PyExprMutator):  # type: ignore[misc]
    """Rewrites the first composite function of a kind by `change`, or its calls to the value that they read."""

    def __init__(self, module: tvm.IRModule, kind: str, change: Callable[[Any], Any] | None) -> None:
        super().__init__(module)
        self.left, self.kind, self.change = 1, f"axlora.{kind}", change
        self.dropped: set[Any] = set()

    def visit_var_binding_(self, binding: Any) -> None:
        value = binding.value
        own = isinstance(value, relax.Function) and value.attrs["Composite"] == self.kind
        if own and self.left:
            self.left -= 1
            if self.change is None:
                self.dropped.add(binding.var)
            else:
                value = self.change(value)
        if isinstance(value, relax.Call) and value.op in self.dropped:
            value = value.args[0]
        super().visit_var_binding_(relax.VarBinding(binding.var, value))


def _with_attribute(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(function: Any) -> Any:
        old = function.attrs[name]
        new = change([*old] if name in ("first", "stride") else old)
        assert new != old
        return function.with_attr(name, new)

    return changed


def _compiled_with(
    kind: str, of: str, change: Callable[[Any], Any] | None, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> dict[str, bytes]:
    """The package that comes out when the partitioned module is changed before the backend reads it."""

    @tvm.ir.transform.module_pass(opt_level=0, name="changed")
    def changed(module: tvm.IRModule, _: Any) -> tvm.IRModule:
        rewriter = _Changed(module, of, change)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function) and "Codegen" in (function.attrs or {}):
                rewriter.builder_.update_func(variable, rewriter.visit_expr(function))
        assert not rewriter.left
        return relax.transform.CanonicalizeBindings()(rewriter.builder_.get())  # no variable stands for another

    monkeypatch.setattr(transformers, "lower_rows", lambda *given: (*pipeline.lower_rows(*given), changed))
    return _compiled(kind, folder)


def test_an_unchanged_copy_of_the_module_is_the_same_package(
    package: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = {kind: package(kind) for kind in WHOLE}
    for kind in WHOLE:
        assert _compiled_with(kind, "norm", lambda function: function, monkeypatch, tmp_path / kind) == wanted[kind]


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_attribute_of_the_module_changes_the_package(
    what: str, package: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind, place, change = CHANGES[what]
    of, _, name = place.partition(".")
    wanted = package(kind)
    found = _compiled_with(kind, of, _with_attribute(name, change), monkeypatch, tmp_path / "p.axl")
    assert found["memory.bin"] != wanted["memory.bin"]


@pytest.mark.parametrize("of", ["norm", "add", "apply"])
def test_a_call_that_is_dropped_from_the_module_is_missing_in_the_package(
    of: str, package: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = package("encoder")
    found = _compiled_with("encoder", of, None, monkeypatch, tmp_path / "p.axl")
    assert found["memory.bin"] != wanted["memory.bin"]
