"""Explorations: values are those of the runs, the front is one, and nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import which
from subprocess import run
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.cli import main
from axlora.exploring import Job, Outcome, Space, Study, evaluate, explore, workers
from axlora.inputs import BadInput

SPACE = """
base = "test"
objectives = ["cycles", "energy", "error"]
[target]
engine = ["reuse", "mac", "table"]
multipliers = [1, 2, 4]
[options]
weight_bits = [8, 4]
"""


class Here(Executor):
    """Runs at once, in this process; counts."""

    def __init__(self, after: int = 1000) -> None:
        """`after`: runs, of which the next is interrupted."""
        self.points: list[dict[str, Any]] = []
        self._after = after

    def submit(self, do: Callable[..., Outcome], /, job: Job, point: dict[str, Any]) -> Future[Outcome]:
        if len(self.points) == self._after:
            raise KeyboardInterrupt
        self.points.append(point)
        found: Future[Outcome] = Future()
        found.set_result(do(job, point))
        return found


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("exploring")
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=(24, 24)).astype(np.float32) / 5 for name in ("a", "b")}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="/up/MatMul"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"], name="/down/MatMul"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 24]) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=opsets), folder / "m.onnx")
    np.savez(folder / "x.npz", x=rng.normal(size=(8, 2, 24)).astype(np.float32))
    (folder / "space.toml").write_text(SPACE)
    return Job(str(folder / "m.onnx"), Space.load(folder / "space.toml"), {}, str(folder / "x.npz"))


def _storage(folder: Path, name: str = "s.db") -> str:
    return f"sqlite:///{folder / name}"


@dataclass
class Whole:
    """The whole space, and what ran for it."""

    study: Study
    pool: Here
    points: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    pool = Here()
    return Whole(explore(job, trials=18, storage=_storage(tmp_path_factory.mktemp("whole")), pool=pool), pool)


def test_a_small_space_is_tried_whole_and_machines_that_are_none_are_refused(job: Job, whole: Whole) -> None:
    study = whole.study
    assert len(study.trials) == job.space.size == 18
    refused = {t.point["engine"]: t.outcome.refused for t in study.trials if t.outcome.values is None}
    assert list(refused) == ["table"]
    assert "multipliers" in refused["table"]
    for trial in study.trials:
        assert (trial.point["engine"], trial.point["multipliers"]) == ("table", 4) or trial.outcome.values is not None


def test_values_are_those_of_the_run(job: Job, whole: Whole) -> None:
    trial = next(t for t in whole.study.trials if t.point == {"engine": "mac", "multipliers": 2, "weight_bits": 4})
    with np.load(job.calibration or "") as data:
        x = data["x"]
    target = replace(axlora.Target.load("test"), engine="mac", multipliers=2)
    program = axlora.compile(job.model, target, weight_bits=4, calibration={"x": x})
    found = axlora.simulate(program, {"x": x[0]})
    weights = [numpy_helper.to_array(i) for i in onnx.load(job.model).graph.initializer]
    wanted = np.maximum(x[0] @ weights[0], 0) @ weights[1]
    error = np.linalg.norm(found.outputs["y"] - wanted) / np.linalg.norm(wanted)
    assert trial.outcome.values is not None
    assert trial.outcome.values[0] == found.cycles
    assert np.isclose(trial.outcome.values[2], error, rtol=1e-3)


def test_no_trial_is_better_than_one_of_the_front(whole: Whole) -> None:
    ran = [t for t in whole.study.trials if t.outcome.values is not None]
    front = [t for t in ran if t.front]
    assert 1 < len(front) < len(ran)
    for trial in ran:
        beaten = any(
            other.outcome.values != trial.outcome.values
            and all(a <= b for a, b in zip(other.outcome.values or (), trial.outcome.values or (), strict=True))
            for other in ran
        )
        assert trial.front is not beaten


def test_a_study_that_was_stopped_goes_on_where_it_was(job: Job, whole: Whole, tmp_path: Path) -> None:
    storage, first = _storage(tmp_path), Here(after=11)
    with pytest.raises(KeyboardInterrupt):
        explore(job, trials=18, storage=storage, pool=first)
    with sqlite3.connect(tmp_path / "s.db") as held:
        (ended,) = held.execute("select count(*) from trials where state in ('COMPLETE', 'FAIL')").fetchone()
    second = Here()
    study = explore(job, trials=18, storage=storage, pool=second)
    assert 8 <= ended <= 11
    assert len(second.points) == 18 - ended
    assert sorted(map(repr, (t.point for t in study.trials))) == sorted(map(repr, (t.point for t in whole.study.trials)))
    known = {repr(t.point): t.outcome.values for t in whole.study.trials}
    assert all(t.outcome.values == known[repr(t.point)] for t in study.trials)
    third = Here()
    explore(job, trials=18, storage=storage, pool=third)
    assert not third.points


def test_a_study_that_was_stopped_twice_refuses_no_point_for_it(job: Job, whole: Whole, tmp_path: Path) -> None:
    """What waits to be done again when the second stop comes is in the database as stopped alone."""
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            explore(job, trials=18, storage=_storage(tmp_path), pool=Here(after=3))
    study = explore(job, trials=18, storage=_storage(tmp_path), pool=Here())
    known = {repr(t.point): t.outcome for t in whole.study.trials}
    assert {repr(t.point): t.outcome for t in study.trials} == known


def test_a_larger_space_is_searched_from_its_base_on_and_no_point_runs_twice(job: Job, tmp_path: Path) -> None:
    given = {"trials": 12, "pool": (pool := Here())}
    study = explore(job, storage=_storage(tmp_path), seed=4, **given)
    assert len(study.trials) == 12
    assert study.trials[0].point == job.space.base_point()
    assert study.base is study.trials[0]
    assert len(pool.points) == len({repr(sorted(p.items())) for p in pool.points})
    again = explore(job, storage=_storage(tmp_path, "again.db"), seed=4, trials=12, pool=Here())
    assert [t.point for t in again.trials] == [t.point for t in study.trials]


@pytest.mark.exhaustive
def test_processes_and_two_dask_workers_give_the_front_of_one(job: Job, whole: Whole, tmp_path: Path) -> None:
    from distributed import LocalCluster

    given = {"trials": 10, "seed": 1}
    alone = explore(job, storage=_storage(tmp_path), pool=Here(), **given)
    with workers(2) as pool:
        processes = explore(job, storage=_storage(tmp_path, "p.db"), pool=pool, **given)
    local = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as cluster, workers(scheduler=cluster.scheduler_address) as pool:
        dask = explore(job, storage=_storage(tmp_path, "d.db"), pool=pool, **given)
    for study in (processes, dask):
        assert [(t.point, t.outcome, t.front) for t in study.trials] == [(t.point, t.outcome, t.front) for t in alone.trials]


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """URL of a database of a server of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(which("pg_ctl") or "").parent]
    if not (found[-1] / "pg_ctl").is_file():
        pytest.fail("PostgreSQL is not installed: make build/postgresql, as root")
    folder.chmod(0o777)
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # the server refuses to be root's
    data, log = str(folder / "data"), str(folder / "log")

    def call(*command: str) -> None:
        run([*user, str(found[-1] / command[0]), *command[1:]], check=True, capture_output=True, cwd=folder)

    call("initdb", "-D", data, "-A", "trust", "-U", "explorer")
    call("pg_ctl", "-D", data, "-l", log, "-w", "-o", f"-k {folder} -c listen_addresses=''", "start")
    try:
        yield f"postgresql+psycopg://explorer@/postgres?host={folder}"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.mark.exhaustive
def test_a_study_in_postgresql_is_that_of_sqlite_and_goes_on(job: Job) -> None:
    with TemporaryDirectory() as folder, _postgres(Path(folder)) as url:  # of a path that is short enough for a socket
        with pytest.raises(KeyboardInterrupt):
            explore(job, trials=10, storage=url, pool=Here(after=5), seed=1)
        study = explore(job, trials=10, storage=url, pool=(pool := Here()), seed=1)
        alone = explore(job, trials=10, storage=f"sqlite:///{folder}/s.db", pool=Here(), seed=1)
    assert len(pool.points) <= 6
    assert study.trials[0] == alone.trials[0]
    assert len(study.trials) == 10
    with pytest.raises(BadInput, match="cannot be used"):
        explore(job, trials=1, storage="postgresql+psycopg://explorer@/postgres?host=/nowhere", pool=Here())


def test_wrong_spaces_and_databases_are_refused(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    for text, message in {
        "base =": "is no TOML",
        'base = "test"\nextra = 1': "unknown key 'extra'",
        "objectives = ['cycles']": "no base",
        'base = "test"\nobjectives = ["speed"]': "objectives are",
        'base = "test"\n[target]\nlane = [8]': r"unknown name 'lane' in \[target\]",
        'base = "test"\n[target]\nlanes = 8': "target.lanes is 8",
        'base = "test"\n[target]\nlanes = [8, true]': "a list of values of type int",
        'base = "test"\n[options]\nmerge = [true]': r"unknown name 'merge' in \[options\]",
    }.items():
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            Space.load(path)
    explore(job, trials=1, storage=_storage(tmp_path), pool=Here())
    other = replace(job, space=replace(job.space, objectives=("cycles",)))
    with pytest.raises(BadInput, match=r"study 'axlora' in .* (is of another model, space or options|cannot be used)"):
        explore(other, trials=1, storage=_storage(tmp_path), pool=Here())
    with pytest.raises(BadInput, match="the database nosuch://x cannot be used"):
        explore(job, trials=1, storage="nosuch://x", pool=Here())
    with pytest.raises(BadInput, match="no Dask scheduler at tcp://127"), workers(scheduler="tcp://127.0.0.1:9"):
        pass
    with pytest.raises(axlora.BadModel):  # wrong at every point
        evaluate(replace(job, options={"shapes": {"batch": 3}, "max_context": 4}), {"weight_bits": 8})


def test_the_command_prints_the_front_and_writes_all_trials(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text('base = "test"\nobjectives = ["cycles", "error"]\n[options]\nweight_bits = [8, 4]\n')
    given = ["explore", job.model, "--space", "space.toml", "--calibration", job.calibration or "", "--workers", "1"]
    assert main([*given, "--json", "s.json", "--html", "s.html"]) == 0
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "s.json").read_text())
    assert (tmp_path / "explore.db").is_file()
    assert [t["point"] for t in data["trials"]] == [{"weight_bits": 8}, {"weight_bits": 4}]
    page = (tmp_path / "s.html").read_text()
    for trial in data["trials"]:
        assert (f"{trial['values']['cycles']:,.0f}" in shown) is (trial["front"] or trial["number"] == data["base_trial"])
        assert f"{trial['values']['cycles']:,.0f}" in page
    assert main([*given, "--trials", "0"]) == 2
    assert "--trials 0" in capsys.readouterr().err
