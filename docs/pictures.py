"""Write docs/pictures: the road of a model, the machine (isa/), phases (dumps), a timeline and the page of a run.

python docs/pictures.py            # writes the drawings, and takes report.png with Chromium
python docs/pictures.py --check    # exits 1 if a drawing is not what the code and the run say (a test does this)
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

import axlora
from axlora.isa.opcodes import INSTRUCTION_BYTES, QUEUE_DEPTH, SEMAPHORES, UNIT_OF, Buffer, Unit
from axlora.sim.timeline import UNITS
from axlora.tracing import Traced

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
INK, SOFT, LINE, PAPER = "#1c2430", "#5b6675", "#8b97a6", "#ffffff"
FILLS = ("#dbe9f9", "#fde5d3", "#e6def3", "#dcefe0", "#f8edc8", "#f3dbe3")
COLOURS = ("#2f7ed8", "#e8743b", "#8e6bbf", "#13a4b4", "#d9a514", "#b44a6c")
MODES = {"a model with a host part": "linears", "a whole model": "all"}


class Drawing:
    """An SVG under construction; lengths in pixels."""

    def __init__(self, width: int, height: int) -> None:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        self._lines = [f'{head} font-family="system-ui, sans-serif" font-size="13">']
        self._lines.append(f'<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
                           f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>')  # fmt: skip
        self.bar(0, 0, width, height, PAPER)

    def bar(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A filled rectangle."""
        self._lines.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"/>')

    def text(self, x: float, y: float, text: str, colour: str = INK, anchor: str = "middle", weight: int = 400) -> None:
        """A line of text; y is its base line."""
        place = f'x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
        self._lines.append(f"<text {place}>{escape(text)}</text>")

    def box(self, x: float, y: float, width: float, height: float, fill: str, title: str, lines: Sequence[str] = ()) -> None:
        """A box with a title and lines below it."""
        frame = f'rx="6" fill="{fill}" stroke="{LINE}"'
        self._lines.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {frame}/>')
        top = y + height / 2 - 8.5 * len(lines) + 4.5
        self.text(x + width / 2, top, title, weight=600)
        for n, line in enumerate(lines, 1):
            self.text(x + width / 2, top + 17 * n, line, SOFT)

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through points, with a tip at its end."""
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._lines.append(f'<polyline points="{way}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"/>')

    def svg(self) -> str:
        """The file."""
        return "\n".join([*self._lines, "</svg>", ""])


def _opcodes(unit: Unit) -> list[str]:
    """Opcodes of a unit, in lines."""
    return textwrap.wrap(" ".join(opcode.name for opcode, own in UNIT_OF.items() if own is unit), 18)


def flow() -> str:
    """From files to runs, and what equals what."""
    d = Drawing(900, 250)
    d.box(20, 40, 150, 44, FILLS[1], "model", ["ONNX, Hugging Face"])
    d.box(20, 130, 150, 44, FILLS[1], "adapters", ["PEFT and others"])
    d.box(
        210,
        40,
        190,
        134,
        FILLS[0],
        "compiler/",
        ["frontend: read", "passes: Relax, ax_*", "rows: row operations", "backend: instructions"],
    )
    d.box(210, 198, 190, 44, FILLS[3], "isa/, timing/", ["the machine, once"])
    d.box(440, 85, 130, 44, FILLS[4], "package", [".axl"])
    d.box(640, 20, 230, 44, FILLS[2], "compiler/reference", ["integers by LLVM and NumPy"])
    d.box(640, 100, 230, 44, FILLS[2], "sim/", ["simulator"])
    d.box(640, 180, 230, 44, FILLS[2], "rtl/", ["Verilog, in Verilator"])
    d.arrow((170, 62), (208, 62))
    d.arrow((170, 152), (208, 152))
    d.arrow((305, 198), (305, 176))
    d.arrow((400, 107), (438, 107))
    d.arrow((400, 55), (605, 55), (605, 42), (638, 42))
    d.arrow((570, 107), (605, 107), (605, 122), (638, 122))
    d.arrow((570, 118), (590, 118), (590, 202), (638, 202))
    d.text(755, 87, "equal bit for bit", SOFT)
    d.text(755, 167, "equal bit for bit, cycle for cycle", SOFT)
    return d.svg()


def machine() -> str:
    """The five units, the buffers between them, memory."""
    d = Drawing(900, 430)
    d.box(20, 20, 860, 44, FILLS[4], "memory: programs, weights, tables, adapters, activations (AXI4)")
    d.box(20, 100, 150, 90, FILLS[3], "fetch", _opcodes(Unit.FETCH))
    d.arrow((95, 64), (95, 98))
    d.box(
        200,
        100,
        660,
        26,
        PAPER,
        f"a queue of {QUEUE_DEPTH} instructions for each unit; {SEMAPHORES} counting semaphores between them",
    )
    d.arrow((170, 113), (198, 113))
    places = {Unit.LOAD: 200, Unit.MATRIX: 345, Unit.VECTOR: 530, Unit.STORE: 735}
    widths = {Unit.LOAD: 115, Unit.MATRIX: 155, Unit.VECTOR: 175, Unit.STORE: 125}
    for unit in UNITS:
        x, width = places[unit], widths[unit]
        d.box(x, 150, width, 110, FILLS[0], unit.name.lower(), _opcodes(unit))
        d.arrow((x + width / 2, 126), (x + width / 2, 148))
    loaded = [b.name for b in Buffer if b is not Buffer.WKEY]
    d.box(200, 300, 300, 50, FILLS[1], "written by load", [" ".join(loaded)])
    d.box(530, 300, 330, 50, FILLS[2], "written by matrix (ACC) and vector", ["ACC UBUF VBUF OBUF"])
    d.arrow((185, 64), (185, 205), (198, 205))
    d.arrow((257, 260), (257, 298))
    d.arrow((400, 298), (400, 262))
    d.arrow((450, 260), (450, 280), (545, 280), (545, 298))
    d.arrow((590, 260), (590, 298))
    d.arrow((650, 298), (650, 262))
    d.arrow((797, 298), (797, 262))
    d.arrow((860, 205), (872, 205), (872, 66))
    words = (
        "A lane of matrix holds an activation and streams its row's codes: each product is made once and kept (engine reuse)."
    )
    d.text(450, 385, words, SOFT)
    d.text(
        450,
        405,
        "Vector requantizes, adds B (x A), norms, functions, softmax; results go to memory, or back to matrix through UBUF.",
        SOFT,
    )
    return d.svg()


def pipeline(folder: Path) -> str:
    """What `--dump-passes` writes of one model, in both ways to compile it: a box a file, an arrow to the next."""
    found = {}
    for title, operators in MODES.items():
        dump = folder / f"dump_{operators}"
        _compiled(folder, operators=operators, dump_passes=dump)
        names = [re.fullmatch(r"(\d+)_(\w+?)(_\d+)?\.(\w+)", path.name) for path in dump.iterdir()]
        found[title] = list(
            dict.fromkeys((int(m[1]), m[2].replace("_", " ")) for m in sorted(filter(None, names), key=lambda m: int(m[1])))
        )
    most = max(map(len, found.values()))
    step = 108
    d = Drawing(30 + step * (most + 1), 190)
    for row, (title, names) in enumerate(found.items()):
        y = 40 + 85 * row
        d.text(20, y - 12, title, anchor="start", weight=600)
        for n, (number, name) in enumerate(names):
            x = 20 + step * n
            d.box(x, y, step - 18, 44, FILLS[n % len(FILLS)], name.split()[0], [" ".join(name.split()[1:]) or f"dump {number}"])
            d.arrow((x + step - 18, y + 22), (x + step - 1, y + 22))
        d.box(20 + step * len(names), y, step - 18, 44, PAPER, "package", [".axl"])
    return d.svg()


def timeline(folder: Path) -> str:
    """What each unit did in a run: a bar an instruction, coloured by layer; the spaces between them are waits."""
    program = _compiled(folder)
    engine = Traced()
    run = program.session(engine=engine).run(dict(np.load(folder / "in.npz")))
    (start,) = engine.starts
    trace = start.trace
    marks = program.interface.marks(program, 0)
    firsts, layers = np.array(list(marks)), list(marks.values())
    owners = np.searchsorted(firsts, (trace.address - start.function.address) // INSTRUCTION_BYTES, side="right") - 1
    names = list(dict.fromkeys(layers))
    left, width, row = 70, 880, 34
    d = Drawing(left + width + 20, 60 + row * len(UNITS) + 40)
    for n, name in enumerate(names):
        x = left + 150 * n
        d.bar(x, 14, 12, 12, COLOURS[n % len(COLOURS)])
        d.text(x + 18, 25, name, anchor="start")
    for place, unit in enumerate(UNITS):
        y = 44 + row * place
        d.text(left - 10, y + 18, unit.name.lower(), anchor="end")
        d.bar(left, y, width, row - 8, "#eef1f4")
        for begin, end, owner in _merged(trace.accept, trace.done, owners, np.flatnonzero(trace.unit == unit)):
            colour = COLOURS[names.index(layers[owner]) % len(COLOURS)]
            d.bar(left + round(begin * width / run.cycles, 2), y, round((end - begin) * width / run.cycles, 2), row - 8, colour)
    y = 44 + row * len(UNITS) + 14
    for share in (0, 0.25, 0.5, 0.75, 1):
        d.text(left + width * share, y, f"{round(run.cycles * share):,}", SOFT)
    d.text(left + width / 2, y + 20, "cycles", SOFT)
    return d.svg()


def _merged(begin: np.ndarray, end: np.ndarray, owner: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Instructions of a layer that follow each other without a wait, as one."""
    last: tuple[int, int, int] | None = None
    for n in places:
        here = int(begin[n]), int(end[n]), int(owner[n])
        if last and last[2] == here[2] and here[0] - last[1] <= 1:
            last = last[0], here[1], here[2]
        else:
            if last:
                yield last
            last = here
    if last:
        yield last


def _compiled(folder: Path, **options: object) -> axlora.Program:
    """The model of the first tutorial, for the target `test`; the files of that page are in the folder then."""
    if not (folder / "model.onnx").is_file():
        blocks = re.findall(
            r'^```python title="model.py"\n(.*?)^```$', (DOCS / "tutorials" / "my-model.md").read_text(), re.S | re.M
        )
        with contextlib.chdir(folder):
            exec(compile(blocks[0], "model.py", "exec"), {})
    data = dict(np.load(folder / "data.npz"))
    return axlora.compile(folder / "model.onnx", "test", shapes={"batch": 4}, calibration=data, **options)


def screenshot(folder: Path) -> None:
    """report.png: the head of the page of that run."""
    import vl_convert
    from playwright.sync_api import sync_playwright

    from axlora.energy import default_table
    from axlora.report.page import page

    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("docs/pictures.py: no chromium, so report.png is of before (apt-get install chromium)")
    run = axlora.simulate(_compiled(folder), dict(np.load(folder / "in.npz"))).with_energy(default_table())
    (folder / "run.html").write_text(
        page([("my model", run.to_json())], vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    )
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1000, "height": 780})
        shown.goto((folder / "run.html").as_uri())
        shown.wait_for_function("[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg'))")
        shown.screenshot(path=PICTURES / "report.png")
        browser.close()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    stale = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = {"flow": flow(), "machine": machine(), "pipeline": pipeline(folder), "timeline": timeline(folder)}
        for title, text in drawn.items():
            path = PICTURES / f"{title}.svg"
            if options.check and (not path.is_file() or path.read_text() != text):
                stale.append(path.name)
            elif not options.check:
                PICTURES.mkdir(exist_ok=True)
                path.write_text(text)
        if not options.check:
            screenshot(folder)
    sys.stdout.write("".join(f"docs/pictures/{name} is stale: python docs/pictures.py\n" for name in stale))
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
