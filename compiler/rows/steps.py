"""A transformer's operators as steps: attention and pools in halves, because blocks of rows meet between them."""

from __future__ import annotations

from dataclasses import dataclass

from axlora.compiler.operators import Attention, Op, Pool, operands


@dataclass(frozen=True)
class Append:
    """The first half of an attention: a block's keys and values to the cache."""

    op: Attention


@dataclass(frozen=True)
class Attend:
    """The second half: each row's q with all keys."""

    op: Attention


@dataclass(frozen=True)
class Collect:
    """The first half of a pool: what a block gives."""

    op: Pool


@dataclass(frozen=True)
class Close:
    """The second half: when all blocks have given theirs."""

    op: Pool


Step = Op | Append | Attend | Collect | Close


def reads(op: Step) -> tuple[str, ...]:
    """The values that an operator reads."""
    match op:
        case Append():
            return op.op.k, op.op.v
        case Attend():
            return (op.op.q,)
        case Collect():
            return (op.op.x,)
        case Close():
            return (op.op.y,)
    return operands(op)


def writes(op: Step) -> str:
    """The value that an operator makes, or "" for what is not whole yet."""
    match op:
        case Append() | Collect():
            return ""
        case Attend() | Close():
            return op.op.y
    return op.y
