"""`axlora estimate`."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from .given import bad, folder, page_place, write, write_page
from .terminal import progress, show

if TYPE_CHECKING:
    from axlora.compiler.pipelines.drawn import Given, Weights


def arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration, and what of it."""
    add = parser.add_argument
    add("config", metavar="CONFIG.json", help="config.json of a Hugging Face model, or its directory")
    add("--target", required=True, metavar="T", help="preset or TOML file")
    held = "drawn codes, or given: the codes that compile makes of the safetensors beside the config.json (int8)"
    add("--weights", default="int8", choices=["int8", "int4", "nf4", "given"], help=held)
    add("--weight-bits", type=int, choices=[2, 3, 4, 8], help="with --weights given: of weights that are floats there (8)")
    add("--calibration", metavar="DATA.npz", help="with --weights given: as of compile (random token ids)")
    add(
        "--context",
        type=int,
        default=256,
        metavar="N",
        help="tokens in the cache once decoded, or of an encoder's sequence (256)",
    )
    add("--tokens", type=int, default=0, metavar="P", help="a prompt of so many tokens before the step (none)")
    add("--chunk", type=int, default=32, metavar="C", help="most tokens of a prompt at once (32)")
    add("--batch", type=int, default=1, metavar="B", help="sequences that decode together (1)")
    add("--rank", type=int, default=0, metavar="R", help="rank of LoRA adapters of every linear (0: none)")
    add("--adapters", type=int, default=1, metavar="A", help="different ones among the sequences (1)")
    add("--whole-package", action="store_true", help="lay memory out for all programs of a package, which takes longer")
    add("--boards", action="store_true", help="also say which presets the model fits")
    add("--json", metavar="RUN.json", help="write the report")
    add("--html", metavar="PAGE.html", help="write a page that explains it; no network needed")


def run(options: argparse.Namespace) -> int:
    """Estimate and print the report."""
    gc.disable()  # a program of a big model is millions of objects, none of them garbage
    from axlora.compiler.pipelines.drawn import Asked
    from axlora.estimating import configuration, estimate, fits
    from axlora.isa.target import Target
    from axlora.report.tables import run_tables

    page_place(options.html)
    if options.json:
        folder(options.json)
    for name, least, most in (
        ("context", 1, 1 << 15), ("tokens", 0, options.context), ("chunk", 1, 1 << 15), ("batch", 1, 64), ("rank", 0, 1 << 15),
        ("adapters", 1, options.batch),
    ):  # fmt: skip
        if not least <= vars(options)[name] <= most:
            raise bad(f"--{name} {vars(options)[name]}", f"--{name}", f"must be {least} to {most}")
    own, target = configuration(options.config), Target.load(options.target)
    asked = Asked(_weights(options), options.context, options.rank, options.adapters, options.batch, options.chunk)
    with progress() as shown:
        shown.phase("drawing codes, placing the programs, simulating")
        found = estimate(own, target, asked, options.tokens, options.whole_package)
        facts = found.facts()
        for name in Target.presets() if options.boards else ():
            shown.phase(f"does it fit {name}")
            facts["fits"].append({"target": name, "why_not": fits(own, Target.load(name), asked)})
    if options.json:
        write(options.json, (json.dumps(found.run.to_json() | {"estimate": facts}, indent=1) + "\n").encode())
    if options.html:
        from axlora.report.page import page

        name = f"{options.config} {options.weights}, {options.context} tokens"
        name += f", rank {options.rank}" if options.rank else ""
        shown_runs = [(name, found.by_kind().to_json() | {"estimate": facts})]
        write_page(options.html, lambda library: page(shown_runs, library))
    show(*run_tables(found.by_kind()), _phases(facts["phases"], target.clock_mhz))
    if facts["fits"]:
        table = Table("target", "fits", title="buffers")
        for each in facts["fits"]:
            table.add_row(each["target"], each["why_not"] or "yes")
        show(table)
    for note in facts["notes"]:
        show(note)
    return 0


def _weights(options: argparse.Namespace) -> Weights | Given:
    """What --weights says, and what goes with it."""
    from axlora.arrays import read_arrays
    from axlora.compiler.pipelines.drawn import Given, Weights
    from axlora.estimating import config_file

    if options.weights != "given":
        for name in ("weight_bits", "calibration"):
            if vars(options)[name] is not None:
                option = f"--{name.replace('_', '-')}"
                raise bad(f"{option} without --weights given", option, "drawn codes have the bits that --weights names")
        return Weights(options.weights)
    if options.boards:
        raise bad("--boards asks of drawn codes", "--boards", "--weights int8 or int4: what fits does not depend on values")
    data = read_arrays(options.calibration) if options.calibration else None
    return Given(config_file(options.config).parent, options.weight_bits or 8, data)


def _phases(phases: Sequence[Mapping[str, Any]], clock_mhz: int) -> Table:
    """Cycles and time of each phase."""
    table = Table("phase", "starts", "tokens", "cycles", "ms", "tokens/s", title=f"at {clock_mhz} MHz")
    for column in table.columns[1:]:
        column.justify = "right"
    for p in phases:
        counts = (f"{p[key]:,}" for key in ("starts", "tokens", "cycles"))
        table.add_row(p["name"], *counts, f"{p['ms']:,.2f}", f"{p['tokens_per_second']:,.2f}")
    return table
