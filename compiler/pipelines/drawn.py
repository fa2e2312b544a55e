"""A model by its config.json as programs: weights are codes that follow from a linear's kind, scales are constant.

No float weight and no calibration is there. Linears of one kind (the same module of every layer) have the same codes, which
memory holds once (`build_region`, shared). A directory's own weights are those of a compilation, with drawn adapters.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.backend.build_image import PREFILL, Image, build_region
from axlora.compiler.backend.link import adapter_block
from axlora.compiler.backend.place import at_target
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.frontend.hf import gpt2
from axlora.compiler.frontend.hf.config import Decoder, Encoder, Fields, described
from axlora.compiler.frontend.hf.gpt2 import Gpt2
from axlora.compiler.frontend.hf.operators import Sized, drawn, operators
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.layer import Adapter, Codes, ColumnSums, Int64, Linear, Lowered, Records
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.passes.lower_rows import Starts, widths
from axlora.compiler.passes.quantize_linear import GROUP, per_token
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.samples import Data
from axlora.compiler.pipelines.transformers import Generated, check_batch, codes_tensor, lower_whole, placement
from axlora.compiler.rows.layout import WITHOUT, Layout, layouts
from axlora.compiler.rows.read_region import Region
from axlora.compiler.transformer import Transformer
from axlora.isa.formats import Format
from axlora.isa.target import Target

ADAPTER = "drawn"
"""Name of the adapters, with a number behind."""
LARGEST = 32.0
"""Magnitude that every value is said to have: calibration is there for no other."""
NF4 = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
"""Entries of bitsandbytes' NF4 (Dettmers et al., arXiv:2305.14314, appendix E) times 127."""
_NF4_ROWS = 64
_PART = 1 << 22
"""Weights that are drawn at once."""
_SHIFT, _M2 = 13, 8
"""Of adapters: x.A is taken as it is, and x.A.B is about a tenth of the base's result."""


Configuration = Decoder | Encoder | Gpt2


def configured(data: Mapping[str, Any], where: str) -> Configuration:
    """What a config.json describes; errors as `config.described`."""
    return gpt2.gpt2(Fields(data, where)) if data.get("model_type") == gpt2.KIND else described(data, where)


class Weights(Enum):
    """How weights are held."""

    INT8 = "int8"
    """A scale a column."""
    INT4 = "int4"
    """A scale for 32 rows of a column where the target has group scales, else for a column."""
    NF4 = "nf4"
    """A codebook of 16 entries, a scale for 64 rows of a column."""

    def group(self, target: Target) -> int:
        """Rows of a scale group; 0: a scale a column.

        Raises:
            DoesNotFit: the target has no such groups.
        """
        rows = {Weights.INT8: 0, Weights.INT4: GROUP, Weights.NF4: _NF4_ROWS}[self]
        if rows and target.group_scales and rows % target.lanes == 0:
            return rows
        if self is Weights.NF4:
            raise DoesNotFit(f"target {target.name} has no scale groups of {rows} rows", "--weights nf4", "int4 or int8")
        return 0


def _seed(*of: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(" ".join(map(str, of)).encode()))


def _rounded(weight: npt.NDArray[np.float32], rows: int, high: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes of weights [k, n] with a scale for each `rows` rows, and the largest magnitudes [groups, n]."""
    k, n = weight.shape
    parts = np.pad(weight, ((0, -k % rows), (0, 0))).reshape(-1, rows, n)
    largest = np.maximum(np.maximum(parts.max(axis=1), -parts.min(axis=1)), np.float32(1e-6))
    parts *= (np.float32(high) / largest)[:, None]
    return np.rint(parts, out=parts).astype(np.int8).reshape(-1, n)[:k], largest


def codes(kind: str, k: int, n: int, weights: Weights, target: Target, group: int) -> tuple[Codes, npt.NDArray[np.float64]]:
    """Codes of a normally distributed weight [k, n] of standard deviation k**-0.5, rounded to the nearest; the column's scale.

    Args:
        kind: what they follow from.
        group: rows of a scale group; 0: a scale a column.
    """
    random, high = _seed("weight", kind), 7 if weights is Weights.INT4 else 127
    rows = group or k
    stored, largest = np.empty((k, n), np.int8), np.empty((-(-k // rows), n), np.float32)
    step = max(1, _PART // k)
    for first in range(0, n, step):
        part = slice(first, min(n, first + step))
        normal = random.standard_normal((k, part.stop - first), np.float32)
        stored[:, part], largest[:, part] = _rounded(normal, rows, high)
    fmt, book = {Weights.INT8: Format.S8, Weights.INT4: Format.S4, Weights.NF4: Format.CB4}[weights], None
    if weights is Weights.NF4:
        book = np.array(NF4, np.int64)
        nearest = np.abs(np.arange(-128, 128)[:, None] - book).argmin(axis=1).astype(np.uint8)
        stored = np.roll(nearest, -128)[stored.view(np.uint8)]
    scale = largest.max(axis=0).astype(np.float64) / (high * np.sqrt(k))
    if not group:
        return Codes(stored, fmt, book), scale
    relative = largest / largest.max(axis=0)
    most = _room(relative, stored, book, group, target) if book is not None else np.full(n, 255)
    steps = np.clip(np.ceil(relative * most), 1, 255).astype(np.uint8)
    return Codes(stored, fmt, book, group, steps), scale / most


def _room(
    relative: npt.NDArray[np.float32], stored: npt.NDArray[np.integer[Any]], book: Int64, group: int, target: Target
) -> npt.NDArray[np.int64]:
    """The largest group scale of each column [n] for which the accumulator has room, at most 255; others are rounded up."""
    reach, up = np.zeros(stored.shape[1]), np.zeros(stored.shape[1])
    for first, own in zip(range(0, len(stored), group), relative, strict=True):
        worth = np.abs(book)[stored[first : first + group]].sum(axis=0)
        reach, up = reach + worth * own, up + worth
    room = ((1 << (target.accumulator_bits - 1)) - 1) >> (target.activation_bits - 1)
    return np.clip((room - up) // reach, 1, 255).astype(np.int64)


def _sums(weight: Codes, scale: npt.NDArray[np.float64]) -> ColumnSums:
    """Of a column of normally distributed weights, about: sums of magnitudes and squares of the codes times group scales."""
    deviation = 1 / (np.sqrt(len(weight.stored)) * scale)
    k = len(weight.stored)
    magnitudes = np.ceil(deviation * np.sqrt(2 / np.pi) * k).astype(np.int64)
    return ColumnSums(np.zeros_like(magnitudes), magnitudes, np.ceil(deviation**2 * k).astype(np.int64))


def _with_adapters(linear: Linear, names: Sequence[str], rank: int) -> Linear:
    """The linear with drawn adapters."""
    return replace(linear, adapters=tuple(_adapter(name, linear, rank) for name in names))


def _adapter(name: str, linear: Linear, rank: int) -> Adapter:
    """A and B of normally distributed weights."""

    def rounded(part: str, k: int, n: int) -> Codes:
        normal = _seed(part, name, _kind(linear)).standard_normal((k, n), np.float32)
        return Codes(_rounded(normal, k, 127)[0], Format.S8)

    ones = np.ones(rank, np.int64)
    records = Records(0 * ones, ones << _SHIFT, _SHIFT * ones)
    a, b = rounded("A", linear.k, rank), rounded("B", rank, linear.n)
    own = linear.records
    return Adapter(name, rank, a, records, b, own.bias, own.m1, np.full(linear.n, _M2, np.int64))


@dataclass
class _Linears:
    """The linears, those of one kind from the same codes."""

    target: Target
    weights: Weights
    adapters: tuple[str, ...]
    rank: int

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, int], Linear] = {}
        self.x = Activation("x", "", 1.0, 0, self.target.activation_bits, per_token=True)
        """What every linear reads: codes with a scale a row."""

    def linear(self, sized: Sized, op: LinearOp, grouped: Layout) -> Linear:
        """A linear, of the codes of its kind; `grouped`: the layout of what it reads."""
        group = self.weights.group(self.target)
        group = grouped.group(group) if group else 0
        kind = _kind(sized)
        if (kind, group) not in self._known:
            self._known[kind, group] = self._made(sized, kind, group)
        return replace(
            self._known[kind, group], name=sized.name, input=op.x, output=op.y, node=sized.name, modules=(sized.name,)
        )

    def _made(self, sized: Sized, kind: str, group: int) -> Linear:
        weight, scale = codes(kind, sized.k, sized.n, self.weights, self.target, group)
        bias = drawn(f"{kind}.bias", sized.n) if sized.biased else np.zeros(sized.n)
        found = FoundLinear(
            sized.name, sized.name, (sized.name,), "x", None, np.zeros(0), None, bias, "y", None, (), (), "y",
            shape=(sized.k, sized.n),
        )  # fmt: skip
        linear, _ = per_token(found, self.x, weight, _sums(weight, scale), scale, 0)
        return _with_adapters(linear, self.adapters, self.rank)


def kind_of(name: str) -> str:
    """A name without the numbers of layers in its path: linears of one kind share their codes."""
    return re.sub(r"\.\d+(?=[./]|$)", "", name)


def _kind(of: Sized | Linear) -> str:
    """What drawn codes of a linear follow from."""
    return f"{kind_of(of.name)} {of.k} x {of.n}"


def cache_codes(name: str, size: int) -> npt.NDArray[np.uint8]:
    """Bytes of keys or values in a cache: codes of normally distributed numbers whose largest in 64 is 127."""
    normal = _seed("cache", name).standard_normal((-(-size // 64), 64), np.float32)
    return _rounded(normal.T, 64, 127)[0].T.reshape(-1)[:size].view(np.uint8)


def _region(model: Transformer, linears: Mapping[str, Linear], rows: int, starts: Starts, rank: int) -> Region:
    """The region that the passes make of such a model (`lower_rows`, `read_region`)."""
    width = widths(model, {name: linear.n for name, linear in linears.items()})
    values = dict.fromkeys([output.value for output in model.outputs])
    numbers = {output.value: number for number, output in reversed(list(enumerate(model.outputs)))}
    steps = {name: linear.output_step for name, linear in linears.items()}
    ranks = dict.fromkeys(linears, rank) if rank else {}
    outputs = {value: numbers[value] for value in values}
    largest = dict.fromkeys(width, LARGEST)
    return Region((model.input,), model.lengths(rows), 0, starts, model.operators, outputs, width, largest, {}, steps, ranks)


@dataclass(frozen=True)
class Given:
    """The weights of a Hugging Face directory."""

    folder: Path
    bits: int = 8
    """Of the codes of what it holds as floats."""
    calibration: Data | None = field(default=None, compare=False)
    """As of `CompileOptions`."""


@dataclass(frozen=True)
class Asked:
    """What is asked for of a model."""

    weights: Weights | Given = Weights.INT8
    context: int = 256
    """Most tokens of a decoder, or those of an encoder's sequence."""
    rank: int = 0
    """Of adapters; 0: none."""
    adapters: int = 1
    """Different ones, where there is a rank."""
    batch: int = 1
    """Sequences that decode together."""
    chunk: int = PREFILL
    """Most tokens of a prefill start."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters."""
        return tuple(f"{ADAPTER}{n}" for n in range(self.adapters)) if self.rank else ()

    @property
    def slots(self) -> int:
        """Adapters of a start."""
        return min(self.batch, self.adapters) if self.rank else 0


def lower_drawn(
    own: Configuration,
    target: Target,
    asked: Asked,
    shared: bool = True,
    only: Set[str] = frozenset(),
    like: Region | None = None,
) -> Generated:
    """The programs of a model that a config.json describes.

    Args:
        shared, only: as `build_region`.
        like: the region of a compiled model of this configuration, whose scales, gains and biases hold in place of constant
            and drawn ones; None: there is none.

    Raises:
        BadModel: the model has fewer positions. DoesNotFit: the target is too small.
    """
    if asked.context > own.most:
        raise BadModel(f"{asked.context} tokens, the model has {own.most} positions", "--context", f"1 to {own.most}")
    check_batch(target, asked.batch)
    found = gpt2.operators(own, asked.context) if isinstance(own, Gpt2) else operators(own, asked.context)
    model = found.model
    decodes = not isinstance(own, Encoder)
    starts = Starts.DECODE if decodes else Starts.SEQUENCE
    sizes = {each.name: each.n for each in found.linears}
    lie = layouts(model.operators, widths(model, sizes), model.ends, target.vector_lanes)
    of_model, reads = (
        {op.name: op for op in each.operators if isinstance(op, LinearOp)} for each in (model, model if like is None else like)
    )
    assert isinstance(asked.weights, Weights)
    maker = _Linears(target, asked.weights, asked.names, asked.rank)
    linears = [maker.linear(each, reads[each.name], lie.get(of_model[each.name].x, WITHOUT)) for each in found.linears]
    region = _region(model, {linear.name: linear for linear in linears}, asked.context, starts, asked.rank)
    region = region if like is None else like
    batch = asked.batch if decodes else 1
    with at_target(target):
        image = build_region(
            target, region, linears, slots=asked.slots, chunk=asked.chunk, batch=batch, shared=shared, only=only
        )
    keys, count = ((image.context,), (1,)) if decodes else ((asked.context,), (asked.context,))
    inputs = tuple(codes_tensor(linear, maker.x) for linear in linears)
    places = placement(model, linears, keys, count, 1)
    lowered = Lowered(tuple(linears), inputs, (), places, asked.names)
    return Generated(model, lowered, region, image, _blocks(target, linears, image, asked), asked.context)


def _blocks(target: Target, linears: Sequence[Linear], image: Image, asked: Asked) -> dict[str, tuple[int, bytes]]:
    """`Generated.blocks` of the drawn adapters."""
    return {name: (asked.rank, adapter_block(target, linears, name, asked.rank, image.tilings)) for name in asked.names}


def lower_given(own: Configuration, target: Target, asked: Asked, weights: Given, only: Set[str] = frozenset()) -> Generated:
    """The programs that `compile` makes of a directory, with drawn adapters, and whatever memory they need.

    Args:
        only: as `build_region`.

    Raises:
        axlora.Error: as `lower_whole`.
    """
    options = CompileOptions(
        weight_bits=weights.bits, max_lora_rank=asked.rank, max_loras=asked.slots, calibration=weights.calibration,
        operators="all", shapes={"batch": 1, "sequence": asked.context},
    )  # fmt: skip
    if not isinstance(own, Encoder):
        chunk, batch = asked.chunk, asked.batch
        options = replace(options, generate=True, shapes=None, max_context=asked.context, chunk=chunk, max_batch=batch)
    found = lower_whole(weights.folder, target, options, shared=True, only=only)
    linears = tuple(_with_adapters(linear, asked.names, asked.rank) for linear in found.lowered.linears)
    lowered = replace(found.lowered, linears=linears, adapters=asked.names)
    return replace(found, lowered=lowered, blocks=_blocks(target, linears, found.image, asked))
