"""docs/errors.md is what the code says, and what it says to do can be done."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from axlora.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "errors.py"


def test_the_page_of_errors_is_that_of_the_code() -> None:
    """`python docs/errors.py` writes it anew."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option of a command and of its actions."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _options(inner)


def test_every_option_that_an_error_names_is_one_of_a_command() -> None:
    """A remedy that cannot be typed is none; pip's own are not meant."""
    spec = importlib.util.spec_from_file_location("errors_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    known = set()
    for name, (home, _) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=name)
        importlib.import_module(f"axlora.cli.{home}").arguments(parser)
        known |= set(_options(parser))
    named = set(re.findall(r"--[a-z][a-z-]*[a-z]", module.page()))
    assert len(named) > 10
    assert named <= known
