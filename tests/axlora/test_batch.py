"""Sequences of a language model that decode together are those that each is alone, whatever joins and leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_decoder import Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.generator import generate
from axlora.inputs import BadInput
from axlora.isa.opcodes import UNTIMED

CONTEXT = 22
PROMPTS = [[65, 20, 33, 7, 90], [9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [90, 7]]
ADAPTERS = ["a4", None, "a11", "a4"]


@dataclass(frozen=True)
class Made:
    """A language model compiled for single sequences, and for batches of up to three."""

    alone: axlora.Program
    together: axlora.Program


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("batch")
    decoder = random_decoder(Sizes(layers=2, context=CONTEXT), seed=3)
    model = write_onnx(decoder, folder / "model.onnx")
    adapters = {f"a{rank}": write_peft(random_branches(decoder, rank, rank), folder / f"a{rank}") for rank in (4, 11)}
    alone, together = (
        axlora.compile(model, "test", adapters=adapters, generate=True, max_context=CONTEXT, max_batch=most)
        for most in (None, 3)
    )
    together.save(folder / "m.axl")
    return Made(alone, axlora.load(folder / "m.axl"))


def test_a_package_of_batches_has_functions_of_two_and_of_the_most(made: Made) -> None:
    assert [f.rows for f in made.together.functions if f.batch] == [2, 3]
    assert not any(f.batch for f in made.alone.functions)


def test_more_prompts_than_places_give_the_tokens_of_each_alone(made: Made) -> None:
    found = list(generate(made.together, PROMPTS, max_new_tokens=6, adapter=ADAPTERS))
    for number, (prompt, adapter) in enumerate(zip(PROMPTS, ADAPTERS, strict=True)):
        alone = [t.token for t in generate(made.alone, prompt, max_new_tokens=6, adapter=adapter)]
        assert [t.token for t in found if t.sequence == number] == alone
    eos = found[0].token
    assert [t.sequence for t in generate(made.together, PROMPTS, max_new_tokens=6, adapter=ADAPTERS, eos=eos)].count(0) == 1


def test_sequences_join_and_leave_between_steps(made: Made) -> None:
    batch, alone = made.together.session().batch(), [made.alone.session(adapter) for adapter in ADAPTERS]
    first, second = batch.join("a4"), batch.join()
    for sequence, one, prompt in ((first, alone[0], PROMPTS[0]), (second, alone[1], PROMPTS[1])):
        assert np.array_equal(sequence.feed(prompt), one.feed(prompt))
    for token in (3, 4):
        a, b = batch.step([(first, token), (second, token + 1)])
        assert np.array_equal(a, alone[0].decode(token))
        assert np.array_equal(b, alone[1].decode(token + 1))
    third = batch.join("a11")
    assert np.array_equal(third.feed(PROMPTS[2]), alone[2].feed(PROMPTS[2]))
    b, c = batch.step([(second, 5), (third, 6)])  # the first waits, and loses nothing
    assert np.array_equal(b, alone[1].decode(5))
    assert np.array_equal(c, alone[2].decode(6))
    batch.leave(second)
    fourth = batch.join("a4")
    assert np.array_equal(fourth.feed(PROMPTS[3]), alone[3].feed(PROMPTS[3]))
    found = batch.step([(third, 1), (first, 2), (fourth, 3)])
    for logits, one, token in zip(found, (alone[2], alone[0], alone[3]), (1, 2, 3), strict=True):
        assert np.array_equal(logits, one.decode(token))


def test_a_sequence_that_is_full_leaves_the_others_alone(made: Made) -> None:
    batch, one = made.together.session().batch(), made.alone.session("a4")
    full, other = batch.join(), batch.join("a4")
    full.feed([1] * CONTEXT)
    other.feed(PROMPTS[0])
    one.feed(PROMPTS[0])
    third = batch.join()
    third.feed([3])
    found, _ = batch.step([(other, 8), (third, 2)])
    assert np.array_equal(found, one.decode(8))
    with pytest.raises(BadInput, match="compiled for a context of 22"):
        batch.step([(full, 1), (other, 1)])


def test_what_a_batch_does_not_take_is_refused(made: Made) -> None:
    batch = made.together.session().batch()
    for _ in range(3):
        batch.join()
    with pytest.raises(BadInput, match="the batch is full: 3 sequences"):
        batch.join()
    one = made.alone.session().batch()
    one.join()
    with pytest.raises(BadInput, match="the batch is full: 1 sequences"):
        one.join()
    with pytest.raises(axlora.BadAdapter, match="no adapter 'b'"):
        made.together.session().batch().join("b")


def test_more_sequences_than_windows_are_refused(tmp_path: Path) -> None:
    model = write_onnx(random_decoder(Sizes(layers=1, context=CONTEXT), seed=3), tmp_path / "model.onnx")
    with pytest.raises(axlora.DoesNotFit, match="4 sequences at once, the target has 3 windows"):
        axlora.compile(model, "test", generate=True, max_context=CONTEXT, max_batch=4)
    with pytest.raises(axlora.BadModel, match="max_batch without generate"):
        axlora.compile(model, "test", max_batch=2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["rtl", "hls"])
def test_a_mixed_batch_is_the_simulators_elsewhere(made: Made, engine: str) -> None:
    ids = {name: np.array([[5, 6, 7], [8, 9, 1], [2, 3, 4]]) for name in made.together.inputs_info}
    wanted, found = (made.together.session(engine=e).run(ids, ["a4", None, "a11"]) for e in ("sim", engine))
    assert all(np.array_equal(wanted.codes[name], found.codes[name]) for name in wanted.codes)
    counted = UNTIMED if engine == "hls" else found.counters
    assert {name: found.counters[name] for name in counted} == {name: wanted.counters[name] for name in counted}


@pytest.mark.slow
def test_every_function_of_one_sequence_is_the_simulators_in_verilog(made: Made) -> None:
    for function in (f for f in made.together.functions if not f.batch):
        rtl, sim = (made.together.session("a11", engine=engine) for engine in ("rtl", "sim"))
        ids = list(range(3, 3 + function.rows))
        assert np.array_equal(rtl.sequence.append(function, ids), sim.sequence.append(function, ids))
        assert rtl.counters == {name: sim.counters[name] for name in rtl.counters}
