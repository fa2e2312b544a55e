"""Operators of a config.json alone are those that recognition finds in the graph of the directory."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import hf_models as H
import numpy as np
import pytest

from axlora.compiler.frontend.hf.config import Decoder, described
from axlora.compiler.pipelines.drawn import Asked, lower_drawn
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.isa.target import Target

FAST = ("llama", "bert")


def _like(one: Any, other: Any, names: dict[str, str], where: str) -> None:
    """Fields that are equal but for names of values, which `names` gathers, and for what is drawn."""
    if isinstance(one, str) and where != "name":
        assert names.setdefault(one, other) == other, where
    elif isinstance(one, np.ndarray):
        assert one.shape == other.shape, where
        if where in ("cos", "sin") or (where == "bias" and one.ndim == 3):
            assert np.allclose(one, other), where
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6), where
    else:
        assert one == other, where


@pytest.mark.parametrize(
    "family", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in H.FAMILIES]
)
def test_operators_are_those_of_the_graph(family: str, tmp_path: Path) -> None:
    own, target = described(H.config(family), family), Target.load("zcu104-dsp")
    decodes = isinstance(own, Decoder)
    options = CompileOptions(generate=True, max_context=H.TOKENS, chunk=1) if decodes else CompileOptions(
        shapes={"batch": 1, "sequence": H.TOKENS}, operators="all"
    )  # fmt: skip
    wanted = lower_whole(H.save(family, tmp_path), target, options)
    found = lower_drawn(own, target, Asked(context=H.TOKENS, chunk=1))
    names: dict[str, str] = {}
    for one, other in zip(wanted.region.operators, found.region.operators, strict=True):
        assert type(one) is type(other)
        for each in fields(one):
            if each.name != "function" or one.function.__class__.__name__ == "Function":
                _like(getattr(one, each.name), getattr(other, each.name), names, each.name)
    for name in ("lengths", "counted", "starts", "ranks"):
        assert getattr(wanted.region, name) == getattr(found.region, name), name
    for name in ("outputs", "widths"):
        assert {names[key]: value for key, value in getattr(wanted.region, name).items()} == getattr(found.region, name), name
    assert [(x.name, x.k, x.n) for x in wanted.lowered.linears] == [(x.name, x.k, x.n) for x in found.lowered.linears]
    assert found.region.largest.keys() == found.region.widths.keys()
    assert wanted.region.steps.keys() == found.region.steps.keys()
