"""onnxruntime's norms, activations, attention and experts compute what they do there, expanded; others are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.supported import STANDARD

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
BATCH, TOKENS, FEATURES = 2, 5, 16
RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


@dataclass
class Case:
    """One node; `inputs` of the graph and `constants` by the names that the node reads."""

    kind: str
    reads: Sequence[str]
    inputs: dict[str, Array]
    constants: dict[str, Array] = field(default_factory=dict)
    ranks: tuple[int, ...] = (3,)
    """Of the results; 0: left out."""
    opset: int = 17
    domain: str = MICROSOFT
    attributes: dict[str, Any] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The node alone; integers that it gives are outputs as they are."""
        outputs = [f"y{i}" if rank else "" for i, rank in enumerate(self.ranks)]
        kinds = [TensorProto.INT32 if self.kind.startswith("Embed") and i == 1 else TensorProto.FLOAT for i in range(4)]
        node = helper.make_node(self.kind, list(self.reads), outputs, name="n", domain=self.domain, **self.attributes)
        values = [(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in self.inputs.items()]
        results = [(f"y{i}", kinds[i], [f"d{i}{j}" for j in range(r)]) for i, r in enumerate(self.ranks) if r]
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(*v) for v in values],
            [helper.make_tensor_value_info(*v) for v in results],
            [numpy_helper.from_array(np.asarray(v), n) for n, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runner = ort.InferenceSession(model.SerializeToString(), options)
    known = {value.name for value in runner.get_inputs()}
    return list(runner.run(None, {name: value for name, value in inputs.items() if name in known}))


def equal(case: Case, valid: Callable[[int, Array], Array] = lambda _, value: value) -> onnx.ModelProto:
    """The expanded model, whose results are onnxruntime's of the node, as far as they are `valid`."""
    read, _ = onnx_reader.read(case.model())
    assert {node.domain for node in read.graph.node} <= set(STANDARD)
    for i, (wanted, got) in enumerate(zip(run(case.model(), case.inputs), run(read, case.inputs), strict=True)):
        assert wanted.shape == got.shape
        np.testing.assert_allclose(valid(i, got), valid(i, wanted), atol=1e-5, rtol=1e-5)
    return read


def refused(case: Case, *parts: str) -> None:
    with pytest.raises(UnsupportedOperator) as error:
        onnx_reader.read(case.model())
    assert all(part in str(error.value) for part in (f"{MICROSOFT}.{case.kind}", *parts))
    assert "\n" not in str(error.value)


def vectors(*names: str) -> dict[str, Array]:
    return {name: floats(FEATURES) for name in names}


def rows(*names: str, tokens: int = TOKENS) -> dict[str, Array]:
    return {name: floats(BATCH, tokens, FEATURES) for name in names}


@pytest.mark.parametrize("domain", ["", MICROSOFT])
@pytest.mark.parametrize("axis", [-1, 2])
def test_norms_by_squares(domain: str, axis: int) -> None:
    attributes = {"axis": axis, "epsilon": 1e-6, "stash_type": 1}
    case = Case("SimplifiedLayerNormalization", ["x", "g"], rows("x"), vectors("g"), domain=domain, attributes=attributes)
    read, _ = onnx_reader.read(case.model())
    x, g = case.inputs["x"].astype(np.float64), case.constants["g"]
    (y,) = run(read, case.inputs)
    np.testing.assert_allclose(y, x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@pytest.mark.parametrize("ranks", [(3,), (3, 0, 0, 3)])
@pytest.mark.parametrize("simplified", [True, False])
def test_norms_of_a_sum(opset: int, ranks: tuple[int, ...], simplified: bool) -> None:
    """With a bias, and the sum as a second result, or neither."""
    names = ["x", "s", "g", *([] if simplified else ["beta"]), "b"][: 5 if len(ranks) > 1 else 3]
    kind = "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization"
    equal(Case(kind, names, rows("x", "s"), vectors(*names[2:]), ranks, opset, attributes={"epsilon": 1e-5}))


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("positions", [True, False])
def test_embeddings_and_their_norm(opset: int, positions: bool) -> None:
    ids = {"i": RANDOM.integers(0, 9, (BATCH, TOKENS)), "t": RANDOM.integers(0, 2, (BATCH, TOKENS))}
    ids |= {"m": np.tri(BATCH, TOKENS, 2), "o": RANDOM.integers(0, 12, (BATCH, TOKENS))}
    inputs = {name: value.astype(np.int32) for name, value in ids.items() if positions or name != "o"}
    tables = {"w": floats(9, FEATURES), "p": floats(12, FEATURES), "q": floats(2, FEATURES), **vectors("g", "b")}
    reads = ["i", "t", "w", "p", "q", "g", "b", "m", *(["o"] if positions else [])]
    equal(Case("EmbedLayerNormalization", reads, inputs, tables, (3, 1, 3), opset, attributes={"epsilon": 1e-5}))


@pytest.mark.parametrize("kind", ["Gelu", "FastGelu", "QuickGelu", "BiasGelu"])
def test_activations(kind: str) -> None:
    biased = kind == "BiasGelu"
    equal(Case(kind, ["x", "b"] if biased else ["x"], rows("x"), vectors("b") if biased else {}))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("form", ["rows", "offset", "heads", "partial"])
def test_rotary_embedding(form: str, interleaved: int) -> None:
    places = np.array([3]) if form == "offset" else RANDOM.integers(0, 20, (BATCH, TOKENS))
    x = floats(BATCH, 4, TOKENS, 4) if form == "heads" else floats(BATCH, TOKENS, FEATURES)
    attributes = {"interleaved": interleaved} | ({"num_heads": 2, "rotary_embedding_dim": 4} if form == "partial" else {})
    tables = {"c": floats(20, 2), "s": floats(20, 2)}
    case = Case("RotaryEmbedding", ["x", "p", "c", "s"], {"x": x, "p": places}, tables, (x.ndim,), attributes=attributes)
    equal(case)


@dataclass(frozen=True)
class Grouped:
    """A GroupQueryAttention: `past` rows of cache, `total` keys, `lengths` of the sequences less one."""

    tokens: int = TOKENS
    past: int | None = 0
    total: int = TOKENS
    lengths: tuple[int, ...] = (TOKENS - 1, TOKENS - 1)
    packed: bool = False
    rotary: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sink: bool = False
    norms: bool = False
    bias: bool = False

    def case(self) -> Case:
        heads, groups, dim = 4, 2, 16
        widths = {"q": heads + 2 * groups} if self.packed else {"q": heads, "k": groups, "v": groups}
        inputs = {name: floats(BATCH, self.tokens, count * dim) for name, count in widths.items()}
        if self.past is not None:
            inputs |= {name: floats(BATCH, groups, self.past, dim) for name in ("pk", "pv")}
        inputs["lengths"] = np.array(self.lengths, np.int32)
        constants = {"total": np.array(self.total, np.int32)}
        constants |= {name: floats(40, self.rotary // 2) for name in ("cos", "sin") if self.rotary}
        constants |= {"sink": floats(heads)} if self.sink else {}
        constants |= {name: floats(dim) for name in ("qn", "kn") if self.norms}
        constants |= {"bias": floats(1, heads, self.tokens, self.total)} if self.bias else {}
        names = ("q", "k", "v", "pk", "pv", "lengths", "total", "cos", "sin", "places", "bias", "sink", "", "", "qn", "kn")
        reads = [name if name in inputs or name in constants else "" for name in names]
        own = {"num_heads": heads, "kv_num_heads": groups, "do_rotary": int(self.rotary > 0), **self.attributes}
        return Case("GroupQueryAttention", reads, inputs, constants, (3, 4, 4), attributes=own)

    def valid(self, output: int, value: Array) -> Array:
        """Rows of tokens, and keys: what onnxruntime leaves behind the end of a shorter sequence is not said."""
        end = [length + 1 for length in self.lengths]
        if output == 0 and self.total > self.tokens:
            return value
        return np.concatenate([(v[:n] if output == 0 else v[:, :n]).reshape(-1) for v, n in zip(value, end, strict=True)])


GROUPED = {
    "prompt without a cache": Grouped(past=None),
    "prompt with an empty cache": Grouped(rotary=16),
    "pairs": Grouped(rotary=16, attributes={"rotary_interleaved": 1}),
    "packed": Grouped(rotary=16, packed=True),
    "prompts of several lengths": Grouped(rotary=16, lengths=(2, 4)),
    "window": Grouped(attributes={"local_window_size": 2}),
    "scale": Grouped(attributes={"scale": 0.3}),
    "softcap": Grouped(attributes={"softcap": 1.5}),
    "smooth softmax": Grouped(attributes={"smooth_softmax": 1}),
    "sinks": Grouped(sink=True, rotary=16),
    "bias of scores": Grouped(bias=True),
    "decode": Grouped(1, 4, 5, rotary=16),
    "decode of several lengths": Grouped(1, 4, 5, (2, 4), rotary=16),
    "decode in a window": Grouped(1, 6, 7, (6, 6), attributes={"local_window_size": 3}),
    "prompt into room for more": Grouped(5, 9, 5, rotary=16),
    "decode with room for more": Grouped(1, 9, 6, (3, 5), rotary=16),
}


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_queries(name: str) -> None:
    equal(GROUPED[name].case(), GROUPED[name].valid)


def test_norms_of_heads() -> None:
    """onnxruntime has them on other devices alone: the same node computes it of normed queries and keys."""
    epsilon = 1e-3
    case = Grouped(norms=True, rotary=16, attributes={"qk_norm_epsilon": epsilon}).case()
    read, _ = onnx_reader.read(case.model())
    got = run(read, case.inputs)
    for name, gain in (("q", "qn"), ("k", "kn")):
        x, g = case.inputs[name], case.constants.pop(gain)
        heads = x.reshape(*x.shape[:2], -1, g.size)
        case.inputs[name] = (heads / np.sqrt((heads**2).mean(-1, keepdims=True) + epsilon) * g).reshape(x.shape)
    case.reads = case.reads[:9]
    del case.attributes["qk_norm_epsilon"]
    for value, wanted in zip(got, run(case.model(), case.inputs), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5, rtol=1e-5)


def test_a_prompt_does_not_read_the_cache() -> None:
    """All that reads it, or the lengths, is gone: a decoder of prompts may be whole."""
    case = Grouped(5, 9, 5, rotary=16).case()
    case.ranks = (3,)
    read = equal(case)
    assert not {"pk", "pv", "lengths"} & {name for node in read.graph.node for name in node.input}


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"qk_output": 1}, "with qk_output"),
        ({"k_quant_type": "PER_TENSOR"}, "with k_quant_type"),
        ({"causal": 0}, "causal"),
    ],
)
def test_grouped_queries_that_are_refused(attributes: dict[str, Any], part: str) -> None:
    refused(Grouped(attributes=attributes).case(), part)


@pytest.mark.parametrize("batch", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("constant", [None, "a", "b"])
def test_products_of_turned_operands(batch: tuple[int, int], turned: tuple[int, int], constant: str | None) -> None:
    """[2, 4, 3, 5] . [2, 4, 5, 6], each turned back."""
    dims = {"a": [2, 4, 3, 5], "b": [2, 4, 5, 6]}
    given = {}
    for name, first, last in zip(dims, batch, turned, strict=True):
        shape = dims[name]
        shape = [*shape[:2], shape[3], shape[2]] if last else shape
        given[name] = floats(*([shape[2], *shape[:2], shape[3]] if first else shape))
    attributes = {"transA": turned[0], "transB": turned[1], "transBatchA": batch[0], "transBatchB": batch[1], "alpha": 0.5}
    inputs = {name: value for name, value in given.items() if name != constant}
    constants = {name: value for name, value in given.items() if name == constant}
    equal(Case("FusedMatMul", ["a", "b"], inputs, constants, (4,), attributes=attributes))


def test_turned_operands_of_two_dimensions() -> None:
    attributes = {"transA": 1, "transB": 1, "alpha": 2.0}
    equal(Case("FusedMatMul", ["a", "b"], {"a": floats(5, 3)}, {"b": floats(6, 5)}, (2,), attributes=attributes))


def mask(keys: int) -> Array:
    return (np.arange(keys) < np.array([[keys - 2], [keys]])).astype(np.int32)


KEYS = 7
MULTI: dict[str, tuple[dict[str, Array], dict[str, Any]]] = {
    "plain": ({}, {}),
    "mask of keys": ({"mask": mask(KEYS)}, {}),
    "mask of tokens": ({"mask": np.repeat(mask(KEYS)[:, None], TOKENS, 1)}, {"mask_filter_value": -3.0}),
    "lengths": ({"mask": np.array([3, KEYS], np.int32)}, {}),
    "bias of scores": ({"more": floats(1, 4, TOKENS, KEYS)}, {"scale": 0.3}),
    "heads of keys": ({"k": floats(BATCH, 4, KEYS, 4), "v": floats(BATCH, 4, KEYS, 4)}, {}),
    "caches": ({"pk": floats(BATCH, 4, 3, 4), "pv": floats(BATCH, 4, 3, 4)}, {"unidirectional": 1}),
}


@pytest.mark.parametrize("name", MULTI)
def test_attention_of_query_key_and_value(name: str) -> None:
    given, attributes = MULTI[name]
    cached = "pk" in given
    inputs = rows("q") | rows("k", "v", tokens=TOKENS if cached else KEYS) | given
    constants = {"bias": floats(3 * FEATURES)} if name == "plain" else {}
    reads = [n if n in inputs or n in constants else "" for n in ("q", "k", "v", "bias", "mask", "more", "pk", "pv")]
    ranks = (3, 4, 4) if cached else (3,)
    equal(Case("MultiHeadAttention", reads, inputs, constants, ranks, attributes={"num_heads": 4} | attributes))


PACKED: dict[str, tuple[dict[str, Array], dict[str, Any]]] = {
    "plain": ({}, {}),
    "causal": ({}, {"unidirectional": 1}),
    "mask of keys": ({"mask": mask(TOKENS)}, {}),
    "weak mask": ({"mask": mask(TOKENS)}, {"mask_filter_value": -1.0}),
    "lengths": ({"mask": np.array([3, 5], np.int32)}, {}),
    "mask of tokens": ({"mask": np.repeat(mask(TOKENS)[:, None], TOKENS, 1)}, {}),
    "causal mask": ({"mask": mask(TOKENS)}, {"unidirectional": 1}),
    "cache": ({"past": floats(2, BATCH, 4, 3, 4)}, {"unidirectional": 1}),
    "bias of scores": ({"more": floats(1, 4, TOKENS, TOKENS)}, {}),
}


def packed(given: dict[str, Array], attributes: dict[str, Any], ranks: tuple[int, ...] = (3,)) -> Case:
    constants = {"w": floats(FEATURES, 3 * FEATURES) / 4, "b": floats(3 * FEATURES)}
    reads = ["x", "w", "b", *(name if name in given else "" for name in ("mask", "past", "more"))]
    return Case("Attention", reads, rows("x") | given, constants, ranks, attributes={"num_heads": 4} | attributes)


@pytest.mark.parametrize("name", PACKED)
def test_attention_with_a_packed_weight(name: str) -> None:
    cached = "past" in PACKED[name][0]
    equal(packed(*PACKED[name], ranks=(3, 5) if cached else (3,)))


def test_keys_and_values_of_attention_that_had_none() -> None:
    equal(packed({}, {"unidirectional": 1}, ranks=(3, 5)))


def test_two_numbers_a_sequence_are_no_lengths() -> None:
    """Ends and starts [2 batch]."""
    with pytest.raises(BadModel, match="shapes do not fit"):
        onnx_reader.read(packed({"mask": np.array([3, 5, 0, 1], np.int32)}, {}).model())


def test_masks_of_four_dimensions_are_refused() -> None:
    refused(packed({"mask": np.ones((BATCH, 1, 8, 8), np.int32)}, {}), "mask")


def test_all_that_is_not_taken_is_named_at_once(build: Any) -> None:
    b = build
    x = b.node("MatMul", "x", b.floats(FEATURES, FEATURES))
    first = b.node("SkipGroupNorm", x, b.floats(FEATURES), b.floats(FEATURES), domain=MICROSOFT)
    b.node("QuickGelu", b.node("MoE", first, domain=MICROSOFT), domain=MICROSOFT, out="y")
    model = b.model({"x": [TOKENS, FEATURES]}, ["y"])
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    with pytest.raises(UnsupportedOperator, match=r"SkipGroupNorm.*MoE") as error:
        onnx_reader.read(model)
    assert "QuickGelu" not in str(error.value)


EXPERTS, HIDDEN, INNER = 4, 32, 48
ROUTED = {"x": floats(1, 6, HIDDEN), "logits": floats(6, EXPERTS)}
SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0}


def _weights(twice: bool = True) -> dict[str, Array]:
    wide = INNER * (1 + twice)
    shapes = {"w1": (wide, HIDDEN), "b1": (wide,), "w2": (HIDDEN, INNER), "b2": (HIDDEN,)}
    return {name: (0.3 * floats(EXPERTS, *shape)).astype(np.float32) for name, shape in shapes.items()}


def _mixture(constants: dict[str, Array], reads: str = "w1 b1 w2 b2", **attributes: Any) -> Case:
    own = reads.split()
    return Case("MoE", ["x", "logits", *own], ROUTED, constants, attributes={"k": 2} | attributes)


@pytest.mark.parametrize("normalized", [0, 1])
@pytest.mark.parametrize("kind", ["silu", "relu", "identity"])
def test_experts_with_one_projection(kind: str, normalized: int) -> None:
    equal(_mixture(_weights(False), activation_type=kind, normalize_routing_weights=normalized))


@pytest.mark.parametrize("limit", [{}, {"swiglu_limit": 0.5}])
def test_experts_with_gates_between_the_rows(limit: dict[str, float]) -> None:
    equal(_mixture(_weights(), **SWIGLU, **limit))


def test_gates_apart_or_in_front_are_those_between() -> None:
    """Forms that onnxruntime has no kernel of on a processor."""
    held = _weights()
    (wanted,) = run(_mixture(held, **SWIGLU).model(), ROUTED)
    parts = {f"{name}{row}": held[name][:, row::2] for name in ("w1", "b1") for row in (0, 1)}
    front = held | {name: np.concatenate([parts[f"{name}0"], parts[f"{name}1"]], axis=1) for name in ("w1", "b1")}
    apart = held | {"w1": parts["w10"], "b1": parts["b10"], "w3": parts["w11"], "b3": parts["b11"]}
    for case in (
        _mixture(front, **SWIGLU | {"swiglu_fusion": 2}),
        _mixture(apart, "w1 b1 w2 b2 w3 b3", **SWIGLU | {"swiglu_fusion": 0}),
    ):
        model, _ = onnx_reader.read(case.model())
        (got,) = run(model, ROUTED)
        assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def _coded_mixture(bits: int, block: int, zeros: bool) -> Case:
    """QMoE with codes, scales and zero points drawn; `block` 0: a scale a row."""
    random = np.random.default_rng(bits)
    constants: dict[str, Array] = {}
    for name, n, k in (("1", 2 * INNER, HIDDEN), ("2", HIDDEN, INNER)):
        groups = k // block if block else 1
        scales = random.uniform(0.02, 0.06, (EXPERTS, n, groups)).astype(np.float32) * 2.0 ** (4 - bits)
        constants[f"w{name}"] = random.integers(0, 256, (EXPERTS, n, k * bits // 8), np.uint8)
        constants[f"s{name}"] = scales if block else scales[..., 0]
        shape = (n, -(-groups * bits // 8)) if block else (-(-n * bits // 8),)
        constants[f"z{name}"] = random.integers(0, 256, (EXPERTS, *shape), np.uint8)
    reads = ["x", "logits", "w1", "s1", "", "w2", "s2", "", "", "", "", *(["z1", "z2"] if zeros else [])]
    own = {"k": 2, "expert_weight_bits": bits} | SWIGLU | ({"block_size": block} if block else {})
    return Case("QMoE", reads, ROUTED, {n: v for n, v in constants.items() if n in reads}, attributes=own)


@pytest.mark.parametrize(("bits", "block", "zeros"), [(4, 0, False), (4, 16, False), (4, 16, True), (4, 0, True), (8, 0, True)])
def test_experts_of_codes(bits: int, block: int, zeros: bool) -> None:
    equal(_coded_mixture(bits, block, zeros))


@pytest.mark.parametrize(
    ("attributes", "part"),
    [({"use_sparse_mixer": 1}, "with a sparse mixer"), ({"activation_type": "gelu"}, "with gelu")],
)
def test_experts_that_are_refused(attributes: dict[str, Any], part: str) -> None:
    refused(_mixture(_weights(False), **attributes), part)


@pytest.mark.parametrize("operators", ["all", pytest.param("linears", marks=pytest.mark.slow)])
def test_experts_of_codes_behind_a_router(operators: str, tmp_path: Path) -> None:
    """Whole on the machine, or their linears; within the bound of 8 bits of float."""
    model, router = _coded_mixture(4, 16, False).model(), 0.4 * floats(HIDDEN, EXPERTS)
    constants = {"router": router, "rows": np.array([-1, EXPERTS])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.insert(0, helper.make_node("MatMul", ["x", "router"], ["routed"], name="router"))
    model.graph.node.insert(1, helper.make_node("Reshape", ["routed", "rows"], ["logits"], name="rows"))
    del model.graph.input[[value.name for value in model.graph.input].index("logits")]
    onnx.save(model, tmp_path / "model.onnx")
    x = {"x": ROUTED["x"]}
    program = axlora.compile(tmp_path / "model.onnx", "test", operators=operators, calibration=x)
    assert program.host_macs == 0
    (wanted,) = run(model, x)
    got = axlora.simulate(program, x).outputs["y0"]
    assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted)
