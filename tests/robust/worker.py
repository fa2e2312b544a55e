"""Runs mutated cases, each in a forked child with limits; prints one JSON line a case.

    python worker.py BASE WORK KIND:NUMBER...

BASE is built if it does not exist. A line has: kind, number, mutation, change, expects, outcome (`ok`, the error's name, or
`FAILED`), message, why (what is wrong with a failed case), seconds, megabytes.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TVM_NUM_THREADS"] = "1"  # no thread pool: the children are forked
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import base as base_material
import numpy as np
from mutate import REFUSED, SAME, Mutation
from mutate_adapters import ADAPTER
from mutate_inputs import INPUT, MAP, TARGET
from mutate_models import EXTERNAL, MODEL
from mutate_packages import PACKAGE

import axlora
import axlora.compiler.host as host_module
from axlora import cli
from axlora.adapters import add_adapter
from axlora.sim.errors import MachineError

SECONDS = 60
BYTES = 4 << 30
"""Address space of a child, the parent's 0.8 GB included."""
NAMED = (
    axlora.UnsupportedOperator, axlora.BadModel, axlora.BadAdapter, axlora.BadTarget, axlora.BadPackage, axlora.BadInput,
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
Outputs = dict[str, np.ndarray]


class _HostParts:
    """Host graphs that were compiled before are not compiled again: they are most of a run's time."""

    def __init__(self) -> None:
        self.real = host_module.HostPart
        self.known: dict[Any, Any] = {}

    def __call__(self, host: Any) -> Any:
        key = (host.model.SerializeToString(deterministic=True), host.inputs, host.outputs, host.arrivals)
        if key not in self.known:
            self.known[key] = self.real(host)
        return self.known[key]


def _simulate(program: axlora.Program, adapter: str | None = None, inputs: Any = None) -> Outputs:
    given = program.random_inputs(1) if inputs is None else inputs
    return axlora.simulate(program, given, adapter, timing=False).outputs


def _model(folder: Path) -> Outputs:
    call = json.loads((folder / "call.json").read_text())
    out = folder / "out" / "model.axl"
    axlora.compile(folder / "model.onnx", "test", **call).save(out)
    return _simulate(axlora.load(out))


def _adapter(folder: Path) -> Outputs:
    program = axlora.load(folder / "model.axl")
    out = folder / "out" / "model.axl"
    add_adapter(program, "new", folder / "adapter").save(out)
    return _simulate(axlora.load(out), "new")


def _package(folder: Path) -> Outputs:
    program = axlora.load(folder / "model.axl")
    out = _simulate(program)
    _simulate(program, program.adapters[0].name if program.adapters else None)
    program.linears()
    axlora.adapters.add_adapter(program, "more", folder / "adapter") if program.slots and program.rank >= 8 else None
    return out


def _command(folder: Path, *arguments: str) -> None:
    """A command line; its one line on standard error becomes the error."""
    read, write = os.pipe()
    kept = os.dup(2)
    os.dup2(write, 2)
    try:
        code = cli.main(arguments)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(write)
    text = os.read(read, 1 << 16).decode()
    if code:
        assert code == 2, f"exit code {code}"
        assert text.count("\n") == 1, f"not one line: {text!r}"
        raise axlora.BadInput(text.strip(), "command line", "read it")


def _input(folder: Path) -> Outputs:
    out = folder / "out" / "out.npz"
    out.parent.mkdir()
    _command(
        folder, "simulate", str(folder / "model.axl"), "--input", str(folder / "in.npz"), "--output", str(out), "--no-timing"
    )
    with np.load(out) as data:
        return {name: data[name] for name in data.files}


def _map(folder: Path) -> Outputs:
    out = folder / "out" / "model.axl"
    shutil.copytree(folder / "model.axl", out)
    _command(folder, "adapter", "add", str(out), f"new={folder / 'adapter'}", "--adapter-map", str(folder / "map.json"))
    return _simulate(axlora.load(out), "new")


def _target(folder: Path) -> Outputs:
    out = folder / "out" / "model.axl"
    axlora.compile(folder / "model.onnx", folder / "target.toml").save(out)
    return _simulate(axlora.load(out))


class Kind:
    """Files that a case starts from, its mutations, and what is done with it."""

    def __init__(self, mutations: list[Mutation], run: Callable[[Path], Outputs], *files: tuple[str, str], **call: Any) -> None:
        self.mutations, self.run, self.files, self.call = mutations, run, files, call

    def copy(self, base: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        for source, name in self.files:
            if (base / source).is_dir():
                shutil.copytree(base / source, folder / name, dirs_exist_ok=True)
            else:
                shutil.copyfile(base / source, folder / name)
        (folder / "call.json").write_text(json.dumps(self.call))


_TINY = (("packages/tiny.axl", "model.axl"), ("adapters/tiny", "adapter"))
_GPT2 = (("packages/gpt2.axl", "model.axl"), ("adapters/gpt2", "adapter"))
_BERT = (("packages/bert.axl", "model.axl"), ("adapters/bert", "adapter"))
KINDS = {
    **{
        f"model-{n}": Kind(MODEL, _model, (f"models/{n}", ""), shapes=s)
        for n, s in base_material.SHAPES.items()
        if n != "external"
    },
    "model-external": Kind(EXTERNAL, _model, ("models/external", "")),
    "adapter-tiny": Kind(ADAPTER, _adapter, *_TINY),
    "adapter-bert": Kind(ADAPTER, _adapter, *_BERT),
    "package-tiny": Kind(PACKAGE, _package, *_TINY),
    "package-bert": Kind(PACKAGE, _package, *_BERT),
    "package-gpt2": Kind(PACKAGE, _package, *_GPT2),
    "input": Kind(INPUT, _input, ("files/in.npz", "in.npz"), *_TINY),
    "input-bert": Kind(INPUT, _input, ("files/bert.npz", "in.npz"), *_BERT),
    "map": Kind(MAP, _map, ("files/map.json", "map.json"), *_TINY),
    "target": Kind(TARGET, _target, ("files/target.toml", "target.toml"), ("models/tiny", "")),
}


def _complaint(folder: Path, error: BaseException | None, outputs: Outputs | None) -> str:
    """What is wrong with how a case ended, or an empty text."""
    if error is not None and not isinstance(error, (*NAMED, MachineError)):
        return "".join(traceback.format_exception(error))[-1800:]
    if isinstance(error, axlora.Error):
        text = str(error)
        if "\n" in text or len(text) > 1000:
            return f"not one short line: {text[:200]!r}"
        if not (isinstance(error.where, str) and isinstance(error.hint, str) and error.where and error.hint):
            return f"where {error.where!r} or hint {error.hint!r} is missing"
        if any(word in text for word in ("MemoryError", "bad_alloc", "allocate", "Traceback")):
            return f"it ran out of memory: {text}"
    if outputs is not None and not all(np.isfinite(v).all() for v in outputs.values()):
        return "outputs hold NaN or infinity"
    left = sorted(p.name for p in (folder / "out").iterdir()) if (folder / "out").exists() else []
    if [name for name in left if name not in ("model.axl", "out.npz")]:
        return f"left behind: {left}"
    if "model.axl" in left:
        axlora.load(folder / "out" / "model.axl")
    return ""


def _watch_opens(folder: Path, base: Path) -> list[str]:
    """Python files opened outside the case's folder, the installation, the repository and what a process needs."""
    allowed = [str(Path(p).resolve()) for p in (folder, sys.prefix, sys.base_prefix, ROOT)]
    allowed += ["/proc", "/dev", "/sys", "/usr/lib", "/usr/share", "/usr/local/lib", "/etc/localtime", "/etc/mime.types"]
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not any(path == a or path.startswith(a + "/") for a in allowed):
                seen.append(path)

    sys.addaudithook(hook)
    return seen


def _child(kind: Kind, folder: Path, base: Path, expects: str, expected: Outputs | None) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    os.chdir(folder)
    opened = _watch_opens(folder, base)
    error, outputs = None, None
    try:
        outputs = kind.run(folder)
    except BaseException as caught:
        error = caught
    outcome = "ok" if error is None else type(error).__name__
    why = _complaint(folder, error, outputs)
    if not why and opened:
        why = f"opened {opened[:3]}"
    if not why and expects == REFUSED and error is None:
        why = "accepted, must be refused"
    if not why and expects == SAME:
        if outputs is None or expected is None:
            why = f"a harmless change was refused: {error}"
        elif sorted(outputs) != sorted(expected) or any(not np.array_equal(outputs[n], expected[n]) for n in outputs):
            why = "another result after a harmless change"
    return {"outcome": "FAILED" if why else outcome, "message": str(error)[:300] if error else "", "why": why}


def _forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a child; a signal or a hang is an outcome too."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            data = json.dumps(work()).encode()
        except BaseException:
            data = json.dumps({"outcome": "FAILED", "why": traceback.format_exc()[-1800:]}).encode()
        os.write(write, data)
        os._exit(0)
    os.close(write)
    end, data = time.monotonic() + SECONDS, b""
    while (left := end - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
        part = os.read(read, 1 << 16)
        if not part:
            break
        data += part
    hung = time.monotonic() >= end
    if hung:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    os.close(read)
    memory = {"megabytes": usage.ru_maxrss >> 10}
    if hung:
        return {"outcome": "FAILED", "why": f"hangs: not done after {SECONDS} s", **memory}
    if not data:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return {"outcome": "FAILED", "why": f"crashed: {signal.Signals(number).name if number else status}", **memory}
    return {**json.loads(data), **memory}


def _mutated(kind: Kind, mutation: Mutation, base: Path, folder: Path, rng: np.random.Generator) -> str:
    """Fresh files, changed; what the seed finds nothing to change for is tried again."""
    for again in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        kind.copy(base, folder)
        try:
            return (mutation if again < 8 else kind.mutations[0]).change(folder, rng)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, FileNotFoundError):
            continue
    raise RuntimeError(f"{mutation.name} changes nothing")


def run_case(name: str, number: int, base: Path, work: Path, expected: Outputs | None) -> dict[str, Any]:
    """Mutate a copy of the base files and run it."""
    kind = KINDS[name]
    rng = np.random.default_rng([sum(name.encode()), number])
    mutation = kind.mutations[number % len(kind.mutations)]
    top = work / f"{name}-{number}"
    folder = top / "case"
    top.mkdir()
    (top / "secret.bin").write_bytes(bytes(1 << 14))
    (top / "base").symlink_to(base)
    change = _mutated(kind, mutation, base, folder, rng)
    start = time.monotonic()
    result = _forked(lambda: _child(kind, folder, base, mutation.expects, expected))
    shutil.rmtree(top)
    seconds = round(time.monotonic() - start, 2)
    told = {"kind": name, "number": number, "mutation": mutation.name, "change": change, "expects": mutation.expects}
    return {**told, **result, "seconds": seconds}


def _unmutated(name: str, base: Path, work: Path) -> Outputs | None:
    """The result of a kind's base files, computed here: it warms what the children inherit."""
    folder = work / f"{name}-base" / "case"
    KINDS[name].copy(base, folder)
    try:
        return KINDS[name].run(folder)
    finally:
        shutil.rmtree(folder.parent)


def main(arguments: list[str]) -> None:
    """See the top of the file."""
    base, work = (Path(a).resolve() for a in arguments[:2])
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        base_material.build(base)
    work.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    host_module.HostPart = _HostParts()  # type: ignore[assignment,misc]
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    expected: dict[str, Outputs | None] = {}
    for text in arguments[2:]:
        name, _, number = text.partition(":")
        if name not in expected:
            expected[name] = _unmutated(name, base, work)
        os.write(out, (json.dumps(run_case(name, int(number), base, work, expected[name])) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
