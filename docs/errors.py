"""Write docs/errors.md: every error that the code can raise at a user, with its cause and its remedy, read from the code.

python docs/errors.py            # writes it
python docs/errors.py --check    # exits 1 if it is not what the code says (a test does this)
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
HOUSES = ("axlora", "compiler", "fpga", "isa", "report", "rtl", "sim", "timing")
BASE = "Error"
HELPERS = {"bad": "BadInput", "refuse": "UnsupportedOperator", "wrong": "BadModel"}
"""Functions that make an error from (message, ...) -> its class."""
_LOCAL = {"refuse": ("node", "message"), "wrong": ("message", "value", "hint")}
"""Their parameters, where they are not (message, where, hint)."""
_BEFORE = {"wrong": "config.json has "}
"""What they put in front of the message."""
HEAD = """# Errors

Made from the code by `python docs/errors.py`; a test holds it to the code. An error is one line,
`axlora COMMAND: WHERE: MESSAGE (REMEDY)`, and exit code 2; ‹names› stand for what was found. In Python it is an `axlora.Error`
with `.message`, `.where` and `.hint`. A fault of ours is exit code 3 and names the file with its details.
"""


@dataclass(frozen=True, order=True)
class Row:
    """A place in the code that makes an error."""

    kind: str
    message: str
    remedy: str
    file: str


def classes(trees: dict[Path, ast.Module]) -> dict[str, str]:
    """Error class -> first line of its docstring, for `Error` and what derives from it."""
    every = {n.name: n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    found: dict[str, str] = {}

    def derives(name: str) -> bool:
        node = every.get(name)
        return name == BASE or (node is not None and any(isinstance(b, ast.Name) and derives(b.id) for b in node.bases))

    for name, node in every.items():
        if derives(name):
            found[name] = (ast.get_docstring(node) or "").splitlines()[0]
    return found


def text(node: ast.AST | None, scope: ast.AST) -> str | None:
    """A string expression with names for what is put into it; None if it is none."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(p.value if isinstance(p, ast.Constant) else _named(p.value, scope) for p in parts)
        case ast.Name(id=name):
            given = [
                text(a.value, scope)
                for a in ast.walk(scope)
                if isinstance(a, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in a.targets)
            ]
            known = list(dict.fromkeys(g for g in given if g))
            return " / ".join(known) if known else None
        case ast.IfExp(body=yes, orelse=no):
            both = [t for t in (text(yes, scope), text(no, scope)) if t]
            return " / ".join(both) or None
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            a, b = text(left, scope), text(right, scope)
            return (a or "") + (b or "") or None
    return None


def _named(node: ast.AST, scope: ast.AST) -> str:
    inner = text(node, scope) if isinstance(node, ast.Constant | ast.JoinedStr) else None
    return inner if inner is not None else f"‹{ast.unparse(node)}›"


def _scopes(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Every call with the innermost function around it."""

    def walk(node: ast.AST, scope: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, ast.FunctionDef) else scope
            if isinstance(child, ast.Call):
                yield inner, child
            yield from walk(child, inner)

    yield from walk(tree, tree)


def rows(trees: dict[Path, ast.Module], known: dict[str, str]) -> list[Row]:
    """Every place that makes an error of `known`, or calls a helper that does."""
    found = set()
    for path, tree in trees.items():
        for scope, call in _scopes(tree):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            kind = name if name in known else HELPERS.get(name)
            if kind is None:
                continue
            order = _LOCAL.get(name, ("message", "where", "hint"))
            given = dict(zip(order, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
            message = text(given.get("message"), scope)
            if message:
                remedy = text(given.get("hint"), scope) or ""
                found.add(Row(kind, _BEFORE.get(name, "") + message, remedy, path.relative_to(ROOT).as_posix()))
    return sorted(found)


def _cell(text: str) -> str:
    """A line of text in a table: no column ends in it, and no link begins."""
    return " ".join(text.split()).replace("|", "\\|").replace("][", "]\\[")


def page() -> str:
    """The page."""
    paths = sorted(p for house in HOUSES for p in (ROOT / house).rglob("*.py"))
    trees = {path: ast.parse(path.read_text()) for path in paths}
    known = classes(trees)
    parts = [HEAD]
    every = rows(trees, known)
    for kind in sorted({row.kind for row in every}):
        parts.append(f"\n## {kind}\n\n{known[kind]}\n\n| message | remedy | made in |\n| --- | --- | --- |\n")
        for row in every:
            if row.kind == kind:
                cells = (_cell(text) for text in (row.message, row.remedy, f"`{row.file}`"))
                parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    made = page()
    if options.check:
        same = PAGE.is_file() and PAGE.read_text() == made
        sys.stdout.write("" if same else "docs/errors.md is not what the code says: python docs/errors.py\n")
        return 0 if same else 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
