"""The programs of a decoder on the simulator equal the integer reference bit for bit, at every position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tiny_decoder import VOCABULARY, Decoder, IntegerReference, Machine, Sizes, random_branches, random_decoder

from axlora.compiler.backend.build_image import build_region, place
from axlora.compiler.backend.emit_attention import Emit
from axlora.compiler.backend.emit_rows import whole_context
from axlora.compiler.backend.memory_layout import Memory
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.operators import Attention, Function, NormKind
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import read_region
from axlora.isa.assembly import fields_of
from axlora.isa.legality import check_program
from axlora.isa.opcodes import Into, Map, Opcode, Reduce
from axlora.isa.target import Target
from axlora.sim.run import run_image

SHORT = Sizes(layers=1, context=13)
"""A context that is no multiple of lanes, of ports, or of T."""


def _compare(
    sizes: Sizes,
    target: Target,
    chunks: Sequence[int],
    ranks: Sequence[int] = (),
    names: Sequence[str | None] = (None,),
    seed: int = 0,
) -> None:
    """Feed chunks of T rows or one; row r of the sequence has adapter names[r mod len(names)]."""
    decoder = random_decoder(sizes, seed)
    adapters = {f"a{n}": rank for n, rank in enumerate(ranks)}
    linears = decoder.quantized(target, {a: random_branches(decoder, rank, 9 + rank) for a, rank in adapters.items()})
    machine = Machine(decoder, target, linears, adapters)
    wanted = IntegerReference(decoder, linears, target.activation_bits, machine.image.context)
    assert sum(chunks) <= sizes.context
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, sum(chunks))
    for count in chunks:
        first = machine.position
        own = [names[r % len(names)] for r in range(first, first + count)]
        now = ids[first : first + count]
        start = machine.start(wanted.rows(now), own)
        result = run_image(target, start.memory, start.program, start.registers, timing=False)
        got = machine.finish(start, result.memory)
        expected = wanted.feed(now, own)
        assert machine.image.fractions[decoder.model.output] == wanted.output_fraction
        assert np.array_equal(got, expected), f"rows {first} .. {machine.position - 1}"
        assert len(np.unique(got)) > VOCABULARY // 2


def test_prefill_and_decode_to_the_last_position() -> None:
    """T rows at a time, then one, up to the end of a context of 13."""
    _compare(SHORT, Target.load("test"), [2, 2, 2, 2] + [1] * 5)


def test_decode_alone() -> None:
    """One row from position 0 on: every edge of lanes (8), of ports (4) and of T."""
    _compare(SHORT, Target.load("test"), [1] * 13)


def test_prefill_and_decode_take_turns() -> None:
    """T rows at any multiple of T, after single rows too: what a second prompt in one context does."""
    _compare(SHORT, Target.load("test"), [1, 1, 2, 1, 1, 2, 2, 1, 1, 1])


def test_layer_norms_with_biases_and_gelu() -> None:
    sizes = Sizes(layers=1, context=12, norm=NormKind.LAYER, function=Function.GELU)
    _compare(sizes, Target.load("test"), [2, 2, 1, 1])


EXPERTS = Sizes(layers=1, context=12, experts=5, inner=24)
"""More experts than a word has elements, and no multiple of it."""


def test_experts_with_adapters() -> None:
    _compare(EXPERTS, Target.load("test"), [2, 2, 1, 1], ranks=[4], names=["a0", None])


@pytest.mark.parametrize("woven", [False, True])
@pytest.mark.parametrize("name", ["test", "zcu104"])
def test_packed_projection_and_learned_positions(name: str, woven: bool) -> None:
    """GPT-2's form: heads begin within a value, and there is no table by position; woven heads have a scale of k and v each."""
    target = Target.load(name)
    kind = {"norm": NormKind.LAYER, "function": Function.GELU_TANH, "packed": True, "woven": woven}
    sizes = Sizes(layers=1, context=13, kv_heads=4, **kind)  # type: ignore[arg-type]
    scales = [op.one_scale for op in random_decoder(sizes).model.operators if isinstance(op, Attention)]
    assert scales == [not woven]
    _compare(sizes, target, [target.tokens] * (8 // target.tokens) + [1] * 5, (4,), [None, "a0"])


@pytest.mark.parametrize("ranks", [(4,), (13,), (4, 13)], ids=str)
def test_adapters_in_slots_beside_the_base(ranks: tuple[int, ...]) -> None:
    """Rank 4 and one above lanes; base and adapters mixed in a start, each token its own."""
    names = [None, *(f"a{n}" for n in range(len(ranks)))]
    _compare(SHORT, Target.load("test"), [2, 2, 2, 1, 1, 1], ranks, names)


def test_all_rows_of_one_adapter_and_none() -> None:
    _compare(SHORT, Target.load("test"), [2, 2, 1], (4,), ["a0"])
    _compare(SHORT, Target.load("test"), [2, 2, 1], (4,), [None])


def test_zcu104() -> None:
    """T is 4, a beat 16 bytes, 32 lanes: a context of 40 crosses an edge of lanes."""
    _compare(Sizes(layers=1, context=40), Target.load("zcu104"), [4] * 8 + [1, 1], (4,), [None, "a0"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["test", "zcu104"])
def test_two_layers_to_the_end_of_their_context(name: str, seed: int) -> None:
    target = Target.load(name)
    kind = {"norm": NormKind.LAYER, "function": Function.GELU_TANH} if seed % 2 else {}
    sizes = Sizes(context=44, heads=2 + 2 * (seed // 2), kv_heads=2, dim=32 if seed == 3 else 16, **kind)  # type: ignore[arg-type]
    chunks = [target.tokens] * (36 // target.tokens) + [1] * 8
    ranks = (4, target.lanes + 3)
    _compare(sizes, target, chunks, ranks, [None, "a1", "a0"], seed)


@pytest.mark.parametrize("name", ["test", "zcu104"])
def test_programs_are_legal_and_one_for_one_row_and_one_for_t(name: str) -> None:
    target = Target.load(name)
    decoder = random_decoder(SHORT)
    machine = Machine(decoder, target, decoder.quantized(target), {})
    assert {1, target.tokens} <= set(machine.image.programs)
    for program in machine.image.programs.values():
        check_program(program.instructions)
    unit = max(target.lanes, target.ports)
    assert machine.image.context == -(-SHORT.context // unit) * unit


@pytest.mark.parametrize("tokens", [8, 32])
def test_rounds_of_attention_ahead_and_one_after_the_other(tokens: int) -> None:
    """With room for the row scales of 8 rows, those of a start of 8 are kept once; of one row, scales of q take turns."""
    target = replace(Target.load("test"), tbuf_tokens=tokens)
    _compare(Sizes(layers=1, context=20), target, [8, 8, 1, 1, 2])


def test_no_pass_only_reduces_what_the_one_before_has_made() -> None:
    """In a start of one group a norm takes the sum of what the residual before it makes: a layer's second, and the last."""
    sizes = Sizes(layers=1, context=12, norm=NormKind.LAYER, function=Function.GELU)
    decoder, target = random_decoder(sizes), Target.load("test")
    program = Machine(decoder, target, decoder.quantized(target), {}).image.programs[1].instructions
    maps = [fields_of(i) | {"opcode": i.opcode} for i in program if i.opcode in (Opcode.VMAP, Opcode.VREQ, Opcode.VROW)]
    sums = [f for f in maps if f["opcode"] is Opcode.VMAP and f["reduce"] == Reduce.SUM and f["function"] == Map.MAC]
    assert [f["into"] for f in sums] == [Into.NOTHING, Into.VBUF, Into.VBUF]  # the first norm's row is read from memory
    maps = maps[maps.index(sums[0]) :]
    for one, two in itertools.pairwise(maps):
        alone = two["opcode"] is Opcode.VMAP and two["function"] == Map.MAC and two["into"] == Into.NOTHING
        makes = one["opcode"] is Opcode.VMAP and one["into"] == Into.VBUF and one["reduce"] == Reduce.NONE
        assert not (alone and makes and (one["to"], one["words"]) == (two["a"], two["words"]))


def test_more_slots_than_the_positions_leave_is_refused() -> None:
    target, decoder = Target.load("test"), random_decoder(SHORT)
    linears = decoder.quantized(target)
    region = read_region(decoder.module(linears, 8, Starts.DECODE, 4), [*linears.values()])
    with pytest.raises(BadModel, match="5 adapter slots"):
        build_region(target, region, [*linears.values()], slots=5)


@pytest.mark.parametrize("dim", [6, 10, 12, 20])
@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_heads_and_halves_that_are_no_whole_words(lanes: int, dim: int) -> None:
    """Halves of 3 to 10 features in words of 2 to 8, with adapters on every linear."""
    target = Target.load("test") if lanes == 2 else replace(Target.load("zcu104"), vector_lanes=lanes)
    sizes = Sizes(layers=1, dim=dim, context=20)
    _compare(sizes, target, [target.tokens] * 2 + [1] * 3, (4,), [None, "a0"], seed=dim)


def _emits(decoder: Decoder, target: Target, rows: int, dry: bool) -> str:
    """What an emission for one block of `rows` rows is refused with; empty if it fits."""
    linears = decoder.quantized(target)
    context = whole_context(target, decoder.sizes.context)
    try:
        memory = Memory()
        fixed = 2 * -(-max(context, decoder.sizes.dim + target.beat_bytes) // target.ports)
        placed = place(target, list(linears.values()), memory, 0, 0, fixed, set(), -(-rows // target.tokens))
        emit = Emit(target, placed, memory, [[(0, rows)]], context, [(decoder.sizes.dim,) * 2], dry)
        lower(decoder.region(linears), emit, target.activation_bits, context)
    except DoesNotFit as error:
        return str(error)
    return ""


@pytest.mark.parametrize("buffer", ["vbuf_words", "cbuf_words", "ubuf_lines", "acc_words", "table_entries"])
def test_a_dry_run_of_one_group_refuses_what_all_groups_refuse(buffer: str) -> None:
    """Over sizes of each buffer, of which some are too small; 7 rows end in a group that is not full."""
    decoder, target = random_decoder(SHORT), Target.load("test")
    refusals = []
    for exponent in range(4, 15):
        own = replace(target, **{buffer: 1 << exponent})
        for rows in (target.tokens, 7, 12):
            real = _emits(decoder, own, rows, dry=False)
            assert _emits(decoder, own, rows, dry=True) == real
            refusals.append(real)
    assert "" in refusals
    assert any(refusals)
