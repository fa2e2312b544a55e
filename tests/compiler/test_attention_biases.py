"""What is added to scores: windows, prefixes, blocks, relative positions, padding beside them; whole and in decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from writer import Writer

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.operators import Attention
from axlora.compiler.passes.recognise_transformer import read_whole
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.samples import products
from axlora.compiler.pipelines.transformers import lower_whole, recognised
from axlora.compiler.rows import float_forms
from axlora.compiler.transformer import Padding
from axlora.isa.target import Target

TOKENS, HEADS, DIM, IDS = 16, 2, 8, 30
N = HEADS * DIM
LEAST = float(np.finfo(np.float32).min)
DISTANCE = np.arange(TOKENS)[:, None] - np.arange(TOKENS)[None]
CAUSAL = DISTANCE >= 0


def hidden(seen: np.ndarray, least: float = LEAST) -> np.ndarray:
    """0 where a key is seen, else a large negative number."""
    return np.where(seen, 0.0, least)


def added(values: np.ndarray) -> Callable[[Writer, str], str]:
    """Scores plus a constant."""
    return lambda w, scores: w("Add", scores, w.constant(values))


def alibi(w: Writer, scores: str) -> str:
    """A slope a head times the distance (Press et al., arXiv:2108.12409), and a causal mask in the same tensor."""
    slopes = np.array([0.5, 0.0625])[:, None, None]
    return w("Add", scores, w.constant(np.where(CAUSAL, -slopes * DISTANCE, -1e9)[None]))


def looked_up(w: Writer, scores: str) -> str:
    """Relative positions by buckets (T5): a row of a table for each distance, as the exporter writes it."""
    table = np.random.default_rng(5).normal(0, 1.5, (5, HEADS))
    buckets = w.constant(np.clip(DISTANCE + 2, 0, 4).astype(np.int64))
    bias = w("Unsqueeze", w("Transpose", w("Gather", w.constant(table), buckets), perm=[2, 0, 1]), w.ints(0))
    return w("Add", scores, bias)


def chosen(seen: np.ndarray) -> Callable[[Writer, str], str]:
    """Where(seen, scores, -inf)."""
    return lambda w, scores: w("Where", w.constant(seen), scores, w.constant(np.array(-np.inf)))


def padding(w: Writer) -> str:
    """0 for tokens, -10000 for padding [1, 1, 1, n], as BERT's exporters write it."""
    mask = w("Unsqueeze", w("Cast", "attention_mask", to=TensorProto.FLOAT), w.ints(1, 2))
    return w("Mul", w("Sub", w.constant(np.array(1.0)), mask), w.constant(np.array(-10000.0)))


def with_padding(inner: Callable[[Writer, str], str], together: bool = False) -> Callable[[Writer, str], str]:
    """Padding and a constant, one after the other or as one tensor."""
    if together:
        return lambda w, scores: w("Add", scores, w("Add", inner(w, w.constant(np.zeros((1, 1, 1, 1)))), padding(w)))
    return lambda w, scores: inner(w, w("Add", scores, padding(w)))


def model(bias: Callable[[Writer, str], str]) -> onnx.ModelProto:
    """Two layers of attention with a bias on their scores; `input_ids` [1, n] to `y` [1, n, features]."""
    w, rng = Writer(), np.random.default_rng(3)
    x = w("Gather", w.constant(rng.normal(0, 1, (IDS, N))), "input_ids")
    for _ in range(2):
        q, k, v = (w("MatMul", x, w.constant(rng.normal(0, 0.3, (N, N)))) for _ in range(3))
        q, k, v = (w("Transpose", w("Reshape", s, w.ints(1, -1, HEADS, DIM)), perm=[0, 2, 1, 3]) for s in (q, k, v))
        scores = w("Mul", w("MatMul", q, w("Transpose", k, perm=[0, 1, 3, 2])), w.constant(np.array(DIM**-0.5)))
        mixed = w("MatMul", w("Softmax", bias(w, scores), axis=-1), v)
        own = w("Reshape", w("Transpose", mixed, perm=[0, 2, 1, 3]), w.ints(1, -1, N))
        x = w("Add", x, w("MatMul", own, w.constant(rng.normal(0, 0.3, (N, N)))))
    w.nodes[-1].output[0] = "y"
    names = {name for node in w.nodes for name in node.input}
    value = helper.make_tensor_value_info
    inputs = [value(n, TensorProto.INT64, [1, TOKENS]) for n in ("input_ids", "attention_mask") if n in names]
    graph = helper.make_graph(w.nodes, "g", inputs, [value("y", TensorProto.FLOAT, [1, TOKENS, N])], w.held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def expected(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(ort.InferenceSession(proto.SerializeToString(), options).run(None, feed)[0])


@dataclass(frozen=True)
class Case:
    """A bias, and what is known of it."""

    bias: Callable[[Writer, str], str]
    causal: bool
    padding: Padding | None = None
    """Where a mask of padding, if the model has one, may have it."""


PREFIX = CAUSAL | (np.arange(TOKENS) < 5)[None]
BLOCKS = np.equal.outer(np.arange(TOKENS) // 4, np.arange(TOKENS) // 4)
WINDOW = CAUSAL & (DISTANCE < 4)
AROUND = np.abs(DISTANCE) < 3
RANDOM = np.random.default_rng(4).normal(0, 1, (1, HEADS, TOKENS, TOKENS))
CASES = {
    "window": Case(added(hidden(WINDOW)), True),
    "window in booleans": Case(chosen(WINDOW), True),
    "window behind a causal mask": Case(lambda w, s: added(hidden(DISTANCE < 4, -1e4))(w, added(hidden(CAUSAL))(w, s)), True),
    "window to both sides": Case(added(hidden(AROUND)), False),
    "prefix": Case(added(hidden(PREFIX)), False),
    "blocks": Case(chosen(BLOCKS), False),
    "alibi": Case(alibi, True),
    "relative": Case(looked_up, False),
    "relative and causal": Case(lambda w, s: added(hidden(CAUSAL))(w, looked_up(w, s)), True),
    "scaled behind": Case(lambda w, s: w("Mul", added(RANDOM)(w, s), w.constant(np.array(0.5))), False),
    "two biases": Case(lambda w, s: added(RANDOM)(w, looked_up(w, s)), False),
    "padding and causal": Case(with_padding(added(hidden(CAUSAL))), True, Padding.ANYWHERE),
    "padding and causal at once": Case(with_padding(added(hidden(CAUSAL)), True), True, Padding.ANYWHERE),
    "padding, causal and a window": Case(with_padding(added(hidden(WINDOW)), True), True, Padding.AROUND),
    "padding and a window": Case(with_padding(added(hidden(AROUND)), True), False, Padding.AROUND),
    "padding and relative": Case(with_padding(looked_up, True), False, Padding.AROUND),
    "padding and blocks": Case(with_padding(chosen(BLOCKS)), False, Padding.BEHIND),
    "padding and any bias": Case(with_padding(added(RANDOM)), False, Padding.BEHIND),
}
FIRST, LAST = np.arange(TOKENS) < 11, np.arange(TOKENS) > 4
BETWEEN = np.arange(TOKENS) % 3 != 1
MASKS = {Padding.BEHIND: [FIRST], Padding.AROUND: [FIRST, LAST], Padding.ANYWHERE: [FIRST, LAST, BETWEEN]}
"""Where padding may lie -> masks that are taken."""


def feeds(case: Case) -> list[dict[str, np.ndarray]]:
    ids = np.random.default_rng(6).integers(0, IDS, (1, TOKENS))
    if case.padding is None:
        return [{"input_ids": ids}]
    return [{"input_ids": ids, "attention_mask": m[None].astype(np.int64)} for m in MASKS[case.padding]]


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def plain() -> float:
    """How far the model without a bias is from onnxruntime, over eight inputs: what 8 bits cost."""
    proto, found = model(lambda _, scores: scores), []
    program = axlora.compile(proto, "test", operators="all")
    for seed in range(8):
        ids = {"input_ids": np.random.default_rng(seed).integers(0, IDS, (1, TOKENS))}
        found.append(distance(axlora.simulate(program, ids, timing=False).outputs["y"], expected(proto, ids)))
    assert 0.002 < np.mean(found) < 0.03
    return float(np.mean(found))


@pytest.mark.parametrize("name", CASES)
def test_near_onnxruntime_and_as_llvm_computes(name: str, plain: float) -> None:
    """The whole model; rows of tokens, for what those of padding see is of no use."""
    case, target = CASES[name], Target.load("test")
    proto = model(case.bias)
    program = axlora.compile(proto, target, operators="all")
    assert program.host_macs == 0
    found = lower_whole(proto, target, CompileOptions(operators="all"))
    attention = [op for op in found.model.operators if isinstance(op, Attention)]
    assert [op.causal for op in attention] == [case.causal] * 2
    module = found.integers(target.activation_bits)
    for feed in feeds(case):
        run = axlora.simulate(program, feed, timing=False)
        rows, order, keys = program.interface.rows({name: value[0] for name, value in feed.items()})
        outputs, _ = module.run(rows, 0, keys)
        np.testing.assert_array_equal(run.codes["y"].reshape(TOKENS, -1)[order], outputs[0][:, :N])
        real = feed.get("attention_mask", np.ones((1, TOKENS)))[0] > 0
        got, wanted = run.outputs["y"][:, real], expected(proto, feed)[:, real]
        assert distance(got, wanted) < 1.2 * plain
    without = expected(model(lambda _, scores: scores), {"input_ids": feed["input_ids"]})[:, real]
    assert distance(without, wanted) > 0.05  # what is added counts


def rounded(w: Writer, scores: str) -> str:
    """Behind a pair of 8 bits."""
    scale, zero = w.constant(np.array(0.2)), w.constant(np.array(0, np.int8))
    return w("DequantizeLinear", w("QuantizeLinear", scores, scale, zero), scale, zero)


def test_a_pair_between_a_mask_and_a_bias() -> None:
    """The recognised operators in floats: the pair rounds scores alone, keys are hidden behind it, the bias is added last."""
    hides = added(hidden(CAUSAL & (DISTANCE != 2)))
    proto, feed = model(lambda w, s: added(RANDOM)(w, rounded(w, hides(w, s)))), feeds(CASES["window"])[0]
    options = CompileOptions(operators="all", activation="static8")
    g, found = recognised(*onnx_reader.read(proto), options)
    read = read_whole(g, found, "model")
    (op, _) = (op for op in read.operators if isinstance(op, Attention))
    assert (len(op.score_codes), op.rounded_first) == (1, 1)
    rows = float_forms.embed(read, {"input_ids": feed["input_ids"][0]})
    got = float_forms.evaluate(read, rows, products(found), TOKENS)[read.outputs[0].value]
    assert distance(got, expected(proto, feed)[0]) < 1e-4
    first = model(lambda w, s: rounded(w, added(RANDOM)(w, hides(w, s))))
    assert distance(expected(first, feed), expected(proto, feed)) > 1e-2
    assert axlora.compile(proto, "test", operators="all", activation="static8").host_macs == 0


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.padding not in (None, Padding.ANYWHERE)])
def test_padding_where_positions_count_is_refused(name: str) -> None:
    case = CASES[name]
    program = axlora.compile(model(case.bias), "test", operators="all")
    others = [(BETWEEN, "between tokens")] + ([(LAST, "before tokens")] if case.padding is Padding.BEHIND else [])
    for mask, what in others:
        with pytest.raises(axlora.Error, match=what):
            axlora.simulate(program, feeds(case)[0] | {"attention_mask": mask[None].astype(np.int64)})


@pytest.mark.parametrize("name", ["window", "alibi", "relative and causal"])
def test_decoding_gives_the_whole_models_logits(name: str, tmp_path: Path) -> None:
    """Prefill and decode starts find the rows of their position; the same bits."""
    proto, ids = model(CASES[name].bias), feeds(CASES[name])[0]["input_ids"]
    data = {"calibration": {"input_ids": ids}}
    program = axlora.compile(proto, "test", generate=True, max_context=TOKENS, **data)
    (got,) = program.session().run({"input_ids": ids[:, :13]}).outputs.values()
    whole = axlora.compile(proto, "test", operators="all", **data)
    (wanted,) = axlora.simulate(whole, {"input_ids": ids}, timing=False).outputs.values()
    np.testing.assert_array_equal(got, wanted[0, :13].reshape(got.shape))


@pytest.mark.parametrize("name", ["window", "padding and relative"])
def test_a_mask_that_leaves_a_token_nothing_is_refused(name: str) -> None:
    """By its node."""
    nothing = np.where(DISTANCE[:, :1] == 3, LEAST, 0.0)
    with pytest.raises(axlora.Error, match="leaves a token nothing to see"):
        axlora.compile(model(lambda w, s: added(nothing)(w, CASES[name].bias(w, s))), "test", operators="all")


@pytest.mark.slow
def test_a_window_and_a_bias_in_verilator() -> None:
    """Codes, counters and every execution: heads of their own tables behind padding."""
    both = with_padding(lambda w, scores: added(hidden(WINDOW))(w, looked_up(w, scores)))
    feed = feeds(Case(both, True, Padding.AROUND))[1]
    program = axlora.compile(model(both), "test", operators="all")
    sim, rtl = axlora.simulate(program, feed), axlora.run_rtl(program, feed)
    np.testing.assert_array_equal(sim.codes["y"], rtl.codes["y"])
    assert sim.counters == rtl.counters
    assert [s for s in sim.steps if s.unit != "fetch"] == [s for s in rtl.steps if s.unit != "fetch"]
