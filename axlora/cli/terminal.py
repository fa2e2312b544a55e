"""What every command does with the terminal: tables, progress, notices, errors."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from axlora.extras import MODULES
from axlora.isa.errors import Error

_LOG_BYTES = 1 << 20
"""Most of what libraries wrote that goes to the file of a fault."""
UNWRAPPED = 1 << 14
"""Columns of a table that goes to a file or a pipe without COLUMNS: no cell is broken."""


def _console(stream: IO[str]) -> Console:
    given = os.environ.get("COLUMNS", "")
    width = int(given) if given.isdigit() and int(given) else None if stream.isatty() else UNWRAPPED
    return Console(file=stream, width=width, highlight=False)


def show(*items: str | Table) -> None:
    """Print tables and lines on standard output: boxes and colours on a terminal, plain columns anywhere else."""
    console = _console(sys.stdout)
    for item in items:
        if isinstance(item, Table) and not console.is_terminal:
            item.box, item.pad_edge, title, item.title = None, False, item.title, None
            if title:
                console.print(title, soft_wrap=True)
        console.print(item, soft_wrap=isinstance(item, str))


class Phases:
    """Progress: a bar on a terminal; elsewhere one line on standard output for each phase."""

    def __init__(self, bar: Progress, lines: bool) -> None:
        self._bar, self._lines = bar, lines
        self._task = bar.add_task("", total=None)
        self._shown = ""

    def phase(self, text: str) -> None:
        """A phase begins."""
        self._bar.update(self._task, description=text, completed=0, total=None)
        if self._lines and text != self._shown:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        self._shown = text

    def detail(self, text: str) -> None:
        """What the phase is at; only a terminal shows it."""
        self._bar.update(self._task, description=f"{self._shown}: {text}" if self._shown else text)

    def counted(self, text: str) -> Callable[[int, int], None]:
        """A phase begins; the callback of (done, total) moves its bar."""
        self.phase(text)
        return lambda done, total: self._bar.update(self._task, completed=done, total=total)

    def simulating(self) -> Callable[[int, int], None]:
        """`counted`, for the simulator, of which the first run on a computer is the slowest."""
        from axlora.isa.compiled import kept

        counted = self.counted("simulating")
        if not kept():
            self.detail("it is compiled first, once for this version, which takes about half a minute")
        return counted


@contextmanager
def progress(piped: bool = True) -> Iterator[Phases]:
    """Progress of work that may take over a second.

    Args:
        piped: say phases on standard output where there is no terminal; False for commands whose output is not a report.
    """
    terminal = sys.stderr.isatty()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        yield Phases(bar, lines=piped and not terminal)


class _Notices(logging.Handler):
    """Keeps what axlora logs for the user, to be said once the command has succeeded: an error is one line alone."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if record.name.split(".")[0] == "axlora" and text not in self.lines:
            self.lines.append(text)


@contextmanager
def _third_parties_quiet() -> Iterator[int]:
    """Keep what libraries write on file descriptor 2 in memory; yields its descriptor. sys.stderr stays the terminal."""
    memory = os.memfd_create("axlora") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
    sys.stderr.flush()
    try:
        real = sys.stderr.fileno() == 2
    except (io.UnsupportedOperation, ValueError):
        real = False
    if not real:  # a test, or a program that calls us, has its own
        yield memory
        os.close(memory)
        return
    before, kept = sys.stderr, os.dup(2)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(memory, 2)
    try:
        yield memory
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(memory)
        sys.stderr.close()
        sys.stderr = before


def _say(name: str, text: str) -> None:
    sys.stderr.write(f"axlora {name}: {' '.join(text.split())}\n")


def guarded(name: str, run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command; returns the exit code, and writes one line for what went wrong."""
    notices = _Notices()
    logger = logging.getLogger()
    level = os.environ.get("AXLORA_LOG", "")
    handlers, before = logger.handlers[:], logger.level
    logger.addHandler(notices)
    with warnings.catch_warnings(), _third_parties_quiet() as log:
        warnings.simplefilter("ignore")
        if level:  # to the terminal, where sys.stderr leads by now
            shown = logging.StreamHandler(sys.stderr)
            shown.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
            logger.addHandler(shown)
            logger.setLevel(level)
        try:
            code = _run(name, run, options, log)
        finally:
            logger.handlers[:], logger.level = handlers, before
        if code in (0, 1):
            for line in notices.lines:
                _say(name, f"notice: {line}")
    return code


def _run(name: str, run: Callable[[argparse.Namespace], int], options: argparse.Namespace, log: int) -> int:
    from axlora.isa.instruction import BadInstruction
    from axlora.isa.legality import IllegalProgram
    from axlora.sim.errors import MachineError

    try:
        return int(run(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say(name, "interrupted")
        return 130
    except (Error, BadInstruction, IllegalProgram, OSError) as error:
        _say(name, str(error))
        return 2
    except MachineError as error:
        _say(name, str(error))
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "axlora":
            extra = MODULES.get((error.name or "").split(".")[0])
            how = "pip install 'axlora" + (f"[{extra}]'" if extra else "'")
            _say(name, f"the package {error.name!r} is not installed ({how}; axlora doctor lists what is missing)")
            return 2
        return _fault(name, error, log)
    except Exception as error:
        return _fault(name, error, log)


def _fault(name: str, error: Exception, log: int) -> int:
    """Exit code of a fault of ours; the traceback goes to a file, behind what libraries wrote."""
    os.lseek(log, 0, os.SEEK_SET)
    text = os.read(log, _LOG_BYTES).decode(errors="replace") + "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile("w", prefix="axlora-", suffix=".log", delete=False) as file:
        file.write(text)
    what = (str(error).strip().splitlines() or [""])[0][:200]
    _say(name, f"a fault of axlora, not of the input: {type(error).__name__}: {what} (details: {file.name})")
    return 3
