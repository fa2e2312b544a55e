"""Whole sequences: one program equals the integer reference bit for bit, in blocks or at once, with padding and pools."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tiny_decoder import VOCABULARY, Decoder, Sizes, random_branches, random_decoder

from axlora.compiler.backend.build_image import Image, _Job, build_region
from axlora.compiler.backend.emit_chains import ChainEmit
from axlora.compiler.backend.emit_rows import Form
from axlora.compiler.backend.link import adapter_block
from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.layer import Linear as Quantized
from axlora.compiler.operators import Add, Apply, Attention, Function, Linear, Mul, Norm, NormKind, Pool, PoolKind
from axlora.compiler.reference import numpy_rows
from axlora.compiler.rows import float_forms
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import read_region
from axlora.compiler.rows.row_operations import Heads
from axlora.compiler.transformer import Output, Transformer
from axlora.isa.positions import position_registers
from axlora.isa.regions import slot_values, token_words
from axlora.isa.target import Target
from axlora.sim.run import SimResult, run_image

TEST = Target.load("test")
LAYER = Sizes(layers=1, norm=NormKind.LAYER, function=Function.GELU, context=20)
PACKED = Sizes(layers=2, norm=NormKind.LAYER, function=Function.GELU_TANH, kv_heads=4, packed=True, context=20)


def _encoder(sizes: Sizes, *, causal: bool = False, pools: tuple[PoolKind, ...] = (), seed: int = 0) -> Decoder:
    """A decoder's operators without its mask; each pool ends in a linear, tanh and a row of length 1."""
    d = random_decoder(sizes, seed)
    operators = [dataclasses.replace(op, causal=causal) if isinstance(op, Attention) else op for op in d.model.operators]
    outputs, weights = [*d.model.outputs], dict(d.weights)
    rng = np.random.default_rng(seed)
    for kind in pools:
        weights[f"pool {kind.value}"] = (rng.normal(0, sizes.features**-0.5, (sizes.features, 12)), rng.normal(0, 0.1, 12))
        p = f"p {kind.value}"
        operators += [
            Pool("last", p, kind),
            Linear(p, f"{p} y", f"pool {kind.value}"),
            Apply(f"{p} y", f"{p} tanh", Function.TANH),
            Norm(f"{p} tanh", f"{p} unit", NormKind.UNIT, np.ones(12), None, 1e-24),
        ]
        outputs += [Output(f"{kind.value} row", p), Output(f"{kind.value} unit", f"{p} unit")]
    model = dataclasses.replace(d.model, operators=tuple(operators), outputs=tuple(outputs))
    return Decoder(sizes, model, weights)


def _image(d: Decoder, target: Target, linears: Mapping[str, Quantized], tokens: int, rank: int = 0) -> Image:
    held = list(linears.values())
    return build_region(target, read_region(d.module(linears, tokens, rank=rank), held), held, slots=int(rank > 0))


def _compare(d: Decoder, target: Target, tokens: int, keys: int, rank: int = 0) -> Image:
    """Every output, bit for bit; with a rank, all rows under an adapter."""
    return _ran(d, target, tokens, keys, rank)[0]


def _ran(d: Decoder, target: Target, tokens: int, keys: int, rank: int = 0, timing: bool = False) -> tuple[Image, SimResult]:
    """As `_compare`; also what the simulator left."""
    branches = {"a": random_branches(d, rank, 9)} if rank else {}
    linears = d.quantized(target, branches)
    image = _image(d, target, linears, tokens, rank)
    memory = np.zeros(-(-image.size // 64) * 64, np.uint8)

    def put(name: str, values: np.ndarray) -> None:
        data = np.frombuffer(values.astype("<i4").tobytes(), np.uint8)
        memory[image.regions[name][0] : image.regions[name][0] + data.size] = data

    memory[: len(image.data)] = np.frombuffer(image.data, np.uint8)
    ids = np.random.default_rng(5).integers(0, VOCABULARY, tokens)
    rows = np.rint(np.ldexp(d.rows(ids), image.input_fraction)).astype(np.int64)
    padded = np.zeros((tokens, image.input_words * target.vector_lanes), np.int64)
    padded[:, : rows.shape[1]] = rows
    put("input", padded)
    registers = {int(k): v for k, v in position_registers(target, 0, keys, image.dim, image.half, image.context).items()}
    if rank:
        block = adapter_block(target, list(linears.values()), "a", rank, image.tilings)
        memory[image.adapter_address : image.adapter_address + len(block)] = np.frombuffer(block, np.uint8)
        registers |= slot_values(target, 1, image.adapter_address, rank)
    words = np.frombuffer(token_words(np.full(image.regions["token words"][1] // 4, int(rank > 0))), "<i4")
    put("token words", words)
    if "row weights" in image.regions:
        unit = image.regions["row count"][1] // 4
        weights = np.zeros((tokens, unit), np.int64)
        weights[:keys, 0] = 1
        put("row weights", weights)
        put("row count", np.array([keys]))
    left = run_image(target, memory, image.programs[tokens].address, registers, timing=timing)
    wanted = numpy_rows.Reference(
        linears, ["a" if rank else None] * tokens, numpy_rows.Cache(), target.activation_bits, rows, keys
    )
    lower(d.region(linears), wanted, target.activation_bits, image.context)
    for n, expected in wanted.outputs.items():
        address, width = image.regions[f"output {n}"][0], image.output_words[n] * target.vector_lanes
        found = left.memory[address : address + 4 * width * len(expected)].view("<i4").reshape(len(expected), width)
        assert np.array_equal(found[:, : expected.shape[1]], expected), d.model.outputs[n].name
        assert len(np.unique(expected)) > expected.shape[1] // 2
    assert len(wanted.outputs) == len(d.model.outputs)
    return image, left


@pytest.mark.parametrize("keys", [1, 7, 8, 19])
@pytest.mark.parametrize("causal", [False, True])
def test_a_sequence_at_once(causal: bool, keys: int) -> None:
    """19 rows: the last group is smaller than T. Causal attention sees no mask of padding."""
    _compare(_encoder(LAYER, causal=causal), TEST, 19, 19 if causal else keys)


@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("sizes", [LAYER, PACKED, Sizes(layers=2, context=20)], ids=["layer", "packed", "rms-rotary"])
def test_blocks_that_do_not_fit_at_once(sizes: Sizes, rank: int) -> None:
    """A small VBUF: several blocks, spilled between attention's halves; the same bits as the reference's one block."""
    small = dataclasses.replace(TEST, vbuf_words=512 if sizes.packed else 1024)
    image = _compare(_encoder(sizes), small, 20, 17, rank)
    assert any(name.startswith("rows ") for name in image.regions)


@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("lines", [64, 128])
def test_weights_cut_into_rows(lines: int, rank: int) -> None:
    """A small WBUF: sums of several row tiles, of all groups at once, x.A beside them."""
    small = dataclasses.replace(TEST, wbuf_lines=lines * (1 + (rank > 0)))
    image = _compare(_encoder(Sizes(layers=1, context=20, inner=96)), small, 20, 17, rank)
    assert any(len(t.plan.row_tiles(t.shape)) > 1 for t in image.tilings.values())


def test_causal_blocks() -> None:
    small = dataclasses.replace(TEST, vbuf_words=1024)
    image = _compare(_encoder(Sizes(layers=2, context=20), causal=True), small, 20, 20)
    assert any(name.startswith("rows ") for name in image.regions)


@pytest.mark.parametrize("words", [2048, 1024])
@pytest.mark.parametrize("keys", [1, 6, 20])
@pytest.mark.parametrize("pools", [(PoolKind.FIRST,), (PoolKind.MEAN,), (PoolKind.FIRST, PoolKind.MEAN)], ids=str)
def test_pools(pools: tuple[PoolKind, ...], keys: int, words: int) -> None:
    """The first row, the mean of the rows that are no padding, and what is made of them; beside all rows' logits."""
    _compare(_encoder(LAYER, pools=pools), dataclasses.replace(TEST, vbuf_words=words), 20, keys)


@pytest.mark.parametrize("dim", [6, 12, 20])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lanes", [4, 8])
def test_heads_that_are_no_whole_words(lanes: int, packed: bool, dim: int) -> None:
    """Heads of one linear or of three, halves that turn where they are three; with an adapter, in blocks that are spilled."""
    target = dataclasses.replace(Target.load("zcu104"), vector_lanes=lanes, vbuf_words=8192 // lanes)
    sizes = Sizes(layers=2, context=20, dim=dim, kv_heads=4, norm=NormKind.LAYER, packed=packed)
    _compare(_encoder(sizes), target, 20, 17, 4)


def test_zcu104_with_adapter_and_pools() -> None:
    _compare(_encoder(PACKED, pools=(PoolKind.MEAN,)), Target.load("zcu104"), 20, 13, 4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("test", marks=pytest.mark.slow),
        pytest.param("zcu104", marks=pytest.mark.slow),
        pytest.param("ulx3s-85f", marks=pytest.mark.exhaustive),
        pytest.param("edge-asic", marks=pytest.mark.exhaustive),
    ],
)
def test_random_encoders(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = {"norm": NormKind.LAYER, "function": Function.GELU} if seed % 2 else {}
    sizes = Sizes(layers=int(rng.integers(1, 3)), context=40, dim=16, heads=4, kv_heads=4, packed=seed % 3 == 0, **kind)  # type: ignore[arg-type]
    tokens = int(rng.integers(1, 41))
    d = _encoder(sizes, pools=(PoolKind.MEAN, PoolKind.FIRST)[: seed % 3], seed=seed)
    target = Target.load(name)
    if seed > 2:
        target = dataclasses.replace(target, vbuf_words=min(target.vbuf_words, 1024))
    _compare(d, target, tokens, int(rng.integers(1, tokens + 1)), int(rng.choice([0, 3, 20])))


@pytest.mark.parametrize("keys", [20, 9])
def test_integers_are_near_floating_point(keys: int) -> None:
    """Root mean square error over rows that are no padding, and of the pooled rows: the weights' 8 bits count."""
    d = _encoder(PACKED, pools=(PoolKind.MEAN, PoolKind.FIRST))
    linears = d.quantized(TEST)
    ids = np.random.default_rng(3).integers(0, VOCABULARY, 20)
    rows = d.rows(ids)
    f = 30 - 2 - int(np.ceil(np.log2(d.largest["h"])))
    r = numpy_rows.Reference(linears, [None] * 20, numpy_rows.Cache(), 8, np.rint(np.ldexp(rows, f)).astype(np.int64), keys)
    _, fractions = lower(d.region(linears), r, 8, 24)
    wanted = float_forms.evaluate(d.model, rows, d.products, keys)
    for n, output in enumerate(d.model.outputs):
        got = np.ldexp(r.outputs[n].astype(float), -fractions[output.value])
        exact = wanted[output.value]
        assert np.sqrt(((got - exact) ** 2).mean() / (exact**2).mean()) < 0.04, output.name


def test_padding_changes_nothing() -> None:
    """Rows of padding may hold anything: the others, and their mean, stay bit for bit."""
    d = _encoder(LAYER, pools=(PoolKind.MEAN,))
    linears = d.quantized(TEST)
    found = []
    for seed in (1, 2):
        ids = np.random.default_rng(0).integers(0, VOCABULARY, 20)
        ids[12:] = np.random.default_rng(seed).integers(0, VOCABULARY, 8)
        rows = np.rint(np.ldexp(d.rows(ids), 24)).astype(np.int64)
        r = numpy_rows.Reference(linears, [None] * 20, numpy_rows.Cache(), 8, rows, 12)
        lower(d.region(linears), r, 8, 24)
        found.append(r.outputs)
    assert np.array_equal(found[0][0][:12], found[1][0][:12])
    assert not np.array_equal(found[0][0][12:], found[1][0][12:])
    for n in (1, 2):
        assert np.array_equal(found[0][n], found[1][n])


def test_pooled_rows_that_meet_all_rows_are_refused() -> None:
    d = _encoder(LAYER, pools=(PoolKind.FIRST,))
    operators = (*d.model.operators, Add("last", "p first", "both"))
    model: Transformer = dataclasses.replace(d.model, operators=operators, outputs=(Output("both", "both"),))
    with pytest.raises(UnsupportedOperator, match="pooled row"):
        _compare(Decoder(d.sizes, model, d.weights), TEST, 20, 20)


def test_a_target_too_small_for_one_group_is_refused() -> None:
    d = _encoder(LAYER)
    target = dataclasses.replace(TEST, vbuf_words=64)
    with pytest.raises(BadModel, match="words of VBUF"):
        _image(d, target, d.quantized(target), 20)


def _wide_mlp(sizes: Sizes) -> Decoder:
    """An encoder whose MLP has no gate: its wide layer goes through the function and on."""
    d = _encoder(sizes)
    products = {op.y: op.a for op in d.model.operators if isinstance(op, Mul)}
    dropped = {op.b for op in d.model.operators if isinstance(op, Mul)}
    kept = [op for op in d.model.operators if not isinstance(op, Mul) and getattr(op, "y", "") not in dropped]
    operators = [replace(op, x=products[op.x]) if isinstance(op, Linear) and op.x in products else op for op in kept]
    used = {op.name for op in operators if isinstance(op, Linear)}
    weights = {name: value for name, value in d.weights.items() if name in used}
    return Decoder(sizes, replace(d.model, operators=tuple(operators)), weights)


def test_units_overlap_in_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group by group, products of some rows are found while others are worked on: step by step takes an eighth longer."""
    sizes = replace(LAYER, features=192, heads=4, kv_heads=4, dim=32, inner=768, context=64)
    encoder, target = _encoder(sizes), Target.load("zcu104")
    _, chained = _ran(encoder, target, 64, 61, timing=True)
    monkeypatch.setattr(_Job, "most", lambda job: (job.blocks(Form.PLAIN), Form.PLAIN))
    _, plain = _ran(encoder, target, 64, 61, timing=True)
    assert chained.counters["macs"] == plain.counters["macs"]
    assert 9 * chained.counters["cycles"] < 8 * plain.counters["cycles"]


@pytest.mark.parametrize("lines", [128, 256, 512, 1024])
def test_chains_by_what_weights_stay(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains in several cuts; with 512 lines the wide linear's first rows go ahead, others between chains, the last in one."""
    begun: list[tuple[tuple[str, ...], bool, str]] = []
    begin = ChainEmit.begin

    def noted(emit: ChainEmit, names: Sequence[str], heads: Heads | None, split: bool, ahead: str) -> None:
        begun.append((tuple(names), split, ahead))
        begin(emit, names, heads, split, ahead)

    monkeypatch.setattr(ChainEmit, "begin", noted)
    target = replace(Target.load("zcu104"), wbuf_lines=lines)
    _compare(_wide_mlp(replace(LAYER, layers=2, features=96, kv_heads=4, inner=768, context=40)), target, 40, 37)
    middle = {
        512: [(("0.o", "0.gate"), False, "0.down"), (("0.down", "1.q", "1.k", "1.v"), True, "")],
        1024: [(("0.o", "0.gate", "0.down", "1.q", "1.k", "1.v"), False, "")],
    }
    start = max(n for n, chain in enumerate(begun) if chain[0][0] == "0.q") + 1
    layer = itertools.takewhile(lambda chain: chain[0][0] != "1.o", begun[start:])
    assert [*layer] == middle.get(lines, [(("0.o",), False, ""), (("1.q", "1.k", "1.v"), False, "")])
