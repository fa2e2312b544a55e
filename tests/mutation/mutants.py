"""Single-line mutants of Verilog, HLS C++ and Python by rule: where each rule applies, and a seeded choice over the files."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("rtl", "numerics", "timing", "hls")
SHARE = {"rtl": 42, "numerics": 12, "timing": 12, "hls": 20}
"""Mutants of each kind by default."""


@dataclass(frozen=True)
class Mutant:
    """One changed line.

    Attributes:
        kind: one of `KINDS`.
        file: path below the checkout, e.g. `rtl/lane.v`.
        number: of the line, from 1.
        rule: what was done, e.g. `+ -> -`.
        before: the line as it is.
        after: the line as changed.
    """

    kind: str
    file: str
    number: int
    rule: str
    before: str
    after: str

    @property
    def key(self) -> tuple[str, str, str]:
        """(file, line, changed line) without indentation: what `equivalent.toml` names."""
        return self.file, self.before.strip(), self.after.strip()


SWAPS = {
    "+": "-",
    "-": "+",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "&&": "||",
    "||": "&&",
    "&": "|",
    "|": "&",
    "<<": ">>",
    ">>": "<<",
}

_VERILOG_TOKEN = re.compile(
    r"(?P<string>\"[^\"]*\")|(?P<sized>\d+'s?[bdh][0-9a-fA-F]+)|(?P<word>[A-Za-z_`$][\w$]*)|(?P<number>\d+)"
    r"|(?P<op><<<|>>>|<<|>>|<=|>=|==|!=|&&|\|\||\+:|-:|[-+<>&|!~?:;,(){}\[\]=*/%^@#.])"
)
_NOTHING_TO_DO = re.compile(
    r"^\s*(`|module\b|endmodule|parameter\b|input\b|output\b|genvar\b|integer\b|initial\b|generate|endgenerate|for\b|default:"
    r"|(wire|reg)\b[^=]*;|localparam integer\b|function\b)|\bunused|\berror_[A-Z]|\binitial\b|: g_bad_"
)


def _swap_arms(tokens: list[re.Match[str]], index: int, code: str) -> str | None:
    """The line with the arms of the `?` at `index` exchanged; None if they are not both on it."""
    depth, nested, colon, end = 0, 0, None, len(code.rstrip())
    for token in tokens[index + 1 :]:
        text = token.group()
        if text in ("(", "{", "["):
            depth += 1
        elif text in (")", "}", "]"):
            depth -= 1
            if depth < 0:
                end = token.start()
                break
        elif depth == 0 and text == "?":
            nested += 1
        elif depth == 0 and text == ":":
            if nested:
                nested -= 1
            elif colon is None:
                colon = token.start()
        elif depth == 0 and text in (";", ","):
            end = token.start()
            break
    if colon is None or depth > 0:
        return None
    start = tokens[index].end()
    first, second = code[start:colon].strip(), code[colon + 1 : end].strip()
    if not first or not second:
        return None
    return f"{code[:start]} {second} : {first}{code[end:]}"


def _next_constant(text: str) -> str:
    """n + 1 in the same width and base; the largest value becomes 0 (so 1'b0 and 1'b1 are exchanged)."""
    if "'" not in text:
        return str(int(text) + 1)
    width, rest = text.split("'")
    signed = "s" if rest[0] == "s" else ""
    base = rest[len(signed)]
    radix = {"b": 2, "d": 10, "h": 16}[base]
    value = (int(rest[len(signed) + 1 :], radix) + 1) % (1 << int(width))
    digits = {"b": format(value, "b"), "d": str(value), "h": format(value, "X")}[base]
    return f"{width}'{signed}{base}{digits}"


def _verilog_line(line: str) -> Iterator[tuple[str, str]]:
    """(rule, changed line) of every place on a line of Verilog."""
    code = line.split("//")[0]
    if _NOTHING_TO_DO.search(code) or not code.strip():
        return
    first = code.find("=") if re.match(r"\s*(wire|reg|localparam)\b", code) else -1  # what is declared is not behaviour
    tokens = [t for t in _VERILOG_TOKEN.finditer(code) if t.start() > first]
    open_at: list[bool] = []  # of each open parenthesis: is it an index, or the parameters of an instance?
    for index, token in enumerate(tokens):
        text = token.group()
        before, after = code[: token.start()], line[token.end() :]
        if text in ("(", "{", "["):
            open_at.append(text == "[" or before.endswith("#"))
        elif text in (")", "}", "]"):
            open_at = open_at[:-1]
        elif any(open_at):
            continue  # another width does not build
        elif text == "?":
            swapped = _swap_arms(tokens, index, code)
            if swapped is not None:
                yield "arms of ?:", swapped
        elif text in ("!", "~"):
            yield f"drop {text}", before + after
        elif text == "<=" and not open_at and "=" not in before and "?" not in before:
            continue  # a nonblocking assignment
        elif text in SWAPS:
            yield f"{text} -> {SWAPS[text]}", before + SWAPS[text] + after
        elif token.lastgroup in ("sized", "number") and not re.search(r"[#.]\s*$", before):
            yield f"{text} -> {_next_constant(text)}", before + _next_constant(text) + after


_CPP_TOKEN = re.compile(
    r"(?P<string>\"[^\"]*\")|(?P<template>\bap_u?int<[^;>]*>)|(?P<hex>0x[0-9A-Fa-f]+)|(?P<word>[A-Za-z_]\w*)|(?P<number>\d+)"
    r"|(?P<op><<|>>|\+\+|--|\+=|-=|\|=|<=|>=|==|!=|&&|\|\||[-+<>&|!?:;,(){}\[\]=*/%.])"
)
_CPP_SWAPS = SWAPS | {"++": "--", "--": "++", "+=": "-=", "-=": "+="}
_CPP_FILES = ("*.cpp", "arithmetic.h", "types.h")
_CPP_NOTHING_TO_DO = re.compile(r"^\s*(#|typedef\b|(const )?[\w<> *+]+ [\w\[\], *]+;)|AX_ERR_\w+;$")


def _cpp_line(line: str) -> Iterator[tuple[str, str]]:
    """(rule, changed line) of every place on a line of C++; the head of a `for`, declarations and error codes stay."""
    code = line.split("//")[0]
    if not code.strip() or (_CPP_NOTHING_TO_DO.search(code) and "return" not in code):
        return
    head = re.match(r"\s*for \([^)]*\)", code)
    tokens = [t for t in _CPP_TOKEN.finditer(code) if head is None or t.start() >= head.end()]
    for index, token in enumerate(tokens):
        text = token.group()
        before, after = code[: token.start()], line[token.end() :]
        if text == "?":
            swapped = _swap_arms(tokens, index, code)
            if swapped is not None:
                yield "arms of ?:", swapped
        elif text == "!":
            yield "drop !", before + after
        elif text == "&" and not after.startswith(" "):
            continue  # a reference
        elif token.lastgroup == "op" and text in _CPP_SWAPS:
            yield f"{text} -> {_CPP_SWAPS[text]}", before + _CPP_SWAPS[text] + after
        elif token.lastgroup == "number":
            yield f"{text} -> {int(text) + 1}", before + str(int(text) + 1) + after


def _skipped_nodes(tree: ast.AST) -> set[ast.AST]:
    """Annotations, docstrings, decorators, imports, error messages and assertions, with all below them."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.Assert):
            roots.append(node)
        elif isinstance(node, ast.FunctionDef):
            roots += [*node.decorator_list, *([node.returns] if node.returns else [])]
        elif isinstance(node, ast.ClassDef):
            roots += node.decorator_list
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            roots.append(node.annotation)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            roots.append(node)
    return {below for root in roots for below in ast.walk(root)}


_PYTHON_OPERATOR: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.LShift: "<<", ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_WORD_SWAPS = {"and": "or", "or": "and"}


def _python_sites(text: str) -> Iterator[tuple[int, str, str]]:
    """(line number, rule, changed line) of every place in a Python file."""
    lines = text.splitlines()
    tree = ast.parse(text)
    skipped = _skipped_nodes(tree)

    def between(left: ast.expr, right: ast.expr, operator: str, other: str) -> Iterator[tuple[int, str, str]]:
        number = right.lineno
        if left.end_lineno != number:
            return
        line = lines[number - 1]
        at = line.find(operator, left.end_col_offset, right.col_offset)
        if at >= 0:
            yield number, f"{operator} -> {other}", line[:at] + other + line[at + len(operator) :]

    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in _PYTHON_OPERATOR:
            operator = _PYTHON_OPERATOR[type(node.op)]
            yield from between(node.left, node.right, operator, SWAPS[operator])
        elif isinstance(node, ast.Compare):
            for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                if type(op) in _PYTHON_OPERATOR:
                    operator = _PYTHON_OPERATOR[type(op)]
                    yield from between(left, right, operator, SWAPS[operator])
        elif isinstance(node, ast.BoolOp):
            word = "and" if isinstance(node.op, ast.And) else "or"
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right, word, _WORD_SWAPS[word])
        elif isinstance(node, ast.AugAssign) and type(node.op) in _PYTHON_OPERATOR:
            operator = _PYTHON_OPERATOR[type(node.op)]
            other = SWAPS[operator]
            yield from between(node.target, node.value, operator + "=", other + "=")
        elif isinstance(node, ast.UnaryOp) and node.lineno == node.operand.lineno:
            line = lines[node.lineno - 1]
            name = line[node.col_offset : node.operand.col_offset].strip("( ")
            yield node.lineno, f"drop {name}", line[: node.col_offset] + line[node.operand.col_offset :]
        elif isinstance(node, ast.IfExp) and node.lineno == node.end_lineno:
            line = lines[node.lineno - 1]
            parts = [line[n.col_offset : n.end_col_offset] for n in (node.orelse, node.test, node.body)]
            changed = f"{parts[0]} if {parts[1]} else {parts[2]}"
            yield node.lineno, "arms of if else", line[: node.col_offset] + changed + line[node.end_col_offset :]
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int):
            line = lines[node.lineno - 1]
            new = str(not node.value) if isinstance(node.value, bool) else str(node.value + 1)
            yield node.lineno, f"{node.value} -> {new}", line[: node.col_offset] + new + line[node.end_col_offset :]


def sites(root: Path, kind: str) -> list[Mutant]:
    """Every mutant that the rules give in the files of a kind."""
    if kind == "rtl":
        paths = sorted((root / "rtl").glob("*.v"))
    elif kind == "hls":
        folder = root / "fpga" / "hls"
        paths = sorted(path for name in _CPP_FILES for path in folder.glob(name) if path.name != "testbench.cpp")
    elif kind == "numerics":
        paths = [root / "isa" / "numerics.py"]
    else:
        paths = sorted((root / "timing").glob("*.py"))
    found = []
    for path in paths:
        text = path.read_text()
        file = str(path.relative_to(root))
        lines = text.splitlines()
        if kind == "rtl":
            initial = False
            for number, line in enumerate(lines, 1):
                initial = initial or re.match(r"\s*initial begin", line) is not None
                if not initial:
                    found += [Mutant(kind, file, number, rule, line, new) for rule, new in _verilog_line(line)]
                initial = initial and not re.match(r"\s*end\b", line)
        elif kind == "hls":
            numbered = enumerate(lines, 1)
            found += [Mutant(kind, file, number, rule, line, new) for number, line in numbered for rule, new in _cpp_line(line)]
        else:
            found += [Mutant(kind, file, number, rule, lines[number - 1], new) for number, rule, new in _python_sites(text)]
    return [m for m in dict.fromkeys(found) if m.before.split() != m.after.split()]


def _quotas(sizes: Sequence[int], count: int) -> list[int]:
    """`count` dealt out in proportion to the square roots of the sizes (largest remainders): small files get some too."""
    weights = [size**0.5 for size in sizes]
    exact = [count * weight / sum(weights) for weight in weights]
    given = [int(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda i: exact[i] - given[i], reverse=True)
    for i in order[: count - sum(given)]:
        given[i] += 1
    return given


def choose(root: Path, kind: str, count: int, seed: int, file: str | None = None) -> list[list[Mutant]]:
    """`count` places (all in `file`, if given): each a list of which the first that builds is tried. No mutant occurs twice."""
    by_file: dict[str, list[Mutant]] = {}
    for mutant in sites(root, kind):
        if file in (None, mutant.file):
            by_file.setdefault(mutant.file, []).append(mutant)
    if not by_file:
        return []
    places: list[list[Mutant]] = []
    for (name, found), quota in zip(by_file.items(), _quotas([len(f) for f in by_file.values()], count), strict=True):
        if not quota:
            continue
        rng = random.Random(f"{seed} {name}")
        rng.shuffle(found)
        by_line: dict[int, list[Mutant]] = {}
        for mutant in found:
            by_line.setdefault(mutant.number, []).append(mutant)
        dealt = [line[i] for i in range(max(map(len, by_line.values()))) for line in by_line.values() if i < len(line)]
        places += [dealt[i::quota] for i in range(min(quota, len(dealt)))]
    return places
