"""Operators to the module and back: what the backend reads is what was recognised, for every kind of operator."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
from tiny_decoder import Decoder, Sizes, partitioned, random_decoder
from tvm import relax

from axlora.compiler.functions import own_bound, own_function
from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    Beside,
    FakeQuantize,
    Function,
    Mul,
    Norm,
    NormKind,
    Op,
    OwnFunction,
    Pool,
    PoolKind,
    Positional,
    Quantization,
    Rotary,
    RowScale,
    Slice,
    TopGates,
    Window,
)
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.passes.row_calls import composite, plain, typed
from axlora.compiler.rows.read_region import Region, read_region
from axlora.compiler.rows.tables import function_table
from axlora.compiler.transformer import Lookup, Output, Transformer
from axlora.isa.target import Target

FEATURES, ROWS = 12, 5
RNG = np.random.default_rng(0)
GAIN, BIAS = RNG.normal(0, 1, (2, FEATURES))
TURN = RNG.normal(0, 1, (2, ROWS, 2))
LEAKY = own_function("leaky", lambda x: np.where(x < 0, 0.1 * x, x), 8.0)
CODES = Quantization(0.1, -128, -128, 127)
ONE: list[Op] = [
    *(Norm("x", "y", kind, GAIN, None, 1e-7) for kind in NormKind),
    Norm("x", "y", NormKind.LAYER, GAIN[:6], BIAS[:6], 1e-12),
    Add("x", "x", "y"),
    Add("x", "x", "y", -1),
    Mul("x", "x", "y"),
    Affine("x", "y", GAIN, BIAS),
    *(Apply("x", "y", function) for function in Function),
    Apply("x", "y", LEAKY),
    FakeQuantize("x", "y", CODES),
    Rotary("x", "y", 2, 5, *TURN, 1, 6),
    Slice("x", "y", 2, 3, 1, 5),
    *(Attention("x", "x", "x", "y", 4, 2, 2, 0.3, causal, (0, 8, 8), (2, 2, 2)) for causal in (True, False)),
    Attention("x", "x", "x", "y", 4, 2, 2, 0.3, True, (0, 8, 8), (2, 2, 2), (CODES, CODES), CODES._replace(zero=0)),
    Attention("x", "x", "x", "y", 4, 2, 2, 0.3, True, (0, 8, 8), (2, 2, 2), cap=4.5),
    Positional("x", "y", RNG.normal(0, 1, (ROWS, FEATURES))),
    Beside("x", "x", "y"),
    Window("x", "y", np.array([[-1, 0, 1], [1, 2, 3], [3, 4, -1]]), "x as 3 rows"),
    *(TopGates("x", "y", 3, normalized) for normalized in (True, False)),
    RowScale("x", "x", "y", 5),
    *(Pool("x", "y", kind) for kind in PoolKind),
]


def _same(a: Any, b: Any) -> None:
    """Operators, field by field, arrays element by element; functions without a name by their table."""
    assert type(a) is type(b)
    for each in dataclasses.fields(a):
        x, y = getattr(a, each.name), getattr(b, each.name)
        assert type(x) is type(y), each.name
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        elif isinstance(x, OwnFunction):
            assert x == y  # name and bound
            np.testing.assert_array_equal(function_table(x, 18, 18).records, function_table(y, 18, 18).records)
        else:
            assert x == y, each.name


def _read(op: Op, largest: float = 3.0) -> Region:
    model = Transformer((Lookup("ids", np.zeros((3, FEATURES))),), None, "x", (op,), (Output("out", "y"),))
    return read_region(partitioned(model, {}, {"x": 1.5, "y": largest}, ROWS), [])


@pytest.mark.parametrize("op", ONE, ids=lambda op: type(op).__name__)
def test_an_operator_is_read_as_it_was_written(op: Op) -> None:
    region = _read(op, 0.1)
    (found,) = region.operators
    _same(op, found)
    assert region.largest == {"x": 1.5, "y": 0.1}
    assert region.outputs == {"y": 0}
    assert (region.input, region.rows, region.widths["x"], region.starts) == ("x", ROWS, FEATURES, Starts.SEQUENCE)


class _Pair(NamedTuple):
    scale: float
    zero: int


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (float, 1e-45),
        (bool, True),
        (NormKind, NormKind.UNIT),
        (Function | OwnFunction, Function.GELU),
        (float | None, 0.1),
        (tuple[int, float], (-3, 2.0)),
        (tuple[int, ...], ()),
        (_Pair | None, _Pair(0.1, -128)),
        (tuple[_Pair, ...], (_Pair(1 / 3, 0), _Pair(2.0**-40, 7))),
    ],
)
def test_a_field_is_read_as_it_was_written(hint: Any, value: Any) -> None:
    """By way of an attribute of a function, whatever TVM makes of numbers."""
    attribute = plain(value.value if isinstance(value, Enum) else value)
    with_it = composite("x", {}, relax.TensorType((1, 1), "int32"), {"field": attribute})
    found = typed(hint, with_it.attrs["field"])
    assert found == value
    assert repr(found) == repr(value)


def test_every_kind_of_operator_is_here() -> None:
    assert {type(op) for op in ONE} | {type(op) for op in random_decoder().model.operators} == {*get_args(Op)}


def test_a_function_without_a_name_is_its_straight_lines() -> None:
    """Where the lines meet they are the function, and between as near to it as its table."""

    def elu(x: np.ndarray) -> np.ndarray:
        return np.where(x < 0, np.expm1(np.minimum(x, 0)), x)

    bound = own_bound(elu)
    assert bound is not None
    (op,) = _read(Apply("x", "y", own_function("elu", elu, bound))).operators
    assert isinstance(op, Apply)
    assert isinstance(op.function, OwnFunction)
    x = np.linspace(-4 * bound, 4 * bound, 4001)
    assert 0 < np.abs(op.function.of(x) - elu(x)).max() < 2.0**-11


def _decoder(**changes: Any) -> Decoder:
    d = random_decoder(Sizes(layers=1, context=8))
    return dataclasses.replace(d, model=dataclasses.replace(d.model, **changes))


def test_linears_are_known_by_their_parameters() -> None:
    """Name, step and rank; in another order of linears, the parameters of another name are the same linears."""
    d = _decoder()
    linears = d.quantized(Target.load("test"))
    for order in (dict(linears), dict(reversed(linears.items()))):
        region = read_region(d.module(order, 8, Starts.DECODE, 3), [*order.values()])
        for wanted, found in zip(d.model.operators, region.operators, strict=True):
            _same(wanted, found)
        assert region.steps == {name: linear.output_step for name, linear in linears.items()}
        assert region.ranks == dict.fromkeys(linears, 3)
        assert region.starts is Starts.DECODE
    wrong = read_region(d.module(linears, 8), [*reversed(linears.values())])
    assert [getattr(op, "name", "") for op in wrong.operators] != [getattr(op, "name", "") for op in d.model.operators]


def test_a_linear_that_no_operator_needs_has_no_parameters() -> None:
    d = random_decoder(Sizes(layers=1, context=8))
    linears = d.quantized(Target.load("test"))
    more = {"unread": dataclasses.replace(linears["head"], name="unread")} | linears
    module = d.module(more, 8, rank=2)
    assert not [p.name for p in module["main"].params if p.name.startswith("w0_")]
    region = read_region(module, [*more.values()])
    assert region.steps.keys() == region.ranks.keys() == linears.keys()
    for wanted, found in zip(d.model.operators, region.operators, strict=True):
        _same(wanted, found)


def test_divided_channels_are_what_linears_alone_read() -> None:
    by = RNG.uniform(1, 4, 40)
    d = _decoder(smooth={"n0": by})
    largest = d.largest | {"n0/smooth": 0.75}
    linears = d.quantized(Target.load("test"))
    region = read_region(partitioned(d.model, linears, largest, 8), [*linears.values()])
    np.testing.assert_array_equal(region.smooth["n0"], by)
    assert region.smooth.keys() == {"n0"}
    assert region.largest == largest
    for wanted, found in zip(d.model.operators, region.operators, strict=True):
        _same(wanted, found)


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        ((Output("a", "h0a"), Output("b", "logits"), Output("c", "h0a")), {"h0a": 0, "logits": 1}),
        ((Output("a", "logits"), Output("b", "logits"), Output("c", "m0")), {"logits": 0, "m0": 2}),
    ],
)
def test_an_output_that_is_another_ones_value_has_its_number(outputs: tuple[Output, ...], wanted: dict[str, int]) -> None:
    d = _decoder(outputs=tuple(dataclasses.replace(o, value=o.value) for o in outputs))
    linears = d.quantized(Target.load("test"))
    region = read_region(d.module(linears, 8), [*linears.values()])
    assert region.outputs == wanted


def test_equal_tables_of_layers_are_one_constant() -> None:
    d = random_decoder(Sizes(layers=2, context=8))
    linears = d.quantized(Target.load("test"))
    turned = [op for op in read_region(d.module(linears, 8), [*linears.values()]).operators if isinstance(op, Rotary)]
    assert len(turned) == 4
    assert all(op.cos is turned[0].cos and op.sin is turned[0].sin for op in turned)
