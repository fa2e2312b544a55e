"""What `make docs` (MkDocs) needs beside docs/: pages of the checkout's root, pages made from the code, links.

A page has links that work in the checkout. In the site docs/ is the root; sources that a page links to lie in it.
"""

from __future__ import annotations

import argparse
import importlib
import posixpath
import re
import shutil
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from axlora.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "build" / "docs"
"""The packages as an installation lays them out, for what reads docstrings."""
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/tiny_llama/README.md")
_LINK = re.compile(r"(?P<text>\[[^\]\n]*\])\((?!https?:|#)(?P<link>[^)#\s]+)(?P<anchor>[^)\s]*)\)")


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay the packages out as pyproject.toml maps them, before mkdocstrings looks whether they are there."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in setup["packages"]:
        home = max((known for known in setup["package-dir"] if f"{name}.".startswith(f"{known}.")), key=len)
        folder = ROOT.joinpath(setup["package-dir"][home], *name.removeprefix(home).split("."))
        package = PACKAGES.joinpath(*name.split("."))
        package.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.py"):
            shutil.copy(file, package)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the root, the made ones, and every file that a page links to."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "commands.md", content=commands()))
    files.append(File.generated(config, "decisions/README.md", content=decisions()))
    for page in files.documentation_pages():
        for link in _LINK.finditer(page.content_string):
            path, place = linked(page.src_uri, link["link"])
            if path.is_file() and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the checkout become links of the site; those to folders of sources become text."""
    own = page.file.src_uri

    def there(match: re.Match[str]) -> str:
        path, place = linked(own, match["link"])
        index = posixpath.join(place, "README.md")
        if path.is_dir() and not files.get_file_from_path(index):
            return match["text"][1:-1]
        place = posixpath.relpath(index if path.is_dir() else place, posixpath.dirname(own) or ".")
        return f"{match['text']}({place}{match['anchor']})"

    return _LINK.sub(there, markdown)


def linked(page: str, link: str) -> tuple[Path, str]:
    """What a link of a page means: the file or folder in the checkout, and its place in the site.

    Args:
        page: the page's place in the site.
        link: without anchor, relative to the page as it lies in the checkout.
    """
    made = "docs" if page not in ROOT_PAGES else ""
    path = posixpath.normpath(posixpath.join(made, posixpath.dirname(page), link))
    return ROOT / path, path.removeprefix("docs/")


def commands() -> str:
    """Every command with its options, as `--help` prints them."""
    lines = ["# Commands", "", "`axlora COMMAND --help` prints the same.", ""]
    for name, (home, text) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"axlora {name}", description=text)
        importlib.import_module(f"axlora.cli.{home}").arguments(parser)
        lines += [f"## {name}", "", *_help(parser)]
    return "\n".join(lines)


def _help(parser: argparse.ArgumentParser) -> list[str]:
    """What a parser, and those of its actions, print."""
    lines = ["```text", parser.format_help().strip(), "```", ""]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines += [line for inner in action.choices.values() for line in _help(inner)]
    return lines


def decisions() -> str:
    """The decisions, by number."""
    lines = [
        "# Decisions",
        "",
        "A choice with a price is a page: the question, the choice, what was measured.",
        "",
        "| | decision |",
        "| --- | --- |",
    ]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        number, _, title = path.read_text().splitlines()[0].removeprefix("# ").partition(". ")
        lines.append(f"| {int(path.name[:4])} | [{title or number}]({path.name}) |")
    return "\n".join(lines)
