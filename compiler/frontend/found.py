"""What the frontend recognises in an ONNX graph, as reals and codes: the input of quantization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Activation:
    """A tensor that is codes at the machine: value = (code - zero_point) * scale, codes signed."""

    tensor: str
    """Name of the float tensor that it stands for; unique among activations."""
    codes: str
    """Name of the tensor of codes in the ONNX graph."""
    scale: float
    zero_point: int
    """After the shift of unsigned codes to signed ones."""
    bits: int
    per_token: bool = False
    """A symmetric scale for each token at run time; `scale` is 1 and `codes` empty."""


@dataclass(frozen=True)
class WeightCodes:
    """Integer weights of the file, symmetric: weight = codes * scale."""

    codes: Int64
    """[k, n]."""
    scale: Float64
    """[n]."""
    bits: int


@dataclass(frozen=True)
class GraphLora:
    """A low-rank branch found in the graph: y += scale * (x.A).B + bias."""

    a: Float64
    b: Float64
    scale: float
    bias: Float64 | None


@dataclass(frozen=True)
class FoundLinear:
    """One linear of the model: y = x.W + bias (+ branches)."""

    name: str
    node: str
    """Name of its MatMul or Gemm."""
    modules: tuple[str, ...]
    """Dotted module paths that name it, the surest first."""
    product: str
    """Tensor that the MatMul or Gemm itself writes."""
    x_name: str
    """Float tensor that it reads."""
    x: Activation | None
    """Its scale, if the file has one."""
    weight: Float64
    """[k, n], dequantized if the file has codes."""
    codes: WeightCodes | None
    bias: Float64
    """[n], zeros if the model has none."""
    output_name: str
    """Float tensor that it writes: after bias, branches and Q/DQ."""
    output: Activation | None
    loras: tuple[GraphLora, ...]
    nodes: tuple[int, ...]
    """Indices of the nodes that it stands for, in no order."""
    result: str
    """ONNX tensor to replace: the codes if the output is quantized, else the float output."""
    smooth: Float64 | None = None
    """[k]: the codes are of x / smooth, and `weight` and A have rows times smooth (SmoothQuant)."""
