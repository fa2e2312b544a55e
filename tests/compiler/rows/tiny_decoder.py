"""Random decoders of a few thousand weights: as reals, as integers of the reference, and started on a machine.

A layer is norm, q k v, rotary, attention, o, add, norm, gate and up, an activation function, down, add: Llama's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from axlora.compiler.backend.build_image import Image, build_region
from axlora.compiler.backend.link import adapter_block
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.layer import Linear as Quantized
from axlora.compiler.operators import (
    Add,
    Apply,
    Attention,
    Function,
    Linear,
    Mul,
    Norm,
    NormKind,
    Op,
    Rotary,
    RowScale,
    TopGates,
)
from axlora.compiler.passes.lower_linears import Names
from axlora.compiler.passes.lower_rows import Calibrated, Starts
from axlora.compiler.passes.pipeline import lower_rows, run
from axlora.compiler.passes.quantize_adapter import Branch, quantize_adapter
from axlora.compiler.passes.quantize_linear import quantize_linear
from axlora.compiler.reference import numpy_rows
from axlora.compiler.rows import float_forms
from axlora.compiler.rows.fractions import fraction
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import Region, read_region
from axlora.compiler.transformer import Lookup, Output, Transformer
from axlora.isa.positions import position_registers
from axlora.isa.regions import slot_values, token_words
from axlora.isa.target import Target

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
VOCABULARY = 96


@dataclass(frozen=True)
class Sizes:
    """Of a decoder; `features` is not the heads' sum on purpose."""

    layers: int = 2
    features: int = 40
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    inner: int = 72
    context: int = 44
    norm: NormKind = NormKind.RMS
    function: Function = Function.SILU
    packed: bool = False
    """As GPT-2: q, k and v from one linear, learned positions and no rotary embedding."""
    woven: bool = False
    """With `packed`: a head's q, k and v lie side by side, as GPT-NeoX has them."""
    experts: int = 0
    """MLPs of a layer, of which each token has two; 0: one for all."""


def partitioned(
    model: Transformer,
    linears: Mapping[str, Quantized],
    largest: Mapping[str, float],
    rows: int,
    starts: Starts = Starts.SEQUENCE,
    rank: int = 0,
) -> tvm.IRModule:
    """What the passes make of a module that takes the model's first rows."""
    first = relax.Var("first", relax.TensorType((rows, model.features), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [first]):
        builder.emit_func_output(first)
    given = Calibrated(replace(model, source="first", mask=None), largest, [*linears.values()], starts, rank)
    return run(builder.get(), lower_rows(Names({"first": first}, ["first"], {}), given))[-1][1]


@dataclass(frozen=True)
class Decoder:
    """A model, its linears as reals, calibrated."""

    sizes: Sizes
    model: Transformer
    weights: Mapping[str, tuple[Float64, Float64]]
    """Linear -> W [k, n], bias [n]."""

    @property
    def products(self) -> dict[str, float_forms.Product]:
        """The linears in floating point."""
        return {name: (lambda x, w=w, b=b: x @ w + b) for name, (w, b) in self.weights.items()}

    def rows(self, ids: Int64) -> Float64:
        """Rows of embeddings from position 0 on."""
        return float_forms.embed(self.model, {"ids": ids})

    @cached_property
    def largest(self) -> dict[str, float]:
        """Of every value, over four random sequences."""
        ids = np.random.default_rng(1).integers(0, VOCABULARY, (4, self.sizes.context))
        rows = [float_forms.Sample(self.rows(x), len(x)) for x in ids]
        return {name: float(peak.max()) for name, peak in float_forms.magnitudes(self.model, rows, self.products).items()}

    def module(
        self, linears: Mapping[str, Quantized], rows: int, starts: Starts = Starts.SEQUENCE, rank: int = 0
    ) -> tvm.IRModule:
        """As the passes end with it."""
        return partitioned(self.model, linears, self.largest, rows, starts, rank)

    def region(self, linears: Mapping[str, Quantized], rows: int = 1) -> Region:
        """What the backend reads of it."""
        return read_region(self.module(linears, rows), [*linears.values()])

    def quantized(self, target: Target, branches: Mapping[str, Mapping[str, Branch]] | None = None) -> dict[str, Quantized]:
        """Linears as integers; `branches`: adapter -> linear -> LoRA."""
        out = {}
        for name, (w, bias) in self.weights.items():
            found = FoundLinear(name, name, (), name, None, w, None, bias, name, None, (), (), name, shape=w.shape)
            one, _ = quantize_linear(found, Activation(name, "", 1.0, 0, target.activation_bits, True), target, 8)
            own = [
                quantize_adapter(one, adapter, of[name], target, target.activation_bits)
                for adapter, of in (branches or {}).items()
                if name in of
            ]
            out[name] = replace(one, adapters=tuple(own))
        return out


def random_decoder(sizes: Sizes = Sizes(), seed: int = 0) -> Decoder:
    """Weights such that values keep their magnitude from layer to layer; LAYER norms and their linears have biases."""
    s, rng = sizes, np.random.default_rng(seed)
    weights: dict[str, tuple[Float64, Float64]] = {}
    operators: list[Op] = []
    biased = s.norm is NormKind.LAYER

    def linear(x: str, y: str, name: str, k: int, n: int) -> None:
        bias = rng.normal(0, 0.1, n) if biased else np.zeros(n)
        weights[name] = (rng.normal(0, 1 / np.sqrt(k), (k, n)), bias)
        operators.append(Linear(x, y, name))

    def norm(x: str, y: str) -> None:
        bias = rng.normal(0, 0.1, s.features) if biased else None
        operators.append(Norm(x, y, s.norm, 1 + rng.normal(0, 0.2, s.features), bias, 1e-5))

    angle = np.arange(s.context)[:, None] / 10000 ** (np.arange(s.dim // 2)[None] / (s.dim // 2))
    turn = (np.cos(angle), np.sin(angle))
    h = "h"
    for i in range(s.layers):
        norm(h, f"n{i}")
        shape = (s.heads, s.kv_heads, s.dim, s.dim**-0.5, True)
        apart = (s.dim, s.dim, s.dim)
        if s.packed:
            wide, x = (s.heads + 2 * s.kv_heads) * s.dim, f"qkv{i}"
            linear(f"n{i}", x, f"{i}.qkv", s.features, wide)
            first = (0, s.heads * s.dim, (s.heads + s.kv_heads) * s.dim)
            if s.woven:
                first, apart = (0, s.dim, 2 * s.dim), (3 * s.dim,) * 3
            operators.append(Attention(x, x, x, f"a{i}", *shape, first, apart))
        else:
            linear(f"n{i}", f"q{i}", f"{i}.q", s.features, s.heads * s.dim)
            linear(f"n{i}", f"k{i}", f"{i}.k", s.features, s.kv_heads * s.dim)
            linear(f"n{i}", f"v{i}", f"{i}.v", s.features, s.kv_heads * s.dim)
            operators.append(Rotary(f"q{i}", f"rq{i}", s.heads, s.dim, *turn, 0, s.dim))
            operators.append(Rotary(f"k{i}", f"rk{i}", s.kv_heads, s.dim, *turn, 0, s.dim))
            operators.append(Attention(f"rq{i}", f"rk{i}", f"v{i}", f"a{i}", *shape, (0, 0, 0), apart))
        linear(f"a{i}", f"o{i}", f"{i}.o", s.heads * s.dim, s.features)
        operators.append(Add(h, f"o{i}", f"h{i}a"))
        norm(f"h{i}a", f"m{i}")
        if s.experts:
            linear(f"m{i}", f"r{i}", f"{i}.router", s.features, s.experts)
            operators.append(TopGates(f"r{i}", f"t{i}", 2, True))
        h = f"h{i}a"
        for e in range(max(1, s.experts)):
            n = f"{i}.{e}" if s.experts else f"{i}"
            linear(f"m{i}", f"g{n}", f"{n}.gate", s.features, s.inner)
            linear(f"m{i}", f"u{n}", f"{n}.up", s.features, s.inner)
            operators.append(Apply(f"g{n}", f"s{n}", s.function))
            operators.append(Mul(f"s{n}", f"u{n}", f"p{n}"))
            linear(f"p{n}", f"d{n}", f"{n}.down", s.inner, s.features)
            if s.experts:
                operators.append(RowScale(f"d{n}", f"t{i}", f"w{n}", e))
            operators.append(Add(h, f"w{n}" if s.experts else f"d{n}", f"{h}+{n}"))
            h = f"{h}+{n}"
    norm(h, "last")
    linear("last", "logits", "head", s.features, VOCABULARY)
    embedding = rng.normal(0, 1, (VOCABULARY, s.features))
    positions = rng.normal(0, 0.5, (s.context, s.features)) if s.packed else None
    return Decoder(
        s, Transformer((Lookup("ids", embedding),), positions, "h", tuple(operators), (Output("logits", "logits"),)), weights
    )


ADAPTED = ("q", "qkv", "v", "down")


def random_branches(decoder: Decoder, rank: int, seed: int) -> dict[str, Branch]:
    """LoRA of some linears of every layer, about as large as the base."""
    rng = np.random.default_rng(seed)
    return {
        name: Branch(rng.normal(0, 1 / np.sqrt(w.shape[0]), (w.shape[0], rank)), rng.normal(0, 0.5, (rank, w.shape[1])), 1.0)
        for name, (w, _) in decoder.weights.items()
        if name.split(".")[-1] in ADAPTED
    }


class IntegerReference:
    """Feeds tokens to the integer reference; keeps its cache."""

    def __init__(self, decoder: Decoder, linears: Mapping[str, Quantized], bits: int, context: int) -> None:
        self.decoder, self.linears, self.bits, self.context = decoder, linears, bits, context
        self.region = decoder.region(linears)
        self.cache = numpy_rows.Cache()
        self.output_fraction = 0
        self.values: dict[str, Int64] = {}

    def rows(self, ids: Int64) -> Int64:
        """Embeddings, with their positions, at the input's fraction."""
        model, first = self.decoder.model, len(self.cache)
        rows = model.embedding[ids]
        if model.positions is not None:
            rows = rows + model.positions[first : first + len(ids)]
        return np.rint(np.ldexp(rows, fraction(self.decoder.largest[model.input]))).astype(np.int64)

    def feed(self, ids: Int64, adapters: Sequence[str | None] | None = None) -> Int64:
        """Logits [tokens, vocabulary] of tokens that follow those before."""
        names = list(adapters) if adapters is not None else [None] * len(ids)
        rows = numpy_rows.Reference(self.linears, names, self.cache, self.bits, self.rows(ids))
        d = self.decoder
        first, fractions = lower(self.region, rows, self.bits, self.context)
        self.output_fraction = fractions[d.model.output]
        assert first == fraction(d.largest[d.model.input])
        self.values = rows.values
        return rows.output


@dataclass(frozen=True)
class Start:
    """One start of the machine, before it: memory, program, registers; and its rows."""

    memory: npt.NDArray[np.uint8]
    program: int
    registers: dict[int, int]
    rows: int


class Machine:
    """A built decoder's memory, with one adapter block a slot."""

    def __init__(self, decoder: Decoder, target: Target, linears: Mapping[str, Quantized], adapters: Mapping[str, int]) -> None:
        """`adapters`: name -> rank, in the order of their slots."""
        self.target, self.adapters = target, list(adapters)
        rank = max(adapters.values(), default=0)
        module = decoder.module(linears, decoder.sizes.context, Starts.DECODE, rank)
        self.image: Image = build_region(
            target, read_region(module, [*linears.values()]), [*linears.values()], slots=len(adapters)
        )
        i = self.image
        self.memory = np.zeros(-(-i.size // 64) * 64, np.uint8)
        self._put(0, i.data)
        self.slots: dict[int, int] = {}
        for slot, (name, own) in enumerate(adapters.items(), 1):
            address = i.adapter_address + (slot - 1) * i.adapter_size
            self._put(address, adapter_block(target, list(linears.values()), name, own, i.tilings))
            self.slots |= slot_values(target, slot, address, own)
        self.position = 0

    def _put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def start(self, rows: Int64, adapters: Sequence[str | None] | None = None) -> Start:
        """Everything for a start with `rows` (s32 [tokens, features]), T or one of them."""
        t, i = self.target, self.image
        words = np.zeros((len(rows), i.input_words * t.vector_lanes), "<i4")
        words[:, : rows.shape[1]] = rows
        self._put(i.regions["input"][0], words.tobytes())
        slots = np.zeros(max(i.programs), np.int64)
        for row, name in enumerate(adapters or ()):
            slots[row] = 0 if name is None else 1 + self.adapters.index(name)
        self._put(i.regions["token words"][0], token_words(slots))
        place = position_registers(t, self.position, len(rows), i.dim, i.half, i.context)
        registers = {int(k): v for k, v in place.items()} | self.slots
        return Start(self.memory.copy(), i.programs[len(rows)].address, registers, len(rows))

    def finish(self, start: Start, memory: npt.NDArray[np.uint8]) -> Int64:
        """Keep what a start left in memory; its logits [tokens, vocabulary]."""
        t, i = self.target, self.image
        self.memory = np.array(memory, np.uint8)
        self.position += start.rows
        address, width = i.regions["output 0"][0], i.output_words[0] * t.vector_lanes
        logits = self.memory[address : address + 4 * width * start.rows].view("<i4").reshape(start.rows, width)
        return logits[:, :VOCABULARY].astype(np.int64)
