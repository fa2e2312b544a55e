"""Models of rows of floats, whole on the machine: nothing on the host, one start for a batch, near onnxruntime, equal bits."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import mlps as M
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import axlora
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.passes.placement import computes_on_host
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import Generated, lower_whole
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows.lower import lower
from axlora.isa.target import Target
from axlora.package import seal

TARGET = Target.load("test")
BATCH = 5


def _onnxruntime(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    return {name: np.asarray(y) for name, y in zip(names, session.run(names, {"x": x}), strict=True)}


def _data(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    return {"x": M.samples(model, batch, 8, seed=1)}


def _compiled(model: onnx.ModelProto, batch: int = BATCH, **options: object) -> axlora.Program:
    return axlora.compile(model, TARGET, shapes={"batch": batch}, calibration=_data(model, batch), **options)


def _lowered(model: onnx.ModelProto, batch: int = BATCH, **options: object) -> Generated:
    given = {"operators": "all", "shapes": {"batch": batch}, "calibration": _data(model, batch)} | options
    return lower_whole(model, TARGET, CompileOptions(**given))  # type: ignore[arg-type]


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def _reference(found: Generated, rows: np.ndarray, adapters: list[str | None]) -> dict[int, np.ndarray]:
    """Number of each output -> integers, by the row operations in NumPy."""
    linears = found.lowered.linears
    run = Reference({li.name: li for li in linears}, adapters, Cache(), TARGET.activation_bits, rows)
    lower(found.region, run, TARGET.activation_bits, found.image.context)
    return run.outputs


@pytest.mark.parametrize("kind", M.MODELS)
def test_an_mlp_has_no_host_part(kind: str, tmp_path: Path) -> None:
    """Written and read again: near onnxruntime, and one start for the whole batch."""
    model = M.MODELS[kind]()
    _compiled(model).save(tmp_path / "m.axl")
    program = axlora.load(tmp_path / "m.axl")
    assert program.kind == "whole"
    assert program.host is None
    assert not computes_on_host(program.placement)
    assert [f.rows for f in program.functions] == [program.interface.given.rows]
    x = M.samples(model, BATCH, seed=2)[0]
    run = axlora.simulate(program, {"x": x})
    wanted = _onnxruntime(model, x)
    assert list(run.outputs) == list(wanted)
    for name, y in wanted.items():
        assert run.outputs[name].shape == y.shape
        assert _error(run.outputs[name], y) < 0.03
    assert run.saturated == 0
    assert sum(layer.macs for layer in run.layers) == run.counters["macs"] == run.to_json()["macs"]


def _three_are_equal(program: axlora.Program, found: Generated, x: np.ndarray) -> None:
    """Simulator, NumPy and LLVM, bit for bit."""
    run, interface, adapter = axlora.simulate(program, {"x": x}, timing=False), program.interface, program.default_adapter
    rows = interface.given_rows(interface.given, {"x": x})
    modules, _ = found.integers(TARGET.activation_bits).run(rows, adapter=adapter)
    numpy = _reference(found, rows, [adapter] * len(rows))
    for result in interface.results:
        np.testing.assert_array_equal(run.codes[result.name], numpy[result.region][:, : result.width])
        np.testing.assert_array_equal(run.codes[result.name], modules[result.region][:, : result.width])


@pytest.mark.parametrize("kind", M.MODELS)
def test_simulator_numpy_and_the_integer_module_are_equal(kind: str) -> None:
    model = M.MODELS[kind]()
    _three_are_equal(_compiled(model), _lowered(model), M.samples(model, BATCH, seed=3)[0])


def _adapters(write_peft: Callable[..., Path], names: str = "ab", rank: int = M.RANK) -> dict[str, Path]:
    """Adapters of up and down from files, all different."""
    found = {}
    for seed, name in enumerate(names):
        rng, tensors = np.random.default_rng(seed), {}
        for module, k, n in (("up", M.K, M.HIDDEN), ("down", M.HIDDEN, M.OUT)):
            tensors[f"base_model.model.{module}.lora_A.weight"] = rng.normal(0, 0.3, (rank, k)).astype(np.float32)
            tensors[f"base_model.model.{module}.lora_B.weight"] = rng.normal(0, 0.3, (n, rank)).astype(np.float32)
        found[name] = write_peft(tensors, name, r=rank, lora_alpha=2 * rank, target_modules=["up", "down"])
    return found


MIXED = ["b", None, "a", "a", "b"]


@pytest.mark.parametrize("kind", ["gelu", "lora"])
def test_a_batch_mixes_adapters_in_one_start(kind: str, write_peft: Callable[..., Path]) -> None:
    """Each row is bit for bit what it is where all rows have its adapter, in the machine and in NumPy."""
    model, adapters = M.MODELS[kind](), _adapters(write_peft)
    program, found = _compiled(model, adapters=adapters, max_loras=3), _lowered(model, adapters=adapters, max_loras=3)
    assert program.slots == program.max_loras == 3
    x = M.samples(model, BATCH, seed=4)[0]
    own = [name or program.default_adapter for name in MIXED]
    run = axlora.simulate(program, {"x": x}, own)
    (output,) = run.codes
    each = len(run.codes[output]) // BATCH
    rows = program.interface.given_rows(program.interface.given, {"x": x})
    slots = [name for name in own for _ in range(each)]
    np.testing.assert_array_equal(run.codes[output], _reference(found, rows, slots)[0][:, : M.OUT])
    for name in dict.fromkeys(own):
        alone = axlora.simulate(program, {"x": x}, [name] * BATCH, timing=False).codes[output]
        mask = np.array([slot == name for slot in slots])
        np.testing.assert_array_equal(run.codes[output][mask], alone[mask])
    assert not np.array_equal(run.codes[output], axlora.simulate(program, {"x": x}, "a", timing=False).codes[output])


def test_adapters_of_all_slots_fit_beside_the_weights(write_peft: Callable[..., Path]) -> None:
    """A of three slots is most of WBUF: no weight tile may push one out. As near float as one slot is."""
    k, wide, rank, rng, g = 1024, 64, 32, np.random.default_rng(0), M.Graph()
    model = g.model([BATCH, k], {g.do("Relu", g.linear("x", k, wide, "up", bias=False)): [BATCH, wide]})
    (weight,) = (onnx.numpy_helper.to_array(c) for c in model.graph.initializer)
    x, deltas, adapters = rng.normal(0, 1, (BATCH, k)).astype(np.float32), {}, {}
    for name in "abc":
        a, b = (rng.normal(0, n**-0.5, shape).astype(np.float32) for n, shape in ((k, (rank, k)), (rank, (wide, rank))))
        tensors = {"base_model.model.up.lora_A.weight": a, "base_model.model.up.lora_B.weight": b}
        adapters[name] = write_peft(tensors, name, r=rank, lora_alpha=rank, target_modules=["up"])
        deltas[name] = (b @ a).T
    names = ["c", "a", "b", "a", "c"]
    wanted = [np.maximum(row @ (weight + deltas[name]), 0) for row, name in zip(x, names, strict=True)]
    given = {"calibration": {"x": x[None]}, "operators": "all"}
    program = axlora.compile(model, TARGET, adapters=adapters, max_loras=3, **given)
    (y,) = axlora.simulate(program, {"x": x}, names, timing=False).outputs.values()
    assert _error(y, np.array(wanted)) < 0.03


def test_a_peft_adapter_is_near_float(write_peft: Callable[..., Path]) -> None:
    """The same branches in the graph and in a directory have the same results, near onnxruntime; the base has not."""
    model = M.lora()
    held = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    tensors = {}
    for node in model.graph.node:
        if "lora" in node.name:
            _, module, part, _ = node.name.split("/")
            tensors[f"base_model.model.{module}.{part}.weight"] = held[node.input[1]].T
    path = write_peft(tensors, r=M.RANK, lora_alpha=2 * M.RANK, target_modules=["up", "down"])
    program = _compiled(model, adapters={"same": path})
    x = M.samples(model, BATCH, seed=5)[0]
    runs = {name: axlora.simulate(program, {"x": x}, name, timing=False) for name in ("graph", "same")}
    (y,) = _onnxruntime(model, x).values()
    (graph,), (same,) = (run.outputs.values() for run in runs.values())
    np.testing.assert_array_equal(graph, same)
    assert _error(graph, y) < 0.03
    (base,) = axlora.simulate(program, {"x": x}, [None] * BATCH, timing=False).outputs.values()
    assert _error(base, y) > 0.1


def test_what_does_not_fit_at_once_is_more_starts(write_peft: Callable[..., Path]) -> None:
    """A batch of more rows than a start takes, with mixed adapters: as a batch of some of its rows, one by one."""
    model, adapters = M.MODELS["relu"](), _adapters(write_peft)
    batch = 2 * TARGET.tbuf_tokens + 3
    large = _compiled(model, batch, adapters=adapters, max_loras=2)
    (function,) = large.functions
    assert function.rows < batch
    x = M.samples(model, batch, seed=6)[0]
    names = [("a", "b", None)[n % 3] for n in range(batch)]
    run = axlora.simulate(large, {"x": x}, names)
    (y,), (wanted,) = run.outputs.values(), _onnxruntime(model, x).values()
    base = np.array([name is None for name in names])
    assert _error(y[base], wanted[base]) < 0.03
    assert _error(y[~base], wanted[~base]) > 0.1
    moved = axlora.simulate(large, {"x": x[::-1]}, names[::-1], timing=False)
    np.testing.assert_array_equal(*moved.outputs.values(), y[::-1])
    assert sum(layer.macs for layer in run.layers) == run.counters["macs"]


def test_inputs_beyond_the_range_of_calibration() -> None:
    """At four times the largest seen the rows are as near to float as before; beyond 8 to 16 they are clamped, and counted."""
    model = M.residual()
    program = _compiled(model)
    interface = program.interface
    largest = np.abs(_data(model, BATCH)["x"]).max()
    x = M.samples(model, BATCH, seed=7)[0]
    x *= 4 * largest / np.abs(x).max()
    run = axlora.simulate(program, {"x": x})
    assert run.saturated == 0
    for name, y in _onnxruntime(model, x).items():
        assert _error(run.outputs[name], y) < 0.03
    end = np.float32(2.0 ** (31 - interface.input_fraction))
    beyond = x.copy()
    beyond[0, :3] = 100 * end, -100 * end, 3e38
    clamped = np.clip(beyond, -end, end)
    first, second = (axlora.simulate(program, {"x": one}, timing=False) for one in (beyond, clamped))
    assert first.saturated == second.saturated == 3
    for name in first.codes:
        np.testing.assert_array_equal(first.codes[name], second.codes[name])
        np.testing.assert_array_equal(first.codes[name][1:], run.codes[name][1:])  # the other rows see nothing of it


def test_without_calibration_only_the_linears_run(caplog: pytest.LogCaptureFixture) -> None:
    """The range of an input of floats is not known: `auto` says so, `all` says what to give."""
    model = M.residual()
    with caplog.at_level(logging.WARNING):
        program = axlora.compile(model, TARGET, shapes={"batch": 2})
    assert program.kind == "linears"
    assert "no calibration data for the input of floats" in caplog.text
    with pytest.raises(UnsupportedOperator, match=r"only calibration data tells.*--calibration"):
        axlora.compile(model, TARGET, shapes={"batch": 2}, operators="all")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"features": 23}, "given.shape"),
        ({"features": 0}, "given.features"),
        ({"features": 4}, "results"),
        ({"shape": [4, M.K]}, "given.shape"),
        ({"shape": []}, "given.shape"),
        ({"shape": [BATCH, -M.K]}, "given.shape"),
        ({"rowwise": False}, "given.shape"),
        ({"input": "y"}, "inputs"),
        (None, "results"),
    ],
    ids=str,
)
def test_a_signed_manifest_with_rows_that_do_not_fit_is_refused(
    given: dict[str, object] | None, words: str, tmp_path: Path
) -> None:
    _compiled(M.residual()).save(tmp_path / "m.axl")
    file = tmp_path / "m.axl" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["given"] = None if given is None else manifest["given"] | given
    manifest.pop("sha256")
    manifest["sha256"] = seal(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(axlora.BadPackage, match=words):
        axlora.load(tmp_path / "m.axl")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((BATCH, M.K + 1)), "has shape"),
        (np.full((BATCH, M.K), np.nan), "NaN or infinity"),
        (np.full((BATCH, M.K), 1e300), "no float32"),
        (np.full((BATCH, M.K), "a"), "must be numbers"),
    ],
    ids=["shape", "nan", "range", "text"],
)
def test_wrong_rows_are_refused(x: np.ndarray, words: str) -> None:
    program = _compiled(M.MODELS["relu"]())
    with pytest.raises(axlora.BadInput, match=words):
        axlora.simulate(program, {"x": x})
    with pytest.raises(axlora.BadAdapter, match="2 adapters named for 5"):
        axlora.simulate(program, {"x": np.zeros((BATCH, M.K))}, [None, None])


OTHERS: dict[str, dict[str, object]] = {
    "HardSwish": {},
    "HardSigmoid": {},
    "LeakyRelu": {"alpha": 0.1},
    "Elu": {"alpha": 0.7},
    "Selu": {},
    "Softplus": {},
    "Mish": {},
    "Abs": {},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_functions_that_have_no_name_get_tables_of_their_own(kind: str) -> None:
    model = M.activation(kind, **OTHERS[kind])
    program = _compiled(model)
    assert program.kind == "whole"
    x = M.samples(model, BATCH, seed=2)[0]
    (y,), (wanted,) = axlora.simulate(program, {"x": x}).outputs.values(), _onnxruntime(model, x).values()
    assert _error(y, wanted) < 0.03


def _composed(g: M.Graph, x: str) -> str:
    """relu6(x) less a quarter of quick GELU, both of the same x: one table; and what another table makes of that."""
    six = g.do("Clip", x, g.scalar(0.0), g.scalar(6.0))
    quick = g.do("Mul", x, g.do("Sigmoid", g.do("Mul", x, g.scalar(1.702))))
    y = g.do("Sub", six, g.do("Mul", quick, g.scalar(0.25)))
    return g.do("Mul", g.do("LeakyRelu", g.linear(y, M.HIDDEN, M.K, "middle"), alpha=0.2), g.scalar(0.5))


def test_composed_functions_and_a_difference_of_rows() -> None:
    """x less what two tables make of it; simulator, NumPy and LLVM are equal."""
    g = M.Graph(5)
    row = g.do("Sub", "x", _composed(g, g.linear("x", M.K, M.HIDDEN, "up")))
    model = g.model(["batch", M.K], {g.linear(row, M.K, M.OUT, "down"): ["batch", M.OUT], row: ["batch", M.K]})
    program, found = _compiled(model), _lowered(model)
    assert [o.kind for o in program.interface.operators] == ["Linear", "Apply", "Linear", "Apply", "Add", "Linear"]
    x = M.samples(model, BATCH, seed=3)[0]
    _three_are_equal(program, found, x)
    run = axlora.simulate(program, {"x": x}, timing=False)
    for name, y in _onnxruntime(model, x).items():
        assert _error(run.outputs[name], y) < 0.03


def test_functions_that_comparisons_choose() -> None:
    """One table of a leaky function between two ends, and relu squared, which is a product."""
    g = M.Graph(7)
    up = g.linear("x", M.K, M.HIDDEN, "up")
    leaky = g.do("Where", g.do("Less", g.scalar(0.0), up), up, g.do("Mul", up, g.scalar(0.1)))
    ends = g.do("Max", g.do("Min", leaky, g.scalar(1.5)), g.scalar(-0.2))
    middle = g.linear(ends, M.HIDDEN, M.K, "middle")
    squared = g.do("Pow", g.do("Relu", middle), g.scalar(2.0))
    model = g.model(["batch", M.K], {g.linear(squared, M.K, M.OUT, "down"): ["batch", M.OUT]})
    program, found = _compiled(model), _lowered(model)
    assert [o.kind for o in program.interface.operators] == ["Linear", "Apply", "Linear", "Apply", "Mul", "Linear"]
    x = M.samples(model, BATCH, seed=3)[0]
    _three_are_equal(program, found, x)
    run = axlora.simulate(program, {"x": x}, timing=False)
    for name, y in _onnxruntime(model, x).items():
        assert _error(run.outputs[name], y) < 0.03


def test_the_largest_of_three_stays_on_the_host() -> None:
    g = M.Graph(7)
    up = g.linear("x", M.K, M.HIDDEN, "up")
    most = g.do("Max", up, g.do("Neg", up), g.scalar(0.5))
    model = g.model([BATCH, M.K], {g.linear(most, M.HIDDEN, M.OUT, "down"): [BATCH, M.OUT]})
    program = axlora.compile(model, "test", calibration={"x": M.samples(model, BATCH, seed=3)})
    assert [row.operator.split()[0] for row in program.placement if row.where == "host"] == ["Neg", "Max"]


def _by_feature(g: M.Graph, x: str) -> str:
    """A layer's scale, a shift, twice the whole less one, and 3 less that; large gains and shifts that cancel."""
    y = g.do("Mul", x, g.constant(np.geomspace(0.01, 20, M.HIDDEN)))
    y = g.do("Add", y, g.constant(np.linspace(-4, 4, M.HIDDEN)))
    y = g.do("Relu", g.do("Sub", g.do("Mul", y, g.scalar(2.0)), g.scalar(1.0)))
    return g.do("Sub", g.constant(np.full(M.HIDDEN, 3.0) + np.arange(M.HIDDEN) / 8), y)


def test_features_are_scaled_and_shifted() -> None:
    """Constants of a feature, and of all; an output that is scaled; simulator, NumPy and LLVM are equal."""
    g = M.Graph(6)
    y = g.linear(_by_feature(g, g.linear("x", M.K, M.HIDDEN, "up")), M.HIDDEN, M.OUT, "down")
    half = g.do("Div", y, g.constant(np.linspace(1, 4, M.OUT)))
    model = g.model(["batch", M.K], {half: ["batch", M.OUT], y: ["batch", M.OUT]})
    program, found = _compiled(model), _lowered(model)
    kinds = [o.kind for o in program.interface.operators]
    assert kinds == ["Linear", "Affine", "Apply", "Affine", "Linear", "Affine"]  # twice, less one and ReLU are one table
    x = M.samples(model, BATCH, seed=3)[0]
    _three_are_equal(program, found, x)
    for name, wanted in _onnxruntime(model, x).items():
        assert _error(axlora.simulate(program, {"x": x}).outputs[name], wanted) < 0.03


def test_a_shift_that_cancels_does_not_saturate() -> None:
    """Rows near 100 less 100: what lies between does not leave the range that the small result would have."""
    g = M.Graph(7)
    model = g.model(
        ["batch", M.K], {g.linear(g.do("Sub", "x", g.constant(np.full(M.K, 100.0))), M.K, M.OUT, "own"): ["batch", M.OUT]}
    )
    data = {"x": 100 + M.samples(model, BATCH, 8, seed=1)}
    program = axlora.compile(model, TARGET, shapes={"batch": BATCH}, calibration=data)
    assert program.kind == "whole"
    (y,), (wanted,) = axlora.simulate(program, {"x": data["x"][0]}).outputs.values(), _onnxruntime(model, data["x"][0]).values()
    assert _error(y, wanted) < 0.03


def test_batch_normalization() -> None:
    g = M.Graph(8)
    vectors = [g.constant(v) for v in (g.random.uniform(0.5, 2, M.HIDDEN), *g.random.normal(0, 1, (2, M.HIDDEN)))]
    row = g.do(
        "BatchNormalization", g.linear("x", M.K, M.HIDDEN, "up"), *vectors, g.constant(g.random.uniform(0.2, 2, M.HIDDEN))
    )
    model = g.model(["batch", M.K], {g.linear(g.do("Relu", row), M.HIDDEN, M.OUT, "down"): ["batch", M.OUT]})
    program, x = _compiled(model), M.samples(model, BATCH, seed=2)[0]
    assert program.kind == "whole"
    (y,), (wanted,) = axlora.simulate(program, {"x": x}).outputs.values(), _onnxruntime(model, x).values()
    assert _error(y, wanted) < 0.03


@pytest.mark.parametrize("kind", ["Sin", "Exp", "Softsign", "Sqrt", "Log", "Sign", "Floor", "Reciprocal"])
def test_functions_that_are_no_straight_lines_stay_on_the_host(kind: str) -> None:
    """Nowhere straight, not everywhere defined, or with a jump: refused by node."""
    model = M.activation(kind)
    with pytest.raises(UnsupportedOperator, match=r"function that has no table|is not understood"):
        _compiled(model, operators="all")


def test_linears_alone_stay_linears_unless_all_is_asked_for() -> None:
    g = M.Graph()
    model = g.model(["batch", M.K], {g.linear("x", M.K, M.OUT, "own"): ["batch", M.OUT]})
    assert _compiled(model).kind == "linears"
    assert _compiled(model, operators="all").kind == "whole"


def _mean_of_the_batch(g: M.Graph) -> tuple[str, list[int]]:
    y = g.do("ReduceMean", g.linear("x", M.K, M.OUT, "own"), g.constant(np.array([0])), keepdims=1)
    return y, [1, M.OUT]


def _first_row_alone(g: M.Graph) -> tuple[str, list[int]]:
    ends = [g.constant(np.array([n])) for n in (0, 1, 0)]
    return g.do("Slice", g.do("Relu", g.linear("x", M.K, M.OUT, "own")), *ends), [1, M.OUT]


def _rows_cut_anew(g: M.Graph) -> tuple[str, list[int]]:
    y = g.do("Reshape", g.do("Relu", g.linear("x", M.K, M.OUT, "own")), g.constant(np.array([BATCH * 2, M.OUT // 2])))
    return g.linear(y, M.OUT // 2, 3, "odd"), [BATCH * 2, 3]


def _each_with_each(g: M.Graph) -> tuple[str, list[int]]:
    y = g.do("Relu", g.linear("x", M.K, M.OUT, "own"))
    return g.do("Add", y, g.do("Unsqueeze", y, g.constant(np.array([1])))), [BATCH, BATCH, M.OUT]


def _between_rows(g: M.Graph) -> tuple[str, list[int]]:
    y = g.linear("x", M.K, M.OUT, "own")
    return g.do("MatMul", g.do("Softmax", g.do("MatMul", y, g.do("Transpose", y)), axis=-1), y), [BATCH, M.OUT]


def _input_itself(g: M.Graph) -> tuple[str, list[int]]:
    g.do("Relu", g.linear("x", M.K, M.OUT, "own"))
    return g.do("Identity", "x"), [BATCH, M.K]


MIXING = [_mean_of_the_batch, _first_row_alone, _rows_cut_anew, _each_with_each, _between_rows, _input_itself]


@pytest.mark.parametrize("last", MIXING, ids=lambda last: last.__name__)
def test_what_is_no_rows_for_themselves_stays_on_the_host(last: Callable[[M.Graph], tuple[str, list[int]]]) -> None:
    """Refused by `all`; `auto` gives the results of onnxruntime with the host's help."""
    g = M.Graph(8)
    own = g.linear("x", M.K, M.OUT, "first")
    name, dims = last(g)
    model = g.model([BATCH, M.K], {name: dims, own: [BATCH, M.OUT]})
    data = {"x": M.samples(model, BATCH, 4)}
    with pytest.raises(UnsupportedOperator):
        axlora.compile(model, TARGET, calibration=data, operators="all")
    program = axlora.compile(model, TARGET, calibration=data)
    assert program.kind == "linears"
    run = axlora.simulate(program, {"x": data["x"][0]}, timing=False)
    for output, y in _onnxruntime(model, data["x"][0]).items():
        assert _error(run.outputs[output], y) < 0.05


def test_an_output_of_codes_is_refused() -> None:
    """Rows end as floats: with the file's scales dropped nothing makes codes any more."""
    g = M.Graph(8)
    scale, zero = g.constant(np.array(0.05)), g.constant(np.array(0, np.int8))
    codes = g.do("QuantizeLinear", g.linear("x", M.K, M.OUT, "own"), scale, zero)
    model = g.model(["batch", M.K], {codes: ["batch", M.OUT]})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    with pytest.raises(UnsupportedOperator, match="is not of floats"):
        _compiled(model, operators="all")


def _encoder() -> onnx.ModelProto:
    """[batch, 8, K]: attention of two heads over the tokens, and the mean of them."""
    g = M.Graph(9)
    tokens, dim = 8, M.K // 2

    def heads(name: str, axes: list[int]) -> str:
        y = g.do("Reshape", g.linear("x", M.K, M.K, name), g.constant(np.array([0, tokens, 2, dim])))
        return g.do("Transpose", y, perm=axes)

    q, k, v = heads("q", [0, 2, 1, 3]), heads("k", [0, 2, 3, 1]), heads("v", [0, 2, 1, 3])
    scores = g.do("Softmax", g.do("Mul", g.do("MatMul", q, k), g.scalar(dim**-0.5)), axis=-1)
    mixed = g.do(
        "Reshape", g.do("Transpose", g.do("MatMul", scores, v), perm=[0, 2, 1, 3]), g.constant(np.array([0, tokens, M.K]))
    )
    row = g.layer_norm(g.do("Add", g.linear(mixed, M.K, M.K, "out"), "x"), M.K)
    mean = g.do("ReduceMean", row, g.constant(np.array([1])), keepdims=0)
    return g.model(["batch", tokens, M.K], {row: ["batch", tokens, M.K], mean: ["batch", M.K]})


def test_rows_that_attention_mixes_are_sequences() -> None:
    """[batch, tokens, features] as token ids have them: a start a sequence."""
    model = _encoder()
    program = _compiled(model, 3)
    assert program.kind == "whole"
    assert not program.interface.rowwise
    assert [f.rows for f in program.functions] == [8]
    x = M.samples(model, 3, seed=2)[0]
    run = axlora.simulate(program, {"x": x})
    for name, y in _onnxruntime(model, x).items():
        assert run.outputs[name].shape == y.shape
        assert _error(run.outputs[name], y) < 0.03
    with pytest.raises(UnsupportedOperator, match="only calibration data tells"):
        axlora.compile(model, TARGET, shapes={"batch": 3}, operators="all")


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_inputs_of_other_floats(kind: int) -> None:
    model = M.activation("Relu")
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["single"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "single"
    x = M.samples(model, BATCH, seed=2)[0].astype(helper.tensor_dtype_to_np_dtype(kind))
    program = _compiled(model)
    assert program.kind == "whole"
    (y,), (wanted,) = axlora.simulate(program, {"x": x}).outputs.values(), _onnxruntime(model, x).values()
    assert _error(y, wanted) < 0.03


def _equal(sim: axlora.Run, rtl: axlora.Run) -> None:
    """Outputs, the cycles of every instruction and every counter."""
    assert sim.counters == rtl.counters
    assert [s for s in sim.steps if s.unit != "fetch"] == [s for s in rtl.steps if s.unit != "fetch"]
    for name, codes in sim.codes.items():
        np.testing.assert_array_equal(codes, rtl.codes[name])


def test_an_mlp_in_verilog() -> None:
    program = _compiled(M.residual(), 3)
    x = M.samples(M.residual(), 3, seed=8)[0]
    _equal(axlora.simulate(program, {"x": x}), axlora.run_rtl(program, {"x": x}))


@pytest.mark.slow
def test_several_starts_of_mixed_adapters_in_verilog(write_peft: Callable[..., Path]) -> None:
    """A batch of more rows than a start takes."""
    model, adapters = M.MODELS["gelu"](), _adapters(write_peft)
    batch = TARGET.tbuf_tokens + 3
    program = _compiled(model, batch, adapters=adapters, max_loras=2)
    x, names = M.samples(model, batch, seed=8)[0], [("a", "b", None)[n % 3] for n in range(batch)]
    sim = axlora.simulate(program, {"x": x}, names)
    assert program.functions[0].rows < batch
    _equal(sim, axlora.run_rtl(program, {"x": x}, names))
