"""Check many random models in processes of their own: `python tests/graphs/run.py --count 5000 [--seed S] [--jobs 2]`.

Prints how many ran, how many were refused and why, and every kind of failure with the smallest model that shows it, which is
saved (`--failures`) beside its inputs. `--model FILE` checks a saved model again. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from check import Failed, check  # noqa: E402
from hypothesis import HealthCheck, given, seed, settings  # noqa: E402
from reduce import reduced  # noqa: E402
from strategy import Drawn, models  # noqa: E402

from axlora.compiler.frontend import tvm_import  # noqa: E402

SHARE = 50
"""Models of one process: a crash loses no more."""
TARGETS = ("test", "edge-asic")


def machine(number: int) -> tuple[str, bool]:
    """The target of a share of models, and whether they are calibrated."""
    return TARGETS[number % 2], bool(number // 2 % 2)


def each(number: int, count: int, look: Callable[[Drawn], None]) -> None:
    """Draw `count` models from seed `number`, the same ones every time."""

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(models())
    def run(drawn: Drawn) -> None:
        look(drawn)

    run()


def save(drawn: Drawn, path: Path) -> None:
    """The model, and beside it its inputs."""
    metadata = drawn.model.metadata_props
    del metadata[:]
    metadata.append(onnx.StringStringEntryProto(key="refusal", value=drawn.refusal))
    path.write_bytes(drawn.model.SerializeToString())
    np.savez(path.with_suffix(".npz"), **{name.replace("/", "|"): a for name, a in drawn.inputs.items()})


def load(path: Path) -> Drawn:
    """What `save` wrote."""
    model = onnx.load(path)
    refusal = next((p.value for p in model.metadata_props if p.key == "refusal"), "")
    with np.load(path.with_suffix(".npz")) as data:
        return Drawn(model, {name.replace("|", "/"): data[name] for name in data.files}, refusal)


def outcome(drawn: Drawn, target: str, calibrated: bool = False) -> tuple[str, str, str]:
    """`ran`, `refused` or `failed`; the kind; the text of a failure."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = check(drawn, Path(folder), target, calibrated)
        except Failed as error:
            return "failed", error.kind, error.text
        except Exception as error:  # ours: told like the others, so that the rest is still looked at
            return "failed", f"the check itself: {error!r}"[:100], traceback.format_exc()
    return ("ran" if found.ran else "refused"), found.kind, ""


def worker(number: int, count: int, folder: Path) -> None:
    """Check the models of one seed; a line of JSON each. The model at work is saved first, in case the process dies of it."""
    (target, calibrated), known, left = machine(number), set(), count
    current = folder / f"crash-{number}.onnx"

    def look(drawn: Drawn) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            return
        save(drawn, current)
        what, kind, text = outcome(drawn, target, calibrated)
        path = ""
        if what == "failed" and kind not in known:
            known.add(kind)
            smaller = reduced(drawn, lambda d: outcome(d, target, calibrated)[:2] == ("failed", kind))
            text = outcome(smaller, target, calibrated)[2]
            name = re.sub(r"\W+", "-", kind)[:70].strip("-")
            path = str(folder / f"{name}-{number}.onnx")
            save(smaller, Path(path))
        print(json.dumps({"what": what, "kind": kind, "text": text, "path": path}), flush=True)

    each(number, count, look)
    current.unlink(missing_ok=True)
    current.with_suffix(".npz").unlink(missing_ok=True)


def _command(number: int, count: int, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--worker", str(number), "--count", str(count), "--failures", str(folder)]


def gather(count: int, first: int, jobs: int, folder: Path) -> list[dict[str, str]]:
    """The lines of all workers."""
    waiting = [(first + i, min(SHARE, count - i * SHARE)) for i in range(-(-count // SHARE))]
    running: list[tuple[int, int, subprocess.Popen[str]]] = []
    lines: list[dict[str, str]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            number, share = waiting.pop(0)
            done = subprocess.Popen(
                _command(number, share, folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            running.append((number, share, done))
        number, share, done = running.pop(0)
        out, _ = done.communicate()
        lines += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        if done.returncode:
            path = str(folder / f"crash-{number}.onnx")
            lines.append({"what": "failed", "kind": f"the process ended with {done.returncode}", "text": "", "path": path})
        print(f"\r{len(lines)} models", end="", file=sys.stderr, flush=True)
    return lines


def summary(lines: list[dict[str, str]]) -> str:
    """Counts by outcome and kind; of a failure its smallest model."""
    counts = Counter((line["what"], line["kind"]) for line in lines)
    total = Counter(line["what"] for line in lines)
    text = [f"{len(lines)} models: " + ", ".join(f"{total[w]} {w}" for w in ("ran", "refused", "failed"))]
    for (what, kind), count in counts.most_common():
        if what == "ran":
            continue
        text.append(f"{count:5} {what}  {kind}")
        paths = [line["path"] for line in lines if (line["what"], line["kind"]) == (what, kind) and line["path"]]
        if paths:
            text.append(f"      {min(paths, key=lambda p: Path(p).stat().st_size if Path(p).exists() else 1 << 60)}")
    return "\n".join(text)


def main() -> int:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--failures", type=Path, default=Path("build/graphs"), metavar="DIR")
    parser.add_argument("--model", type=Path, metavar="FILE")
    parser.add_argument("--target", default=TARGETS[0])
    parser.add_argument("--calibrated", action="store_true", help="of --model")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    tvm_import.LLVM["opt-level"] = 0
    given.failures.mkdir(parents=True, exist_ok=True)
    if given.worker is not None:
        worker(given.worker, given.count, given.failures)
        return 0
    if given.model is not None:
        print(*outcome(load(given.model), given.target, given.calibrated), sep="\n")
        return 0
    lines = gather(given.count, given.seed, given.jobs, given.failures)
    print("\n" + summary(lines))
    return int(any(line["what"] == "failed" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
