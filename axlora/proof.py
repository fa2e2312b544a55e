"""What `compile` tries before it says that a package is there: the host's part of a run, on a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.boundary import restore

from .generator import Generator
from .inputs import random_inputs
from .program import Program
from .whole import Whole

_NOISE = 100
"""Largest code of what stands in for the machine's results."""


def prove_program(program: Program) -> None:
    """Build the host part and run it on random inputs, with noise for what the machine gives back.

    Raises:
        UnsupportedOperator: operators of the host part that TVM does not compile, by node.
    """
    rng = np.random.default_rng(0)

    def machine(stage: int, values: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        for info in program.read_stage(stage):
            if values[info.tensor.source].size != info.tensor.tokens * info.tensor.values:
                raise RuntimeError(f"the host part gives {info.tensor.source!r} in another size than its linears read")
        found = [info.tensor for info in program.outputs if info.stage == stage]
        return {t.source: restore(t, rng.integers(-_NOISE, _NOISE, (t.tokens, t.columns))) for t in found}

    outputs = program.host_part.run(random_inputs(program, 0), machine)
    for value in program.host.model.graph.output:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if value.name in outputs and outputs[value.name].shape != shape:
            raise RuntimeError(f"the host part gives {value.name!r} of shape {outputs[value.name].shape}, not {shape}")


def prove_whole(whole: Whole) -> None:
    """Pick the rows of embeddings of random inputs, and lay out the memory of a run."""
    inputs = random_inputs(whole, 0)
    whole.ready({name: value[0] for name, value in inputs.items()}, None)


def prove_generator(generator: Generator) -> None:
    """Pick a row of embeddings."""
    generator.rows([0], 0)
