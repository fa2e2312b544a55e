"""The passes of every kind of model, in their order: `from_onnx` gives the first module, each pass makes the next.

Between reading and lowering stands what is no pass: recognition (`recognise_*`), which looks at a module and changes nothing,
and calibration, which needs data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm

from axlora.compiler.layer import Lowered
from axlora.compiler.passes.lower_linears import LowerLinears, Names, Smooth
from axlora.compiler.passes.lower_rows import Calibrated, LowerRows
from axlora.compiler.passes.partition import Partition
from axlora.compiler.passes.plain_indices import plain_indices

READ_LINEARS: tuple[Any, ...] = ()
"""Before the linears of a model with a host part are recognised."""
READ_WHOLE: tuple[Any, ...] = (plain_indices,)
"""Before a whole model is recognised."""


def lower_linears(names: Names, lowered: Lowered, smooth: Smooth, rank: int, bits: int) -> tuple[Any, ...]:
    """From the imported module to the regions of the accelerator in a host part.

    Args:
        names: of the imported module.
        lowered: the quantized linears.
        smooth: what the channels of tensors are divided by.
        rank: of the adapter branches; 0 for none.
        bits: the target's activation bits.
    """
    return LowerLinears(names, lowered, smooth, rank, bits), Partition(rank)


def lower_rows(names: Names, calibrated: Calibrated) -> tuple[Any, ...]:
    """From the imported module of a whole model to the region of the accelerator, between what the host does.

    Args:
        names: of the imported module.
        calibrated: the recognised model with its linears and magnitudes.
    """
    return LowerRows(names, calibrated), Partition(0)


def run(module: tvm.IRModule, passes: Sequence[Any]) -> list[tuple[str, tvm.IRModule]]:
    """The name of each pass and the module that it makes, in order."""
    made: list[tuple[str, tvm.IRModule]] = []
    for each in passes:
        module = each(module)
        made.append((str(each.info.name), module))
    return made
