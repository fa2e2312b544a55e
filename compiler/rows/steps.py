"""A transformer's operators as steps: attention, windows and pools in halves, because blocks of rows meet between them."""

from __future__ import annotations

from dataclasses import dataclass

from axlora.compiler.operators import Attention, Op, Pool, Window, operands


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


@dataclass(frozen=True)
class Keep:
    """The first half of a window: a block's rows to memory."""

    op: Window


@dataclass(frozen=True)
class Slide:
    """The second half: each row's own of them side by side."""

    op: Window


Step = Op | Append | Attend | Keep | Slide | Collect | Close


def reads(op: Step) -> tuple[str, ...]:
    """The values that an operator reads."""
    match op:
        case Append():
            return op.op.k, op.op.v
        case Attend():
            return (op.op.q,)
        case Collect() | Keep():
            return (op.op.x,)
        case Slide():
            return ()
        case Close():
            return (op.op.y,)
    return operands(op)


def writes(op: Step) -> str:
    """The value that an operator makes, or "" for what is not whole yet."""
    match op:
        case Append() | Collect() | Keep():
            return ""
        case Attend() | Close() | Slide():
            return op.op.y
    return op.y
