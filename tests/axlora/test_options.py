"""One option means one thing for programs of linears, whole models and language models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_decoder import Sizes, random_decoder
from tiny_onnx import write_onnx

import axlora
from axlora import BadAdapter, BadModel, Program
from axlora.adapters import pin_adapter
from axlora.cli import main
from axlora.compiler.frontend import tvm_import
from axlora.compiler.pipelines.options import OPERATORS
from axlora.isa.assembly import assemble
from axlora.isa.opcodes import SLOTS

MODELS = Path(__file__).parents[1] / "compiler" / "models"
BERT, LORA = MODELS / "bert.dynamo.onnx", MODELS / "bert-lora"
TOKENS, CONTEXT = 8, 12
FREE = {"batch": 1, "sequence": TOKENS}
KINDS = {"linears": "linears", "all": "whole"}
"""`operators` -> kind of the program."""


@pytest.fixture(scope="module", autouse=True)
def quick_llvm() -> Iterator[None]:
    """Host parts that run a few times need few optimizations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tvm_import.LLVM, "opt-level", 0)
        yield


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer; free batch and sequence."""
    return write_onnx(random_decoder(Sizes(layers=1, context=CONTEXT), 2), tmp_path_factory.mktemp("decoder") / "m.onnx")


@pytest.fixture(scope="module")
def compiled(decoder: Path) -> dict[str, Program]:
    """One of each kind, without options."""
    return {kind: _compile(kind, decoder) for kind in ("linears", "all", "generate")}


def _compile(kind: str, decoder: Path, **options: Any) -> Program:
    if kind == "generate":
        return axlora.compile(decoder, "test", generate=True, max_context=CONTEXT, **options)
    return axlora.compile(BERT, "test", shapes=FREE, operators=kind, **options)


def _files(program: Any, folder: Path) -> dict[str, bytes]:
    program.save(folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# --dump-passes


@pytest.mark.parametrize("kind", ["linears", "all", "generate"])
def test_dumped_phases_change_no_byte_of_the_package(
    kind: str, compiled: Mapping[str, Any], decoder: Path, tmp_path: Path
) -> None:
    dumped = _compile(kind, decoder, dump_passes=tmp_path / "deep" / "phases")
    assert _files(dumped, tmp_path / "a.axl") == _files(compiled[kind], tmp_path / "b.axl")
    files = sorted((tmp_path / "deep" / "phases").iterdir())
    assert all(file.read_text().strip() for file in files)
    wanted = ["0_normalised.txt", "1_import.py"]
    if kind == "linears":
        wanted += ["2_recognised.txt", "3_lower_linears.py", "4_partition.py", "5_program.asm"]
    else:
        rows = sorted(f.rows for f in compiled[kind].functions)
        wanted += ["2_plain_indices.py", "3_recognised.txt", "4_lower_rows.py", "5_partition.py", "6_integers.py"]
        wanted += [f"7_program_{n}.asm" for n in rows]
    assert {file.name for file in files} == set(wanted)


def test_a_dumped_program_assembles_to_that_of_the_package(compiled: Mapping[str, Any], decoder: Path, tmp_path: Path) -> None:
    """For each number of rows of a start."""
    _compile("generate", decoder, dump_passes=tmp_path)
    program = compiled["generate"]
    for f in program.functions:
        text = (tmp_path / f"7_program_{f.rows}.asm").read_text()
        assert b"".join(i.encode() for i in assemble(text)) == program.image[f.address : f.address + f.size]


# --max-loras, pins


@pytest.fixture(scope="module")
def adapted() -> dict[str, Program]:
    """Two adapters, one slot, a batch of two."""
    options = {"shapes": FREE | {"batch": 2}, "adapters": {"a": LORA, "b": LORA}, "max_loras": 1}
    return {kind: axlora.compile(BERT, "test", operators=kind, **options) for kind in KINDS}


def _feed(batch: int = 2) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 30, (batch, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _refused(program: Program, choice: Any) -> str:
    with pytest.raises(BadAdapter) as error:
        axlora.simulate(program, _feed(), choice, timing=False)
    return str(error.value)


def test_more_different_adapters_than_slots_are_refused_with_one_message(adapted: Mapping[str, Any]) -> None:
    assert [adapted[kind].kind for kind in KINDS] == list(KINDS.values())
    assert all(p.max_loras == 1 for p in adapted.values())
    (message,) = {_refused(p, ["a", "b"]) for p in adapted.values()}
    assert "2 different adapters in one batch, the package has 1 slots" in message
    assert "--max-loras" in message
    (message,) = {_refused(p, "c") for p in adapted.values()}
    assert "it has: a, b" in message


def test_a_pinned_adapter_counts_in_every_batch(adapted: Mapping[str, Any]) -> None:
    """Used or not."""
    pinned = {kind: pin_adapter(p, "a") for kind, p in adapted.items()}
    (message,) = {_refused(p, ["b", None]) for p in pinned.values()}
    assert "2 different adapters in one batch (1 of them pinned), the package has 1 slots" in message
    assert "unpin one" in message
    for p in pinned.values():
        with pytest.raises(BadAdapter, match="all 1 slots are pinned"):
            pin_adapter(p, "b")
        assert pin_adapter(pin_adapter(p, "a", False), "b").adapters[1].pinned


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_and_the_base_share_a_batch_of_one_slot(kind: str, adapted: Mapping[str, Any]) -> None:
    """Rows are those of batches of one adapter; a pin changes no result."""
    mixed, alone = (axlora.simulate(adapted[kind], _feed(), c, timing=False).codes for c in (["a", None], "a"))
    pinned = axlora.simulate(pin_adapter(adapted[kind], "a"), _feed(), ["a", None], timing=False).codes
    for name, codes in mixed.items():
        half = len(codes) // 2
        assert np.array_equal(codes[:half], alone[name][:half])
        assert np.array_equal(codes, pinned[name])
    assert any(not np.array_equal(codes, alone[name]) for name, codes in mixed.items())


@pytest.mark.parametrize("count", [-1, SLOTS + 1])
def test_slots_that_the_machine_does_not_have_are_refused_with_one_message(count: int) -> None:
    found = set()
    for kind in KINDS:
        with pytest.raises(BadModel) as error:
            axlora.compile(BERT, "test", shapes=FREE, operators=kind, adapters={"a": LORA}, max_loras=count)
        found.add(str(error.value))
    assert len(found) == 1
    assert f"{count} adapter slots asked for, the machine has {SLOTS}" in found.pop()


# Calibration data


def _one_linear() -> onnx.ModelProto:
    """x [1, TOKENS, 24] times a weight: quick to calibrate."""
    value = onnx.helper.make_tensor_value_info
    weight = np.random.default_rng(0).normal(0, 0.2, (24, 16)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, TOKENS, 24])],
        [value("y", onnx.TensorProto.FLOAT, [1, TOKENS, 16])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_data_may_leave_out_axes_of_one(kind: str, tmp_path: Path) -> None:
    """[samples, 1, ...], the same without the batch axis, and one sample alone."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 37, (3, 1, TOKENS))
    data = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    model, options = BERT, {"shapes": FREE, "operators": kind}
    if kind == "linears":
        data, model = {"x": rng.normal(0, 1, (3, 1, TOKENS, 24)).astype(np.float32)}, _one_linear()
        options = {"activation": "static8"}
    forms = {
        "all": data,
        "no batch axis": {name: value[:, 0] for name, value in data.items()},
        "first alone": {name: value[0] for name, value in data.items()},
        "first of one": {name: value[:1] for name, value in data.items()},
    }
    made = {
        form: _files(axlora.compile(model, "test", calibration=given, **options), tmp_path / f"{form}.axl")
        for form, given in forms.items()
    }
    assert made["all"] == made["no batch axis"]
    assert made["first alone"] == made["first of one"]
    assert made["all"] != made["first alone"]


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_data_of_another_shape_is_refused_with_both(kind: str) -> None:
    ids = np.zeros((3, 1, TOKENS + 1), np.int64)
    with pytest.raises(BadModel) as error:
        axlora.compile(
            BERT, "test", shapes=FREE, operators=kind, calibration={"input_ids": ids, "attention_mask": np.ones_like(ids)}
        )
    assert "'input_ids' has shape (3, 1, 9)" in str(error.value)
    assert "expected [samples, 1, 8]" in str(error.value)


def test_calibration_data_must_be_arrays_by_name() -> None:
    with pytest.raises(BadModel, match="calibration is a str, must be a dict of arrays"):
        axlora.compile(BERT, "test", shapes=FREE, calibration="data.npz")  # type: ignore[arg-type]


# --generate


def test_shapes_that_contradict_the_context_are_refused(decoder: Path) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(BadModel) as error:
            axlora.compile(decoder, "test", generate=True, **options)
        return str(error.value)

    message = refused(shapes={"sequence": 8}, max_context=CONTEXT)
    assert f"'input_ids' has 8 tokens, generation asks for {CONTEXT}" in message
    assert "--max-context 8" in message
    assert "'input_ids' has 2 sequences, generation asks for 1" in refused(shapes={"batch": 2}, max_context=CONTEXT)
    assert "no dimension 'tokens'" in refused(shapes={"tokens": 8}, max_context=CONTEXT)


def test_shapes_that_agree_with_the_context_change_nothing(compiled: Mapping[str, Any], decoder: Path, tmp_path: Path) -> None:
    given = _compile("generate", decoder, shapes={"batch": 1, "sequence": CONTEXT})
    assert _files(given, tmp_path / "a.axl") == _files(compiled["generate"], tmp_path / "b.axl")


def test_an_export_of_fixed_length_has_that_context(decoder: Path) -> None:
    proto = onnx.load(decoder)
    for d, n in zip(proto.graph.input[0].type.tensor_type.shape.dim, (1, CONTEXT), strict=True):
        d.dim_value = n
    program = axlora.compile(proto, "test", generate=True)
    assert program.kind == "generator"
    assert program.interface.context == CONTEXT
    assert axlora.compile(proto, "test", generate=True, max_context=CONTEXT).interface.context == CONTEXT
    with pytest.raises(BadModel, match=f"has {CONTEXT} tokens, generation asks for 20"):
        axlora.compile(proto, "test", generate=True, max_context=20)


@pytest.mark.parametrize(("option", "value"), [("chunk", 4), ("max_context", CONTEXT)])
def test_options_of_language_models_are_refused_without_generate(
    option: str, value: int, decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for operators in OPERATORS:
        with pytest.raises(BadModel, match=f"{option} without generate"):
            axlora.compile(decoder, "test", operators=operators, **{option: value})  # type: ignore[arg-type]
    arguments = ["compile", decoder, "-o", tmp_path / "m.axl", "--target", "test", f"--{option.replace('_', '-')}", value]
    assert main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--generate" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [{"merge": True}, {"mode": "exact"}, {"operators": "linears"}, {"lora_linears": "all"}, {"activation": "token16"}],
)
def test_options_that_generate_does_not_have_are_refused_by_name(options: dict[str, Any], decoder: Path) -> None:
    with pytest.raises(BadModel, match=f"{next(iter(options))}.* with generate"):
        _compile("generate", decoder, **options)


# --weight-bits


@pytest.mark.parametrize("kind", ["linears", "all", "generate"])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (2, 32), (8, 0)])
def test_float_weights_of_few_bits_have_groups_of_32(kind: str, bits: int, group: int, decoder: Path) -> None:
    """In every kind of program, where the target has group scales."""
    program = _compile(kind, decoder, weight_bits=bits)
    assert program.linears()
    for linear in program.linears():
        assert linear.weight.group == group, linear.name
        assert linear.weight.fmt.bits == bits


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_without_group_scales_has_none(kind: str) -> None:
    program = axlora.compile(BERT, "ulx3s-85f", shapes=FREE, operators=kind, weight_bits=4)
    assert {linear.weight.group for linear in program.linears()} == {0}
