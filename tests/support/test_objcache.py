"""Objects of Verilator's runtime library are kept for the same command, sources and compiler, and for nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def objcache() -> ModuleType:
    spec = importlib.util.spec_from_file_location("objcache", Path(__file__).with_name("objcache.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_objects_are_kept_by_content(objcache: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled; taken from the cache (where other bytes were put); compiled again with another header, and another option."""
    kept, source, out = tmp_path / "kept", tmp_path / "include" / "verilated.cpp", tmp_path / "verilated.o"
    source.parent.mkdir()
    header = source.with_name("verilated.h")
    header.write_text("int answer();\n")
    source.write_text('#include "verilated.h"\nint answer() { return ANSWER; }\n')
    monkeypatch.setenv("AXLORA_OBJECTS", str(kept))

    def make(answer: int) -> bytes:
        assert objcache.main(["g++", f"-DANSWER={answer}", "-c", "-o", str(out), str(source)]) == 0
        return out.read_bytes()

    first = make(1)
    (only,) = kept.iterdir()
    assert only.read_bytes() == first
    only.write_bytes(b"from the cache")
    assert make(1) == b"from the cache"
    header.write_text("int answer();\nint more();\n")
    assert make(1) == first
    assert make(2) != first
    assert len(list(kept.iterdir())) == 3


def test_other_objects_and_failures_are_not_kept(objcache: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXLORA_OBJECTS", str(tmp_path / "kept"))
    for name, text, status in (("machine.cpp", "int x;\n", 0), ("verilated.cpp", "no C++\n", 1)):
        (tmp_path / name).write_text(text)
        assert (objcache.main(["g++", "-c", "-o", str(tmp_path / "x.o"), str(tmp_path / name)]) != 0) == bool(status)
    assert not (tmp_path / "kept").exists()
