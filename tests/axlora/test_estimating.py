"""`axlora estimate`: the cycles of a model by its config.json are those of a package with the same codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import axlora
from axlora import estimating
from axlora.cli import main
from axlora.compiler.backend import schedule
from axlora.compiler.backend.memory_layout import ALIGN, Content
from axlora.compiler.errors import BadModel
from axlora.compiler.pipelines.drawn import Asked, Configuration, Weights, codes, configured
from axlora.estimating import Drawn, draw, estimate, fits
from axlora.isa.target import Target

LLAMA = {
    "model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 192, "max_position_embeddings": 64,
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 2, "vocab_size": 192, "max_position_embeddings": 64, "type_vocab_size": 1,
}  # fmt: skip


def _own(data: dict[str, Any], **more: object) -> Configuration:
    return configured(data | more, "config.json")


def _run(drawn: Drawn, **keywords: Any) -> axlora.Run:
    """Random inputs, an adapter."""
    program = drawn.program
    adapter = program.adapters[0].name if program.adapters else None
    return program.session(**keywords).run(program.random_inputs(0), adapter)


@pytest.mark.parametrize(
    ("data", "target", "weights", "more"),
    [
        (LLAMA, "edge-asic", "int8", {"rank": 8, "batch": 3, "adapters": 2}),
        (BERT, "edge-asic", "int4", {"rank": 8}),
        pytest.param(LLAMA, "zcu104", "nf4", {"rank": 8}, marks=pytest.mark.slow),
        pytest.param(BERT, "zcu104-dsp", "int8", {}, marks=pytest.mark.slow),
    ],
)
def test_shared_weights_are_those_of_a_package(
    data: dict[str, Any], target: str, weights: str, more: dict[str, int], tmp_path: Path
) -> None:
    """Every counter and every logit is that of a package that holds each linear's own copy of the same codes."""
    own, t, asked = _own(data), Target.load(target), Asked(Weights(weights), context=32, **more)
    one, other = draw(own, t, asked), draw(own, t, asked, shared=False)
    assert len(one.program.image) < len(other.program.image), "nothing is shared"
    assert one.needed == other.needed
    other.program.save(tmp_path / "drawn.axl")
    loaded = replace(other, program=axlora.load(tmp_path / "drawn.axl"))
    found, wanted = _run(one, engine=one.engine), _run(loaded)
    assert found.counters == wanted.counters
    assert all(np.array_equal(found.codes[name], wanted.codes[name]) for name in wanted.codes)


def test_addresses_beyond_the_machines_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only addresses that count modulo less than the model takes lead to the same weights."""
    own, t, asked = _own(LLAMA), Target.load("edge-asic"), Asked(context=32)
    whole = draw(own, t, asked)
    few = 1 << 17
    assert whole.needed > 4 * few
    wanted = _run(whole, engine=whole.engine)
    monkeypatch.setattr(schedule, "ADDRESS", few - 1)
    monkeypatch.setattr(estimating, "LAST", few - 1)
    monkeypatch.setattr(estimating, "MEMORY", few)
    narrow = draw(own, t, asked)
    assert narrow.beyond.endswith("the machine addresses 0 GiB")
    found = _run(narrow, engine=narrow.engine)
    assert all(np.array_equal(found.codes[name], wanted.codes[name]) for name in wanted.codes)
    assert found.counters["load_beats"] == wanted.counters["load_beats"]


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=200), st.tuples(st.integers(0, 9), st.integers(1, 3))), max_size=12))
def test_content_is_the_same_shared_or_not(pieces: list[bytes | tuple[int, int]]) -> None:
    """What lies at each address does not depend on sharing."""
    shared, plain = Content(shared=True), Content()
    came: list[tuple[int, int]] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            came.append((plain.size, plain.size + len(piece) + -len(piece) % ALIGN))
            assert shared.append(piece) == plain.append(piece)
        elif came:
            first, stop = came[piece[0] % len(came)]
            assert shared.again(first, stop) == plain.again(first, stop)
    assert shared.size == plain.size == len(plain.data)
    places = shared.places(np.arange(plain.size))
    assert bytes(np.frombuffer(bytes(shared.data), np.uint8)[places]) == bytes(plain.data)
    assert len(shared.data) == sum(stop - first for first, stop in came)


def test_a_step_is_that_of_a_whole_package() -> None:
    """Regions of one program alone begin elsewhere in bursts; nothing else differs."""
    own, t, asked = _own(LLAMA), Target.load("zcu104-dsp"), Asked(Weights.INT4, 64, 8, 2, 2)
    whole, alone = (estimate(own, t, asked, whole=whole) for whole in (True, False))
    assert alone.phases[-1].cycles == pytest.approx(whole.phases[-1].cycles, rel=1e-3)
    assert {"macs", "load_beats", "matrix_busy"} <= whole.run.counters.keys()
    for name in ("macs", "adapter_macs", "load_beats", "store_beats", "vector_busy"):
        assert whole.run.counters.get(name) == alone.run.counters.get(name), name
    prompt = estimate(own, t, asked, tokens=40)
    assert [phase.tokens for phase in prompt.phases] == [80, 2]
    assert prompt.phases[-1] == whole.phases[-1], "the prompt's programs are those of a package"
    assert sum(phase.cycles for phase in prompt.phases) == prompt.run.cycles == sum(x.cycles for x in prompt.by_kind().layers)


@pytest.mark.parametrize("weights", Weights)
def test_codes_are_of_normal_weights(weights: Weights) -> None:
    """What they stand for has the spread that is asked for, of tall columns too, and they follow from the kind alone."""
    t, k, n = Target.load("zcu104"), 8192, 16
    found, scale = codes("kind", k, n, weights, t, weights.group(t))
    real = found.weights() * scale
    assert np.allclose(real.std(axis=0), k**-0.5, rtol=0.05)
    assert np.abs(real.mean(axis=0)).max() < 0.06 * k**-0.5
    if not found.group:
        assert (np.abs(found.stored.astype(int)).max(axis=0) == 127).all()
    values, most = np.abs(found.values()), 1 << (t.accumulator_bits - t.activation_bits)
    steps = 1 if found.scale is None else np.repeat(found.scale.astype(int), found.group, axis=0)
    assert (values * steps).sum(axis=0).max() < most
    again, other = (codes(kind, k, n, weights, t, weights.group(t))[0].stored for kind in ("kind", "other"))
    assert np.array_equal(found.stored, again)
    assert not np.array_equal(found.stored, other)


def test_why_a_model_does_not_fit() -> None:
    """The same line as that of the compiler, from two layers."""
    wide = _own(LLAMA, intermediate_size=1 << 15)
    assert "does not fit the buffers of target test" in fits(wide, Target.load("test"), Asked(context=32))
    large = Path(__file__).parents[2] / "examples" / "targets" / "large-dsp.toml"
    for target in ("zcu104", large):
        assert fits(_own(LLAMA), Target.load(target), Asked(context=32)) == ""


def test_more_tokens_than_positions() -> None:
    with pytest.raises(BadModel, match="100 tokens, the model has 64 positions"):
        estimate(_own(BERT), Target.load("test"), Asked(context=100))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, a RUN.json whose sums hold, and which presets fit."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 2}))
    at, out = str(tmp_path / "config.json"), tmp_path / "run.json"
    assert main(["estimate", at, "--target", "edge-asic", "--context", "32", "--json", str(out)]) == 0
    said, data = capsys.readouterr().out, json.loads(out.read_text())
    assert "decode" in said
    assert "drawn codes stand in" in said
    assert data["view"] == "estimate"
    assert data["cycles"] == sum(layer["cycles"] for layer in data["layers"]) > 0
    (phase,) = data["estimate"]["phases"]
    assert (phase["name"], phase["cycles"]) == ("decode", data["cycles"])
    assert phase["tokens_per_second"] == pytest.approx(data["clock_mhz"] * 1e6 / data["cycles"])
    assert all(note in " ".join(said.split()) for note in data["estimate"]["notes"])
    assert main(["report", str(out)]) == 0


def test_experts_are_said_to_be_computed_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every expert has its row of the report; those of two of four experts are about half of them."""
    own = LLAMA | {"model_type": "mixtral", "num_hidden_layers": 1, "num_experts_per_tok": 2}
    cycles = []
    for count in (2, 4):
        (tmp_path / "config.json").write_text(json.dumps(own | {"num_local_experts": count}))
        out = tmp_path / "run.json"
        arguments = ["--target", "edge-asic", "--context", "32", "--json", str(out), "--html", str(tmp_path / "page.html")]
        assert main(["estimate", str(tmp_path), *arguments]) == 0
        data = json.loads(out.read_text())
        layers = data["layers"]
        cycles.append(sum(layer["cycles"] for layer in layers if ".experts." in layer["name"]))
        said = " ".join(capsys.readouterr().out.split())
        sentence = f"all {count} experts are computed, of which a token has 2: {cycles[-1]:,} of the cycles are theirs"
        assert sentence in said
        assert data["estimate"]["notes"][-1] == sentence
        assert f"<p>{sentence}</p>" in (tmp_path / "page.html").read_text()
    assert 1.8 < cycles[1] / cycles[0] < 2.2


@pytest.mark.parametrize(
    ("changed", "arguments", "said"),
    [
        ({"model_type": "mamba"}, [], "config.json has model_type 'mamba'"),
        ({"hidden_size": None}, [], "has no hidden_size"),
        ({}, ["--context", "65"], "65 tokens, the model has 64 positions"),
        ({}, ["--context", "16", "--tokens", "17"], "--tokens 17"),
        ({}, ["--adapters", "2"], "--adapters 2"),
        ({}, ["--context", "16", "--batch", "9"], "9 sequences at once"),
        (BERT, ["--context", "16", "--batch", "2"], "an encoder takes one sequence at a time"),
        ({"intermediate_size": 1 << 15}, ["--context", "32"], "does not fit the buffers"),
        ({}, ["--context", "16", "--weights", "given"], "no model.safetensors"),
        ({"model_type": "gpt2"}, ["--context", "16", "--weights", "given"], "has model_type 'gpt2'"),
        ({}, ["--context", "16", "--weights", "given", "--boards"], "--weights int8 or int4"),
        ({}, ["--context", "16", "--weight-bits", "4"], "--weight-bits without --weights given"),
    ],
)
def test_wrong_configurations_take_one_line(
    changed: dict[str, Any], arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | changed))
    assert main(["estimate", str(tmp_path), "--target", "test", *arguments]) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert len(found.splitlines()) == 1
