"""Write docs/phases.md: a linear with a LoRA branch, and an attention, phase by phase, from the dumps of two compilations.

python docs/phases.py            # writes it
python docs/phases.py --check    # exits 1 if it is not what the compiler says (a test does this)
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import axlora
from axlora.isa.assembly import disassemble
from axlora.isa.instruction import decode
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.program import Program
from axlora.sequences import Sequences

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "phases.md"
MODELS = "tests/compiler/models"
LINEAR = "bert.encoder.layer.0.attention.self.query"
MASK = "where"
"""The ONNX tensor that is added to the scores: 0, or the least float where a key is padding."""
WIDTH = 150


@dataclass(frozen=True)
class Line:
    """A line of a dump that computes something."""

    text: str
    made: str
    """Name of what it computes."""
    read: frozenset[str]


@dataclass(frozen=True)
class Compiled:
    """A compilation and its dumps."""

    program: Program
    dumps: dict[str, str]
    """File -> text."""


def compiled(operators: str, folder: Path) -> Compiled:
    """The model of the page with its adapter."""
    program = axlora.compile(
        ROOT / MODELS / "bert-lora.dynamo.onnx",
        "test",
        adapters={"law": ROOT / MODELS / "bert-lora"},
        shapes={"batch": 1, "sequence": 8},
        operators=operators,
        dump_passes=folder,
    )
    return Compiled(program, {path.name: path.read_text() for path in folder.iterdir()})


# What dumps say


def nodes(dump: str) -> list[Line]:
    """The nodes of a dumped ONNX graph, in order."""
    found = re.finditer(r"^ +(?:\[\S+\] )?(\S+) = (\w+ .*)$", dump, re.M)
    return [Line(m[0].strip(), m[1], frozenset(re.findall(r"[\w.]+", m[2].rpartition(" (")[2]))) for m in found]


def bindings(dump: str, function: str = "main") -> list[Line]:
    """The bindings of a function of a dumped Relax module, in order."""
    body = re.split(r"^    @", dump.partition(f"    def {function}(")[2], maxsplit=1, flags=re.M)[0]
    found = re.finditer(r"^ {12}(\w+)(?:: [^\n]*?)? = (.*)$", body, re.M)
    return [Line(m[0].strip(), m[1], frozenset(re.findall(r"[A-Za-z_]\w*", m[2]))) for m in found]


def results(dump: str) -> list[str]:
    """The variables that `main` returns, in order."""
    text = re.search(r"R\.Tuple\(.*?\)\) = (.*)$", bindings(dump)[-1].text)
    assert text is not None
    return re.split(r", (?![^(\[]*[)\]])", text[1])


def variables(graph: Iterable[Line], module: str) -> dict[str, str]:
    """Tensor of the ONNX graph -> its variable: `main` returns what nodes compute, in their order; constants are constants."""
    made = (node.made for node in graph if not re.search(r" = Constant ", node.text))
    return dict(zip(made, results(module), strict=True))


def needed(lines: Iterable[Line], wanted: str, given: Collection[str]) -> list[Line]:
    """The lines that compute `wanted` from `given`, in order."""
    left, found = {wanted}, []
    for line in reversed(list(lines)):
        if line.made in left and line.made not in given:
            found.append(line)
            left |= line.read
    return found[::-1]


def field(text: str, name: str) -> str:
    """A string field of a dumped dataclass."""
    found = re.search(rf"\b{name}='([^']*)'", text)
    assert found is not None, (name, text)
    return found[1]


def shortened(found: str) -> str:
    """A dumped dataclass, of arrays the shapes alone; functions, whose text is an address, left out."""
    arrays = re.sub(r"array\(.*?shape=\(([\d, ]+?),?\)\)", r"array[\1]", found)
    return re.sub(r"<function .*? at 0x\w+>", "…", arrays)


def without_parts(lines: Iterable[Line]) -> list[Line]:
    """Without the lines that take a result out of a tuple."""
    return [line for line in lines if not re.search(r" = \w+\[\d+\]$", line.text)]


# The page


def quoted(lines: Iterable[str | Line], language: str = "text") -> str:
    """A block of code, lines cut."""
    texts = [line.text if isinstance(line, Line) else line for line in lines]
    cut = [text if len(text) <= WIDTH else text[: WIDTH - 1] + "…" for text in texts]
    assert cut
    return "\n".join((f"```{language}", *cut, "```\n"))


def said(text: str) -> str:
    """A paragraph."""
    return f"\n{' '.join(text.split())}\n"


def instructions(numbered: Iterable[tuple[int, str]], opcodes: Collection[str]) -> list[str]:
    """Those of some opcodes that move or compute something; fences of semaphores have no words or beats."""
    empty = re.compile(r" (words=0 (?!.*rz=)|beats=0 )")
    return [f"{n:4} {text}" for n, text in numbered if text.split()[0] in opcodes and not empty.search(f"{text} ")]


def form(instruction: str) -> str:
    """An instruction without its number, places and fences; the place of a VROW tells a fraction and stays."""
    places = "a|b|token|acc|line|add|wait|post" + ("" if "VROW" in instruction else "|to")
    return re.sub(rf"^\s*\d+| (?:{places})=\S+", "", instruction)


def linear(made: Compiled) -> Iterator[str]:
    """The road of the linear."""
    dumps = made.dumps
    found = next(line for line in dumps["2_recognised.txt"].splitlines() if f"name='{LINEAR}'" in line)
    x, y = field(found, "x_name"), field(found, "output_name")
    graph = nodes(dumps["0_normalised.txt"])
    yield "\n## A linear with a LoRA branch\n"
    yield said(f'`{LINEAR}`, `operators="linears"`: y = x·W + bias + 1.6 · (x·A)·B, 24 features to 24, rank 5.')
    yield said("""
        **0_normalised.txt.** Shapes are fixed and constants are tensors; one node is one operator. The branch that PEFT
        left in the graph is two more products.
    """)
    yield quoted(needed(graph, y, {x}))
    imported = dumps["1_import.py"]
    variable = variables(graph, imported)
    yield said("""
        **1_import.py.** TVM's importer made a Relax binding of each node. `main` returns every tensor, so each
        variable is known by its ONNX name; weights are parameters, whose values stay in the file.
    """)
    yield quoted(needed(bindings(imported), variable[y], {variable[x]}), "python")
    yield said("""
        **2_recognised.txt.** From the bindings alone: a product with a constant, what is added to it, and products of
        products beside it are one linear with its branch, in whatever order. `nodes` are the ONNX nodes that it stands
        for.
    """)
    yield quoted(textwrap.wrap(shortened(found), WIDTH, subsequent_indent="    ", break_long_words=False))
    lowered = bindings(dumps["3_lower_linears.py"])
    result = next(line.made for line in lowered if "ax_requantize" in line.text and "w0_bias" in line.read)
    own = needed(lowered, result, ())
    codes = next(n for n, line in enumerate(own) if "ax_quantize_tokens" in line.text)
    yield said("""
        **3_lower_linears.py.** The same function, in which the linear became integers: codes of x with a scale a token,
        int8 products with 32-bit sums, x·A to codes with an exponent a token, and base and branch in one wide sum
        before it is rounded. `w0_a` and `w0_b` are those of the graph's branch (adapter `graph`) or of the directory's
        (`law`). The other bindings of `main` stay as they are: the host part.
    """)
    yield quoted(without_parts(own[codes - 1 :]), "python")
    parts = dumps["4_partition.py"]
    call = next(line for line in bindings(parts) if "w0_weight" in line.read)
    region = re.search(r"cls\.(fused_\w+)\(", call.text)
    assert region is not None
    function = parts.partition(f"    def {region[1]}(")[2]
    attributes = re.findall(r"R\.func_attr\(.*\)", function)[:2]
    yield said("""
        **4_partition.py.** The pattern of these calls became a composite function, and composites merge into regions:
        what has `Codegen` is the accelerator's, and a region's place in `main` is the stage of its program. Compiling
        stops if a linear is in none. What is left is float; the whole of it, host part and regions, also runs by LLVM
        (`reference/linear_module.py`).
    """)
    yield quoted([f"def {region[1]}({function.splitlines()[0]}", *(f"    {a}" for a in attributes), call.text], "python")
    _, data, marks = made.program.listing()[0]
    programs = [data[n : n + INSTRUCTION_BYTES] for n in range(0, len(data), INSTRUCTION_BYTES)]
    owner = [marks[max(m for m in marks if m <= n)] for n in range(len(programs))]
    own = [(n, disassemble(decode(i))) for n, i in enumerate(programs) if owner[n] == LINEAR]
    wanted = [text for text in instructions(own, ("LOAD", "SEGW", "MATMUL", "VQT", "VREQ", "STORE")) if "buffer=2" not in text]
    first = next(place for place, text in enumerate(wanted) if "STORE" in text)
    yield said("""
        **5_program.asm** (settings and records left out), up to the first result, numbered from 0.
        Segment 0 is W, segment 1 A's columns: one MATMUL runs both. VQT makes codes of x·A, a later MATMUL multiplies
        them by B, VREQ joins and rounds. The adapter's address (rx=8) and sizes (rz=9, rz=10) are registers.
    """)
    yield quoted(wanted[: first + 1])


def attention(made: Compiled) -> Iterator[str]:
    """The road of the attention."""
    dumps = made.dumps
    op = next(line for line in dumps["3_recognised.txt"].splitlines() if line.startswith("Attention("))
    q, k, v, y = (field(op, name) for name in "qkvy")
    graph = nodes(dumps["0_normalised.txt"])
    constants = {node.made for node in graph if re.search(r" = Constant ", node.text)}
    given = {q, k, v, MASK}
    after = next(node for node in graph if y in node.read)
    result = next(node.made for node in graph if after.made in node.read)
    yield "\n## An attention\n"
    yield said(f"""
        The one of layer 0, `operators="all"`: q, k and v are results of linears, `{q}`, `{k}` and `{v}`; 4 heads of 6
        features, 8 tokens.
    """)
    yield said(f"""
        **0_normalised.txt.** Heads are taken apart by reshapes and transposes, and put together again; `{MASK}` is 0,
        or the least float for a key that is padding.
    """)
    yield quoted(needed(graph, result, given | constants))
    plain = dumps["2_plain_indices.py"]
    variable = variables(graph, plain)
    names = ", ".join(f"`{variable[name]}`" for name in (q, k, v))
    yield said(f"**2_plain_indices.py.** The same in Relax, {names} and the mask `{variable[MASK]}` given.")
    yield quoted(needed(bindings(plain), variable[result], {variable[name] for name in given}), "python")
    yield said("""
        **3_recognised.txt.** One operator: which elements of its rows a head reads was followed through the reshapes
        (from feature `first`, the next head `stride` further), and the mask was run for five masks of padding and is
        exactly that of padding, so it is no tensor any more.
    """)
    yield quoted(textwrap.wrap(op, WIDTH, subsequent_indent="    "))
    lowered = dumps["4_lower_rows.py"]
    call = next(line for line in bindings(lowered) if "cls.ax_attention(" in line.text)
    read = re.search(r"\((.*)\)", call.text.partition(" = ")[2])
    assert read is not None
    places = read[1].split(", ")[-1]
    text = lowered.partition("    def ax_attention(")[2].partition("    @R.function")[0].splitlines()
    attributes = next(line.strip() for line in text if "R.func_attr" in line)
    yield said(f"""
        **4_lower_rows.py.** The operator is a composite function, its fields and the largest magnitude of its result
        attributes. `main` calls it where values are rows of 32-bit integers; what made the first rows stays in front.
        `{places}`, which the host has from the mask, is the place of the first row, and how many are no padding.
    """)
    wrapped = textwrap.wrap(attributes, WIDTH, initial_indent="    ", subsequent_indent="        ")
    yield quoted([f"def ax_attention({text[0]}", *wrapped, call], "python")
    parts = dumps["5_partition.py"]
    after = bindings(parts)
    region = next(n for n, line in enumerate(after) if "cls.fused_ax_input" in line.text)
    yield said("""
        **5_partition.py.** All composites merge into one region with `Codegen`, which is what the backend reads
        (`rows/read_region.py`). The weights of linears are its parameters, arrays of numbers constants that `main`
        passes. The rest is the host's; the whole of it runs by LLVM (`reference/whole_module.py`).
    """)
    yield quoted(after[region - 1 :], "python")
    integers = dumps["6_integers.py"]
    start = re.findall(r"def (start_\d+)\(", integers)[0]
    every = bindings(integers, start)
    rows = [next(b.made for b in every if "ax_requantize" in b.text and f"w{n}_bias" in b.read) for n in range(3)]
    heads = re.search(r"R\.concat\(\((\w+),", integers)
    assert heads is not None
    head = needed(every, heads[1], rows)
    appends = [b.made for b in head if "ax_append" in b.text]
    cached = [a for a in appends if any(rows[2] in line.read for line in needed(head, a, ()))]
    held = " and ".join(f"`{c}`" for c in cached)
    yield said(f"""
        **6_integers.py.** The first head in the row operations of the machine (`rows/formulas.py`); `{rows[0]}` and
        `{rows[1]}` are q and k. Codes of k, with a scale a row, are appended to the cache, and v's likewise ({held},
        not shown). q's codes times k's are scores (`ax_summed`), times k's scales
        (`ax_weigh`), less their largest, through exp (`ax_map_8`); these times v's scales (`ax_weigh_1`) as codes times
        v's (`ax_summed_1`), over their sum (`ax_map_9`). Lines that take a result out of a tuple are left out.
    """)
    yield quoted(without_parts(needed(every, heads[1], {*rows, *cached})), "python")
    (function,) = made.program.functions
    interface = made.program.interface
    assert isinstance(interface, Sequences)
    place = next(n for n, o in enumerate(interface.operators) if o.kind == "Attention")
    file = f"7_program_{function.rows}.asm"
    owned = zip(dumps[file].splitlines(), interface.owners[function.name], strict=True)
    own = [(n, text) for n, (text, owner) in enumerate(owned) if owner == place]
    keys = instructions(own, ("VMAP", "VROW", "STORE"))
    wanted = instructions(own, ("VMAP", "VROW", "MATMUL", "VREQ"))
    first = next(n for n, text in enumerate(wanted) if "MATMUL" in text)
    last = next(n for n, text in enumerate(wanted) if n > first and "scale=3" in text)
    stores = [n for n, text in enumerate(keys) if "STORE" in text]
    yield said(f"""
        **{file}**, numbered from 0; settings, loads and fences left out. Two rows are taken at a time, as many as the
        target has tokens. First k of the first head: largest magnitude, scale and reciprocal, codes; codes and scales
        of all heads are stored in the cache together.
    """)
    yield quoted([*keys[:3], *(keys[n] for n in stores[:2])])
    yield said("""
        Then, when all keys are there, all four heads of the first two rows together, in the order of the bindings above: a
        VMAP or VROW of eight rows each, for `ax_summed` and `ax_summed_1` a MATMUL a head, of the first here, and a VREQ
        of four banks. Where the next two groups begin is left out.
    """)
    begun = {form(text) for text in wanted[first - 3 : first + 1]}
    rest = []
    for text in wanted[first + 1 : last + 1]:
        kind = form(text)
        if kind not in begun:
            rest.append(text)
            begun |= {kind} if re.search("MATMUL|VREQ", text) else set()
    yield quoted([*wanted[first - 3 : first + 1], *rest])


def page() -> str:
    """The page."""
    with tempfile.TemporaryDirectory() as folder:
        linears, every = (compiled(kind, Path(folder) / kind) for kind in ("linears", "all"))
    head = said(f"""
        One linear with a LoRA branch and one attention through [the road of a model](architecture.md#the-road-of-a-model), cut
        out of the dumps by `python docs/phases.py`; a test holds the page to the compiler. Lines end at {WIDTH} characters. The
        model is a BERT with PEFT branches in its graph, and the adapter a directory:
    """)
    command = f"""
    axlora compile {MODELS}/bert-lora.dynamo.onnx -o out.axl --target test --shape batch=1 --shape sequence=8 \\
        --adapter law={MODELS}/bert-lora --operators linears --dump-passes dumps     # and once with all
"""
    return "".join(("# Phases\n", head, command, *linear(linears), *attention(every)))


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    logging.getLogger("axlora").setLevel(logging.ERROR)
    made = page()
    if options.check:
        same = PAGE.is_file() and PAGE.read_text() == made
        sys.stdout.write("" if same else "docs/phases.md is not what the compiler says: python docs/phases.py\n")
        return 0 if same else 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
