"""Static scales for the linears of a float model: run base and adapters on samples, watch what the linears read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.host_graph import cut
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.frontend.smoothing import Inputs, Widths, smoothing
from axlora.compiler.host import HostPart, Values

Float64 = npt.NDArray[np.float64]
Ranges = dict[str, tuple[Float64, Float64]]
Linears = tuple[FoundLinear, ...]
Weights = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def stacked(name: str, given: npt.NDArray[Any], shape: tuple[int, ...], where: str) -> npt.NDArray[Any]:
    """Calibration data of one input as [samples, *shape].

    Args:
        name: the input.
        given: that; or one sample of exactly `shape`; or samples without the batch axis, where a batch is one row.
        shape: the input's own, as compiled.
        where: the model, for messages.

    Raises:
        BadModel: another shape, with the one that is expected; no samples; NaN or infinity.
    """
    given = np.asarray(given)
    if given.shape == shape:
        given = given[None]
    elif shape[:1] == (1,) and given.ndim and given.shape[1:] == shape[1:]:
        given = given[:, None]
    if not given.ndim or given.shape[1:] != shape or not len(given):
        wanted = f"[{', '.join(map(str, ('samples', *shape)))}]"
        hint = f"expected {wanted}, or one sample of shape {shape}"
        raise BadModel(f"calibration data of {name!r} has shape {np.shape(given)}", where, hint)
    if given.dtype.kind not in "fiub":
        raise BadModel(f"calibration data of {name!r} has type {given.dtype}, must be numbers", where, "numbers")
    if not np.isfinite(given).all():
        raise BadModel(f"calibration data of {name!r} holds NaN or infinity", where, "clean the data")
    return given


def samples(model: onnx.ModelProto, data: Mapping[str, npt.NDArray[Any]], where: str) -> list[dict[str, npt.NDArray[Any]]]:
    """The samples, each an array an input.

    Raises:
        BadModel: inputs that are missing, of other shapes, or not finite.
    """
    constants = {i.name for i in model.graph.initializer}
    rows: dict[str, npt.NDArray[Any]] = {}
    count = None
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if value.name not in data:
            raise BadModel(f"calibration data lacks input {value.name!r}", where, "add it to the .npz")
        given = stacked(value.name, data[value.name], shape, where)
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if count is not None and len(given) != count:
            what = f"calibration data of {value.name!r} has {len(given)} samples, that of other inputs {count}"
            raise BadModel(what, where, "as many samples of each input")
        count = len(given)
        rows[value.name] = given.astype(dtype)
    return [{name: np.ascontiguousarray(row[i]) for name, row in rows.items()} for i in range(count or 0)]


def ranges(
    g: Graph,
    variants: Sequence[Linears],
    names: set[str],
    data: Mapping[str, npt.NDArray[Any]],
    where: str,
    inputs: Inputs,
) -> Ranges:
    """Least and greatest value of each channel (last dimension) of each tensor over the samples and the variants.

    Args:
        variants: all linears of `g` with float results, as base and as each adapter makes them.
        names: tensors that some of them read.
        inputs: gets the rows of these tensors.

    Raises:
        BadModel: data that does not fit the model's inputs.
    """
    feeds = samples(g.model, data, where)
    share = 1 / max(1, len(feeds) * len(variants))
    host, stages = cut(g, {f.result: f.x_name for f in variants[0]})
    part = HostPart(host)
    result: Ranges = {}
    for linears in variants:
        weights = {f.result: (f.weight.astype(np.float32), f.bias.astype(np.float32)) for f in linears}

        def machine(stage: int, values: Values, linears: Linears = linears, weights: Weights = weights) -> Values:
            done: Values = {}
            read: set[str] = set()
            for f in linears:
                if stages[f.result] == stage:
                    weight, bias = weights[f.result]
                    done[f.result] = (values[f.x_name] @ weight + bias).reshape(g.shape(f.result))
                    read |= {f.x_name} & names
            for name in sorted(read):
                rows = values[name].reshape(-1, values[name].shape[-1]).astype(np.float64)
                _widen(result, name, rows)
                inputs.add(name, rows, share)
            return done

        for sample in feeds:
            part.run(sample, machine)
    return result


def _widen(ranges: Ranges, name: str, rows: Float64) -> None:
    """Take the values of a tensor into its channels' ranges."""
    low, high = ranges.get(name, (np.zeros(rows.shape[1]), np.zeros(rows.shape[1])))
    ranges[name] = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))


def _activation(name: str, low: float, high: float, bits: int) -> Activation:
    """Asymmetric scale of a range that zero belongs to."""
    scale = float(np.float32((high - low) / ((1 << bits) - 1))) if high > low else 1.0
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return Activation(name, "", scale, int(np.clip(np.rint(least - low / scale), least, most)), bits)


def calibrate(
    g: Graph,
    variants: Sequence[Linears],
    linears: Linears,
    data: Mapping[str, npt.NDArray[Any]],
    widths: Widths,
    where: str,
    inputs: Inputs,
) -> dict[str, tuple[Activation, Float64 | None]]:
    """For each float tensor that the linears read: its activation type, and what its channels are divided by first.

    Args:
        variants: see `ranges`.
        linears: those without a scale of the file.
        data: input name -> samples, first axis.
        widths: with a scale a token there is no static scale, the channels only.
        inputs: see `ranges`.

    Raises:
        BadModel: data that does not fit the model's inputs.
    """
    result = {}
    bits = widths.activation_bits
    for name, (low, high) in ranges(g, variants, {f.x_name for f in linears}, data, where, inputs).items():
        smooth = smoothing(inputs, name, [f for f in linears if f.x_name == name], widths)
        by = 1.0 if smooth is None else smooth
        tensor = name if smooth is None else f"{name}/smooth"
        if widths.per_token:
            x = Activation(tensor, "", 1.0, 0, bits, per_token=True)
        else:
            x = _activation(tensor, float((low / by).min()), float((high / by).max()), bits)
        result[name] = x, smooth
    return result
