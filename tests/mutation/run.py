"""Mutation testing: seeded single-line changes of Verilog, numerics, timing and HLS C++, each run against the tests.

A mutant is caught when a test fails or hangs. One that does not build (or that Verilator warns of) is replaced by another.
A survivor must be listed in `equivalent.toml` with the reason why no test can see it; else the exit status is 1.
Everything happens in build/mutation: a snapshot of the checkout, and beside it one importable tree per mutant.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutants import KINDS, SHARE, Mutant, choose

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "mutation"
"""Default folder of everything that is written."""
EQUIVALENT = Path(__file__).with_name("equivalent.toml")

_RANDOM = "tests/rtl/test_random_programs.py"
_EQUALS = _RANDOM + "::test_verilog_equals_simulator[{}]"
_PAUSES = "tests/rtl/test_bus.py::test_random_pauses_move_time_only[{}]"
_FULL = "tests/rtl/test_random_programs.py::test_verilog_equals_simulator_on_every_target_and_all_is_covered"
_ENCODINGS = _RANDOM + "::test_random_encodings_are_illegal_in_both_or_neither"
_LOOPS = _RANDOM + "::test_four_nested_loops_and_skipped_ones"
_CLAMP = _RANDOM + "::test_the_32_bit_clamp_is_symmetric"
_TEST = (
    _EQUALS.format("test"),
    _LOOPS,
    _CLAMP,
    "tests/rtl/test_errors.py",
    _ENCODINGS,
    "tests/rtl/test_smoke.py",
    _PAUSES.format("test"),
)
_MAC = (_EQUALS.format("mac-4x2"), _PAUSES.format("mac-4x2"))
_LAST = (_EQUALS.format("reuse-m2"),)
_TABLES = (_EQUALS.format("table-m2"), _RANDOM + "::test_tables_equal_the_simulator_on_rows_of_many_formats[table-m2]")


@dataclass(frozen=True)
class Stage:
    """One pytest command: what it runs, seconds after which the mutant counts as hanging."""

    tests: tuple[str, ...]
    limit: int


def stages(mutant: Mutant, full: bool) -> list[Stage]:
    """What is run against a mutant, the quickest and likeliest first; each only if those before pass.

    Args:
        mutant: decides by its kind and file.
        full: Verilog also against the random programs of every target (many minutes).
    """
    if mutant.kind == "numerics":
        return [Stage(("tests/isa/test_numerics.py",), 120), Stage(("tests/compiler/test_ax_ops.py",), 200)]
    if mutant.kind == "timing":
        return [Stage(("tests/timing",), 120), Stage((_EQUALS.format("test"), _EQUALS.format("mac-4x2")), 200)]
    if mutant.kind == "hls":
        return [Stage(("tests/fpga/test_hls_programs.py", "tests/fpga/test_hls_errors.py"), 240)]
    fast = [Stage(_TEST, 240), Stage(_MAC, 200)]
    if mutant.file == "rtl/engine_mac.v":
        fast.reverse()
    if mutant.file in ("rtl/engine_table.v", "rtl/table_fill.v"):
        fast = [Stage(_TABLES, 200)]
    return [*fast, Stage(_LAST, 200), *([Stage((_FULL,), 1800)] if full else [])]


@dataclass(frozen=True)
class Result:
    """What became of a place: the mutant tried, `caught`, `hangs`, `survives` or `did not build`, and the test that saw it."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float
    replaced: int


def _houses() -> dict[str, str]:
    """Package to folder, as pyproject.toml lays them out."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return data["tool"]["setuptools"]["package-dir"]


def _ignore(_: str, names: list[str]) -> set[str]:
    return {n for n in names if n in ("__pycache__", ".hypothesis", ".pytest_cache")}


def snapshot(base: Path) -> None:
    """The checkout's packages as an importable tree, with the tests: what is edited meanwhile does not matter."""
    shutil.rmtree(base, ignore_errors=True)
    for package, folder in sorted(_houses().items()):
        shutil.copytree(ROOT / folder, base.joinpath(*package.split(".")), ignore=_ignore, dirs_exist_ok=True)
    for name in ("tests", "bench", "examples"):
        shutil.copytree(ROOT / name, base / name, ignore=_ignore)
    shutil.copy(ROOT / "pyproject.toml", base)


def plant(base: Path, tree: Path, mutant: Mutant | None) -> None:
    """A tree like the snapshot with one line changed. Of Verilog and C++ the other packages are links, caches shared."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in ("tests", "bench", "examples", "pyproject.toml"):
        (tree / name).symlink_to(base / name)
    own = "fpga" if mutant is not None and mutant.kind == "hls" else "rtl"
    if mutant is not None and mutant.kind not in ("rtl", "hls"):
        shutil.copytree(base / "axlora", tree / "axlora", ignore=_ignore)
    else:
        (tree / "axlora").mkdir()
        for path in (base / "axlora").iterdir():
            if path.name == own:
                shutil.copytree(path, tree / "axlora" / own, ignore=_ignore)
            elif path.name != "__pycache__":
                (tree / "axlora" / path.name).symlink_to(path)
    if mutant is not None:
        target = tree / "axlora" / mutant.file
        lines = target.read_text().splitlines(keepends=True)
        if lines[mutant.number - 1].rstrip("\n") != mutant.before:
            raise RuntimeError(f"{mutant.file}:{mutant.number} is not the line that was to be changed")
        lines[mutant.number - 1] = mutant.after + "\n"
        target.write_text("".join(lines))


def _environment(tree: Path, own_simulators: bool) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS")}
    environment["PYTHONPATH"] = str(tree)
    environment["AXLORA_VERILATOR_CFLAGS"] = "-O1"
    environment["MAKEFLAGS"] = "-- VM_PARALLEL_BUILDS=0"
    environment["OBJCACHE"] = f"{sys.executable} -S {ROOT / 'tests' / 'support' / 'objcache.py'}"
    environment["AXLORA_OBJECTS"] = str(tree.parent / "objects")
    environment["XDG_CACHE_HOME"] = str(tree / "cache" if own_simulators else tree.parent / "cache")
    environment["NUMBA_CACHE_DIR"] = str(
        tree.parent / "cache" / "compiled"
    )  # by its sources: of mutants of the Verilog the same
    return environment


_started: set[int] = set()


def _run(command: Sequence[str], tree: Path, environment: dict[str, str], limit: int) -> tuple[int | None, str]:
    """(status or None after `limit` seconds, output); the process and its children are ended then."""
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    _started.add(process.pid)
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0] or ""
    finally:
        _started.discard(process.pid)


def _pytest(stage: Stage, tree: Path, environment: dict[str, str]) -> tuple[int | None, str]:
    tests = [t for t in stage.tests if (tree / t.split("::")[0]).exists()]
    options = ["-x", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
    command = [sys.executable, "-P", "-m", "pytest", "--rootdir", str(tree), *options, *tests]
    return _run(command, tree, environment, stage.limit)


def _builds(tree: Path, environment: dict[str, str]) -> bool:
    """Verilator takes the machine of the first two targets without a warning (part of what the tests ask anyway)."""
    script = (
        "import os, subprocess, sys; sys.path.insert(0, 'tests/rtl'); from programs import TARGETS\n"
        "from axlora.rtl.runner import verilator_environment\nfrom axlora.rtl.verilog_files import sources\n"
        "from axlora.isa.verilog_header import target_parameters\n"
        f"assert str(sources()[0]).startswith({str(tree)!r}), sources()[0]\n"
        "for name in ('test', 'mac-4x2'):\n"
        "    given = [f'-G{n}={v}' for n, v in target_parameters(TARGETS[name]).items()]\n"
        "    options = ['--lint-only', '-Wall', f'-I{sources()[0].parent}', '--top-module', 'axlora_top']\n"
        "    command = ['verilator', *options, *given]\n"
        "    done = subprocess.run([*command, *map(str, sources())], env=os.environ | verilator_environment())\n"
        "    if done.returncode: sys.exit(77)\n"
    )
    status, output = _run([sys.executable, "-P", "-c", script], tree, environment, 120)
    if status not in (0, 77):
        raise RuntimeError(f"cannot lint a mutant:\n{output}")
    return status == 0


def _imports_mutant(tree: Path, environment: dict[str, str]) -> None:
    """The copy shadows the installed package."""
    script = "import axlora, axlora.isa, axlora.rtl, axlora.timing as t; print(axlora.__file__, t.__file__, sep='\\n')"
    status, output = _run([sys.executable, "-P", "-c", script], tree, environment, 60)
    if status != 0 or any(not line.startswith(str(tree)) for line in output.split()):
        raise RuntimeError(f"not the copy below {tree}:\n{output}")


class Baseline:
    """A stage counts only if it passes on the unchanged snapshot; each is run there once, when first needed."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._locks: dict[Stage, threading.Lock] = {}
        self._passed: set[Stage] = set()
        self._guard = threading.Lock()

    def require(self, stage: Stage) -> None:
        """Raises RuntimeError if the unchanged snapshot fails the stage."""
        with self._guard:
            lock = self._locks.setdefault(stage, threading.Lock())
        with lock:
            if stage in self._passed:
                return
            patient = Stage(stage.tests, 3 * stage.limit)  # it may be the first to build
            status, output = _pytest(patient, self._tree, _environment(self._tree, own_simulators=False))
            if status != 0:
                raise RuntimeError(f"the unchanged code fails {' '.join(stage.tests)} (status {status}):\n{output[-4000:]}")
            self._passed.add(stage)


def _seen_by(output: str) -> str:
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" ")[1].removeprefix("tests/")
    return "the test run did not start"


def try_mutant(tree: Path, mutant: Mutant, baseline: Baseline, full: bool) -> tuple[str, str, str]:
    """(outcome, test that saw it, last output)."""
    environment = _environment(tree, own_simulators=mutant.kind in ("rtl", "hls"))
    if mutant.kind == "rtl" and not _builds(tree, environment):
        return "did not build", "", ""
    output = ""
    listed = mutant.key in reasons()  # then one stage: enough to see that it still builds and is not caught at once
    for stage in stages(mutant, full)[: 1 if listed else None]:
        baseline.require(stage)
        status, output = _pytest(stage, tree, environment)
        if status is None:
            return "hangs", f"no result of {stage.tests[0].removeprefix('tests/')} in {stage.limit} s", output
        if status and "does not build" in output:
            return "did not build", "", output
        if status:
            return "caught", _seen_by(output), output
    return "survives", "", output


def try_place(number: int, place: list[Mutant], base: Path, baseline: Baseline, full: bool) -> Result:
    """The first mutant of a place that builds."""
    start = time.monotonic()
    for replaced, mutant in enumerate(place):
        tree = base.parent / str(number)
        plant(base, tree, mutant)
        try:
            outcome, by, output = try_mutant(tree, mutant, baseline, full)
            if outcome in ("survives", "hangs"):
                (base.parent / f"{number}.log").write_text(output)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        if outcome != "did not build":
            return Result(mutant, outcome, by, time.monotonic() - start, replaced)
    return Result(place[0], "did not build", "", time.monotonic() - start, len(place))


def reasons() -> dict[tuple[str, str, str], str]:
    """Reason of each listed survivor by `Mutant.key`."""
    if not EQUIVALENT.exists():
        return {}
    entries = tomllib.loads(EQUIVALENT.read_text()).get("equivalent", [])
    return {(e["file"], e["line"].strip(), e["mutation"].strip()): e["reason"] for e in entries}


def report(results: list[Result], known: dict[tuple[str, str, str], str], seconds: float, seed: int) -> str:
    """Markdown: totals, survivors with their reasons, every mutant."""
    made = [r for r in results if r.outcome != "did not build"]
    caught = [r for r in made if r.outcome != "survives"]
    lines = [
        "# Mutants",
        "",
        f"{len(made)} made (seed {seed}), {len(caught)} caught ({sum(r.outcome == 'hangs' for r in made)} of them "
        f"by a time limit), {len(made) - len(caught)} survived; {sum(r.replaced for r in results)} more did not build; "
        f"{seconds:.0f} s.",
        "",
        "| kind | made | caught |",
        "| --- | --- | --- |",
    ]
    for kind in KINDS:
        lines.append(f"| {kind} | {sum(r.mutant.kind == kind for r in made)} | {sum(r.mutant.kind == kind for r in caught)} |")
    lines += ["", "## Survivors", ""]
    for r in made:
        if r.outcome == "survives":
            m = r.mutant
            reason = known.get(m.key, "**NOT LISTED**")
            lines.append(f"- {m.file}:{m.number} `{m.before.strip()}` -> `{m.after.strip()}`: {reason}")
    lines += [
        "",
        "## All",
        "",
        "| line | rule | changed line | outcome | seen by | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in made:
        m = r.mutant
        text = m.after.strip().replace("|", "\\|")
        rule = m.rule.replace("|", "\\|")
        lines.append(f"| {m.file}:{m.number} | {rule} | `{text}` | {r.outcome} | {r.by} | {r.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _shares(count: int | None, kinds: Sequence[str]) -> dict[str, int]:
    """Mutants of each kind; `count` is dealt out as the default is."""
    whole = sum(SHARE[k] for k in kinds)
    return {k: SHARE[k] if count is None else -(-count * SHARE[k] // whole) for k in kinds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the status is 1 if a survivor is not listed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help=f"mutants in all (default {sum(SHARE.values())})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--file", help="only of this file, e.g. rtl/lane.v")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to work in (one run at a time)")
    parser.add_argument("--full", action="store_true", help="Verilog: also the slow test of every target")
    parser.add_argument("--list", action="store_true", help="show the first choices and stop")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    base = out / "base"
    kinds = [options.only] if options.only else list(KINDS)
    places = []
    for kind, count in _shares(options.count, kinds).items():
        places += choose(ROOT, kind, count, options.seed, options.file)
    if options.list:
        for mutant in (place[0] for place in places):
            print(f"{mutant.file}:{mutant.number}: {mutant.rule}\n  {mutant.before.strip()}\n  {mutant.after.strip()}")
        return 0
    start = time.monotonic()
    (out / "objects").mkdir(parents=True, exist_ok=True)
    snapshot(base)
    tree = out / "unchanged"
    plant(base, tree, None)
    _imports_mutant(tree, _environment(tree, own_simulators=False))
    baseline = Baseline(tree)
    known = reasons()

    def one(item: tuple[int, list[Mutant]]) -> Result:
        result = try_place(item[0], item[1], base, baseline, options.full)
        m = result.mutant
        note = " (listed)" if result.outcome == "survives" and m.key in known else ""
        print(
            f"[{item[0] + 1}/{len(places)}] {result.outcome}{note} {result.seconds:.0f} s  {m.file}:{m.number}  {m.rule}  "
            f"{m.after.strip()}  {result.by}",
            flush=True,
        )
        return result

    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(one, enumerate(places)))
    finally:
        for process in list(_started):
            os.killpg(process, signal.SIGKILL)
    text = report(results, known, time.monotonic() - start, options.seed)
    (out / "report.md").write_text(text)
    shutil.rmtree(tree, ignore_errors=True)
    print(text.split("## All")[0])
    unlisted = [r for r in results if r.outcome == "survives" and r.mutant.key not in known]
    return 1 if unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
