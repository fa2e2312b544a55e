"""The two kinds of text: sources of Python's standard library, and the English of its language reference.

Both come with every Python. A file or a topic is held out by a hash of its name, so the split is the same on any machine;
what the figures are measured on is committed (held_out/), as the texts change with Python's version.

    python examples/tiny_llama/corpus.py -o DIR    writes the held-out texts anew
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]

HELD_OUT = Path(__file__).parent / "held_out"
KINDS = ("code", "prose")
END = b"\0"
"""Stands before each text and after the last: no text holds it. A prompt may start with it."""
EXCERPT, EXCERPTS = 1024, 16
"""Bytes of an excerpt of a held-out text, and how many of them are committed."""
_HELD_CODE, _HELD_PROSE = 16, 6
"""One file, or topic, in so many is held out."""
_LEFT_OUT = {
    *("site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"),
    *("encodings", "pydoc_data"),
}
"""Folders: not the library's own, missing in some installations, tables, and the other kind of text."""


@dataclass(frozen=True)
class Split:
    """Texts of one kind, as name -> bytes."""

    training: Mapping[str, bytes]
    held_out: Mapping[str, bytes]


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _chosen(name: str, one_in: int) -> bool:
    return _digest(name) % one_in == 0


def code() -> Split:
    """The standard library's .py files by their path in it, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not _LEFT_OUT & set(name.parts) and not name.name.startswith("_sysconfigdata"):
            texts[name.as_posix()] = path.read_bytes().replace(END, b"")
    held = {k: v for k, v in texts.items() if _chosen(k, _HELD_CODE)}
    return Split({k: v for k, v in texts.items() if k not in held}, held)


def _paragraphs(text: str) -> list[str]:
    return [p for p in text.split("\n\n") if p.strip()]


def _key(paragraph: str) -> str:
    return " ".join(paragraph.split())


def prose() -> Split:
    """The topics of the language reference (what `help()` prints), sorted.

    Topics contain one another: a paragraph of a training topic that a held-out topic has as well is dropped.
    """
    from pydoc_data.topics import topics

    held = {k: v for k, v in sorted(topics.items()) if _chosen(k, _HELD_PROSE)}
    known = {_key(p) for text in held.values() for p in _paragraphs(text)}
    seen: set[str] = set()
    training = {}
    for name, text in sorted(topics.items()):
        kept = [p for p in _paragraphs(text) if _key(p) not in known | seen] if name not in held else []
        seen |= {_key(p) for p in kept}
        if kept:
            training[name] = "\n\n".join(kept).encode() + b"\n"
    return Split(training, {k: v.encode() for k, v in held.items()})


def split(kind: str) -> Split:
    """Texts of `kind`, one of KINDS."""
    return {"code": code, "prose": prose}[kind]()


def stream(texts: Mapping[str, bytes]) -> Int:
    """The texts one after another as ids [n], END around each."""
    return np.frombuffer(END + END.join(texts.values()) + END, np.uint8).astype(np.int64)


def _pieces(text: bytes) -> list[bytes]:
    """Stretches of EXCERPT bytes, each from a line's start: the first after the middle, then on, then from the front."""
    pieces, at = [], 0
    while at + EXCERPT <= len(text):
        pieces.append((at, text[at : at + EXCERPT]))
        at = text.find(b"\n", at + EXCERPT - 1) + 1 or len(text)
    return [piece for _, piece in sorted(pieces, key=lambda p: (p[0] < len(text) // 2, p[0]))]


def _is_whole(piece: bytes) -> bool:
    """No character is cut."""
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


def excerpts(texts: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """EXCERPTS stretches (name, EXCERPT bytes), one of each text in turn."""
    queues = {name: [p for p in _pieces(texts[name]) if _is_whole(p)] for name in sorted(texts, key=_digest)}
    made: list[tuple[str, bytes]] = []
    for turn in range(EXCERPTS):
        made += [(name, queue[turn]) for name, queue in queues.items() if turn < len(queue)]
    if len(made) < EXCERPTS:
        raise ValueError(f"{len(texts)} texts have {len(made)} stretches of {EXCERPT} bytes, {EXCERPTS} are wanted")
    return made[:EXCERPTS]


def held_out(kind: str) -> bytes:
    """The committed held-out text, [EXCERPTS * EXCERPT] bytes."""
    return (HELD_OUT / f"{kind}.txt").read_bytes()


def windows(text: bytes | Sequence[int] | Int, length: int) -> Int:
    """Ids [n, length]: the text cut into n whole windows, the rest left out. A divisor of EXCERPT crosses no two excerpts."""
    ids = np.frombuffer(text, np.uint8).astype(np.int64) if isinstance(text, bytes) else np.asarray(text, np.int64)
    return ids[: len(ids) // length * length].reshape(-1, length)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the held-out texts of this Python's library.")
    parser.add_argument("-o", dest="directory", type=Path, required=True)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for kind in KINDS:
        texts = split(kind)
        pieces = excerpts(texts.held_out)
        (directory / f"{kind}.txt").write_bytes(b"".join(piece for _, piece in pieces))
        (directory / f"{kind}.sources").write_text("".join(f"{name}\n" for name, _ in pieces))
        sizes = [(len(t), sum(map(len, t.values()))) for t in (texts.training, texts.held_out)]
        logging.info("%s: training %d texts of %d bytes, held out %d texts of %d bytes", kind, *sizes[0], *sizes[1])


if __name__ == "__main__":
    main()
