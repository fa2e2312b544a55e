"""Adapters never attach by accident: every component of a module's path agrees, the evidence is told, the rest is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_adapters import K, N, named_model, pair

import axlora
from axlora.adapters import add_adapter
from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.attach import ALIASES, MARKS, ROOTS, WRAPPERS, candidates, find_linear
from axlora.compiler.frontend.held import Candidate, Held
from axlora.compiler.frontend.resolve import Matching, Resolved, resolve
from axlora.compiler.layer import By
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.isa.target import Target

Write = Callable[..., Path]
LLAMA = [f"model.layers.{i}.{part}" for i in (0, 1, 11) for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]
BERT = [f"bert.encoder.layer.{i}.{part}" for i in (0, 1) for part in ("attention.self.query", "output.dense")]
GPT2 = [f"transformer.h.{i}.{part}" for i in (0, 1) for part in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")]
DISTIL = [f"distilbert.transformer.layer.{i}.attention.{part}" for i in (0, 1) for part in ("q_lin", "v_lin")]
MODELS = {"llama": LLAMA, "bert": BERT, "gpt2": GPT2, "distilbert": DISTIL}
FORMS = ("scopes", "nodes", "weights")


def linear(path: str, form: str = "nodes", number: int = 0, shape: tuple[int, int] = (K, N)) -> Candidate:
    """A linear whose path stands in scope metadata, in the node's path or in the weight's name."""
    values = np.random.default_rng(number + 1).normal(0, 0.1, shape)
    held = Held(values)
    if form == "scopes":
        return Candidate(path, f"node_MatMul_{number}", (path, f"val_{number}"), 1, shape, lambda: held, np.zeros(shape[1]))
    node = f"/{path.replace('.', '/')}/MatMul" if form == "nodes" else f"MatMul_{number}"
    names = (f"onnx::MatMul_{number}", path) if form == "nodes" else (path, node)
    return Candidate(path, node, names, 0, shape, lambda: held, np.zeros(shape[1]))


def linears(paths: list[str], form: str = "nodes") -> list[Candidate]:
    return [linear(path, form, number) for number, path in enumerate(paths)]


def attached(found: Resolved) -> dict[str, str]:
    return {match.module: match.linear for match in found.matches}


def adapter(write_peft: Write, modules: list[str], name: str = "adapter", **fields: Any) -> Path:
    tensors: dict[str, np.ndarray] = {}
    for number, module in enumerate(modules):
        tensors |= pair(module, seed=number)
    return write_peft(tensors, name, **fields)


COMPONENT = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12)
KNOWN = {*WRAPPERS, *MARKS, *ROOTS, *ALIASES, *ALIASES.values()}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(MODELS)), st.sampled_from(FORMS), st.data())
def test_a_path_with_another_component_is_no_linear(model: str, form: str, data: st.DataObject) -> None:
    """A component replaced, put in, taken out or moved: refused, unless the result is the path of a linear itself."""
    paths = MODELS[model]
    parts = data.draw(st.sampled_from(paths)).split(".")
    first = next(i for i, part in enumerate(parts) if part not in (*WRAPPERS, *ROOTS))
    at = data.draw(st.integers(first, len(parts) - 1))
    new = data.draw(COMPONENT.filter(lambda text: text not in KNOWN))
    how = data.draw(st.sampled_from(["replace", "insert", "append", "prepend", "remove", "swap"]))
    if how == "replace":
        parts[at] = new
    elif how == "insert":
        parts.insert(at, new)
    elif how == "append":
        parts.append(new)
    elif how == "prepend":
        parts.insert(0, new)
    elif how == "remove":
        del parts[at]
    else:
        parts[at], parts[-1] = parts[-1], parts[at]
    module = ".".join(parts)
    stripped = {".".join(p for p in path.split(".") if p not in KNOWN) for path in paths}
    if ".".join(p for p in parts if p not in KNOWN) in stripped or not module:
        return
    with pytest.raises(BadAdapter, match="is no linear"):
        find_linear(module, linears(paths, form), None, "adapter")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(MODELS)), st.sampled_from(FORMS), st.data())
def test_what_wrappers_add_is_taken_off_on_either_side(model: str, form: str, data: st.DataObject) -> None:
    wrapper = st.lists(st.sampled_from([*WRAPPERS, "_orig_mod"]), max_size=3)
    outside = [".".join([*data.draw(wrapper), path]) for path in MODELS[model]]
    mine = linears(outside, form)
    for path, wanted in zip(MODELS[model], mine, strict=True):
        parts = path.split(".")
        first = next(i for i, part in enumerate(parts) if part not in (*WRAPPERS, *ROOTS))
        kept = data.draw(st.integers(0, first))
        module = ".".join([*data.draw(wrapper), *parts[kept:]])
        assert find_linear(module, mine, None, "adapter") is wanted


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_wrappers_may_stand_anywhere(mark: str) -> None:
    mine = linears(LLAMA)
    assert (
        find_linear(f"{mark}.model.layers.1.{mark}.self_attn.v_proj", mine, None, "a").name == "model.layers.1.self_attn.v_proj"
    )


@pytest.mark.parametrize(("mine", "others"), [("bert", "roberta"), ("transformer", "gpt_neox"), ("distilbert", "bert")])
@pytest.mark.parametrize("form", FORMS)
def test_two_bases_of_one_structure_do_not_agree(mine: str, others: str, form: str) -> None:
    with pytest.raises(BadAdapter, match="is no linear"):
        find_linear(f"{others}.layer.0.query", linears([f"{mine}.layer.0.query"], form), None, "adapter")


TOWERS = ("vision_tower", "vision_model", "audio_tower", "text_encoder_2", "visual", "decoder", "draft", "model.vision_tower")


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_modules_of_another_tower_are_refused_with_their_names(write_peft: Write, tower: str, wrapped: bool) -> None:
    """They have the linears' shapes, and paths that end like theirs."""
    paths = [path if wrapped else path.removeprefix("model.") for path in LLAMA]
    modules = [f"{tower}.{path.removeprefix('model.')}" for path in LLAMA[:4]]
    with pytest.raises(BadAdapter) as error:
        resolve("law", adapter(write_peft, modules), linears(paths), matching=Matching(partial=True))
    assert all(module in error.value.message for module in modules)
    assert "nearest" in error.value.hint
    assert any(path in error.value.hint for path in paths)
    assert "--partial-adapters" not in error.value.hint


@pytest.mark.parametrize("extra", [1, 3, 20])
def test_what_is_left_over_is_named_and_left_out_on_request(write_peft: Write, extra: int) -> None:
    vision = [f"vision_tower.blocks.{i:02}.attn.qkv" for i in range(extra)]
    folder = adapter(write_peft, [*LLAMA[:3], *vision])
    with pytest.raises(BadAdapter, match=r"vision_tower\.blocks\.00\.attn\.qkv") as error:
        resolve("law", folder, linears(LLAMA))
    assert all(module in str(error.value) for module in vision[:8])
    assert ("and 12 more" in str(error.value)) == (extra == 20)
    assert "--partial-adapters" in error.value.hint
    found = resolve("law", folder, linears(LLAMA), matching=Matching(partial=True))
    assert attached(found) == {path: path for path in LLAMA[:3]}
    (notice,) = found.notices
    assert all(module in notice for module in vision[:8])


def test_partial_logs_what_is_left_out_once_all_went_well(
    build: Any, target: Target, write_peft: Write, caplog: pytest.LogCaptureFixture
) -> None:
    model = named_model(build, ["layers.0.q_proj", "layers.1.q_proj"])
    folder = adapter(write_peft, ["layers.0.q_proj", "vision.q_proj"])
    with caplog.at_level(logging.WARNING), pytest.raises(BadAdapter, match=r"'vision.q_proj' is no linear"):
        axlora.compile(model, target, adapters={"a": folder})
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        made = axlora.compile(model, target, adapters={"a": folder}, partial_adapters=True)
    assert [r.message for r in caplog.records if "vision.q_proj" in r.message] == [
        "adapter 'a': left out, as no linear of the model fits: vision.q_proj"
    ]
    assert [m.module for m in made.adapters[0].modules] == ["layers.0.q_proj"]
    later = axlora.compile(model, target, max_loras=1, max_lora_rank=4)
    with pytest.raises(BadAdapter, match=r"'vision.q_proj'"):
        add_adapter(later, "a", folder)
    assert add_adapter(later, "a", folder, partial_adapters=True).adapters[0].modules == made.adapters[0].modules
    with pytest.raises(BadAdapter, match="is no linear"):
        axlora.compile(model, target, adapters={"a": adapter(write_peft, ["vision.q_proj"], "none")}, partial_adapters=True)


def test_evidence_goes_from_scopes_to_node_paths_to_names_of_weights() -> None:
    """Each linear is meant by another form of the same path; the surest wins."""
    scoped, by_node, by_weight = (linear("layers.0.q", form, i) for i, form in enumerate(FORMS))
    for given_, by in (
        ([by_weight, by_node, scoped], By.SCOPE), ([by_weight, by_node], By.NODE), ([by_weight], By.WEIGHT),
    ):  # fmt: skip
        assert candidates("layers.0.q", given_) == ([given_[-1]], by)


def test_a_name_that_contradicts_a_surer_path_is_none() -> None:
    """Exporters keep equal weights of two layers under the name of one."""
    first, second = (
        Candidate(
            f"layers.{i}.q", f"/layers.{i}/q/MatMul", ("layers.0.q", f"layers.{i}.q"), 0, (K, N), linear("").held, np.zeros(N)
        )
        for i in (0, 1)
    )
    assert find_linear("layers.0.q", [first, second], None, "a") is first
    assert find_linear("layers.1.q", [first, second], None, "a") is second
    with pytest.raises(BadAdapter, match="no linear"):
        find_linear("layers.0.q", [second], None, "a")
    tower = Candidate("t", "n_1", ("vision.layers.0.q", "layers.0.q"), 1, (K, N), linear("").held, np.zeros(N))
    with pytest.raises(BadAdapter, match="no linear"):
        find_linear("layers.0.q", [tower], None, "a")
    functional = Candidate("f", "n_1", ("layers.0", "layers.0.q"), 1, (K, N), linear("").held, np.zeros(N))
    assert candidates("layers.0.q", [functional]) == ([functional], By.WEIGHT)


@pytest.mark.parametrize("node", ["/model/layers.0/attn/q_proj/MatMul", "/model/layers.0/self_attn/q_proj/MatMul_3"])
def test_exporters_aliases_and_operators_are_known(node: str) -> None:
    path = node.strip("/").replace("/", ".")
    mine = [Candidate("x", node, (path.removesuffix(".MatMul"),), 0, (K, N), linear("").held, np.zeros(N))]
    assert candidates("model.layers.0.self_attn.q_proj", mine) == (mine, By.NODE)


def test_parts_of_a_linear_whose_columns_have_no_one_order_are_called_so(write_peft: Write) -> None:
    modules = [f"model.layers.{i}.attention.{part}" for i in (0, 1) for part in ("query", "value")]
    mine = linears([f"model.layers.{i}.attention.query_key_value" for i in (0, 1)])
    with pytest.raises(BadAdapter, match="parts of 'query_key_value', which the model holds packed as one linear") as error:
        resolve("law", adapter(write_peft, modules), mine)
    assert all(module in str(error.value) for module in modules)
    assert "separate projections" in error.value.hint


def test_the_base_tells_by_paths_whose_components_all_agree(write_peft: Write, tmp_path: Path) -> None:
    """A module of another tower is not taken for the base's module whose path its own ends with."""
    mine = [linear("val_1", "scopes", 1), linear("val_2", "scopes", 2)]
    base = tmp_path / "base"
    base.mkdir()
    stored = {f"layers.{i}.q.weight": np.ascontiguousarray(x.held().values.T.astype(np.float16)) for i, x in enumerate(mine)}
    save_file(stored, base / "model.safetensors")
    for number in (0, 1):
        found = resolve(
            "a", adapter(write_peft, [f"model.layers.{number}.q"], f"t{number}"), mine, matching=Matching(base=base)
        )
        assert [(m.linear, m.by) for m in found.matches] == [(mine[number].name, By.VALUES)]
    with pytest.raises(BadAdapter, match=r"vision_tower\.layers\.0\.q' is not in the base"):
        resolve("a", adapter(write_peft, ["vision_tower.layers.0.q"], "v"), mine, matching=Matching(base=base))


def test_the_map_goes_first_and_is_checked(write_peft: Write) -> None:
    mine, folder = linears(LLAMA), adapter(write_peft, ["vision.q"])
    found = resolve("a", folder, mine, matching=Matching({"vision.q": mine[4].node}))
    assert [(m.module, m.linear, m.by) for m in found.matches] == [("vision.q", LLAMA[4], By.MAP)]
    with pytest.raises(BadAdapter, match="nowhere"):
        resolve("a", folder, mine, matching=Matching({"other": "nowhere"}))


def test_two_modules_of_one_linear_are_refused(write_peft: Write) -> None:
    with pytest.raises(BadAdapter, match=r"two modules mean.*'layers.0.self_attn.q_proj' and 'model.layers.0"):
        resolve("a", adapter(write_peft, ["layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"]), linears(LLAMA))


def test_paths_of_a_real_graph(build: Any, target: Target, write_peft: Write) -> None:
    """The table says which evidence told: scope metadata or node paths."""
    for scopes, by in ((True, By.SCOPE), (False, By.NODE)):
        model = named_model(type(build)(), LLAMA[:2], scopes)
        low, _ = lower(model, target, CompileOptions(adapters={"a": adapter(write_peft, LLAMA[:1], by.name)}))
        assert [(m.module, m.linear, m.by) for m in low.matches["a"]] == [(LLAMA[0], low.linears[0].name, by)]


def test_a_base_whose_weights_are_not_the_models_is_refused(write_peft: Write, tmp_path: Path) -> None:
    """--base names what the adapters were trained on: a model of another, or of a changed one, is told apart."""
    mine = linears(LLAMA)
    base = tmp_path / "base"
    base.mkdir()
    weights = {f"{x.name}.weight": np.ascontiguousarray(x.held().values.T.astype(np.float32)) for x in mine}
    folder = adapter(write_peft, [mine[0].name])
    for changed in (False, True):
        if changed:
            weights[f"{mine[0].name}.weight"] = weights[f"{mine[0].name}.weight"] + np.float32(0.01)
        save_file(weights, base / "model.safetensors")
        if not changed:
            assert resolve("a", folder, mine, matching=Matching(base=base)).loras
    with pytest.raises(BadAdapter, match=r"the weight of module .* in the base .* is not that of linear") as error:
        resolve("a", folder, mine, matching=Matching(base=base))
    assert "exported of another base" in error.value.hint
