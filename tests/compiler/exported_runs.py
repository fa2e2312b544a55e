"""Exported and quantized models, and what onnxruntime makes of them."""

from __future__ import annotations

from pathlib import Path

import exported as E
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

FREE = {"batch": E.BATCH, "sequence": E.SEQUENCE}


def path_of(file: str, form: str, folder: Path) -> Path:
    """The file, quantized if `form` is not `float`."""
    source = E.MODELS / f"{file}.onnx"
    if form == "float":
        return source
    E.quantize(source, form, folder / "quantized.onnx")
    return folder / "quantized.onnx"


def run(model: onnx.ModelProto | Path, names: list[str] | None = None, sample: int = 1) -> dict[str, np.ndarray]:
    """Float tensors of the model by onnxruntime without its own rewrites."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if isinstance(model, Path):
        runner = ort.InferenceSession(str(model), options)
    else:
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        known = {o.name for o in watched.graph.output} | {i.name for i in watched.graph.input}
        extra = [n for n in dict.fromkeys(names or []) if n not in known]
        watched.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in extra)
        runner = ort.InferenceSession(watched.SerializeToString(), options)
    wanted = [o.name for o in runner.get_outputs()]
    feed = list(E.feeds(sample + 1))[sample]
    return dict(zip(wanted, runner.run(wanted, feed), strict=True))
