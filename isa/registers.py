"""The registers that instructions read: R0..R31, where each window has its own R16..R31."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .opcodes import MOST_REGISTERS, REGISTERS, REGISTERS_OF_ALL

_OFFSET = {register.name: register.offset for register in REGISTERS}
NAMED = 32
"""Registers that a field of an instruction can name."""


def in_window(window: int, values: Mapping[int, int]) -> dict[int, int]:
    """What the host writes so that a window holds these values: the numbers of R16..R31 become those of its own.

    Args:
        values: register (1..31) -> value.
    """
    own = NAMED - REGISTERS_OF_ALL
    return {n + window * own if n >= REGISTERS_OF_ALL else n: value for n, value in values.items()}


def every_window(values: Mapping[int, int], register: int) -> list[int]:
    """What a register (1..31) holds in the windows that `values` tell of."""
    apart = NAMED - REGISTERS_OF_ALL
    same = [n for n in values if n >= REGISTERS_OF_ALL and (n - register) % apart == 0]
    return [values[n] for n in (same if register >= REGISTERS_OF_ALL else [register]) if n in values]


def register_offset(number: int) -> int:
    """Byte offset of a register in the AXI4-Lite slave; `number` as `in_window` gives it."""
    return _OFFSET["REGS" if number < NAMED else "WINDOWS"] + 4 * number


class RegisterFile:
    """What a program finds in R0..R31 as it runs: a list, of the window that is chosen."""

    def __init__(self, values: Mapping[int, int] | None = None) -> None:
        """`values`: what the host wrote, by number; window 0 is chosen."""
        self._values = {n: value & 0xFFFFFFFF for n, value in (values or {}).items() if n}
        self.seen = [self._values.get(n, 0) for n in range(NAMED)]

    def choose(self, window: int) -> None:
        """R16..R31 are those of this window from now on."""
        first = NAMED - REGISTERS_OF_ALL
        begin = REGISTERS_OF_ALL + window * first
        self.seen[REGISTERS_OF_ALL:] = [self._values.get(begin + n, 0) for n in range(first)]

    def every(self) -> npt.NDArray[np.int64]:
        """What the host wrote to the registers of all windows, by number as `in_window` gives it: int64 [MOST_REGISTERS]."""
        found = np.zeros(MOST_REGISTERS, np.int64)
        for number, value in self._values.items():
            if number < MOST_REGISTERS:
                found[number] = value
        return found
