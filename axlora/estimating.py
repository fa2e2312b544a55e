"""Cycles of a model by its config.json: its programs on the simulator, with drawn weights that layers share in memory."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from axlora.compiler.backend.build_image import MEMORY, Code, Image
from axlora.compiler.operators import Linear
from axlora.compiler.pipelines.drawn import Asked, Scales, lower_drawn
from axlora.compiler.pipelines.transformers import Generated
from axlora.isa.opcodes import INSTRUCTION_BYTES, Buffer, Opcode
from axlora.isa.target import Target
from axlora.sim.control import ADDRESS, OPCODE, SUB, X
from axlora.sim.run import run_image
from axlora.timing.memory import ADDRESS as LAST

from .building import generator_program, whole_program
from .engines import Left, Start, left_of
from .machine import Int64
from .program import Program

_OF_LINEARS = np.isin(np.arange(max(Buffer) + 1), [Buffer.WBUF, Buffer.PBUF, Buffer.SBUF])
"""[buffer]: whether what does not change comes there for linears."""


@dataclass(frozen=True)
class Drawn:
    """A model of drawn weights."""

    program: Program
    """Its memory holds shared weights once; it is no package."""
    engine: Estimator
    """Which runs it."""
    needed: int
    """Bytes of memory that it takes of a machine."""

    @property
    def fits_memory(self) -> bool:
        """Whether the machine's addresses reach all of it."""
        return self.needed <= MEMORY


class Estimator:
    """The simulator, where addresses of weights are those of a memory in which every linear has its own."""

    view = "estimate"
    clock_mhz = None

    def __init__(self, found: Generated) -> None:
        self._codes = {code.address: code for code in found.image.codes}
        self._content = found.image.content
        self._linears = _linears_at(found)
        self._constants = max(0, self._content.size - MEMORY)

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`."""
        code = self._codes[start.function.address]
        found = run_image(
            target, start.memory, code.address, start.registers, moved=lambda walk: self._moved(code, walk), checked=True
        )
        return left_of(found, start.trace)

    def _moved(self, code: Code, walk: Int64) -> Int64:
        """The walk with places of `Image.data` in place of addresses of read-only data.

        An address counts modulo 2**32: whose instruction it is tells which of several it is.
        """
        moved = walk.copy()
        number = (walk[:, ADDRESS] - code.address) // INSTRUCTION_BYTES
        loads = np.flatnonzero((walk[:, OPCODE] == Opcode.LOAD) & (np.array(code.areas)[number] == 0))
        owner = np.array(code.owners)[number[loads]]
        first = np.where(_OF_LINEARS[walk[loads, SUB]], self._linears[owner], self._constants)
        moved[loads, X] = self._content.places(first + ((walk[loads, X] - first) & LAST))
        return moved


def _linears_at(found: Generated) -> Int64:
    """[operators]: where a linear's weights begin; 0 of others."""
    tilings = found.image.tilings
    return np.array([tilings[op.name].weights[0] if isinstance(op, Linear) else 0 for op in found.region.operators], np.int64)


def draw(
    data: Mapping[str, Any],
    where: str,
    target: Target,
    asked: Asked,
    shared: bool = True,
    only: Set[str] = frozenset(),
    scales: Scales | None = None,
) -> Drawn:
    """The model that a config.json describes.

    Args:
        all: as of `lower_drawn`.

    Raises:
        BadModel, DoesNotFit: as `lower_drawn`.
    """
    found = lower_drawn(data, where, target, asked, shared, only, scales)
    if found.image.cache or found.region.starts.value == "decode":
        program = generator_program(found, target, {}, None)
    else:
        inputs = {name: "int64" for lookup in found.model.lookups for name in (lookup.input,)}
        program = whole_program(found, target, inputs | {"attention_mask": "int64"}, {}, None)
    return Drawn(program, Estimator(found), found.image.needed)
