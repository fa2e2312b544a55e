"""Which STORE writes what: told of places in memory that another machine left different."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import Opcode
from axlora.isa.target import Target

from .control import ADDRESS, OPCODE, Control
from .run import Machine
from .work import Record

Int64 = npt.NDArray[np.int64]


def writers(
    target: Target,
    memory: npt.NDArray[np.uint8],
    program: int,
    registers: dict[int, int],
    places: Int64,
) -> tuple[Int64, Int64]:
    """The last STORE that writes each of `places`.

    Args:
        target, memory, program, registers: as `run_image` takes them.
        places: byte addresses [n].

    Returns:
        Of each place the STORE's number among all executed ones, -1 where none writes it, and its byte address: int64 [n].
    """
    data = np.array(memory, np.uint8)
    machine = Machine(target, data, data.size, range(0))
    control = Control(target, data, program, registers, data.size)
    number, address = np.full(len(places), -1), np.zeros(len(places), np.int64)
    executed = 0
    while not control.ended:
        walk, done = control.walk(), 0
        for at in np.flatnonzero(walk[:, OPCODE] == int(Opcode.STORE)).tolist():
            machine.carry_out(walk[done:at], Record())
            before = data[places]
            found = []
            for value in (~before, before):  # what the STORE writes is the same whatever stood there
                data[places] = value
                machine.carry_out(walk[at : at + 1], Record())
                found.append(data[places])
            written = found[0] == found[1]
            number[written], address[written] = executed, walk[at, ADDRESS]
            executed, done = executed + 1, at + 1
        machine.carry_out(walk[done:], Record())
    return number, address
