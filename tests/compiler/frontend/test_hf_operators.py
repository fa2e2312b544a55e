"""Operators of a config.json alone are those that recognition finds in the graph of the directory."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import hf_models as H
import numpy as np
import pytest

from axlora.compiler.frontend.hf.config import Encoder
from axlora.compiler.operators import OwnFunction
from axlora.compiler.pipelines.drawn import Asked, configured, lower_drawn
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import Generated, lower_whole
from axlora.isa.target import Target

FAST = ("llama", "bert")


def _like(one: Any, other: Any, names: dict[str, str], where: str) -> None:
    """Fields that are equal but for names of values, which `names` gathers, and for what is drawn."""
    if isinstance(one, str):
        assert names.setdefault(one, other) == other, where
    elif isinstance(one, np.ndarray):
        assert one.shape == other.shape, where
        if where in ("cos", "sin") or (where == "bias" and one.ndim == 3):
            assert np.allclose(one, other), where
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6), where
    else:
        assert one == other, where


def _same(wanted: Generated, found: Generated, head: str = "lm_head") -> None:
    """Regions that are equal but for names, scales and what is drawn; `head`: what the graph calls the last linear."""
    names: dict[str, str] = {}
    for one, other in zip(wanted.region.operators, found.region.operators, strict=True):
        assert type(one) is type(other)
        for each in fields(one):
            if each.name != "name" and not isinstance(getattr(one, each.name), OwnFunction):
                _like(getattr(one, each.name), getattr(other, each.name), names, each.name)
    for name in ("lengths", "counted", "starts"):
        assert getattr(wanted.region, name) == getattr(found.region, name), name
    for name in ("outputs", "widths"):
        assert {names[key]: value for key, value in getattr(wanted.region, name).items()} == getattr(found.region, name), name
    linears = [(x.name.replace(head, "lm_head"), x.k, x.n) for x in wanted.lowered.linears]
    assert linears == [(x.name, x.k, x.n) for x in found.lowered.linears]
    assert found.region.largest.keys() == found.region.widths.keys()
    assert {name.replace(head, "lm_head") for name in wanted.region.steps} == found.region.steps.keys()


@pytest.mark.parametrize(
    "family", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in H.FAMILIES]
)
def test_operators_are_those_of_the_graph(family: str, tmp_path: Path) -> None:
    own, target = configured(H.config(family), family), Target.load("zcu104-dsp")
    if isinstance(own, Encoder):
        options = CompileOptions(shapes={"batch": 1, "sequence": H.TOKENS}, operators="all")
    else:
        options = CompileOptions(generate=True, max_context=H.TOKENS, chunk=1)
    wanted = lower_whole(H.save(family, tmp_path), target, options)
    _same(wanted, lower_drawn(own, target, Asked(context=H.TOKENS, chunk=1)))


def test_gpt2_is_that_of_an_export() -> None:
    """Which has its own name for the head."""
    data = {"model_type": "gpt2", "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 4, "vocab_size": 37, "n_positions": 24}
    target = Target.load("zcu104-dsp")
    options = CompileOptions(generate=True, max_context=24, chunk=1)
    wanted = lower_whole(H.MODELS / "gpt2.script.onnx", target, options)
    _same(wanted, lower_drawn(configured(data, "gpt2"), target, Asked(context=24, chunk=1)), wanted.lowered.linears[-1].name)
