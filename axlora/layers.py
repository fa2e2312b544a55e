"""What a package keeps of each linear: enough to report on it, and to quantize an adapter that comes later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from axlora.compiler.backend.link import Tiling, stored_codes
from axlora.compiler.errors import BadPackage
from axlora.compiler.layer import Codes, Grid, Linear, Records
from axlora.isa.formats import Format
from axlora.isa.target import Target

Arrays = dict[str, npt.NDArray[Any]]
"""`{number}/{part}` of linear `number`; parts bias s32 [n], m1 u16 [n], shift u8 [n], w_scale f64 [n], real_bias f64 [n],
and where there are such smooth f64 [k - offset_rows], group_scale u8 and group_zero s8 [groups, n], codebook s8 [16],
order s32 [n]."""


@dataclass(frozen=True)
class LayerInfo:
    """One linear of the program."""

    name: str
    operator: str
    input: str
    output: str
    k: int
    n: int
    stage: int
    node: str
    modules: tuple[str, ...]
    format: str
    """Of the weights."""
    x_bits: int
    output_bits: int
    zero_point: int
    guard: int
    bias_shift: int
    bias_end: bool
    token_scale: bool
    x_scale: float
    x_zero: int
    y_scale: float
    bias_step: float
    tiling: Tiling
    error: float | None = None
    """See `axlora.run.Layer`."""
    offset_rows: int = 0
    scopes: int = 0
    """See `Linear`."""


def layer_info(linear: Linear, x_bits: int, tiling: Tiling, error: float | None) -> LayerInfo:
    """The numbers of a linear; its vectors are in `layer_vectors`."""
    grid = linear.grid
    assert grid is not None
    return LayerInfo(
        linear.name,
        "linear+lora" if linear.adapters else "linear",
        linear.input,
        linear.output,
        linear.k,
        linear.n,
        linear.stage,
        linear.node,
        linear.modules,
        linear.weight.fmt.name,
        x_bits,
        linear.output_bits,
        linear.zero_point,
        linear.guard,
        linear.bias_shift,
        linear.bias_end,
        linear.token_scale,
        grid.x_scale,
        grid.x_zero,
        grid.y_scale,
        grid.bias_step,
        tiling,
        error,
        linear.offset_rows,
        linear.scopes,
    )


def layer_vectors(linears: Sequence[Linear]) -> bytes:
    """The vectors of all linears as a safetensors file."""
    arrays = {key: value for number, linear in enumerate(linears) for key, value in _vectors(number, linear).items()}
    return bytes(save(arrays))


def read_arrays(data: bytes, file: str = "linears.safetensors") -> Arrays:
    """Arrays of a safetensors file; inverse of `layer_vectors`.

    Raises:
        BadPackage: not a safetensors file.
    """
    try:
        return dict(load(data))
    except (SafetensorError, KeyError, TypeError, ValueError):  # numpy's names and shapes come after the header's check
        raise BadPackage(f"{file} is damaged", file, "compile again") from None


def _vectors(number: int, linear: Linear) -> Arrays:
    grid = linear.grid
    assert grid is not None
    found = {
        "bias": linear.records.bias.astype(np.int32),
        "m1": linear.records.m1.astype(np.uint16),
        "shift": linear.records.shift.astype(np.uint8),
        "w_scale": grid.w_scale,
        "real_bias": grid.bias,
    }
    weight = linear.weight
    more = {"smooth": grid.smooth, "group_scale": weight.scale, "group_zero": weight.zero}
    more["order"] = None if grid.order is None else grid.order.astype(np.int32)
    more["codebook"] = None if weight.codebook is None else weight.codebook.astype(np.int8)
    found |= {name: value for name, value in more.items() if value is not None}
    return {f"{number}/{part}": np.ascontiguousarray(value) for part, value in found.items()}


def stored_linear(target: Target, info: LayerInfo, number: int, arrays: Mapping[str, Any], weights: bytes) -> Linear:
    """The linear again, without adapters: its codes are read from the weights."""

    def part(name: str) -> Any:
        return arrays[f"{number}/{name}"]

    fmt, book = Format[info.format], arrays.get(f"{number}/codebook")
    codes = stored_codes(target, weights, info.tiling, fmt, info.k, info.n)
    groups = info.tiling.gaps.down.features(info.tiling.shape.per_group * target.lanes)
    return Linear(
        name=info.name,
        input=info.input,
        output=info.output,
        weight=Codes(
            codes,
            fmt,
            None if book is None else book.astype(np.int64),
            groups,
            arrays.get(f"{number}/group_scale"),
            arrays.get(f"{number}/group_zero"),
        ),
        records=Records(*(part(name).astype(np.int64) for name in ("bias", "m1", "shift"))),
        output_bits=info.output_bits,
        zero_point=info.zero_point,
        guard=info.guard,
        bias_shift=info.bias_shift,
        bias_end=info.bias_end,
        token_scale=info.token_scale,
        grid=Grid(
            info.x_scale,
            info.x_zero,
            part("w_scale"),
            info.y_scale,
            part("real_bias"),
            info.bias_step,
            arrays.get(f"{number}/smooth"),
            None if (order := arrays.get(f"{number}/order")) is None else order.astype(np.int64),
        ),
        node=info.node,
        modules=info.modules,
        stage=info.stage,
        offset_rows=info.offset_rows,
        scopes=info.scopes,
    )
