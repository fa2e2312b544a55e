"""Greedy generation: the token loop of one prompt, or of a batch of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack, cast, overload

import numpy as np

from .choice import AdapterChoice
from .decoder import Batch, Context, Decoder
from .engines import Engine, Left, OwnStart, Steps
from .inputs import BadInput
from .machine import Function
from .program import Program
from .run import Run, run_of
from .session import Session

if TYPE_CHECKING:
    from axlora.fpga.host import Board

Prompt = Sequence[int]


class Token(NamedTuple):
    """A generated token and the machine's cycles for it (the first: for the prompt too)."""

    token: int
    cycles: int


class SequenceToken(NamedTuple):
    """A token of a batch: the number of its prompt, then as `Token`."""

    sequence: int
    token: int
    cycles: int


class _Options(TypedDict, total=False):
    """The keywords of `generate`."""

    max_new_tokens: int
    adapter: AdapterChoice
    eos: int | None
    start: OwnStart | None
    engine: str | Engine | Board
    adapter_places: int | None
    page_rate: float | None


@overload
def generate(program: Program, prompt: Prompt, **options: Unpack[_Options]) -> Iterator[Token]: ...


@overload
def generate(program: Program, prompt: Sequence[Prompt], **options: Unpack[_Options]) -> Iterator[SequenceToken]: ...


def generate(
    program: Program,
    prompt: Prompt | Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    adapter: AdapterChoice = None,
    eos: int | None = None,
    start: OwnStart | None = None,
    engine: str | Engine | Board = "sim",
    adapter_places: int | None = None,
    page_rate: float | None = None,
) -> Iterator[Token] | Iterator[SequenceToken]:
    """Greedy generation, ties to the lowest id.

    Args:
        program: compiled with `generate=True`.
        prompt: token ids, at least one; or a list of such prompts, which are sequences of one batch. They decode together where
            the package was compiled with `max_batch`: as many as that at once, the next when one has ended.
        max_new_tokens: stop a sequence after these many.
        adapter: a name for all sequences, None for the base or the LoRA in the model itself; or one of these for each.
        eos: stop a sequence after this token.
        start: runs the machine, instead of an engine.
        engine: as of `Program.session`.
        adapter_places: as of `Program.session`.
        page_rate: as of `Program.session`.

    Yields:
        Each token as it comes, and its cycles; of several prompts the sequences' tokens in turn. The cycles of a start that
        decodes several are divided among their tokens.

    Raises:
        BadInput: no language model, an empty prompt, ids outside the vocabulary, or a context that is too short. BadAdapter: no
            such adapter, more different ones than the package's `max_loras`, or not one for each prompt.
    """
    alone = len(prompt) and isinstance(prompt[0], int | np.integer)
    prompts = [cast(Prompt, prompt)] if alone else cast(Sequence[Prompt], prompt)
    session = program.session(start=start, engine=engine, adapter_places=adapter_places, page_rate=page_rate)
    found = generated(session, prompts, max_new_tokens, adapter, eos)
    return (Token(token, cycles) for _, token, cycles in found) if alone else found


def generated(
    session: Session, prompts: Sequence[Prompt], max_new_tokens: int, adapter: AdapterChoice, eos: int | None
) -> Iterator[SequenceToken]:
    """As `generate`, of a list of prompts, on a session."""
    if not len(prompts) or not all(map(len, prompts)):
        raise BadInput("the prompt is empty", "prompt", "at least one token")
    machine, engine = session.machine, session.engine
    names = machine.adapters_of(adapter, len(prompts))
    if len(prompts) > 1 and any(f.batch for f in machine.functions):
        batch = session.batch()
        running, found = batch.running, _together(batch, names, prompts, max_new_tokens, eos)
    else:
        sequences = [session.interface.sequence(machine, engine, name, len(names) > 1) for name in names]
        running, found = sequences[0].running, _tokens(sequences, prompts, max_new_tokens, eos)
    for ids in prompts:
        running.decoder.check_room(len(ids), max_new_tokens)
    return found


def whole_run(session: Session, starts: Sequence[tuple[Function, Left]]) -> Run:
    """A generation as one run, without outputs and steps.

    Args:
        session: a simulator's.
        starts: what `engines.Kept` has of its session.
    """
    lefts = [left for _, left in starts]
    assert isinstance(session.interface, Decoder)
    layers = session.interface.layers(session.machine, starts)
    run = run_of(session.machine, session.engine, {}, {}, lefts, layers)
    return replace(run, steps=Steps(), paging=session.paging)


def _tokens(sequences: Sequence[Context], prompts: Sequence[Prompt], most: int, eos: int | None) -> Iterator[SequenceToken]:
    """One token of each sequence in turn, until all have ended."""
    waiting: dict[int, Prompt] = dict(enumerate(prompts))
    for _ in range(most):
        for number, ids in list(waiting.items()):
            before = sequences[number].cycles
            token = int(np.argmax(sequences[number].feed(ids)[-1]))
            yield SequenceToken(number, token, sequences[number].cycles - before)
            waiting[number] = [token]
            if token == eos:
                del waiting[number]


def _together(
    batch: Batch, names: Sequence[str | None], prompts: Sequence[Prompt], most: int, eos: int | None
) -> Iterator[SequenceToken]:
    """Tokens of sequences that decode together: each joins when there is a place, and leaves with its last token."""
    waiting = deque(enumerate(prompts))
    live: dict[int, tuple[Context, int]] = {}
    left = dict.fromkeys(range(len(prompts)), most)

    def went_on(number: int, sequence: Context, token: int) -> None:
        left[number] -= 1
        if left[number] and token != eos:
            live[number] = sequence, token
        else:
            live.pop(number, None)
            batch.leave(sequence)

    while waiting or live:
        while waiting and not batch.full:
            number, ids = waiting.popleft()
            sequence = batch.join(names[number])
            before = sequence.cycles
            token = int(np.argmax(sequence.feed(ids)[-1]))
            went_on(number, sequence, token)
            yield SequenceToken(number, token, sequence.cycles - before)
        if live:
            numbers, before = list(live), batch.running.counters.get("cycles", 0)
            found = batch.step([live[number] for number in numbers])
            cycles = batch.running.counters.get("cycles", 0) - before
            for n, (number, logits) in enumerate(zip(numbers, found, strict=True)):
                token = int(np.argmax(logits))
                went_on(number, live[number][0], token)
                yield SequenceToken(number, token, (n + 1) * cycles // len(numbers) - n * cycles // len(numbers))
