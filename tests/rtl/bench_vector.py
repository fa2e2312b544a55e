"""cocotb side of test_units_vector: one element a cycle into vector_element; batches begin with an empty pipe."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from harness import answer, read_job

STAGES = 16
"""Stage 7 operands to stage 23 result."""


@cocotb.test()
async def run_batches(dut: Any) -> None:
    """Job: batches of (configuration, operands a cycle), values by port name. Answers (result, changed) of each element."""
    Clock(dut.i_clk, 2, unit="ns").start()
    found = []
    for configuration, elements in read_job():
        for name, value in configuration.items():
            getattr(dut, name).value = value
        results = []
        for cycle in range(len(elements) + STAGES):
            await FallingEdge(dut.i_clk)
            if cycle >= STAGES:
                results.append((int(dut.o_result.value), int(dut.o_changed.value)))
            if cycle < len(elements):
                for name, value in elements[cycle].items():
                    getattr(dut, name).value = value
        found.append(results)
    answer(found)
