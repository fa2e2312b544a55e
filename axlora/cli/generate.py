"""`axlora generate`: text to token ids and back, tokens shown as they come."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from .given import (
    adapters,
    bad,
    board_options,
    page_place,
    paging_options,
    places,
    trace_options,
    tracer,
    write,
    write_page,
)
from .terminal import Phases, progress
from .tokenizers import tokenizer

if TYPE_CHECKING:
    from axlora.engines import Engine
    from axlora.generator import SequenceToken
    from axlora.paging import Paging
    from axlora.program import Program


def _prompt(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text()
    except UnicodeDecodeError:
        raise bad(f"{given[1:]} is not text", "--prompt", "UTF-8 text") from None


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package, a prompt, what ends the answer."""
    add = parser.add_argument
    add("package", metavar="OUT.axl")
    many = "several are the sequences of one batch"
    add("--prompt", required=True, action="extend", nargs="+", metavar="TEXT|@FILE", help=many)
    add("--tokenizer", default="bytes", metavar="FILE|bytes", help="tokenizer.json, or bytes (default)")
    add("--max-new-tokens", type=int, default=64, metavar="N")
    add("--eos", type=int, metavar="ID", help="stop after this token")
    one = "adapter, or one for each prompt ('-' for none); default the base"
    add("--adapter", action="extend", nargs="+", metavar="NAME", help=one)
    add("--cycles", action="store_true", help="a line a token: its id, its cycles, its text")
    paging_options(parser)
    add("--json", metavar="RUN.json", help="write tokens and their cycles")
    add("--html", metavar="PAGE.html", help="write a page that explains where the cycles of all tokens went; no network needed")
    trace_options(parser)
    board_options(parser, required=False)


def run(options: argparse.Namespace) -> int:
    """Print the answer as it comes, then cycles a token."""
    if options.max_new_tokens < 1:
        raise bad(f"--max-new-tokens {options.max_new_tokens}", "--max-new-tokens", "at least 1")
    if options.json and not Path(options.json).resolve().parent.is_dir():
        raise bad(f"no folder for {options.json}", "--json", "give a path in a folder that is there")
    if bool(options.board) != bool(options.port):
        raise bad("--board and --port go together", "--port", "give both")
    for option in ("trace", "html"):
        if options.board and vars(options)[option]:
            raise bad("a board does not tell when its instructions run", f"--{option}", "leave --board out")
    page_place(options.html)
    import axlora
    from axlora.engines import Kept
    from axlora.generator import generated, whole_run

    began = time.monotonic()
    found: list[SequenceToken] = []
    with ExitStack() as stack:
        with progress(piped=False) as shown:
            shown.phase("reading the package")
            program = axlora.load(options.package)
            texts = [_Text(options.tokenizer, prompt) for prompt in options.prompt]
            traced = tracer(program, options)
            engine = traced or _engine(options, program, stack, shown)
            kept = Kept(engine) if options.html else None
            session = program.session(engine=kept or engine, **places(options))
            prompts = [text.prompt for text in texts]
            shown.phase(f"prompt of {' + '.join(str(len(prompt)) for prompt in prompts)} tokens")
            chosen = adapters(",".join(options.adapter) if options.adapter else None)
            stream = generated(session, prompts, options.max_new_tokens, chosen, options.eos)
            first = [token for token in (next(stream, None),) if token is not None]
        _show(chain(first, stream), texts, options.cycles, found)
    if traced is not None:
        write(options.trace, traced.trace(program))
    if kept is not None:
        from axlora.report.page import page

        name = " ".join([Path(options.package).stem, *(options.adapter or [])])
        data = whole_run(session, kept.starts).to_json()
        write_page(options.html, lambda library: page([(name, data)], library))
    _summary(found, prompts, program.target.clock_mhz, time.monotonic() - began, session.paging)
    if options.json:
        many = len(texts) > 1
        rows = [({"sequence": t.sequence} if many else {}) | {"token": t.token, "cycles": t.cycles} for t in found]
        data = {"schema": 1, "target": program.target.name, "clock_mhz": program.target.clock_mhz, "tokens": rows}
        data |= {"paging": None if session.paging is None else session.paging.to_json()}
        write(options.json, (json.dumps(data, indent=1) + "\n").encode())
    return 0


class _Text:
    """A prompt, and what a tokenizer makes of it and of its answer."""

    def __init__(self, name: str, prompt: str) -> None:
        self.tokenizer = tokenizer(name)
        self.prompt = self.tokenizer.encode(_prompt(prompt))
        self.answer = ""


def _engine(options: argparse.Namespace, program: Program, stack: ExitStack, shown: Phases) -> Engine:
    """The board that the options name; else the simulator."""
    from axlora.engines import OnBoard, Simulator
    from axlora.extras import need

    if not options.board:
        return Simulator()
    need("fpga", "pyserial")
    from .boards import open_board

    return OnBoard(stack.enter_context(open_board(options, program.target, shown)))


def _show(stream: Iterator[SequenceToken], texts: Sequence[_Text], cycles: bool, found: list[SequenceToken]) -> None:
    """Keep tokens, and print them as they come; answers of several prompts when all are there, a line each."""
    many = len(texts) > 1
    for each in stream:
        found.append(each)
        shown = texts[each.sequence].tokenizer.decode(each.token)
        texts[each.sequence].answer += shown
        if cycles:
            sequence = f"{each.sequence:4} " if many else ""
            sys.stdout.write(f"{sequence}{each.token:8} {each.cycles:12,} cycles  {shown!r}\n")
        elif not many:
            sys.stdout.write(shown)
        sys.stdout.flush()
    if not cycles:
        sys.stdout.write("".join(f"{number}: {text.answer}\n" for number, text in enumerate(texts)) if many else "\n")


def _summary(
    found: Sequence[SequenceToken], prompts: Sequence[Sequence[int]], clock_mhz: int, seconds: float, paging: Paging | None
) -> None:
    console = Console(stderr=True, highlight=False)
    begins = [next(t.cycles for t in found if t.sequence == number) for number in range(len(prompts))]
    tokens, news = sum(map(len, prompts)), "the first new one" if len(prompts) == 1 else f"{len(prompts)} first new ones"
    console.print(f"prompt: {tokens} tokens and {news}, {sum(begins):,} cycles")
    count, cycles = len(found) - len(prompts), sum(t.cycles for t in found) - sum(begins)
    if count:
        rate = clock_mhz * 1e6 * count / cycles
        console.print(f"decode: {count} tokens, {cycles / count:,.0f} cycles a token, {rate:,.1f} tokens/s at {clock_mhz} MHz")
    if paging is not None:
        counted = (f"{count:,} {name.replace('_', ' ')}" for name, count in paging.to_json().items())
        console.print(f"adapters: {', '.join(counted)}")
    console.print(f"simulated in {seconds:.1f} s")
