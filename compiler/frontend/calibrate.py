"""Give the linears of a float model static scales: run it on samples (Relax VM) and put Q/DQ on what the linears read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.found import FoundLinear
from axlora.compiler.frontend.tvm_import import import_onnx

Ranges = dict[str, tuple[float, float]]


def _samples(model: onnx.ModelProto, data: Mapping[str, npt.NDArray[Any]], where: str) -> list[list[npt.NDArray[Any]]]:
    """The samples, each a list in the order of the model's inputs."""
    constants = {i.name for i in model.graph.initializer}
    rows, count = [], None
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if value.name not in data:
            raise BadModel(f"calibration data lacks input {value.name!r}", where, "add it to the .npz")
        given = np.asarray(data[value.name])
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if given.shape[1:] != shape or (count is not None and len(given) != count) or not len(given):
            hint = f"first axis samples (the same for all), then {shape}"
            raise BadModel(f"calibration data of {value.name!r} has shape {given.shape}", where, hint)
        if not np.isfinite(given).all():
            raise BadModel(f"calibration data of {value.name!r} holds NaN or infinity", where, "clean the data")
        count = len(given)
        rows.append(given.astype(dtype))
    return [[np.ascontiguousarray(r[i]) for r in rows] for i in range(count or 0)]


def ranges(model: onnx.ModelProto, names: list[str], data: Mapping[str, npt.NDArray[Any]], where: str) -> Ranges:
    """Least and greatest value of each tensor over the samples.

    Raises:
        BadModel: data that does not fit the model's inputs.
    """
    samples = _samples(model, data, where)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    module = relax.transform.BindParams("main", {})(import_onnx(watched, where))
    function = module["main"]
    weights = list(function.attrs["params"]) if "params" in function.attrs else []
    machine = relax.VirtualMachine(relax.build(module, target="llvm"), tvm.cpu())
    result: Ranges = {}
    for sample in samples:
        values = machine["main"](*[tvm.runtime.tensor(v) for v in sample], *weights)
        for name, value in zip(names, [values] if len(names) == 1 else list(values), strict=True):
            array = value.numpy()
            low, high = result.get(name, (0.0, 0.0))
            result[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return result


def _insert(model: onnx.ModelProto, name: str, low: float, high: float, bits: int) -> str:
    """Append Q/DQ of `name` (asymmetric, zero included); returns the dequantized tensor."""
    scale = np.float32((high - low) / ((1 << bits) - 1)) if high > low else np.float32(1)
    zero = int(np.clip(np.rint(-(1 << (bits - 1)) - low / float(scale)), -(1 << (bits - 1)), (1 << (bits - 1)) - 1))
    g, tags = model.graph, [f"{name}.scale", f"{name}.zero_point"]
    g.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), tags[0]))
    g.initializer.append(numpy_helper.from_array(np.array(zero, f"int{bits}"), tags[1]))
    shape = next(
        [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*g.input, *g.value_info, *g.output) if v.name == name
    )
    code, real = f"{name}.codes", f"{name}.dequantized"
    kind = TensorProto.INT8 if bits == 8 else TensorProto.INT16
    g.value_info.extend(
        [helper.make_tensor_value_info(code, kind, shape), helper.make_tensor_value_info(real, TensorProto.FLOAT, shape)]
    )
    nodes = [
        helper.make_node("QuantizeLinear", [name, *tags], [code], name=f"{name}/quantize"),
        helper.make_node("DequantizeLinear", [code, *tags], [real], name=f"{name}/dequantize"),
    ]
    at = next((i for i, n in enumerate(g.node) if name in n.output), -1) + 1
    kept = list(g.node)
    del g.node[:]
    g.node.extend([*kept[:at], *nodes, *kept[at:]])
    return real


def calibrate(
    model: onnx.ModelProto, linears: tuple[FoundLinear, ...], data: Mapping[str, npt.NDArray[Any]], bits: int, where: str
) -> onnx.ModelProto:
    """A copy of the model in which every given linear reads a Q/DQ pair of `bits` bits.

    Raises:
        BadModel: data that does not fit the model's inputs.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    found = ranges(model, list(dict.fromkeys(f.x_name for f in linears)), data, where)
    real = {name: _insert(result, name, low, high, bits) for name, (low, high) in found.items()}
    wanted = {f.product for f in linears}
    for node in result.graph.node:
        if node.output and node.output[0] in wanted:
            node.input[0] = real[node.input[0]]
    return result
