"""Write docs/forms.md: tiny models of every family in every form that files have, each compiled, run and held to onnxruntime.

python docs/forms.py            # writes it, in some minutes
python docs/forms.py --check    # exits 1 if a cell is not what the page says (a test does this)
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "compiler"))

from form_cells import Cell, measured  # noqa: E402
from form_files import BOUNDED, FORMS, MODELS, WRITTEN  # noqa: E402

PAGE = ROOT / "docs" / "forms.md"
MORE, LEAST = 1.25, 0.002
"""How much larger than the page's an error may be where onnxruntime runs on another processor: a factor and a summand."""
RATIO = 1.1
"""Most that the machine may be from the float model, over onnxruntime on the same file, in forms whose codes say it all."""
HEAD = """# Forms of models

Made by `python docs/forms.py` from what was compiled and run; tests hold it to that. Rows are tiny models with random
weights, most of them as PyTorch's exporter writes them ([files](../tests/compiler/models)), columns are
[forms of a file](../tests/compiler/form_files.py):

{forms}
A cell is the relative error against onnxruntime on the same file, its optimizations disabled: the norm of the difference over
the norm of what onnxruntime gives, on 2 to 96 samples, target `test`, options as they are by default. In brackets stands, of
forms with codes, the machine's distance from the float model over onnxruntime's on that file: 1 is what the file's own codes
cost. (NBits 8 has 8 bits of activations here, and onnxruntime floats. Static scales leave little of models with random weights:
onnxruntime itself is 0.2 to 0.7 from float there, and rounding one pair less, as inside of a norm, moves many codes.)

- Without further words: **whole**, every operator between the first rows and the outputs is on the accelerator.
- `host N`: the linears with all multiply-accumulates are on the accelerator, N operators on the host, those that only move
  elements included: of convolutions these lay out patches.
- `refused`: with the error's words. `-`: the tool leaves such a file as it was, or there is none.

"""


def text(cell: Cell | None) -> str:
    """A cell as the page has it."""
    if cell is None:
        return "-"
    if cell.refusal:
        return f"refused: {' '.join(cell.refusal.split())}".replace("|", "/")
    ratio = "" if cell.ratio is None else f" ({cell.ratio:.2f})"
    return f"{cell.error:.3f}{ratio}" + (f", host {cell.host}" if cell.host else "")


def parsed(page: str) -> dict[tuple[str, str], str]:
    """(model, form) -> the page's cell."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    _, *forms = lines[0]
    return {(title, form): cell for title, *cells in lines[2:] for form, cell in zip(forms, cells, strict=True)}


def differs(said: str, cell: Cell | None, form: str) -> str:
    """How a cell differs from what the page says of it; "" where it does not."""
    now = text(cell)
    if cell is None or cell.refusal or said[0] not in "0123456789":
        return "" if said == now else f"{now}, and the page says {said}"
    if said.partition(", ")[2] != now.partition(", ")[2]:
        return f"{now}, and the page says {said}"
    if cell.error > float(said.split()[0].rstrip(",")) * MORE + LEAST:
        return f"{now} is further off than the page's {said}"
    return f"{now}: {RATIO} is the bound of the ratio" if form in BOUNDED and (cell.ratio or 0) > RATIO else ""


def is_whole(said: str) -> bool:
    """Whether a cell of the page ran whole."""
    return said[0].isdigit() and "host" not in said


def page(only: Collection[str], before: str) -> str:
    """The page, from a run of every cell; with `only`, of those rows and columns, the others as the page before has them."""
    logging.disable(logging.WARNING)
    known = parsed(before) if only else {}
    cells = [(tiny, form) for tiny in MODELS for form in FORMS if not only or {tiny.title, form} & {*only}]
    known |= {(tiny.title, form): text(measured(tiny, form)) for tiny, form in cells}
    parts = [HEAD.format(forms="".join(f"- {form}: {how}\n" for form, how in WRITTEN.items()))]
    there = [said for said in known.values() if said != "-"]
    refusals = sum(said.startswith("refused") for said in there)
    parts.append(f"{sum(map(is_whole, there))} of {len(there)} cells run whole, {refusals} are refused.\n\n")
    parts.append(f"| model | {' | '.join(FORMS)} |\n|{' --- |' * (len(FORMS) + 1)}\n")
    for tiny in MODELS:
        parts.append(f"| {tiny.title} | {' | '.join(known[tiny.title, form] for form in FORMS)} |\n")
    return "".join(parts)


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("only", nargs="*", help="rows and columns to write anew, the others stay; none: all")
    options = parser.parse_args()
    if not options.check:
        PAGE.write_text(page(options.only, PAGE.read_text() if options.only else ""))
        return 0
    logging.disable(logging.WARNING)
    said = parsed(PAGE.read_text())
    wrong = [f"{t.title}, {f}: {how}" for t in MODELS for f in FORMS if (how := differs(said[t.title, f], measured(t, f), f))]
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
