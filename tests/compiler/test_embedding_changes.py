"""Adapters that change embeddings: against PEFT's own model, in batches, added later, merged, damaged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import embedded as E
import hf_models as H
import numpy as np
import onnx
import onnxruntime
import pytest
from hf_runs import SHAPE, distance
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

import axlora
from axlora.adapters import add_adapter, module_rows, pin_adapter
from axlora.compiler.dump import Dump
from axlora.compiler.errors import BadAdapter, BadPackage
from axlora.compiler.frontend.merge import merge_peft
from axlora.compiler.frontend.mixtures import read_mixture
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.samples import products
from axlora.compiler.pipelines.transformers import _Reading
from axlora.compiler.row_changes import RowChange
from axlora.compiler.rows.float_forms import evaluate

TOLERANCE, LATER = 1.5, 1.8
"""Largest distance of an adapter from PEFT's model over that of the base from its own, both quantized alike; of adapters that
calibration has not seen."""
EMBED, DELTA = "model.embed_tokens", "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
SAMPLE = H.inputs({"num_key_value_heads": H.GROUPS})


def _options(base: str, whole: bool = False) -> dict[str, Any]:
    """Of a language model, or of whole sequences; calibrated with what is run."""
    sample = H.inputs(H.config(base))
    if base == E.BERT or whole:
        return {"operators": "all", "shapes": SHAPE, "calibration": sample}
    return {"generate": True, "max_context": 24, "calibration": sample}


def _error(outputs: dict[str, H.Array], wanted: dict[str, H.Array], mask: H.Array | None) -> float:
    """The largest distance of an output, without the rows of padding."""

    def kept(value: H.Array) -> H.Array:
        return value[mask.astype(bool)] if mask is not None and value.ndim == 3 else value

    return max(distance(kept(outputs[name]), kept(value)) for name, value in wanted.items())


@pytest.mark.parametrize("name", E.names())
def test_in_floats_it_is_what_peft_gives(name: str, tmp_path: Path) -> None:
    """Tables and linears under the adapter, before anything is quantized."""
    base, given = E.base(name), _options(E.base(name))
    reading = _Reading(H.save(base, tmp_path / "base"), CompileOptions(**given), Dump(None))
    read = reading.decoder() if "generate" in given else reading.whole()
    made = merge_peft(read.found, "a", E.save(name, tmp_path / "a"), tables=read.tables())
    tuned, wanted = read.with_rows(made.rows), E.results(name)
    (sample,) = tuned.first_rows(given["calibration"])
    values = evaluate(tuned.model, sample.rows, products(made.linears), sample.keys)
    for out in tuned.model.outputs:
        found = values[out.value][: sample.keys]
        assert distance(found, wanted[out.name].reshape(-1, found.shape[1])[: sample.keys]) < 2e-5
    assert {out.name for out in tuned.model.outputs} == wanted.keys()


@pytest.mark.parametrize("name", E.names())
def test_it_is_as_near_to_peft_as_the_base(name: str, tmp_path: Path) -> None:
    """Compiled with it, out of its package; base and adapter in one."""
    base = E.base(name)
    sample, wanted, plain = H.inputs(H.config(base)), E.results(name), H.results(base)
    mask, folder = sample.get("attention_mask"), H.save(base, tmp_path / "base")
    made = axlora.compile(folder, "test", adapters={"a": E.save(name, tmp_path / "a")}, **_options(base))
    made.save(tmp_path / "m.axl")
    program = axlora.load(tmp_path / "m.axl")
    own = _error(axlora.simulate(program, sample).outputs, plain, mask)
    assert own < 0.06
    assert _error(wanted, plain, mask) > 2 * TOLERANCE * own, "the adapter is seen"
    assert _error(axlora.simulate(program, sample, adapter="a").outputs, wanted, mask) < TOLERANCE * own
    assert any(row[1].startswith("embeddings of") for row in module_rows(program.adapters[0]))


@pytest.mark.parametrize("name", ["branch", "tokens_tied", "whole_tied", "branch_scaled", "branch_bert", "tokens_alone"])
def test_it_may_be_added_later(name: str, tmp_path: Path) -> None:
    """To a package that was read back, whose base does not change; an adapter of embeddings alone needs no slot."""
    base = E.base(name)
    sample, adapter = H.inputs(H.config(base)), E.save(name, tmp_path / "a")
    slots = {} if name == "tokens_alone" else {"max_loras": 1, "max_lora_rank": H.HIDDEN}
    axlora.compile(H.save(base, tmp_path / "base"), "test", **_options(base), **slots).save(tmp_path / "m.axl")
    program = axlora.load(tmp_path / "m.axl")
    before = axlora.simulate(program, sample)
    add_adapter(program, "a", adapter).save(tmp_path / "m.axl")
    later = axlora.load(tmp_path / "m.axl")
    assert later.slots == (0 if name == "tokens_alone" else 1)
    after, mask = axlora.simulate(later, sample), sample.get("attention_mask")
    with pytest.raises(BadAdapter, match="the package has an adapter 'a'"):
        add_adapter(later, "a", adapter)
    assert all(np.array_equal(after.outputs[key], value) for key, value in before.outputs.items())
    assert after.counters == before.counters
    found = axlora.simulate(later, sample, adapter="a").outputs
    assert _error(found, E.results(name), mask) < LATER * _error(before.outputs, H.results(base), mask)


@pytest.mark.parametrize("name", ["branch_dora", "tokens_tied", "whole_untied_head", "branch_scaled", "whole_bert"])
def test_it_may_be_merged(name: str, tmp_path: Path) -> None:
    base = E.base(name)
    sample, adapter = H.inputs(H.config(base)), E.save(name, tmp_path / "a")
    folder, options, mask = H.save(base, tmp_path / "base"), _options(base, True), sample.get("attention_mask")
    own = _error(axlora.simulate(axlora.compile(folder, "test", **options), sample).outputs, H.results(base), mask)
    program = axlora.compile(folder, "test", adapters={"a": adapter}, merge=True, **options)
    assert not program.adapters
    assert _error(axlora.simulate(program, sample).outputs, E.results(name), mask) < TOLERANCE * own


def test_sequences_that_decode_together_have_their_own_embeddings(tmp_path: Path) -> None:
    """Each as alone, bit for bit: the base, rows of tokens without a slot, a branch; pinned or not."""
    names, options = {"t": "tokens_alone", "b": "branch"}, _options(E.LLAMA) | {"max_batch": 3}
    adapters = {name: E.save(own, tmp_path / own) for name, own in names.items()}
    program = axlora.compile(H.save(E.LLAMA, tmp_path / "base"), "test", adapters=adapters, **options)
    assert [a.rank for a in program.adapters] == [0, 3]
    ids = np.repeat(SAMPLE["input_ids"], 3, axis=0)
    for each in (program, pin_adapter(program, "b"), pin_adapter(program, "t")):
        together = each.session().run({"input_ids": ids}, [None, "t", "b"]).outputs["logits"]
        for n, name in enumerate([None, "t", "b"]):
            alone = each.session().run({"input_ids": ids[:1]}, [name]).outputs["logits"]
            assert np.array_equal(together[n], alone[0])
    paged = program.session(adapter_places=1).run({"input_ids": ids}, [None, "t", "b"]).outputs["logits"]
    assert np.array_equal(paged, program.session().run({"input_ids": ids}, [None, "t", "b"]).outputs["logits"])


def test_a_batch_of_sequences(tmp_path: Path) -> None:
    """Each sequence with an adapter of its own."""
    sample, adapter = H.inputs(H.config(E.BERT)), E.save("branch_bert", tmp_path / "a")
    folder, mask = H.save(E.BERT, tmp_path / "base"), H.inputs(H.config(E.BERT))["attention_mask"]
    options = {"operators": "all", "shapes": SHAPE | {"batch": 2}, "adapters": {"a": adapter}}
    twice = {name: np.repeat(value, 2, axis=0) for name, value in sample.items()}
    program = axlora.compile(folder, "test", calibration=twice, **options)
    outputs = axlora.simulate(program, twice, adapter=[None, "a"]).outputs
    for n, wanted in enumerate((H.results(E.BERT), E.results("branch_bert"))):
        assert _error({name: value[n : n + 1] for name, value in outputs.items()}, wanted, mask) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["rtl", "hls"])
def test_every_engine_has_the_same_rows(engine: str, tmp_path: Path) -> None:
    adapter, options = E.save("tokens_tied", tmp_path / "a"), _options(E.TIED)
    program = axlora.compile(H.save(E.TIED, tmp_path / "base"), "test", adapters={"a": adapter}, **options)
    ids = {"input_ids": SAMPLE["input_ids"][:, :9]}
    wanted, found = program.session("a").run(ids), program.session("a", engine=engine).run(ids)
    assert np.array_equal(found.outputs["logits"], wanted.outputs["logits"])


def test_one_embedding_of_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    """T5's `shared`: rows of both streams and the head, as of a model that holds them changed."""
    path, random = H.MODELS / "forms" / "t5.onnx", np.random.default_rng(0)
    feed = {"input_ids": random.integers(2, 40, (1, 12)), "decoder_input_ids": random.integers(2, 40, (1, 6))}
    feed["attention_mask"] = np.ones((1, 12), np.int64)
    ids = [int(feed["decoder_input_ids"][0, 2]), int(feed["input_ids"][0, 3])]
    changed = onnx.load(path)
    held = {i.name: (i, numpy_helper.to_array(i)) for i in changed.graph.initializer}
    table = held["model.lm_head.weight"][1].copy()
    alike = [i for i, value in held.values() if np.array_equal(value, table) or np.array_equal(value, table.T)]
    table[ids] = rows = table[ids] + random.normal(0, 0.15, (2, table.shape[1])).astype(np.float32)
    for each in alike:
        own = table if tuple(each.dims) == table.shape else np.ascontiguousarray(table.T)
        each.CopyFrom(numpy_helper.from_array(own, each.name))
    adapter = E.save("tokens", tmp_path / "a")
    save_file({DELTA.replace(f"{EMBED}.", "shared."): rows}, adapter / "adapter_model.safetensors")
    _ids(*ids)(adapter)
    program = axlora.compile(path, "test", operators="all", adapters={"a": adapter}, calibration=feed)
    plain, wanted = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], feed)[0] for model in (onnx.load(path), changed)
    )
    found, base = (axlora.simulate(program, feed, adapter=name).outputs["y"] for name in ("a", None))
    assert distance(base, plain) < 0.04 < 0.2 < distance(wanted, plain)
    assert distance(found, wanted) < TOLERANCE * distance(base, plain)


def test_weighted_sums_add_the_changes_of_rows(tmp_path: Path) -> None:
    one, other = E.save("tokens", tmp_path / "one"), E.save("branch", tmp_path / "other")
    table = np.random.default_rng(0).normal(size=(H.VOCABULARY, H.HIDDEN))
    ids = np.arange(H.VOCABULARY)
    parts = [sum(rows.change(table).of(ids) for rows in read_mixture(path).embeddings) for path in (one, other)]
    both = read_mixture(f"{one}@0.5,{other}@-2").embeddings
    assert len(both) == 2
    assert np.allclose(sum(rows.change(table).of(ids) for rows in both), 0.5 * parts[0] - 2 * parts[1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_a_change_are_those_of_its_dense_form(data: st.DataObject) -> None:
    """Whatever rows are picked, and as a branch of a linear that has the table's weight."""
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows, features, rank = (data.draw(st.integers(1, 9)) for _ in range(3))
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))) if data.draw(st.booleans()) else None
    low = ids is None and data.draw(st.booleans())
    left = random.normal(size=(rows if ids is None else len(ids), rank if low else features))
    right = random.normal(size=(rank, features)) if low else None
    change, dense = RowChange("m", left, right, ids), np.zeros((rows, features))
    dense[np.arange(rows) if ids is None else ids] = left if right is None else left @ right
    picked = data.draw(st.lists(st.integers(0, rows - 1), min_size=1))
    assert np.allclose(change.of(picked), dense[picked])
    assert np.allclose(change.times(-2.5).of(picked), -2.5 * dense[picked])
    if (pair := change.branch(rows)) is not None:
        assert np.allclose(pair[0] @ pair[1], dense.T)
    else:
        assert right is None
        assert ids is None or len(ids) >= features


def test_what_a_tied_head_costs_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More trained tokens than half of the features: a notice, or the limit."""
    adapter = E.save("tokens_tied", tmp_path / "a")
    _ids(*range(17))(adapter)
    _rows(lambda _: np.random.default_rng(0).normal(0, 0.15, (17, H.HIDDEN)).astype(np.float32))(adapter)
    folder, options = H.save(E.TIED, tmp_path / "base"), _options(E.TIED)
    program = axlora.compile(folder, "test", adapters={"a": adapter}, **options)
    told = f"adapter 'a': lm_head has the weight of {EMBED}: its branch of rank 17 costs as much as the weight"
    assert f"{told}; merged (--merge) it costs nothing" in caplog.messages
    assert program.adapters[0].rank == 17
    with pytest.raises(BadAdapter, match=r"rank 17 is over the limit 8"):
        axlora.compile(folder, "test", adapters={"a": adapter}, max_lora_rank=8, **options)


def test_a_head_that_keeps_its_weight_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = E.save("branch_untied_head", tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        axlora.compile(H.save(E.TIED, tmp_path / "base"), "test", adapters={"a": adapter}, **_options(E.TIED))
    assert caplog.messages == [f"adapter 'a': lm_head has the weight of {EMBED} and keeps it (no ensure_weight_tying)"]


def _ids(*ids: Any) -> Callable[[Path], None]:
    """Other tokens than were trained."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"trainable_token_indices": [*ids]}))

    return change


def _rows(
    change: Callable[[H.Array], H.Array], key: str = DELTA, name: str = "adapter_model.safetensors"
) -> Callable[[Path], None]:
    """Another tensor of rows."""

    def changed(folder: Path) -> None:
        tensors = load_file(folder / name)
        tensors[key] = np.ascontiguousarray(change(tensors[key]))
        save_file(tensors, folder / name)

    return changed


def _without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file({name: value for name, value in tensors.items() if key not in name}, folder / "adapter_model.safetensors")

    return change


def _with_head(folder: Path) -> None:
    """A branch of the head beside trained tokens of the table that it shares."""
    tensors, shapes = load_file(folder / "adapter_model.safetensors"), {"A": (3, H.HIDDEN), "B": (H.VOCABULARY, 3)}
    own = {f"base_model.model.lm_head.lora_{part}.weight": np.ones(shape, np.float32) for part, shape in shapes.items()}
    save_file(tensors | own, folder / "adapter_model.safetensors")


A = "base_model.model.model.embed_tokens.lora_embedding_A"
WRONG = {
    "too few ids": ("tokens", _ids(1, 2), "trained rows (3, 32) for 2 tokens"),
    "an id twice": ("tokens", _ids(1, 2, 1), "trained rows (3, 32) for 3 tokens (2 different ones)"),
    "no ids": ("tokens", _ids("a", 2, 3), "lists no token ids for module 'model.embed_tokens'"),
    "a negative id": ("tokens", _ids(-1, 2, 3), "lists no token ids"),
    "a new token": ("tokens", _ids(1, 2, H.VOCABULARY), "embed_tokens has 41 rows, the base 40: the adapter was saved"),
    "another width": ("tokens", _rows(lambda x: x[:, :-1]), "has 31 features, the model's 32"),
    "not a number": ("tokens", _rows(lambda x: x * np.nan), "NaN"),
    "one factor": ("branch", _without("embedding_B"), "has lora_embedding_A but no lora_embedding_B"),
    "another rank": ("branch", _rows(lambda x: x[:2], A), "do not pair"),
    "more rows": ("branch", _rows(lambda x: np.pad(x, ((0, 0), (0, 2))), A), "has 42 rows, the base 40: the adapter was saved"),
    "a head's branch": ("tokens_tied", _with_head, "'lm_head' has a branch, and the weight of 'model.embed_tokens'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    name, damage, text = WRONG[case]
    adapter = E.save(name, tmp_path / "a")
    damage(adapter)
    with pytest.raises(BadAdapter) as error:
        axlora.compile(H.save(E.base(name), tmp_path / "base"), "test", adapters={"a": adapter}, **_options(E.base(name)))
    assert text in error.value.message
    assert error.value.hint
    assert "\n" not in str(error.value)


def test_rows_beyond_the_range_of_first_rows_are_refused(tmp_path: Path) -> None:
    """Later, and where calibration has none of their tokens; calibration that has them makes room."""
    adapter, folder, options = E.save("tokens", tmp_path / "a"), H.save(E.LLAMA, tmp_path / "base"), _options(E.LLAMA)
    _rows(lambda x: 100 * x)(adapter)
    program = axlora.compile(folder, "test", max_loras=1, max_lora_rank=4, **options)
    with pytest.raises(BadAdapter, match="rows of 'input_ids' reach"):
        add_adapter(program, "a", adapter)
    others = np.setdiff1d(SAMPLE["input_ids"], E.TOKENS)[None]
    with pytest.raises(BadAdapter, match="rows of 'input_ids' reach") as error:
        axlora.compile(folder, "test", adapters={"a": adapter}, **(options | {"calibration": {"input_ids": others}}))
    assert "calibration data" in error.value.hint
    assert axlora.compile(folder, "test", adapters={"a": adapter}, **options).adapters[0].rows


def test_the_base_must_have_the_same_embedding(tmp_path: Path) -> None:
    """Of `--base`, at compile time and later; whose weights find a table of another name too."""
    adapter, folder, options = E.save("tokens", tmp_path / "a"), H.save(E.LLAMA, tmp_path / "base"), _options(E.LLAMA)
    other = H.save(E.LLAMA, tmp_path / "other")
    _rows(lambda x: x + 1, "model.embed_tokens.weight", "model.safetensors")(other)
    program = axlora.compile(folder, "test", adapters={"a": adapter}, base=folder, **options)
    for add in (
        lambda: axlora.compile(folder, "test", adapters={"a": adapter}, base=other, **options),
        lambda: add_adapter(program, "b", adapter, base=other),
    ):
        with pytest.raises(BadAdapter, match=r"'model\.embed_tokens' in the base .* is not that of the model's embedding"):
            add()
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({key.replace(EMBED, "model.words"): v for key, v in tensors.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(BadAdapter, match="ids pick rows of no table of that name"):
        add_adapter(program, "b", adapter)
    held = load_file(folder / "model.safetensors")
    save_file({key.replace(EMBED, "model.words"): v for key, v in held.items()}, other / "model.safetensors")
    assert add_adapter(program, "b", adapter, base=other).adapters[1].rows.keys() == {"input_ids"}


def test_packages_with_damaged_rows_are_refused(tmp_path: Path) -> None:
    """Shapes, order and range of what an adapter adds, and tables that are not there."""
    adapter, options = E.save("tokens", tmp_path / "a"), _options(E.LLAMA)
    program = axlora.compile(H.save(E.LLAMA, tmp_path / "base"), "test", adapters={"a": adapter}, **options)
    (own,) = program.adapters
    (change,) = own.rows["input_ids"]
    wrong = {
        "left": replace(change, left=change.left[:, 1:]),
        "ids": replace(change, ids=change.ids[::-1].copy()),
        "right": replace(change, left=change.left[:, :2], right=np.ones((2, 31), np.float32)),
    }
    changes = {name: {"input_ids": (one,)} for name, one in wrong.items()} | {"adapters[0].rows": {"other": (change,)}}
    for name, rows in changes.items():
        with pytest.raises(RuntimeError, match="does not load") as error:
            replace(program, adapters=(replace(own, rows=rows),)).save(tmp_path / "wrong.axl")
        assert isinstance(error.value.__cause__, BadPackage)
        assert name in str(error.value)
