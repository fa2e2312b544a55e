"""The real attention linears: integer graph against onnxruntime, against `isa.numerics`, and against the float twin."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest

from axlora.compiler.boundary import quantize
from axlora.compiler.layer import Linear, Lowered
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.integer_graph import IntegerGraph
from axlora.compiler.reference.linear_module import LinearModule
from axlora.compiler.reference.linears import Reference
from axlora.isa import numerics
from axlora.isa.target import Target

Pair = tuple[Lowered, IntegerGraph]


@pytest.fixture(scope="module")
def lowered(minilm_dir: Path, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    adapters = {name: minilm_dir / "adapters" / name for name in ("law", "med")}
    dump = tmp_path_factory.getbasetemp() / "passes"
    return lower(minilm_dir / "minilm.onnx", target, CompileOptions(adapters=adapters, shapes={"tokens": 16}, dump_passes=dump))


@pytest.fixture(scope="module")
def samples(minilm_dir: Path) -> list[dict[str, np.ndarray]]:
    data = np.load(minilm_dir / "inputs.npz")
    return [{name: data[name][i] for name in data.files} for i in range(len(data["layer0.hidden"]))]


def session(model: Path | bytes) -> ort.InferenceSession:
    """onnxruntime without its own rewrites: they move quantized results."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(model) if isinstance(model, Path) else model, options)


def results(runner: ort.InferenceSession, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [o.name for o in runner.get_outputs()]
    return dict(zip(names, runner.run(names, feed), strict=True))


def codes_of(low: Lowered, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the linears read, as every view of the machine gets it."""
    return {t.name: quantize(t, feed[t.name]).codes for t in low.inputs}


def reals(low: Lowered, name: str, codes: np.ndarray) -> np.ndarray:
    """A linear's result as reals."""
    t = next(t for t in low.outputs if t.name == name)
    return numerics.dequantize(codes, t.scale, t.zero_point)


def test_every_linear_is_found_with_its_adapters(lowered: Pair) -> None:
    low = lowered[0]
    assert [x.name.rsplit(".", 1)[-1] for x in low.linears[:4]] == ["query", "key", "value", "dense"]
    assert len(low.linears) == 8
    for linear in low.linears:
        wanted = [("law", 8), ("med", 16)] if linear.name.endswith(("query", "value")) else []
        assert [(a.name, a.rank) for a in linear.adapters] == wanted


def test_without_adapter_within_one_step_of_onnxruntime(
    lowered: Pair, samples: list[dict[str, np.ndarray]], minilm_dir: Path
) -> None:
    low, graph = lowered
    runner = session(minilm_dir / "minilm.onnx")
    scale = {t.name: t.scale for t in low.outputs}
    differ = total = 0
    for feed in samples:
        got = graph.run(codes_of(low, feed))
        for name, expected in results(runner, feed).items():
            steps = np.rint((reals(low, name, got[name]) - expected) / scale[name])
            assert np.abs(steps).max() <= 1
            differ += int((steps != 0).sum())
            total += steps.size
    assert differ / total < 0.002  # ties and near ties only: 14-bit multipliers, integer bias


def expected_boundaries(linear: Linear, x: np.ndarray, adapter: str | None) -> dict[str, np.ndarray]:
    """The linear by `isa.numerics` alone."""
    acc = numerics.matmul(x, linear.weight.values())
    r = linear.records
    found = next((a for a in linear.adapters if a.name == adapter), None)
    fixed = {"bias_shift": linear.bias_shift, "zero_point": linear.zero_point, "bits": linear.output_bits}
    if found is None:
        codes, _ = numerics.requantize(acc, r.bias, r.m1, r.shift, **fixed)
        return {linear.output: codes, f"{linear.name}.acc": acc}
    ar = found.a_records
    acc_a = numerics.matmul(x, found.a.values())
    u, e, clamped = numerics.block_quantize(acc_a, ar.bias, ar.m1, ar.shift, linear.bias_shift, 8)
    assert not clamped.any()
    acc2 = numerics.matmul(u, found.b.values())
    codes, _ = numerics.requantize(
        acc, found.bias, found.m1, r.shift, acc2=acc2, m2=found.m2, exponent=e, **fixed
    )  # fmt: skip
    parts = {"acc": acc, "u": u, "e": e, "acc2": acc2}
    return {linear.output: codes} | {f"{linear.name}.{part}": value for part, value in parts.items()}


@pytest.mark.parametrize("adapter", [None, "law", "med"])
def test_every_boundary_is_numerics(lowered: Pair, samples: list[dict[str, np.ndarray]], adapter: str | None) -> None:
    low, graph = lowered
    for feed in samples[:6]:
        codes = codes_of(low, feed)
        got = graph.run(codes, adapter)
        expected: dict[str, np.ndarray] = {}
        for linear in low.linears:
            expected |= expected_boundaries(linear, codes[linear.input], adapter)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(got[name], value), name


@pytest.mark.parametrize("adapter", [None, "law", "med"])
def test_the_lowered_relax_module_is_the_integer_graph(
    lowered: Pair, samples: list[dict[str, np.ndarray]], adapter: str | None
) -> None:
    """Host part, boundaries and regions as one module, by LLVM: what the host part around the integer graph gives."""
    low, graph = lowered
    wanted, module = Reference(graph), LinearModule(low)
    for feed in samples[:3]:
        found = module.run(feed, adapter)
        expected = wanted.run(feed, adapter)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("adapter", ["law", "med"])
def test_adapter_branch_points_where_the_float_one_does(
    lowered: Pair, samples: list[dict[str, np.ndarray]], adapter: str, minilm: ModuleType
) -> None:
    """The branch's own sum, acc2 m2 2^e in units of 2^-shift of the output step, against s x A B in floats."""
    low, graph = lowered
    weights = minilm.verified_weights()
    twin, base = (session(minilm.float_model(weights, 2, a).SerializeToString()) for a in (adapter, None))
    for feed in samples[:4]:
        got = graph.run(codes_of(low, feed), adapter)
        with_adapter, without = results(twin, feed), results(base, feed)
        for linear in low.linears:
            found = next((a for a in linear.adapters if a.name == adapter), None)
            if found is None or linear.grid is None:
                continue
            branch = (got[f"{linear.name}.acc2"] * found.m2) << got[f"{linear.name}.e"]
            real = (branch * np.exp2(-linear.records.shift.astype(float)) * linear.grid.y_scale).ravel()
            expected = (with_adapter[linear.output] - without[linear.output]).ravel()
            assert real @ expected / np.linalg.norm(real) / np.linalg.norm(expected) > 0.995
            assert abs(np.linalg.norm(real) / np.linalg.norm(expected) - 1) < 0.02


def test_switching_adapters_leaves_nothing_behind(lowered: Pair, samples: list[dict[str, np.ndarray]]) -> None:
    graph = lowered[1]
    codes = codes_of(lowered[0], samples[0])
    first = graph.run(codes)
    with_law = graph.run(codes, "law")
    again = graph.run(codes)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[x.output], with_law[x.output]) for x in lowered[0].linears)


def test_accelerator_regions_hold_no_float(lowered: Pair, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every region of the partitioned module takes and gives integers, and every linear is inside one."""
    folder = tmp_path_factory.getbasetemp() / "passes"
    assert [p.name for p in sorted(folder.iterdir())] == [
        "0_normalised.txt", "1_import.py", "2_recognised.txt", "3_lower_linears.py", "4_partition.py",
    ]  # fmt: skip
    text = (folder / "4_partition.py").read_text()
    regions = [part for part in text.split("@R.function")[1:] if '"Codegen": "axlora"' in part]
    assert regions
    for region in regions:
        body = region.split("@T.prim_func")[0]
        assert "float" not in body
    main = text[text.index("def main(") :].split("@R.function")[0]
    assert main.count("_axlora(") == len(lowered[0].linears)
    assert "R.matmul" not in main
    assert "call_dps_packed" not in text


def test_placement_accounts_for_every_multiply(lowered: Pair) -> None:
    low = lowered[0]
    assert {row.where for row in low.placement} == {"accelerator", "host"}
    assert sum(r.macs for r in low.placement if r.where == "accelerator") == 8 * 16 * 384 * 384
    assert sum(r.macs for r in low.placement if r.where == "host") == 0
    assert all(row.reason for row in low.placement)


@pytest.mark.parametrize(
    ("bits", "activation", "least"),
    [(8, "static8", 0.999), (4, "static8", 0.98), (8, "static16", 0.9999), (8, "token8", 0.999), (8, "token16", 0.9999)],
)
def test_float_model_with_branches_in_the_graph(
    minilm: ModuleType, minilm_dir: Path, target: Target, wide_target: Target, bits: int, activation: str, least: float
) -> None:
    """No Q/DQ in the file: calibrated here. Its branches are the adapter `graph`; adapter - base has the float direction."""
    weights = minilm.verified_weights()
    model, base = minilm.float_model(weights, 1, "law"), minilm.float_model(weights, 1, None)
    data = np.load(minilm_dir / "inputs.npz")
    feeds = {name: data[name] for name in data.files if name.startswith("layer0")}
    low, graph = lower(
        model,
        target if activation.endswith("8") else wide_target,
        CompileOptions(shapes={"tokens": 16}, calibration=feeds, weight_bits=bits, activation=activation),
    )
    assert low.default_adapter == "graph"
    feed = {name: value[0] for name, value in feeds.items()}
    reference = Reference(graph)
    on, off = reference.run(feed, "graph"), reference.run(feed)
    expected, expected_off = (results(session(m.SerializeToString()), feed) for m in (model, base))
    for name, value in expected.items():
        got = on[name]
        assert (got * value).sum() / np.linalg.norm(got) / np.linalg.norm(value) > least
        change = (got - off[name]).ravel()
        wanted = (value - expected_off[name]).ravel()
        if wanted.any():
            assert change @ wanted / np.linalg.norm(change) / np.linalg.norm(wanted) > 0.995
