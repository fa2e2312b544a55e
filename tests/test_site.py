"""The site of docs/: links and anchors lead somewhere, every page is in its table, nothing comes from a network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTION = re.compile(r"--[a-z][a-z-]*[a-z]")


def _built(checkout: Path, site: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        line, cwd=checkout, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    """As `make docs` builds it; scripts, styles and pictures are its own."""
    done = _built(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:|//)[^>]*>", page.read_text())
        assert not loaded, page
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_links_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    """To a page, a heading, a file of the sources."""
    for path in ROOT.iterdir():
        if path.name not in ("docs", "mkdocs.yml", "build", ".git", ".venv"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    links = ("nowhere.md", "isa.md#nowhere", "../compiler/nowhere.py")
    (tmp_path / "docs" / "trace.md").write_text("# Traces\n\n" + " ".join(f"[there]({link})" for link in links))
    done = _built(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for link in links:
        assert link.removeprefix("../") in done.stderr


def test_commands_that_pages_show_have_the_options_that_they_show() -> None:
    """Code that begins with `axlora` and a command, in blocks and in lines, against the page of commands."""
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sections = re.split(r"^## (\S+)$", module.commands(), flags=re.M)
    known = {name: set(OPTION.findall(text)) for name, text in zip(sections[1::2], sections[2::2], strict=True)}
    shown = 0
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for line in re.findall(r"(?:^ *|`)axlora ([a-z][^`\n]*)", page.read_text(), re.M):
            name, *_ = line.split()
            assert name in known, f"{page.name}: axlora {line}"
            unknown = set(OPTION.findall(line.partition(" #")[0])) - known[name]
            assert not unknown, f"{page.name}: axlora {line}: {unknown}"
            shown += 1
    assert shown > 100
