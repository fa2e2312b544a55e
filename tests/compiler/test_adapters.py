"""PEFT directories: what is read, how modules find their linears, what is refused and how, and the arithmetic of a branch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.held import Candidate, of_found
from axlora.compiler.frontend.peft import read_content, read_peft
from axlora.compiler.frontend.recognised import Activation, FoundLinear
from axlora.compiler.frontend.resolve import resolve
from axlora.compiler.layer import Linear
from axlora.compiler.passes.adapters import add_adapter
from axlora.compiler.passes.quantize_adapter import Branch, quantize_adapter
from axlora.compiler.passes.quantize_linear import quantize_linear
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.isa import numerics
from axlora.isa.target import Target

K, N, T = 24, 20, 6
Write = Callable[..., Path]


def pair(module: str, rank: int = 4, seed: int = 0, k: int = K, n: int = N) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    name = f"base_model.model.{module}"
    return {
        f"{name}.lora_A.weight": random.normal(0, 0.1, (rank, k)).astype(np.float32),
        f"{name}.lora_B.weight": random.normal(0, 0.05, (n, rank)).astype(np.float32),
    }


def named_model(b: Any, paths: list[str], scopes: bool = False) -> onnx.ModelProto:
    """Linears of one x; paths go to the node names, or to PyTorch's scope metadata."""
    x, outputs = b.qdq("x", 0.02, -8), []
    for i, path in enumerate(paths):
        y = b.node("MatMul", x, b.weight(K, N))
        if scopes:
            entry = b.nodes[-1].metadata_props.add()
            parts = path.split(".")
            chain = [".".join(parts[: j + 1]) for j in range(len(parts))]
            entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", *chain, "matmul_7"])
        else:
            b.nodes[-1].name = f"/{path.replace('.', '/')}/MatMul"
        outputs.append(b.qdq(y, 0.02, 3, out=f"y{i}"))
    return b.model({"x": [T, K]}, outputs)


def of(model: onnx.ModelProto) -> list[Candidate]:
    """The linears of a model, for `resolve`."""
    return [of_found(f) for f in recognise(onnx_reader.read(model)[0])[1]]


PATHS = ["model.layers.0.attn.q_proj", "model.layers.0.attn.v_proj", "model.layers.1.attn.q_proj"]


@pytest.mark.parametrize("scopes", [True, False])
@pytest.mark.parametrize(
    "module", ["model.layers.1.self_attn.q_proj", "model.layers.1.attn.q_proj", "layers.1.self_attn.q_proj"]
)
def test_module_finds_its_linear(build: Any, target: Target, write_peft: Write, scopes: bool, module: str) -> None:
    low, _ = lower(named_model(build, PATHS, scopes), target, CompileOptions(adapters={"a": write_peft(pair(module))}))
    assert [len(x.adapters) for x in low.linears] == [0, 0, 1]


@pytest.mark.parametrize("scopes", [True, False])
def test_ambiguous_module_names_the_candidates(build: Any, target: Target, write_peft: Write, scopes: bool) -> None:
    """The same path from two wrappers, and a module that the graph holds twice."""
    for paths in (["bert.up.q", "roberta.up.q"], ["model.up.q", "module.model.up.q"], ["up.q", "up.q"]):
        model = named_model(type(build)(), paths, scopes)
        first, second = (n.name for n in model.graph.node if n.op_type == "MatMul")
        with pytest.raises(BadAdapter, match=rf"could be 2 linears: {first}, {second}.*--adapter-map"):
            resolve("a", write_peft(pair("up.q"), "_".join(paths)), of(model))


def test_unknown_module_names_the_linears(build: Any, target: Target, write_peft: Write) -> None:
    with pytest.raises(BadAdapter, match=r"'model.layers.7.self_attn.q_proj' is no linear.*q_proj"):
        lower(
            named_model(build, PATHS),
            target,
            CompileOptions(adapters={"a": write_peft(pair("model.layers.7.self_attn.q_proj"))}),
        )


def test_explicit_map_goes_first(build: Any, target: Target, write_peft: Write) -> None:
    model, folder = named_model(build, PATHS), write_peft(pair("q_proj"))
    low, _ = lower(
        model, target, CompileOptions(adapters={"a": folder}, adapter_map={"q_proj": "/model/layers/0/attn/v_proj/MatMul"})
    )
    assert [len(x.adapters) for x in low.linears] == [0, 1, 0]
    with pytest.raises(BadAdapter, match="nowhere"):
        lower(model, target, CompileOptions(adapters={"a": folder}, adapter_map={"q_proj": "nowhere"}))


def test_adapter_of_another_base(build: Any, target: Target, write_peft: Write) -> None:
    with pytest.raises(BadAdapter, match=r"24 to 21, linear .* is 24 to 20"):
        lower(named_model(build, PATHS), target, CompileOptions(adapters={"a": write_peft(pair("layers.0.attn.v_proj", n=21))}))


def test_scale_rules(write_peft: Write) -> None:
    """alpha/r, alpha/sqrt(r), and patterns by the end of the path (PEFT's LoraConfig)."""
    both = pair("m.0.q") | pair("m.1.q", rank=2)
    plain = read_peft(write_peft(both, "p", rank_pattern={"1.q": 2}, alpha_pattern={"m.0.q": 3}))
    assert [(x.module, x.rank, x.scale) for x in plain] == [("m.0.q", 4, 3 / 4), ("m.1.q", 2, 4.0)]
    assert read_peft(write_peft(pair("q"), "s", use_rslora=True))[0].scale == 8 / np.sqrt(4)
    assert np.array_equal(plain[0].a.T, both["base_model.model.m.0.q.lora_A.weight"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "LOHA"}, "is of LoRA"),
    ({"bias": "some"}, "bias is 'some'"),
    ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"use_dora": True}, "use_dora"),
    ({"r": 8}, "rank 4, the configuration says 8"),
    ({"r": None}, "r is None"),
    ({"lora_alpha": "big"}, "lora_alpha"),
]


@pytest.mark.parametrize(("fields", "text"), REFUSED)
def test_refused_by_field(write_peft: Write, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadAdapter, match=text) as error:
        read_peft(write_peft(pair("q"), **fields))
    assert error.value.hint
    assert "\n" not in str(error.value)


def test_modules_that_were_trained_whole(write_peft: Write) -> None:
    """modules_to_save, and the biases of bias='all': the names are those that peft 0.21.2 writes."""
    random, name = np.random.default_rng(0), "base_model.model.{}".format
    values = {
        name("head.weight"): (3, K), name("head.bias"): (3,), name("bert.q.base_layer.bias"): (N,),
        name("bert.norm.bias"): (K,), name("score.modules_to_save.default.weight"): (2, K),
    }  # fmt: skip
    tensors = {key: random.normal(0, 1, shape).astype(np.float32) for key, shape in values.items()}
    folder = write_peft(pair("bert.q") | tensors, modules_to_save=["head", "score"], bias="all")
    (lora,) = read_peft(folder)
    assert lora.base_bias is not None
    assert np.array_equal(lora.base_bias, tensors[name("bert.q.base_layer.bias")])
    norm, head, score = read_content(folder).modules
    assert (norm.module, head.module, score.module) == ("bert.norm", "head", "score")
    assert norm.weight is None
    assert norm.bias is not None
    assert head.weight is not None
    assert np.array_equal(head.weight.T, tensors[name("head.weight")])
    assert score.weight is not None
    assert score.weight.shape == (K, 2)
    assert score.bias is None
    assert norm.listed
    assert head.listed
    assert read_content(write_peft(pair("q"), "plain")).modules == ()
    saved = read_content(write_peft(pair("bert.q") | {name("head.weight"): tensors[name("head.weight")]}, "unasked")).modules
    assert [(m.module, m.listed) for m in saved] == [("head", False)]


def test_refused_by_tensor(write_peft: Write) -> None:
    good = pair("q")
    a, b = good
    with pytest.raises(BadAdapter, match="no lora_B"):
        read_peft(write_peft({a: good[a]}, "1"))
    with pytest.raises(BadAdapter, match="do not pair"):
        read_peft(write_peft({a: good[a], b: good[b][:, :3]}, "2"))
    with pytest.raises(BadAdapter, match="NaN"):
        read_peft(write_peft({a: good[a] * np.float32(np.inf), b: good[b]}, "3"))
    with pytest.raises(BadAdapter, match="over the limit 3"):
        read_peft(write_peft(good, "5"), max_lora_rank=3)


def test_damaged_directory(write_peft: Write, tmp_path: Path) -> None:
    folder = write_peft(pair("q"))
    tensors = folder / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(BadAdapter, match="damaged safetensors"):
        read_peft(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(BadAdapter, match="not JSON"):
        read_peft(folder)
    with pytest.raises(BadAdapter, match="no such directory"):
        read_peft(tmp_path / "none")
    (folder / "adapter_config.json").unlink()
    save_file(pair("q"), tensors)
    with pytest.raises(BadAdapter, match="weights without a configuration"):
        read_peft(folder)


def test_half_precision_tensors(write_peft: Write) -> None:
    """BF16 is the upper half of F32; written by hand as NumPy has no such type."""
    good = pair("q")
    folder = write_peft(good)
    header, body, start = {}, b"", 0
    for name, value in good.items():
        raw = (value.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, start + len(raw)]}
        body, start = body + raw, start + len(raw)
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    assert np.allclose(read_peft(folder)[0].b.T, good["base_model.model.q.lora_B.weight"], rtol=1 / 128)


def some_linear(target: Target, seed: int, spread: float, quantized: bool = True) -> tuple[Linear, FoundLinear]:
    random = np.random.default_rng(seed)
    x = Activation("x", "xq", 0.03, int(random.integers(-128, 128)), 8)
    y = Activation("y", "yq", 0.05, 4, 8) if quantized else None
    found = FoundLinear(
        "q", "q", ("q",), "x", x, random.normal(0, 0.05, (K, N)) * spread, None, random.normal(0, 0.5, N), "y", y, (),
        (), "y",
    )  # fmt: skip
    return quantize_linear(found, x, target, 8)[0], found


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 1 << 20), st.sampled_from([1, 2, 8, 64]), st.sampled_from([1e-6, 1e-3, 0.02, 1.0, 30.0]),
    st.sampled_from([0.1, 1.0, 10.0]), st.booleans(), st.booleans(), st.sampled_from([1.0, -2.0]),
)  # fmt: skip
def test_branch_is_near_the_real_one(
    target: Target, seed: int, rank: int, size: float, spread: float, quantized: bool, dora: bool, scale: float
) -> None:
    """w 2^-shift sy is g (x.W + s x.A.B) + bias up to half a code of A, u and B; with DoRA, lora_bias, any magnitude."""
    linear, found = some_linear(target, seed, spread, quantized)
    random = np.random.default_rng(seed + 1)
    a, b = random.uniform(-0.2, 0.2, (K, rank)), random.normal(0, size, (rank, N))
    bias = random.normal(0, 0.3, N)
    assert linear.grid is not None
    weight = linear.weight.values() * linear.grid.w_scale
    norm = np.linalg.norm(weight + scale * (a @ b), axis=0)
    magnitude = norm * random.uniform(0.5, 2, N) if dora else None
    gain = magnitude / norm if magnitude is not None else np.ones(N)
    full = gain * (weight + scale * (a @ b))
    usual = (128 * linear.grid.x_scale * np.sqrt((full**2).sum(axis=0))).max() / linear.grid.y_scale
    if not quantized and usual > 1.05 * 2**31:  # results of 32 bits saturate: what leaves them is refused
        with pytest.raises(BadAdapter, match="far larger than its base"):
            quantize_adapter(linear, "a", Branch(a, b, scale, bias, magnitude), target, 8)
        return
    assume(quantized or usual < 0.95 * 2**31)
    adapter = quantize_adapter(linear, "a", Branch(a, b, scale, bias, magnitude), target, 8)
    codes = random.integers(-128, 128, (T, K))
    x = (codes - linear.grid.x_zero) * linear.grid.x_scale
    ar = adapter.a_records
    u, e, clamped = numerics.block_quantize(codes @ adapter.a.codes, ar.bias, ar.m1, ar.shift, linear.bias_shift, 8)
    assert not clamped.any()
    wide = numerics.normalise(codes @ linear.weight.values(), adapter.bias, adapter.m1, linear.bias_shift)
    side = ((u @ adapter.b.codes) * adapter.m2) << e
    assert np.abs(wide).max() + np.abs(side).max() < 1 << 62
    unit = np.exp2(-linear.records.shift.astype(float)) * linear.grid.y_scale
    base = gain * (x @ weight) + found.bias + scale * bias
    branch = gain * scale * (x @ a @ b)
    step = linear.grid.x_scale * linear.grid.w_scale * gain
    rounding = 127 * rank * adapter.m2 * (1.05 * np.exp2(e.astype(float)) + 1) * unit  # of B, u and v: half a code each
    a_step = np.abs(a).max(axis=0) / 127
    of_a = 0.52 * np.abs(x).sum(axis=1, keepdims=True) * np.abs(scale) * gain * (a_step @ np.abs(b))
    assert (np.abs(side * unit - branch) <= rounding + of_a).all()
    reach = np.abs(base).max() + np.abs(x).sum(axis=1).max() * step.max() * 127
    assert np.abs(wide * unit - base).max() <= step.max() * (1 << linear.bias_shift) + reach * 2.0**-13


def test_untrained_branch_changes_nothing(target: Target) -> None:
    """B = 0, as PEFT starts: m2 is 0, and bias and m1 are the base's."""
    linear, _ = some_linear(target, 3, 1.0)
    adapter = quantize_adapter(linear, "a", Branch(np.ones((K, 4)), np.zeros((4, N)), 2.0), target, 8)
    assert not adapter.m2.any()
    assert np.array_equal(adapter.bias, linear.records.bias)
    assert np.array_equal(adapter.m1, linear.records.m1)


def test_branch_that_no_form_holds_is_refused(target: Target) -> None:
    linear, _ = some_linear(target, 3, 1.0)
    with pytest.raises(BadAdapter, match="adapter 'a', linear 'q'"):
        quantize_adapter(linear, "a", Branch(np.ones((K, 4)), np.full((4, N), 1e12), 2.0), target, 8)
    with pytest.raises(BadAdapter, match="DoRA magnitude"):
        quantize_adapter(linear, "a", Branch(np.ones((K, 4)), np.zeros((4, N)), 2.0, None, np.full(N, 1e3)), target, 8)


def test_adapter_added_later_runs_on_the_same_graph(build: Any, target: Target, write_peft: Write) -> None:
    model, folder = named_model(build, PATHS), write_peft(pair("layers.0.attn.v_proj"))
    early, graph = lower(model, target, CompileOptions(adapters={"a": folder}))
    late, empty = lower(model, target, CompileOptions(max_lora_rank=8))
    late = add_adapter(late, "a", folder, target)
    codes = {"x": np.random.default_rng(0).integers(-128, 128, (T, K))}
    first, second = graph.run(codes, "a"), empty.with_adapters(late).run(codes, "a")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert early.adapters == late.adapters == ("a",)
    with pytest.raises(BadAdapter, match="taken"):
        add_adapter(late, "a", folder, target)
