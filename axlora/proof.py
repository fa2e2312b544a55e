"""What `compile` tries before it says that a package is there: the host's part of a run, on a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.boundary import restore
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend.operators import named
from axlora.compiler.frontend.tvm_import import refused

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

    def machine(stage: int, _: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        found = [info.tensor for info in program.outputs if info.stage == stage]
        return {t.source: restore(t, rng.integers(-_NOISE, _NOISE, (t.tokens, t.columns))) for t in found}

    part, graph = program.host_part, program.host.model.graph
    try:
        outputs = part.run(random_inputs(program, 0), machine)
    except Exception as error:  # TVM raises several types here
        raise refused(program.host.model, error) from error
    for value in graph.output:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        found = outputs[value.name].shape if value.name in outputs else shape
        if found != shape:
            node = next(n for n in graph.node if value.name in n.output)
            what = f"operator {node.op_type} in this form (TVM gives {value.name!r} the shape {found}, ONNX {shape})"
            raise UnsupportedOperator(what, named(node), "replace it in the model, or leave that result out")


def prove_whole(whole: Whole) -> None:
    """Pick the rows of embeddings of random inputs, and lay out the memory of a run."""
    inputs = random_inputs(whole, 0)
    whole.ready({name: value[0] for name, value in inputs.items()}, None)


def prove_generator(generator: Generator) -> None:
    """Pick a row of embeddings."""
    generator.rows([0], 0)
