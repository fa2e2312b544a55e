"""Whole models against onnxruntime, and against both integer references bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows.lower import lower
from axlora.isa.target import Target

TARGET = Target.load("test")
Feed = dict[str, np.ndarray]


def expected(proto: onnx.ModelProto, given: Feed) -> np.ndarray:
    """onnxruntime's first output."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(ort.InferenceSession(proto.SerializeToString(), options).run(None, given)[0])


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def compared(proto: onnx.ModelProto, given: Feed, **options: Any) -> tuple[axlora.Program, axlora.Run]:
    """The package's run on one sequence, whose first output is that of NumPy and of LLVM, of the region and of all."""
    options = {"operators": "all"} | options
    program = axlora.compile(proto, TARGET, **options)
    assert program.host_macs == 0
    assert {p.operator.split()[0] for p in program.placement if p.where == "host"} <= {"Gather"}
    run = axlora.simulate(program, given)
    found, bits = lower_whole(proto, TARGET, CompileOptions(**options)), TARGET.activation_bits
    values = {name: value[0] for name, value in given.items()}
    (rows, order, keys), *others = program.interface.first_rows(values)
    more = [(own, count) for own, _, count in others]
    numpy = Reference({x.name: x for x in found.lowered.linears}, [None] * len(rows), Cache(), bits, rows, keys, more)
    lower(found.region, numpy, bits, found.image.context)
    outputs, _ = found.integers(bits).run(rows, 0, keys, more=more)
    np.testing.assert_array_equal(outputs[0], numpy.output)
    name, wanted = next(iter(run.codes)), numpy.output
    stream = program.interface.results[0].stream
    orders = [order, *(own for _, own, _ in others)]
    if stream < len(orders) and len(wanted) == len(orders[stream]):
        wanted = wanted[np.argsort(orders[stream])]
    np.testing.assert_array_equal(run.codes[name].reshape(len(wanted), -1)[:, : wanted.shape[1]], wanted)
    held = {i.name: onnx.numpy_helper.to_array(i) for i in onnx_reader.read(proto, {})[0].graph.initializer}
    whole, y = found.whole(bits).run(held | given, None)[0], run.outputs[name]
    np.testing.assert_allclose(whole, y, rtol=0, atol=1e-4 * np.abs(y).max())
    return program, run
