"""What compiled code notes of each instruction: its costs, and what it adds to the counters."""

from __future__ import annotations

COUNTS = (
    "matrix_raw",
    "matrix_product",
    "lane_groups",
    "lane_misses",
    "lane_fifo_full",
    "macs",
    "multiplications",
    "zeros",
    "rescales",
    "adapter_macs",
    "adapter_multiplications",
    "vector_elements",
    "saturations",
)
"""Counters that an instruction's action adds to; adapter_macs and adapter_multiplications are the simulator's own."""
(
    RAW,
    PRODUCT,
    LANE_GROUPS,
    LANE_MISSES,
    LANE_FIFO_FULL,
    MACS,
    MULTIPLICATIONS,
    ZEROS,
    RESCALES,
    ADAPTER_MACS,
    ADAPTER_MULTIPLICATIONS,
    VECTOR_ELEMENTS,
    SATURATIONS,
) = range(len(COUNTS))
BEATS, DURATION, FORM, COSTS = range(4)
"""Columns of costs: beats of LOAD and STORE; duration, where it is known at once; else what it follows from (`form`)."""
