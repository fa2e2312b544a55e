"""What the Relax passes hand to the backend: integer linears with LoRA, and the module and the graph around them.

Shapes: K inputs, N outputs, r the rank. Codes are int64 arrays so that they go straight into `isa.numerics`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.errors import BadAdapter
from axlora.compiler.row_changes import TableChanges
from axlora.isa.formats import Format

Int64 = npt.NDArray[np.int64]

TOKENS = 1 << 15
"""Most tokens that a linear takes: programs grow with them."""
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What an adapter may be called: it becomes a file name."""
PART = 32
"""Rows of a matrix of codes that are widened at once, where it has no scale groups."""


def check_adapter_name(name: str) -> None:
    """Adapters become files.

    Raises:
        BadAdapter: a name that cannot be a file's.
    """
    if not ADAPTER_NAME.fullmatch(name):
        raise BadAdapter(f"adapter name {name!r} cannot be a file name", "adapter", "letters, digits, '_', '.', '-'")


@dataclass(frozen=True)
class Records:
    """Per-column constants of a requantization (a PBUF record a column): see `isa.numerics.requantize`."""

    bias: Int64
    """s32 [n], in units of the accumulator (or of the guarded output if the layer's `bias_end`)."""
    m1: Int64
    """u16 [n]."""
    shift: Int64
    """1..62 [n]."""


@dataclass(frozen=True)
class ColumnSums:
    """Sums over the rows of a weight matrix: int64 [n], exact."""

    plain: Int64
    magnitudes: Int64
    squares: Int64


@dataclass(frozen=True)
class Codes:
    """A weight matrix as the machine holds it."""

    stored: npt.NDArray[np.integer[Any]]
    """[k, n] in the range of `fmt` (codebook: indices); kept in 8 bits."""
    fmt: Format
    codebook: Int64 | None = None
    """16 signed 8-bit entries, for CB4."""
    group: int = 0
    """Rows of a scale group; 0: none."""
    scale: npt.NDArray[np.integer[Any]] | None = None
    """u8 [ceil(k/group), n]."""
    zero: npt.NDArray[np.integer[Any]] | None = None
    """s8 zero points [ceil(k/group), n]."""

    def __post_init__(self) -> None:
        """Narrow the codes: a big model's would not fit in 64 bits each."""
        narrow = np.int8 if self.fmt.signed else np.uint8
        object.__setattr__(self, "stored", self.stored.astype(narrow, copy=False))
        if self.scale is not None:
            object.__setattr__(self, "scale", self.scale.astype(np.uint8, copy=False))
        if self.zero is not None:
            object.__setattr__(self, "zero", self.zero.astype(np.int8, copy=False))

    @property
    def codes(self) -> Int64:
        """[k, n], widened at every call."""
        return self.stored.astype(np.int64)

    def values(self, rows: slice = slice(None)) -> Int64:
        """What each code is worth before scale and zero point: int64 [k, n], or some rows of it."""
        stored = self.stored[rows]
        return self.codebook[stored] if self.codebook is not None else stored.astype(np.int64)

    def weights(self, rows: slice = slice(None)) -> Int64:
        """What multiplies x: values less zero points, times group scales: int64 [k, n], or some rows of it."""
        values = self.values(rows)
        if not self.group:
            return values
        groups = np.arange(self.stored.shape[0])[rows] // self.group
        of = groups[:1] if len(groups) and groups[0] == groups[-1] else groups  # one group is broadcast
        less = values if self.zero is None else values - self.zero[of]
        return less if self.scale is None else less * self.scale[of]

    def parts(self) -> Iterator[slice]:
        """The rows in parts that stay in a processor's cache when widened: a scale group each, where there are groups."""
        step = self.group or PART
        return (slice(first, first + step) for first in range(0, self.stored.shape[0], step))

    def sums(self, rows: int) -> ColumnSums:
        """Sums over the columns of `weights`; those of squares over the first `rows` rows alone."""
        n = self.stored.shape[1]
        plain, magnitudes, squares = (np.zeros(n, np.int64) for _ in range(3))
        for part in self.parts():
            weights = self.weights(part)
            plain += weights.sum(axis=0)
            model = weights[: max(0, rows - part.start)]
            squares += (model * model).sum(axis=0)
            magnitudes += np.abs(weights, out=weights).sum(axis=0)
        return ColumnSums(plain, magnitudes, squares)


@dataclass(frozen=True)
class Adapter:
    """One adapter of one linear, quantized: y += ((x.A requantized per token).B) * m2."""

    name: str
    rank: int
    a: Codes
    """[K, r], same activations as the base."""
    a_records: Records
    """[r]: brings x.A to the common unit that `block_quantize` takes."""
    b: Codes
    """[r, N]."""
    bias: Int64
    """s32 [N], in place of the base's for tokens of this adapter (lora_bias folded in)."""
    m1: Int64
    """u16 [N], in place of the base's (DoRA's column magnitude folded in)."""
    m2: Int64
    """u16 [N]: the adapter's accumulator to the base's unit 2**-shift of the output step."""


@dataclass(frozen=True)
class Grid:
    """What a linear's integers stand for: needed to quantize an adapter that comes later. Reals, float64."""

    x_scale: float
    x_zero: int
    """Input value = (code - x_zero) * x_scale."""
    w_scale: npt.NDArray[np.float64]
    """[n]: weight = code * w_scale."""
    y_scale: float
    """Output value = (code - zero_point) * y_scale."""
    bias: npt.NDArray[np.float64]
    """[n]: the base's bias as a real."""
    bias_step: float = 0.0
    """With per-token inputs, x_scale and y_scale are for a token scale of 1, and this is the value of an output code."""
    smooth: npt.NDArray[np.float64] | None = None
    """[inputs]: weight rows are times this, and x was divided by it; an adapter's A needs the same."""
    order: npt.NDArray[np.int64] | None = None
    """[n]: the model's output that each column is, and an adapter's B needs the same; None: they are in the model's order."""


@dataclass(frozen=True)
class Linear:
    """One linear y = requantize(x.W + (x.A).B) for the machine."""

    name: str
    input: str
    """Name of the integer tensor of codes [tokens, K] that it reads."""
    output: str
    """Name of the integer tensor [tokens, N] that it writes."""
    weight: Codes
    records: Records
    adapters: tuple[Adapter, ...] = ()
    output_bits: int = 8
    zero_point: int = 0
    guard: int = 0
    bias_shift: int = 0
    bias_end: bool = False
    token_scale: bool = False
    """The input carries mantissa and shift per token."""
    grid: Grid | None = None
    """None for linears made by hand."""
    node: str = ""
    """Name of the model's MatMul or Gemm node."""
    modules: tuple[str, ...] = ()
    """Dotted module paths that the model's metadata and names give it, the surest first."""
    scopes: int = 0
    """How many of `modules`, from the first, are of scope metadata; the others are names of the node and of the weight."""
    stage: int = 0
    """Start of the machine in which it runs: linears of one stage depend on no other linear of it."""
    offset_rows: int = 0
    """Last rows of the weight, which meet the token's offset: in every column they sum to the rows before (decision 6)."""

    @property
    def output_step(self) -> float:
        """Value of an output code, 1 for linears made by hand."""
        if self.grid is None:
            return 1.0
        return self.grid.bias_step if self.token_scale else self.grid.y_scale

    @property
    def k(self) -> int:
        """Rows that the machine multiplies: the model's inputs and the offset's."""
        return int(self.weight.stored.shape[0])

    @property
    def inputs(self) -> int:
        """The model's inputs."""
        return self.k - self.offset_rows

    def matrix(self) -> Int64:
        """The codes that stand for the model's weight, less zero points: int64 [inputs, n]."""
        return self.weight.weights()[: self.inputs]

    @property
    def n(self) -> int:
        """Outputs."""
        return int(self.weight.stored.shape[1])


@dataclass(frozen=True)
class Tensor:
    """A tensor at the machine's boundary: codes and what they mean, value = (code - zero_point) * scale."""

    name: str
    """Unique among inputs, and among outputs."""
    tokens: int
    """Rows: product of the leading dimensions."""
    columns: int
    """Of the codes."""
    shape: tuple[int, ...]
    """The ONNX model's shape."""
    bits: int
    scale: float
    zero_point: int = 0
    per_token: bool = False
    """A scale per token, sent along (`isa.numerics.quantize_tokens`); `scale` is then 1."""
    source: str = ""
    """Its tensor in the host graph: the float that becomes codes, or the codes or float that a linear gives back."""
    offset_columns: int = 0
    """Last columns of the codes that all hold the token's offset; 0: the codes are symmetric."""

    @property
    def values(self) -> int:
        """Columns of the model's tensor."""
        return self.columns - self.offset_columns


@dataclass(frozen=True)
class Placement:
    """Where an operator of the model went."""

    operator: str
    where: str
    """`accelerator` or `host`."""
    reason: str
    macs: int


@dataclass(frozen=True)
class Host:
    """The float part of a model: everything that is not a linear, cut at the linears' inputs and results."""

    model: onnx.ModelProto
    """Inputs: the model's, then the results of linears. Outputs: the model's, then what linears read."""
    inputs: tuple[str, ...]
    """The model's inputs."""
    outputs: tuple[str, ...]
    """The model's outputs."""
    arrivals: tuple[tuple[str, int], ...]
    """Result of a linear (tensor of the graph) and the stage that reads it first: one after the linear's own."""


class By(StrEnum):
    """Evidence by which a module of an adapter is a linear of the model."""

    SCOPE = "scope metadata"
    NODE = "node path"
    WEIGHT = "weight name"
    VALUES = "equal weights"
    MAP = "adapter map"
    GRAPH = "branch in the model"


@dataclass(frozen=True)
class ModuleMatch:
    """One module of an adapter and the linear that it changes."""

    module: str
    """Dotted path in the model that the adapter was trained on."""
    linear: str
    """Name of the linear."""
    by: By


@dataclass(frozen=True)
class Regions:
    """A model's Relax module after the last pass: regions of the accelerator in a host part."""

    module: Any
    arguments: tuple[str, ...]
    """What `main` takes first: the model's inputs, then weights of the host part, by their ONNX names."""
    linears: tuple[str, ...]
    """Whose tensors it takes then, in the order of `linear_calls.parameters`."""
    rank: int
    """That adapters are padded to; 0: no adapter branch."""


@dataclass(frozen=True)
class LinearCalls:
    """The linears in the regions of a model with a host part."""

    linears: tuple[Linear, ...]
    """In the order of their stages, each with its own."""
    rows: Mapping[str, int]
    """Tensor of codes that linears read -> its rows."""


@dataclass(frozen=True)
class Lowered:
    """The result of the Relax passes."""

    linears: tuple[Linear, ...]
    inputs: tuple[Tensor, ...]
    """One for each tensor that some linear reads, in `Linear.input`'s names (`Tensor.name`)."""
    outputs: tuple[Tensor, ...]
    placement: tuple[Placement, ...]
    adapters: tuple[str, ...]
    """Names of the adapters, in slot order of loading."""
    default_adapter: str | None = None
    """The adapter that the model itself contains (`graph`): what a run means when the user names none."""
    host: Host | None = None
    """None for linears made by hand."""
    regions: Regions | None = None
    """None for linears made by hand."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Linear's name -> root mean square of (result - float result) over that of the float result, where it was measured."""
    matches: Mapping[str, tuple[ModuleMatch, ...]] = field(default_factory=dict)
    """Adapter -> its modules and their linears, sorted by module."""
    notices: tuple[str, ...] = ()
    """What adapters hold and the program leaves out, a line each: to be said when all else went well."""
    rows: Mapping[str, TableChanges] = field(default_factory=dict)
    """Adapter -> what it adds to rows of embeddings."""
