"""Greedy generation: the token loop of one prompt, or of a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast, overload

import numpy as np

from .choice import AdapterChoice
from .engines import Called, Engine
from .inputs import BadInput
from .program import OwnStart, Program
from .session import engine_of

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


@overload
def generate(
    program: Program,
    prompt: Prompt,
    *,
    max_new_tokens: int = 64,
    adapter: AdapterChoice = None,
    eos: int | None = None,
    start: OwnStart | None = None,
    engine: str | Engine | Board = "sim",
) -> Iterator[Token]: ...


@overload
def generate(
    program: Program,
    prompt: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    adapter: AdapterChoice = None,
    eos: int | None = None,
    start: OwnStart | None = None,
    engine: str | Engine | Board = "sim",
) -> Iterator[SequenceToken]: ...


def generate(
    program: Program,
    prompt: Prompt | Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    adapter: AdapterChoice = None,
    eos: int | None = None,
    start: OwnStart | None = None,
    engine: str | Engine | Board = "sim",
) -> Iterator[Token] | Iterator[SequenceToken]:
    """Greedy generation, ties to the lowest id.

    Args:
        program: compiled with `generate=True`.
        prompt: token ids, at least one; or a list of such prompts, which are sequences of one batch.
        max_new_tokens: stop a sequence after these many.
        adapter: a name for all sequences, None for the base or the LoRA in the model itself; or one of these for each.
        eos: stop a sequence after this token.
        start: runs the machine, instead of an engine.
        engine: as `Program.session`.

    Yields:
        Each token as it comes, and its cycles; of several prompts the sequences' tokens in turn.

    Raises:
        BadInput: no language model, an empty prompt, ids outside the vocabulary, or a context that is too short. BadAdapter: no
            such adapter, more different ones than the package's `max_loras`, or not one for each prompt.
    """
    if len(prompt) and isinstance(prompt[0], int | np.integer):
        found = _tokens(program, [cast(Prompt, prompt)], max_new_tokens, adapter, eos, start, engine)
        return (Token(token, cycles) for _, token, cycles in found)
    if not len(prompt):
        raise BadInput("the prompt is empty", "prompt", "at least one token")
    return _tokens(program, cast(Sequence[Prompt], prompt), max_new_tokens, adapter, eos, start, engine)


def _tokens(
    program: Program,
    prompts: Sequence[Prompt],
    most: int,
    adapter: AdapterChoice,
    eos: int | None,
    start: OwnStart | None,
    engine: str | Engine | Board,
) -> Iterator[SequenceToken]:
    """One token of each sequence in turn, until all have ended."""
    names, many = program.adapters_of(adapter, len(prompts)), len(prompts) > 1
    used = engine_of(engine) if start is None else Called(start)
    sequences = [program.interface.sequence(program, used, name, many) for name in names]
    waiting: dict[int, Prompt] = dict(enumerate(prompts))
    for number, prompt in waiting.items():
        if not len(prompt):
            raise BadInput("the prompt is empty", "prompt", "at least one token")
        sequences[number].check_room(len(prompt), most)
    for _ in range(most):
        for number, ids in list(waiting.items()):
            sequence = sequences[number]
            before = sequence.cycles
            token = int(np.argmax(sequence.feed(ids)[-1]))
            yield SequenceToken(number, token, sequence.cycles - before)
            waiting[number] = [token]
            if token == eos:
                del waiting[number]
