"""A cell of docs/forms.md: a form of a model compiled, run, and held against onnxruntime on the same file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import form_files as F
import numpy as np
import onnx

import axlora
from axlora.compiler.frontend.cache import is_cache
from axlora.compiler.passes.placement import computes_on_host

NUMBERS, MOST = 400, 24
"""Samples are as many as give so many numbers, and no more than so many: few logits say little."""
TIMES = {"dynamic int8": 4}
"""So many times as many numbers and samples where onnxruntime's own rounding is no larger than the machine's."""
TARGET = "test"


@dataclass(frozen=True)
class Cell:
    """What came of a form of a model."""

    refusal: str = ""
    """The error's words; empty where it compiled."""
    error: float = 0
    """Norm of the difference to onnxruntime on the same file, over the norm of what onnxruntime gives."""
    ratio: float | None = None
    """Distance to the float model over that of onnxruntime on the same file; None of floats."""
    host: int = 0
    """Operators that the host computes, embeddings' lookups not among them."""

    @property
    def whole(self) -> bool:
        """Whether everything between first rows and outputs runs on the accelerator."""
        return not self.refusal and not self.host


def _distance(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    a, b = (np.concatenate([y.astype(np.float64).ravel() for y in each]) for each in (got, wanted))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _by_onnxruntime(proto: onnx.ModelProto, feeds: list[F.Feed]) -> list[np.ndarray]:
    runner = F.session(proto)
    kinds = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in proto.graph.input}
    return [np.asarray(runner.run(None, {n: feed[n].astype(kind) for n, kind in kinds.items()})[0]) for feed in feeds]


@cache
def _in_float(tiny: F.Tiny, times: int) -> tuple[list[F.Feed], list[np.ndarray]]:
    """The samples, and what the float model gives."""
    proto = F.loaded(tiny)
    feeds = list(F.feeds(proto, times * MOST))
    outputs = _by_onnxruntime(proto, feeds)
    count = min(times * MOST, -(-times * NUMBERS // outputs[0].size))
    return feeds[:count], outputs[:count]


def measured(tiny: F.Tiny, form: str) -> Cell | None:
    """The cell; None where no such file is there."""
    proto = F.made(tiny, form)
    if proto is None:
        return None
    source = F.loaded(tiny)
    feeds, exact = _in_float(tiny, TIMES.get(form, 1))
    samples = list(F.feeds(source, F.CALIBRATED, seed=F.SEED))
    floats = any(value.dtype.kind == "f" and not is_cache(name) for name, value in samples[0].items())
    calibration = {name: np.stack([feed[name] for feed in samples]) for name in samples[0]} if floats else None
    try:
        program = axlora.compile(proto, TARGET, calibration=calibration)
    except axlora.Error as error:
        return Cell(refusal=f"{error.where}: {error.message}")
    kinds = {name: kind for name, (_, kind) in program.inputs_info.items()}
    given = ({n: feed[n].astype(kind) for n, kind in kinds.items()} for feed in feeds)
    runs = (axlora.simulate(program, each, timing=False) for each in given)
    got = [next(iter(run.outputs.values())) for run in runs]
    wanted = _by_onnxruntime(F.reference(tiny, form, proto), feeds)
    rows = computes_on_host(program.placement)
    host = [row for row in rows if program.kind != "whole" or not row.operator.startswith("Gather")]
    ratio = _distance(got, exact) / _distance(wanted, exact) if F.quantized(form) else None
    return Cell("", _distance(got, wanted), ratio, len(host))
