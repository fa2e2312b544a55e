"""What adapters hold besides branches: heads and embeddings that PEFT saves unasked, resized vocabularies, names in keys."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from test_adapters import pair

import axlora
from axlora.adapters import add_adapter
from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.held import Held
from axlora.compiler.frontend.peft import read_content
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target

Write = Callable[..., Path]
VOCABULARY, D, T = 48, 24, 6
HEAD, TABLE, UP = "lm_head", "model.embed_tokens", "model.layers.0.up_proj"


def language_model(seed: int = 0, kind: str = "float") -> onnx.ModelProto:
    """Rows of embeddings, one linear, a head; weights in floats, in float16, or as int8 codes (head and linear)."""
    random = np.random.default_rng(seed)
    shapes = {TABLE: (VOCABULARY, D), UP: (D, D), HEAD: (D, VOCABULARY)}
    nodes, constants = [helper.make_node("Gather", [f"{TABLE}.weight", "ids"], ["x"], "/model/embed_tokens/Gather")], []
    for name, shape in shapes.items():
        values = random.normal(0, 0.3, shape).astype(np.float32)
        if kind == "codes" and name != TABLE:
            scale = (np.abs(values).max(axis=0) / 127).astype(np.float32)
            codes = [np.rint(values / scale).astype(np.int8), scale, np.zeros(shape[1], np.int8)]
            names = [f"{name}.weight_{part}" for part in ("quantized", "scale", "zero_point")]
            constants += [numpy_helper.from_array(c, n) for c, n in zip(codes, names, strict=True)]
            nodes.append(helper.make_node("DequantizeLinear", names, [f"{name}.weight"], f"{name}.dq", axis=1))
        else:
            values = values.astype(np.float16).astype(np.float32) if kind == "half" else values
            constants.append(numpy_helper.from_array(values, f"{name}.weight"))
    nodes += [
        helper.make_node("MatMul", ["x", f"{UP}.weight"], ["h"], "/model/layers.0/up_proj/MatMul"),
        helper.make_node("Tanh", ["h"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", f"{HEAD}.weight"], ["y"], "/lm_head/MatMul"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [T])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [T, VOCABULARY])
    graph = helper.make_graph(nodes, "g", [ids], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def original(module: str, seed: int = 0) -> np.ndarray:
    """The module's weight as PyTorch stores it [out, in], before rounding."""
    values = language_model(seed).graph.initializer
    weight = next(numpy_helper.to_array(i) for i in values if i.name == f"{module}.weight")
    return np.ascontiguousarray(weight if module == TABLE else weight.T)


def saved(write_peft: Write, name: str, tensors: dict[str, np.ndarray], **fields: Any) -> Path:
    """A branch of the linear, and weights saved whole."""
    whole = {f"base_model.model.{module}.weight": value for module, value in tensors.items()}
    return write_peft(pair(UP, k=D, n=D) | whole, name, **fields)


ROUNDINGS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    return values.astype(ROUNDINGS[kind]).astype(np.float32)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kind", ["float", "half", "codes"])
@pytest.mark.parametrize("stored", ROUNDINGS)
def test_saved_copies_of_the_base_are_left_out(
    target: Target, write_peft: Write, kind: str, stored: str, listed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Head and embedding, at compile time and added to a package that holds codes alone; one line says so."""
    copies = {module: rounded(original(module), stored) for module in (HEAD, TABLE)}
    folder = saved(write_peft, "a", copies, modules_to_save=[HEAD, "embed_tokens"] if listed else None)
    model = language_model(kind=kind)
    with caplog.at_level(logging.WARNING):
        made = axlora.compile(model, target, adapters={"a": folder}, operators="linears")
    assert [m.module for m in made.adapters[0].modules] == [UP]
    assert made.adapters[0].rank == 4
    assert [r.message for r in caplog.records] == ["adapter 'a': lm_head, model.embed_tokens equal the base's and are left out"]
    later = axlora.compile(model, target, max_loras=1, max_lora_rank=4, operators="linears")
    again = add_adapter(later, "a", folder).adapters[0]
    assert (again.rank, again.modules) == (4, made.adapters[0].modules)


@pytest.mark.parametrize("kind", ["float", "half", "codes"])
@pytest.mark.parametrize("change", ["everywhere", "one row", "a little"])
def test_a_saved_head_that_differs_is_taken_as_trained(target: Target, write_peft: Write, kind: str, change: str) -> None:
    head, random = original(HEAD), np.random.default_rng(9)
    step = {"everywhere": 0.2, "one row": 0.2, "a little": 0.02}[change]
    changed = random.normal(0, step, head.shape) * (np.arange(len(head))[:, None] == 5 if change == "one row" else 1)
    folder = saved(write_peft, "a", {HEAD: (head + changed).astype(np.float32)})
    low, graph = lower(language_model(kind=kind), target, CompileOptions(adapters={"a": folder}))
    assert [(m.module, m.linear) for m in low.matches["a"]] == [(HEAD, HEAD), (UP, UP)]
    assert not low.notices
    ids = {"ids": np.arange(T)}
    tensors = read_content(folder)
    up = tensors.loras[0]
    x = original(TABLE)[:T].astype(float)
    wanted = np.tanh(x @ (original(UP).T + up.scale * up.a @ up.b)) @ (head + changed).T
    got = Reference(graph).run(ids, "a")["y"]
    assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted)
    with pytest.raises(BadAdapter, match="needs rank 24, over the limit 8"):
        lower(language_model(kind=kind), target, CompileOptions(adapters={"a": folder}, max_lora_rank=8))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", [TABLE, "model.language_model.embed_tokens"])
def test_a_trained_embedding_is_refused_by_name(target: Target, write_peft: Write, listed: bool, name: str) -> None:
    changed = original(TABLE) * 1.01
    folder = saved(write_peft, "a", {name: changed.astype(np.float32)}, modules_to_save=["embed_tokens"] if listed else None)
    with pytest.raises(BadAdapter, match=f"embedding '{name}' was trained"):
        lower(language_model(), target, CompileOptions(adapters={"a": folder}))
    low, _ = lower(language_model(), target, CompileOptions(adapters={"a": folder}, partial_adapters=True))
    assert low.notices == (f"adapter 'a': left out, as no linear of the model fits: {name}",)


def test_an_embedding_of_a_model_without_one(target: Target, write_peft: Write, tmp_path: Path) -> None:
    """Exports that begin behind the embedding: a copy of the base's, or of a tied head, is left out; nothing is guessed."""
    model = language_model()
    del model.graph.node[0], model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, D]))
    base = tmp_path / "base"
    base.mkdir()
    save_file({f"{TABLE}.weight": original(TABLE), "score.weight": original(UP)}, base / "model.safetensors")
    folder = saved(write_peft, "a", {TABLE: original(TABLE), "score": original(UP)})
    with pytest.raises(BadAdapter, match=r"'model\.embed_tokens' is saved, and the model has none to compare it with") as error:
        lower(model, target, CompileOptions(adapters={"a": folder}))
    assert "'score' is no linear" in error.value.message
    low, _ = lower(model, target, CompileOptions(adapters={"a": folder}, base=base))
    assert low.notices == ("adapter 'a': model.embed_tokens, score equal the base's and are left out",)
    low, _ = lower(model, target, CompileOptions(adapters={"a": saved(write_peft, "tied", {TABLE: original(HEAD)})}))
    assert low.notices == ("adapter 'a': model.embed_tokens equals the base's and is left out",)
    with pytest.raises(BadAdapter, match=r"'model\.embed_tokens' is saved"):
        lower(
            model, target, CompileOptions(adapters={"a": saved(write_peft, "other", {TABLE: 2 * original(TABLE)})}, base=base)
        )


def test_a_branch_of_an_embedding_is_refused_of_linears_alone(target: Target, write_peft: Write) -> None:
    """The host graph picks the rows there; compiled whole, the same model takes it."""
    shapes = {"A": (4, VOCABULARY), "B": (D, 4)}
    branch = {f"base_model.model.{TABLE}.lora_embedding_{p}": np.ones(shape, np.float32) for p, shape in shapes.items()}
    whole = {f"base_model.model.{TABLE}.base_layer.weight": original(TABLE)}
    folder = write_peft(pair(UP, k=D, n=D) | branch | whole)
    with pytest.raises(BadAdapter, match=rf"'{TABLE}' was trained, and only the linears of the model are compiled") as error:
        lower(language_model(), target, CompileOptions(adapters={"a": folder}))
    assert "--operators all" in error.value.hint


@pytest.mark.parametrize("rows", [VOCABULARY + 2, VOCABULARY - 1, 2 * VOCABULARY])
@pytest.mark.parametrize("module", [HEAD, TABLE])
@pytest.mark.parametrize("merge", [False, True])
def test_a_resized_vocabulary_is_called_so(target: Target, write_peft: Write, rows: int, module: str, merge: bool) -> None:
    folder = saved(write_peft, "a", {module: np.resize(original(module), (rows, D))})
    text = f"{module} has {rows} rows, the base {VOCABULARY}: the adapter was saved with a resized vocabulary"
    with pytest.raises(BadAdapter, match=text) as error:
        lower(language_model(), target, CompileOptions(adapters={"a": folder}, merge=merge))
    assert f"resize the base to {rows}" in error.value.hint


def test_a_branch_of_a_resized_head_is_called_so(target: Target, write_peft: Write) -> None:
    folder = write_peft(pair(UP, k=D, n=D) | pair(HEAD, k=D, n=VOCABULARY + 3))
    with pytest.raises(BadAdapter, match=r"51 rows, the base 48: .*resized vocabulary"):
        lower(language_model(), target, CompileOptions(adapters={"a": folder}))


def test_a_head_with_a_branch_keeps_its_copy_out_and_refuses_another(target: Target, write_peft: Write) -> None:
    """PEFT saves `lm_head.base_layer.weight` beside the branch of a head."""
    branch, key = pair(UP, k=D, n=D) | pair(HEAD, k=D, n=VOCABULARY), f"base_model.model.{HEAD}.base_layer.weight"
    low, _ = lower(language_model(), target, CompileOptions(adapters={"a": write_peft(branch | {key: original(HEAD)}, "same")}))
    assert [m.module for m in low.matches["a"]] == [HEAD, UP]
    assert low.notices == ("adapter 'a': lm_head equals the base's and is left out",)
    with pytest.raises(BadAdapter, match="lm_head' has a branch, and a weight of its own that differs"):
        lower(language_model(), target, CompileOptions(adapters={"a": write_peft(branch | {key: 2 * original(HEAD)}, "other")}))


def test_an_adapter_of_copies_alone_is_refused(target: Target, write_peft: Write) -> None:
    whole = {f"base_model.model.{HEAD}.weight": original(HEAD)}
    with pytest.raises(BadAdapter, match="nothing in it differs from the base"):
        lower(language_model(), target, CompileOptions(adapters={"a": write_peft(whole, "a", modules_to_save=[HEAD])}))
    with pytest.raises(BadAdapter, match="1 whole weights and no branch"):
        lower(language_model(), target, CompileOptions(adapters={"a": write_peft(whole, "b")}))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 20), st.sampled_from(sorted(ROUNDINGS)), st.sampled_from(sorted(ROUNDINGS)), st.integers(0, 127))
def test_equal_but_for_storage(seed: int, one: str, other: str, bits: int) -> None:
    """Rounded to any formats on either side a matrix is the same; one element moved by five times the rounding is not."""
    random = np.random.default_rng(seed)
    values = (random.normal(0, 1, (40, 30)) * np.exp(random.uniform(-6, 2, 30))).astype(np.float32)
    held, mine = Held(rounded(values, one).astype(np.float64)), rounded(values, other).astype(np.float64)
    assert held.equals(mine)
    if one == other != "float32":  # two tensors of one format: another last bit is another value
        large = np.abs(values) > 2.0**-10
        next_ = np.nextafter(mine.astype(ROUNDINGS[one]), np.array(np.inf, ROUNDINGS[one])).astype(np.float64)
        assert not held.equals(np.where(large, next_, mine))
    steps = np.abs(values).max(axis=0).astype(np.float64) / 127
    codes = Held(np.rint(values / steps) * steps, np.broadcast_to(steps, values.shape))
    assert codes.equals(mine)
    at = (int(random.integers(40)), int(random.integers(30)))
    slack = {"float32": 2.0**-22, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    moved = mine.copy()
    moved[at] += 5 * (max(slack[one], slack[other]) * np.abs(moved[at]) + 2.0**-24) * (1 if bits % 2 else -1)
    assert not held.equals(moved)
    moved[at] = mine[at] + 1.6 * steps[at[1]]
    assert not codes.equals(moved)


KEYS = [
    "{m}.lora_A.{a}.weight", "module.base_model.model.{m}.lora_A.{a}.weight",
    "_orig_mod.base_model.model.{m}.lora_A.{a}.weight",
    "base_model.model.{m}.lora_A.{a}.weight", "base_model.model._orig_mod.{m}.lora_A.{a}.weight", "{m}.lora_A.weight",
    "base_model.model.language_model.{m}.lora_A.weight",
    "base_model.model.model.language_model.{m}.lora_A.{a}.weight",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["law", "default", "0", "my-adapter_2"])
def test_names_and_wrappers_in_keys(target: Target, write_peft: Write, key: str, name: str) -> None:
    tensors = {
        key.format(m=UP, a=name).replace("lora_A", f"lora_{p}"): v
        for p, v in zip("AB", pair(UP, k=D, n=D).values(), strict=True)
    }
    low, _ = lower(language_model(), target, CompileOptions(adapters={"a": write_peft(tensors)}))
    assert [m.linear for m in low.matches["a"]] == [UP]


def test_names_in_keys_of_every_part(write_peft: Write) -> None:
    """DoRA's magnitude, lora_bias, modules_to_save; the base's own copy is not looked at."""
    a, b = pair("q", k=D, n=D).values()
    key = "base_model.model.q.{}".format
    tensors = {
        key("lora_A.law.weight"): a, key("lora_B.law.weight"): b, key("lora_B.law.bias"): b[:, 0],
        key("lora_magnitude_vector.law.weight"): b[:, 1], "base_model.model.score.modules_to_save.law.weight": a,
        "base_model.model.score.original_module.weight": 2 * a, "base_model.model.head.modules_to_save.law.dense.weight": a,
    }  # fmt: skip
    content = read_content(write_peft(tensors, use_dora=True, modules_to_save=["score", "head"]))
    (lora,) = content.loras
    assert (lora.module, lora.rank) == ("q", 4)
    assert lora.magnitude is not None
    assert lora.bias is not None
    assert [m.module for m in content.modules] == ["head.dense", "score"]
    older = dict(tensors)
    older[key("lora_magnitude_vector.law")] = older.pop(key("lora_magnitude_vector.law.weight"))
    assert (
        read_content(write_peft(older, "older", use_dora=True, modules_to_save=["score", "head"])).loras[0].magnitude
        is not None
    )


@pytest.mark.parametrize("names", [["law", "med"], ["default", "law"], [str(i) for i in range(12)]])
def test_several_adapters_in_one_file_are_named(write_peft: Write, names: list[str]) -> None:
    tensors = {key.replace(".weight", f".{name}.weight"): value for name in names for key, value in pair("q").items()}
    with pytest.raises(BadAdapter, match=f"holds {len(names)} adapters in one file") as error:
        read_content(write_peft(tensors))
    assert all(name in error.value.message for name in sorted(names)[:8])
    assert "selected_adapters" in error.value.hint


def test_one_part_twice_is_refused(write_peft: Write) -> None:
    tensors = pair("q")
    tensors |= {key.replace(".weight", ".law.weight"): value for key, value in tensors.items()}
    with pytest.raises(BadAdapter, match="are the same part"):
        read_content(write_peft(tensors))


@pytest.mark.parametrize(
    "key", ["base_model.model.q.lora_C.weight", "q.lora_A", "q\n.lora_A.weight", "lora_A.weight", "", "x", "a..weight"]
)
def test_names_that_peft_does_not_write(write_peft: Write, key: str) -> None:
    with pytest.raises(BadAdapter, match="none that PEFT's LoRA saves"):
        read_content(write_peft(pair("q") | {key: np.ones((2, 2), np.float32)}))


@pytest.mark.parametrize("alone", [False, True])
def test_trained_tokens_are_named_and_may_be_left_out(target: Target, write_peft: Write, alone: bool) -> None:
    """Of linears alone: beside branches (trainable_token_indices of LoRA), or as an adapter of their own."""
    key = f"base_model.model.{TABLE}.{'' if alone else 'token_adapter.'}trainable_tokens_delta"
    tensors = {key: np.ones((2, D), np.float32)} | ({} if alone else pair(UP, k=D, n=D))
    fields = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 4]} if alone else {"trainable_token_indices": [3, 4]}
    folder = write_peft(tensors, **fields)
    with pytest.raises(BadAdapter, match=f"the embedding '{TABLE}' was trained"):
        lower(language_model(), target, CompileOptions(adapters={"a": folder}))
    options = CompileOptions(adapters={"a": folder}, partial_adapters=True)
    if alone:
        with pytest.raises(BadAdapter, match="the embedding"):
            lower(language_model(), target, options)
        return
    low, _ = lower(language_model(), target, options)
    assert [m.module for m in low.matches["a"]] == [UP]
    assert TABLE in low.notices[0]
