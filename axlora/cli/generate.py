"""`axlora generate`: text to token ids and back, tokens shown as they come."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from .given import bad, board_options, write
from .terminal import Phases, progress

if TYPE_CHECKING:
    from axlora.generator import Generator, Start, Token


class Tokenizer(Protocol):
    """Text to ids, and ids one by one to text."""

    def encode(self, text: str) -> Sequence[int]:
        """Ids of a prompt."""

    def decode(self, token: int) -> str:
        """What this token adds to the text."""


class Bytes:
    """Each byte of UTF-8 is a token."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def encode(self, text: str) -> Sequence[int]:
        return text.encode()

    def decode(self, token: int) -> str:
        return self._decoder.decode(bytes([token])) if token < 256 else "\N{REPLACEMENT CHARACTER}"


class Json:
    """A Hugging Face tokenizer.json (needs the package `tokenizers`)."""

    def __init__(self, path: str) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ModuleNotFoundError:
            raise bad("the package 'tokenizers' is not installed", "--tokenizer", "pip install tokenizers") from None
        try:
            self._tokenizer = Loaded.from_file(path)
        except Exception as error:  # the library raises plain Exception
            raise bad(f"{path} is not a tokenizer.json: {str(error)[:100]}", "--tokenizer", "give the file") from None
        self._ids: list[int] = []
        self._text = ""

    def encode(self, text: str) -> Sequence[int]:
        return [int(i) for i in self._tokenizer.encode(text).ids]

    def decode(self, token: int) -> str:
        self._ids.append(token)
        before, self._text = self._text, self._tokenizer.decode(self._ids)
        return self._text[len(before) :] if self._text.startswith(before) else ""


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
    add("--prompt", required=True, metavar="TEXT|@FILE")
    add("--tokenizer", default="bytes", metavar="FILE|bytes", help="tokenizer.json, or bytes (default)")
    add("--max-new-tokens", type=int, default=64, metavar="N")
    add("--eos", type=int, metavar="ID", help="stop after this token")
    add("--adapter", metavar="NAME", help="adapter; default the base")
    add("--cycles", action="store_true", help="a line a token: its id, its cycles, its text")
    add("--json", metavar="RUN.json", help="write tokens and their cycles")
    board_options(parser, required=False)


def run(options: argparse.Namespace) -> int:
    """Print the answer as it comes, then cycles a token."""
    if options.max_new_tokens < 1:
        raise bad(f"--max-new-tokens {options.max_new_tokens}", "--max-new-tokens", "at least 1")
    if options.json and not Path(options.json).resolve().parent.is_dir():
        raise bad(f"no folder for {options.json}", "--json", "give a path in a folder that is there")
    if bool(options.board) != bool(options.port):
        raise bad("--board and --port go together", "--port", "give both")
    from axlora.generator import generate as tokens
    from axlora.package import load_generator

    began = time.monotonic()
    found: list[Token] = []
    arguments = {"max_new_tokens": options.max_new_tokens, "adapter": options.adapter, "eos": options.eos}
    with ExitStack() as stack:
        with progress(piped=False) as shown:
            shown.phase("reading the package")
            program = load_generator(options.package)
            tokenizer: Tokenizer = Bytes() if options.tokenizer == "bytes" else Json(options.tokenizer)
            prompt = tokenizer.encode(_prompt(options.prompt))
            start = _start(options, program, stack, shown)
            shown.phase(f"prompt of {len(prompt)} tokens")
            stream = tokens(program, prompt, **arguments, start=start)
            first = [token for token in (next(stream, None),) if token is not None]
        _show(chain(first, stream), tokenizer, options.cycles, found)
    sys.stdout.write("" if options.cycles else "\n")
    _summary(found, len(prompt), program.target.clock_mhz, time.monotonic() - began)
    if options.json:
        rows = [{"token": t.token, "cycles": t.cycles} for t in found]
        data = {"schema": 1, "target": program.target.name, "clock_mhz": program.target.clock_mhz, "tokens": rows}
        write(options.json, (json.dumps(data, indent=1) + "\n").encode())
    return 0


def _start(options: argparse.Namespace, program: Generator, stack: ExitStack, shown: Phases) -> Start | None:
    """Starts of the machine on the board that the options name; None for the simulator."""
    if not options.board:
        return None
    from axlora.extras import need
    from axlora.on_board import board_start

    need("fpga", "pyserial")
    from .boards import open_board

    return board_start(program, stack.enter_context(open_board(options, program.target, shown)))


def _show(stream: Iterator[Token], tokenizer: Tokenizer, cycles: bool, found: list[Token]) -> None:
    """Print tokens as they come, and keep them."""
    for each in stream:
        found.append(each)
        shown = tokenizer.decode(each.token)
        sys.stdout.write(f"{each.token:8} {each.cycles:12,} cycles  {shown!r}\n" if cycles else shown)
        sys.stdout.flush()


def _summary(found: Sequence[Token], prompt: int, clock_mhz: int, seconds: float) -> None:
    console = Console(stderr=True, highlight=False)
    console.print(f"prompt: {prompt} tokens and the first new one, {found[0].cycles:,} cycles")
    if len(found) > 1:
        cycles = sum(t.cycles for t in found[1:])
        each = cycles / (len(found) - 1)
        rate = clock_mhz * 1e6 / each
        console.print(f"decode: {len(found) - 1} tokens, {each:,.0f} cycles a token, {rate:,.1f} tokens/s at {clock_mhz} MHz")
    console.print(f"simulated in {seconds:.1f} s")
