"""The integer module of a transformer, compiled by LLVM, against the NumPy reference: every output, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm
from test_whole import LAYER, PACKED, TEST, _encoder
from tiny_decoder import VOCABULARY, IntegerReference, Sizes, random_branches, random_decoder
from tvm import relax

from axlora.compiler.frontend.tvm_import import compiled
from axlora.compiler.operators import Function, NormKind, PoolKind
from axlora.compiler.passes.linear_calls import Emitter
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.reference import numpy_rows
from axlora.compiler.reference.integer_module import IntegerModule
from axlora.compiler.rows import ax_rows
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import read_region
from axlora.isa import numerics
from axlora.isa.opcodes import Row

TOKENS = 20


@pytest.mark.parametrize(
    ("sizes", "kind", "keys", "rank"),
    [
        (LAYER, {"pools": (PoolKind.MEAN,)}, 13, 0),
        (PACKED, {"pools": (PoolKind.FIRST,)}, 20, 4),
        (Sizes(layers=1, context=TOKENS), {"causal": True}, 20, 3),
        (Sizes(layers=1, context=TOKENS, experts=3, inner=16), {"causal": True}, 20, 3),
    ],
    ids=["layer-padding-mean", "packed-adapter-first", "rotary-causal-adapter", "experts-adapter"],
)
def test_encoders(sizes: Sizes, kind: dict[str, object], keys: int, rank: int) -> None:
    d = _encoder(sizes, **kind)
    linears = d.quantized(TEST, {"a": random_branches(d, rank, 9)} if rank else {})
    region = read_region(d.module(linears, TOKENS, rank=rank), list(linears.values()))
    module = IntegerModule(region, list(linears.values()), bits=8, context=24, starts=[TOKENS])
    ids = np.random.default_rng(5).integers(0, VOCABULARY, TOKENS)
    rows = np.rint(np.ldexp(d.rows(ids), module.fractions[0])).astype(np.int64)
    for adapter in [None, "a"][: 1 + (rank > 0)]:
        wanted = numpy_rows.Reference(linears, [adapter] * TOKENS, numpy_rows.Cache(), 8, rows, keys)
        lower(region, wanted, 8, 24)
        found, _ = module.run(rows, 0, keys, adapter=adapter)
        assert found.keys() == wanted.outputs.keys()
        for number, expected in wanted.outputs.items():
            np.testing.assert_array_equal(found[number], expected)
            assert len(np.unique(expected)) > expected.shape[1] // 2


@pytest.mark.parametrize("bits", [8, 16])
def test_prefill_and_decode_share_a_cache(bits: int) -> None:
    """Starts of 4 rows and of one in any order; adapters; LayerNorm, GELU and grouped heads as well as RMS and SiLU."""
    kind = {"norm": NormKind.LAYER, "function": Function.GELU} if bits == 8 else {}
    d = random_decoder(Sizes(layers=1, **kind))  # type: ignore[arg-type]
    target = TEST if bits == 8 else TEST.__class__(**vars(TEST) | {"activation_bits": 16, "accumulator_bits": 48})
    linears = d.quantized(target, {"a": random_branches(d, 4, 5)})
    context = d.sizes.context
    region = read_region(d.module(linears, context, Starts.DECODE, 4), list(linears.values()))
    module = IntegerModule(region, list(linears.values()), bits=bits, context=context, starts=[1, 4])
    chunks = [4, 1, 1, 4, 1]
    ids = np.random.default_rng(4).integers(0, VOCABULARY, sum(chunks))
    wanted = IntegerReference(d, linears, bits, context)
    cache = None
    for first, end in itertools.pairwise(np.cumsum([0, *chunks]).tolist()):
        rows = np.rint(np.ldexp(d.rows(ids)[first:end], module.fractions[0])).astype(np.int64)
        found, cache = module.run(rows, first, cache=cache, adapter="a")
        np.testing.assert_array_equal(found[0], wanted.feed(ids[first:end], ["a"] * (end - first)))


# The functions alone, at the ends of their ranges


def _run(make: object, fixed: tuple[object, ...], arguments: list[np.ndarray], results: list[object]) -> list[np.ndarray]:
    builder = relax.BlockBuilder()
    variables = [relax.Var(f"a{n}", relax.TensorType(x.shape, str(x.dtype))) for n, x in enumerate(arguments)]
    emitter = Emitter(builder.add_func, builder.emit)
    with builder.function("main", variables):
        made = emitter.call(make, fixed, variables, results if len(results) > 1 else results[0])  # type: ignore[arg-type]
        builder.emit_func_output(made)
    out = compiled(builder.finalize())["main"](*[tvm.runtime.tensor(x) for x in arguments])
    return [out.numpy()] if len(results) == 1 else [each.numpy() for each in out]


@pytest.mark.parametrize("function", Row)
def test_row_scalars(function: Row) -> None:
    """Of every size from 0 to the last that its product fits, next to powers of two and to squares."""
    sizes = [(1 << k) + d for k in range(46) for d in (-1, 0, 1)] + [n * n + d for n in (3, 46341, 2**22 - 1) for d in (-1, 0)]
    reduced = np.array([*sizes, -5, 0, 1], np.int64)
    m = len(reduced)
    for factor, add, shift, adjust, token in ((65535, 3, 16, 5, 20), (1, 0, 0, 0, 0), (40000, 65535, 40, -7, -3)):
        results = [((m,), "int64")] * 3 + ([((m, 1), "uint16"), ((m, 1), "uint8")] if function is Row.TOKEN else [])
        numbers = np.array([factor, add, shift, adjust, token], np.int64)
        found = _run(ax_rows.ax_scalar, (function, m), [numbers, reduced], results)
        for place, r in enumerate(reduced.tolist()):
            wanted = numerics.row_scalar(function, r, factor, add, shift, adjust, token)
            got = [int(each.reshape(-1)[place]) for each in found]
            assert got[:3] == [wanted.factor, wanted.shift, wanted.value], r
            assert got[3:] in ([], [wanted.mantissa, wanted.token_shift]), r


@pytest.mark.parametrize("shift", [0, 1, 6])
def test_gathered_rows_round_and_saturate_one_by_one(shift: int) -> None:
    rows = np.random.default_rng(shift).integers(-(1 << 31) + 1, 1 << 31, (9, 5))
    rows[:, 0] = (1 << 31) - 1
    total = np.zeros((1, 5), np.int64)
    for row in rows[:7]:
        total = numerics.map_rows(numerics.Map.MAC, row[None], total, ca=1, cb=1 << shift, shift=shift)[0]
    places = np.array([0, 7], np.int64)
    (found,) = _run(ax_rows.ax_gather, (9, 5, shift), [rows.astype(np.int32), places], [((1, 5), "int32")])
    np.testing.assert_array_equal(found, total)
