"""`axlora serve-sim`."""

from __future__ import annotations

import argparse
import itertools
import json

from .given import bad, folder, page_place, paging_options, write, write_page
from .terminal import progress, show
from .tokenizers import tokenizer


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package, its requests, limits to compare."""
    add = parser.add_argument
    add("package", metavar="OUT.axl", help="compiled with --generate; --max-batch and --max-loras bound what can be served")
    add("--trace", required=True, metavar="REQUESTS.jsonl", help="a line a request: arrival, prompt, new_tokens, adapter")
    add("--tokenizer", default="bytes", metavar="FILE|bytes", help="for prompts of text: tokenizer.json, or bytes (default)")
    several = "at most; several, as 1,4,8, are studies beside each other (default the package's)"
    add("--max-batch", metavar="N[,N...]", help=f"sequences that decode together, {several}")
    add("--max-loras", metavar="N[,N...]", help=f"different adapters in a batch, {several}")
    paging_options(parser, "; several are studies too")
    add("--json", metavar="OUT.json", help="write every figure and request")
    add("--html", metavar="PAGE.html", help="write a page with charts; no network needed")


def _limits(text: str | None, option: str, most: int) -> list[int]:
    parts = [str(most)] if text is None else text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise bad(f"{option} {text!r} is no list of numbers", option, f"for example {option} 1,4")
    return [int(part) for part in parts]


def run(options: argparse.Namespace) -> int:
    """Serve the requests under each pair of limits; prints a table."""
    page_place(options.html)
    if options.json:
        folder(options.json)
    import axlora
    from axlora.report.serving import serving_page, serving_table
    from axlora.serving import Limits, read_requests, serve

    studies = []
    with progress(piped=False) as shown:
        shown.phase("reading the package")
        program = axlora.load(options.package)
        decoder = program.session().batch().running.decoder
        requests = read_requests(options.trace, tokenizer(options.tokenizer).encode, decoder.vocabulary)
        batches = _limits(options.max_batch, "--max-batch", decoder.together)
        loras = _limits(options.max_loras, "--max-loras", program.max_loras)
        held: list[int | None] = [None]
        if options.adapter_places is not None:
            held = [*_limits(options.adapter_places, "--adapter-places", 0)]
        for most, adapters, places in itertools.product(batches, loras, held):
            counted = shown.counted(f"serving with {most} sequences, {adapters} adapters")
            limits = Limits(most, adapters, places)
            study = serve(program, requests, limits=limits, page_rate=options.page_rate, progress=counted)
            studies.append(study.to_json())
    show(serving_table(studies))
    if options.json:
        write(options.json, (json.dumps({"schema": 1, "studies": studies}, indent=1) + "\n").encode())
    if options.html:
        write_page(options.html, lambda library: serving_page(studies, library))
    return 0
