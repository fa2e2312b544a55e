"""The trace of a run: what each instruction had of the counters adds up to them, and the units' times are in order."""

from __future__ import annotations

import numpy as np
import pytest
from programs import TARGETS, random_case

from axlora.isa.instruction import decode
from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS
from axlora.sim.run import run_image
from axlora.sim.timeline import UNITS


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["test", "mac-4x2"])
def test_shares_of_instructions_add_up_to_the_counters(name: str, seed: int) -> None:
    case = random_case(seed, TARGETS[name])
    run = run_image(case.target, case.memory, 0, case.registers)
    assert run.trace is not None
    for unit in UNITS:
        own = {counter: run.trace.total(counter) for counter in UNIT_COUNTERS[unit]}
        assert own == {counter: run.counters[counter] for counter in own}
        mine = run.trace.unit == unit
        accept, done = run.trace.accept[mine], run.trace.done[mine]
        assert accept.size > 0
        assert (accept < done).all()
        assert (accept[1:] >= done[:-1]).all()
    for counter in ("macs", "multiplications", "vector_elements"):
        places, values = run.trace.shares[counter]
        assert values.sum() == run.counters[counter] > 0
        assert np.isin(run.trace.unit[places], UNITS).all()


@pytest.mark.parametrize("seed", range(3))
def test_every_wait_names_the_instruction_that_ended_it(seed: int) -> None:
    """It posts that semaphore, and was done before the other was accepted; the last of them just then."""
    case = random_case(seed, TARGETS["test"])
    trace = run_image(case.target, case.memory, 0, case.registers).trace
    assert trace is not None
    posted, waited = trace.signals.T
    assert (trace.done[posted] <= trace.accept[waited]).all()
    semaphores = [decode(case.memory[at : at + INSTRUCTION_BYTES]) for at in trace.address.tolist()]
    assert np.array_equal(np.bincount(waited, minlength=len(semaphores)), [len(i.waits) for i in semaphores])
    assert all(set(semaphores[one].posts) & set(semaphores[two].waits) for one, two in trace.signals.tolist())
    late = np.zeros(len(semaphores), np.int64)
    for name in ("load_semaphore", "matrix_weights", "matrix_semaphore", "vector_semaphore", "store_semaphore"):
        if name in trace.shares:
            places, values = trace.shares[name]
            late[places] += values
    last = np.zeros(len(semaphores), np.int64)
    np.maximum.at(last, waited, trace.done[posted])
    assert late.any()
    assert np.array_equal(trace.accept[late > 0], last[late > 0])
