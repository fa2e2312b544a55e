"""Design space exploration: points of a space of targets and options are compiled and simulated, Optuna chooses which.

Trials are in a database of Optuna's, so a study goes on after it was stopped; a trial that has ended is never lost. Points of a
generation are worked on at once, by processes or by Dask; which points a generation has follows from the generations before
and from the seed alone, so that more workers change the time and nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axlora.compiler.errors import DoesNotFit, UnsupportedOperator
from axlora.isa.target import BadTarget, Target

from .arrays import read_arrays
from .energy import default_table
from .inputs import BadInput

if TYPE_CHECKING:
    import optuna

OBJECTIVES = ("cycles", "energy", "area", "error")
"""All are to be small: cycles; microjoules; LUTs of all lanes, without DSP blocks; relative error of the outputs."""
OPTIONS: Mapping[str, tuple[type, ...]] = {"weight_bits": (int, str), "quantizer": (str,), "activation": (str,)}
"""Fields of `CompileOptions` that a space may have, and their types."""
GENERATION = 8
"""Points that are chosen together."""
_NAMED = "name"
Point = dict[str, Any]
"""Name of a parameter -> its value."""


@dataclass(frozen=True)
class Space:
    """What is chosen from."""

    base: Target
    """All parameters that the space does not name are its."""
    target: Mapping[str, tuple[Any, ...]]
    """Field of the target -> values."""
    options: Mapping[str, tuple[Any, ...]]
    """Option of `compile` -> values."""
    objectives: tuple[str, ...]

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """Read a TOML file (docs/exploring.md).

        Raises:
            BadInput: what is wrong with it. BadTarget: of its base.
        """
        where = str(path)
        try:
            data = tomllib.loads(Path(path).read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is no TOML: {error}", where, "see docs/exploring.md") from None
        if unknown := sorted(set(data) - {"base", "objectives", "target", "options"}):
            raise BadInput(f"unknown key {unknown[0]!r}", where, "keys are base, objectives, target, options")
        objectives = data.get("objectives", ["cycles", "area"])
        if not isinstance(objectives, list) or not objectives or not set(objectives) <= set(OBJECTIVES):
            raise BadInput(f"objectives are {objectives!r}", where, f"some of {', '.join(OBJECTIVES)}")
        if not isinstance(data.get("base"), str):
            raise BadInput("no base", where, 'base = "zcu104", a preset or the path of a TOML file')
        known = {f.name: (type(getattr(Target.load("test"), f.name)),) for f in fields(Target) if f.name != _NAMED}
        found = {}
        for part, types in (("target", known), ("options", OPTIONS)):
            given = data.get(part, {})
            if not isinstance(given, dict):
                raise BadInput(f"{part} is {given!r}", where, f"a table [{part}]")
            for name, values in given.items():
                if name not in types:
                    raise BadInput(f"unknown name {name!r} in [{part}]", where, f"one of {', '.join(types)}")
                if not isinstance(values, list) or not values or not all(type(value) in types[name] for value in values):
                    of = " or ".join(kind.__name__ for kind in types[name])
                    raise BadInput(f"{part}.{name} is {values!r}", where, f"a list of values of type {of}")
            found[part] = {name: tuple(dict.fromkeys(values)) for name, values in given.items()}
        return cls(Target.load(data["base"]), found["target"], found["options"], tuple(dict.fromkeys(objectives)))

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """All names and their values."""
        return {**self.target, **self.options}

    @property
    def size(self) -> int:
        """Points."""
        return math.prod(map(len, self.parameters.values()))

    def points(self) -> Iterator[Point]:
        """All of them."""
        names = list(self.parameters)
        return (dict(zip(names, values, strict=True)) for values in itertools.product(*self.parameters.values()))

    def target_of(self, point: Point) -> Target:
        """The target of a point.

        Raises:
            BadTarget: there is no such machine.
        """
        own = {name: value for name, value in point.items() if name in self.target}
        return replace(self.base, name=f"{self.base.name} changed", **own) if own else self.base

    def base_point(self) -> Point | None:
        """The point of the base itself and the first of each option; None if the space does not hold it."""
        point = {name: getattr(self.base, name) for name in self.target}
        if any(point[name] not in values for name, values in self.target.items()):
            return None
        return point | {name: values[0] for name, values in self.options.items()}


@dataclass(frozen=True)
class Job:
    """What is compiled and run at every point; workers get it."""

    model: str
    """Path of the ONNX file or Hugging Face directory."""
    space: Space
    options: Mapping[str, Any]
    """Keywords of `compile` that are the same everywhere."""
    calibration: str | None = None
    """Path of the data, whose first sample is what runs; None: random inputs."""

    @property
    def digest(self) -> str:
        """Of the model, the data, the space and the options: what a study's trials hold for."""
        found = hashlib.sha256()
        for path in filter(None, (self.model, self.calibration)):
            for file in sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]:
                if file.is_file():
                    found.update(file.read_bytes())
        space = self.space
        found.update(repr((space.base, space.target, space.options, space.objectives, sorted(self.options.items()))).encode())
        return found.hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a point came to."""

    values: tuple[float, ...] | None
    """As the space's objectives; None: it was refused."""
    refused: str = ""
    """Why."""


def evaluate(job: Job, point: Point) -> Outcome:
    """Compile and simulate a point.

    Raises:
        axlora.Error: what is wrong at every point: the model, the data, an option.
    """
    from .compiling import compile

    space = job.space
    try:
        target = space.target_of(point)
        options = dict(job.options) | {name: value for name, value in point.items() if name in space.options}
        if job.calibration is not None:
            options["calibration"] = read_arrays(job.calibration)
        program = compile(job.model, target, **options)
    except (BadTarget, DoesNotFit, UnsupportedOperator) as error:
        return Outcome(None, str(error))
    inputs = {name: value[0] for name, value in options["calibration"].items()} if job.calibration else program.random_inputs(0)
    run = program.session().run(inputs)
    found: dict[str, float] = {"cycles": float(run.cycles)}
    if "energy" in space.objectives:
        terms = run.with_energy(default_table()).energy_pj
        assert terms is not None
        found["energy"] = math.fsum(terms.values()) / 1e6
    if "area" in space.objectives:
        found["area"] = float(_lane_luts(target) * target.lanes)
    if "error" in space.objectives:
        found["error"] = _error(job, inputs, run.outputs)
    return Outcome(tuple(found[name] for name in space.objectives))


def _lane_luts(target: Target) -> int:
    from axlora.fpga.area import synthesized_luts

    return synthesized_luts(target, lambda _: None)


def _error(job: Job, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> float:
    """The largest relative root mean square error of an output against the file's own functions."""
    wanted = _reference(job.model, job.calibration, tuple(sorted((job.options.get("shapes") or {}).items())))
    parts = []
    for name, value in wanted(inputs).items():
        if name in outputs:
            size = float(np.linalg.norm(value))
            parts.append(float(np.linalg.norm(np.asarray(outputs[name], np.float64) - value)) / max(size, 1e-30))
    return max(parts)


@cache
def _reference(model: str, _: str | None, shapes: tuple[tuple[str, int], ...]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The model as it is in its file, run by LLVM; inputs to outputs."""
    from axlora.compiler.frontend import onnx_reader
    from axlora.compiler.frontend.host_graph import cut
    from axlora.compiler.frontend.onnx_graph import Graph
    from axlora.compiler.frontend.source import opened
    from axlora.compiler.host import HostPart

    proto, _where = onnx_reader.read(opened(model), dict(shapes), False)
    part = HostPart(cut(Graph(proto), {})[0])
    return lambda inputs: part.run(inputs, lambda stage, values: {})


@dataclass
class Trial:
    """A point and what it came to."""

    number: int
    point: Point
    outcome: Outcome
    front: bool = False
    """Whether no other is better in one objective and as good in all."""


@dataclass
class Study:
    """All trials of a space."""

    job: Job
    trials: list[Trial] = field(default_factory=list)

    @property
    def base(self) -> Trial | None:
        """That of the base, if the space holds it and it ran."""
        point = self.job.space.base_point()
        return next((t for t in self.trials if t.point == point and t.outcome.values is not None), None)

    def mark_front(self) -> None:
        """Find the Pareto front, of each point its first trial."""
        seen: list[Point] = []
        ran = [t for t in self.trials if t.outcome.values is not None]
        for trial in ran:
            own = trial.outcome.values
            assert own is not None
            better = any(
                all(a <= b for a, b in zip(other.outcome.values or (), own, strict=True)) and other.outcome.values != own
                for other in ran
            )
            trial.front = not better and trial.point not in seen
            seen.append(trial.point)

    def to_json(self) -> dict[str, Any]:
        """Schema 1 of docs/exploring.md."""
        space = self.job.space
        rows = [
            {
                "number": t.number,
                "point": t.point,
                "values": None if t.outcome.values is None else dict(zip(space.objectives, t.outcome.values, strict=True)),
                "refused": t.outcome.refused or None,
                "front": t.front,
            }
            for t in self.trials
        ]
        base = self.base
        return {
            "schema": 1,
            "base": space.base.name,
            "base_trial": None if base is None else base.number,
            "objectives": list(space.objectives),
            "points": space.size,
            "trials": rows,
        }


@contextmanager
def workers(count: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """Processes of this computer (default: one a core), or a Dask cluster by its scheduler's address.

    Raises:
        BadInput: no such scheduler.
    """
    if scheduler is None:
        with ProcessPoolExecutor(count or os.cpu_count() or 1, get_context("spawn")) as pool:
            yield pool
        return
    import distributed

    connect: Any = distributed.Client
    try:
        client = connect(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise BadInput(f"no Dask scheduler at {scheduler}: {error}", "--scheduler", "start one: dask scheduler") from None
    with client, client.get_executor(pure=False) as pool:
        yield pool


def explore(
    job: Job,
    *,
    trials: int,
    storage: str,
    pool: Executor,
    name: str = "axlora",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Go on with a study until it has so many trials, or all points of the space.

    Args:
        job: the model and its space.
        trials: that it shall have; spaces of at most so many points are tried whole.
        storage: URL of a database, as SQLAlchemy takes: sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME.
        pool: of `workers`.
        name: of the study in the database.
        seed: of the choice of points (NSGA-II).
        progress: called with (trials that ended, all).

    Raises:
        BadInput: the database cannot be opened, or has a study of that name of something else. axlora.Error: as `evaluate`.
    """
    optuna, study = _study(job, storage, name)
    known = {_key(t.params): _outcome(t) for t in study.trials if t.state.is_finished() and not _stopped(t)}
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:  # it was stopped in the middle
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
    choices = {n: optuna.distributions.CategoricalDistribution(values) for n, values in job.space.parameters.items()}
    whole = job.space.size <= trials
    wanted = job.space.size if whole else trials
    _enqueue(job.space, study, known, whole)
    while (done := sum(t.state.is_finished() and not _stopped(t) for t in study.trials)) < wanted:
        if progress is not None:
            progress(done, wanted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.sampler = optuna.samplers.NSGAIISampler(population_size=GENERATION, seed=seed + len(study.trials))
        asked: list[Any] = [study.ask(choices) for _ in range(min(GENERATION, wanted - done))]
        under_way: dict[Future[Outcome], list[Any]] = {}
        by_key: dict[str, Future[Outcome]] = {}
        for each in asked:
            key = _key(each.params)
            if key in known:
                _tell(optuna, study, each, known[key])
                continue
            if key not in by_key:
                by_key[key] = pool.submit(evaluate, job, dict(each.params))
            under_way.setdefault(by_key[key], []).append(each)
        for future in as_completed(under_way):
            for each in under_way[future]:
                known[_key(each.params)] = future.result()
                _tell(optuna, study, each, future.result())
    found = Study(job)
    for trial in study.trials:
        if trial.state.is_finished() and not _stopped(trial):
            found.trials.append(Trial(trial.number, dict(trial.params), _outcome(trial)))
    found.mark_front()
    return found


def _study(job: Job, storage: str, name: str) -> tuple[Any, optuna.Study]:
    """Optuna, and the study of that name: new, or what is there."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(logging.WARNING)
    directions = [optuna.study.StudyDirection.MINIMIZE] * len(job.space.objectives)
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        held = study.user_attrs.get("job")
    except (SQLAlchemyError, ImportError, ValueError) as error:
        what = f"the database {storage} cannot be used: {' '.join(str(error).split())[:120]}"
        raise BadInput(what, "--storage", "sqlite:///FILE, or postgresql+psycopg://USER@HOST/NAME") from None
    if held is None:
        study.set_user_attr("job", job.digest)
    elif held != job.digest:
        what = f"study {name!r} in {storage} is of another model, space or options"
        raise BadInput(what, "--study", "another name or database")
    return optuna, study


def _enqueue(space: Space, study: optuna.Study, known: Mapping[str, Outcome], whole: bool) -> None:
    """What is tried first: every point of a small space, else the base's."""
    waiting = {_key(t.params or t.system_attrs.get("fixed_params", {})) for t in study.trials if not t.state.is_finished()}
    base = space.base_point()
    for point in space.points() if whole else [base] if base is not None else []:
        if _key(point) not in known and _key(point) not in waiting:
            study.enqueue_trial(point)


def _key(point: Mapping[str, Any]) -> str:
    return json.dumps(dict(sorted(point.items())))


def _tell(optuna: Any, study: optuna.Study, trial: Any, outcome: Outcome) -> None:
    """A trial has ended."""
    if outcome.values is None:
        trial.set_user_attr("refused", outcome.refused)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, list(outcome.values))


def _outcome(trial: Any) -> Outcome:
    """What is in the database of a trial that has ended."""
    if trial.values is None:
        return Outcome(None, trial.user_attrs.get("refused", ""))
    return Outcome(tuple(trial.values))


def _stopped(trial: Any) -> bool:
    """Whether it was stopped in the middle: neither values nor a reason."""
    return trial.values is None and "refused" not in trial.user_attrs
