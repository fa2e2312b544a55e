"""One page of HTML that tells what a run's cycles went to, or several runs' beside each other; it needs no network.

Charts are drawn by Vega (https://vega.github.io), which the page holds; every chart's numbers stand in a table too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib import resources

from axlora.report import charts
from axlora.report.charts import Data, Runs

Cell = str | int | float | None
Column = tuple[str, str]
"""Title, and format of its numbers; without one they are text, and stand on the left."""
TEXT = ' class="text"'
_UNITS = ("load", "matrix", "vector", "store")


def page(runs: Runs, library: str) -> str:
    """The page.

    Args:
        runs: (name, RUN.json) of each, at least one.
        library: JavaScript that defines `vegaEmbed`.
    """
    drawn = {"units": charts.units(runs)}
    text = _UNITS_TEXT + (" A unit has a bar for each run, in the order of the title." if len(runs) > 1 else "")
    body = [_cards(runs), *_estimates(runs), *_section("units", "Where the cycles went", text, _units(runs))]
    if any(data["layers"] for _, data in runs):
        drawn |= {"layers": charts.layers(runs), "traffic": charts.traffic(runs)}
        body += _section("layers", "Layers", _LAYERS_TEXT, _layers(runs))
        body += _twice(runs)
        if all("peak_macs" in data for _, data in runs):
            drawn["roofline"] = charts.roofline(runs)
            body += _section("roofline", "Roofline", _ROOF_TEXT, "")
        if any(data["multiplications"] < data["macs"] for _, data in runs):
            drawn["reuse"] = charts.reuse(runs)
            body += _section("reuse", "Reuse", _REUSE_TEXT, "")
        body += _section("traffic", "Memory traffic", "Bytes that load reads and store writes, of each layer.", "")
    sections = [*drawn, *(["estimate"] if any("estimate" in data for _, data in runs) else []), "twice"]
    return filled(", ".join(name for name, _ in runs), [_head(runs, sections), *body], drawn, library)


def filled(title: str, body: Iterable[str], drawn: Mapping[str, charts.Spec], library: str) -> str:
    """The page's template with its parts.

    Args:
        title: of the page.
        body: lines of HTML.
        drawn: id of an element of `body` -> the chart in it.
        library: as of `page`.
    """
    data = json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
    text = (resources.files(__package__) / "page.html.in").read_text()
    parts = {"TITLE": escape(f"AxLoRA: {title}"), "BODY": "\n".join(body), "CHARTS": data, "LIBRARY": library}
    for name, part in parts.items():
        before, found, behind = text.partition(f"@{name}@")
        assert found, f"page.html.in has no @{name}@"
        text = before + part + behind
    return text


_UNITS_TEXT = (
    "The five units work at the same time; of each, the cycles add up to the run's. Busy: it works. Other causes: it waits, "
    "for memory, a semaphore of another unit, or instructions (idle)."
)
_LAYERS_TEXT = (
    "Cycles from the end of the layer before to the end of this one: they add up to the run's. A bar leads to its row, the "
    "name of a row to what each unit spent on it. Of a whole model all operators are layers."
)
_ROOF_TEXT = (
    "Each point is a layer with products. On the left the bus bounds them (bytes a cycle), on the right the lanes do (MACs a "
    "cycle). A point far below the line waits for something else: see its row; one above it had its weights read during the "
    "layers before."
)
_REUSE_TEXT = (
    "Share of the products that no multiplier made, because the product of the activation and an equal weight was kept."
)


def _number(value: Cell, form: str) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else format(value, form)


def table(columns: Sequence[Column], rows: Iterable[tuple[str, Sequence[Cell]]], sorts: bool = True) -> str:
    """Rows of (HTML of the attributes, cells); the first cell of a row is HTML, the others are text or numbers."""
    kinds = ["" if form else TEXT for _, form in columns]
    titles = [f"<button>{escape(title)}</button>" if sorts else escape(title) for title, _ in columns]
    heads = "".join(f"<th{kind}>{title}</th>" for kind, title in zip(kinds, titles, strict=True))
    lines = []
    for attributes, (first, *rest) in rows:
        cells = [f"<td>{first}</td>"]
        for value, (_, form) in zip(rest, columns[1:], strict=True):
            if isinstance(value, str):
                cells.append(f"<td{'' if form else TEXT}>{escape(value)}</td>")
            else:
                cells.append(f'<td data-value="{"" if value is None else value}">{_number(value, form)}</td>')
        lines.append(f"<tr{attributes}>{''.join(cells)}</tr>")
    attributes = ' class="sorts"' if sorts else ""
    return f'<div class="wide"><table{attributes}><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _section(name: str, title: str, text: str, table: str) -> list[str]:
    return [f'<h2 id="{name}-title">{title}</h2><p>{escape(text)}</p><div class="chart" id="{name}"></div>', table]


def _head(runs: Runs, sections: Collection[str]) -> str:
    """Title, and links to the sections that are there."""
    first = runs[0][1]
    what = (
        f"{first['view']} of target {first['target']}, engine {first['engine']}, {first['clock_mhz']:,} MHz"
        if len(runs) == 1
        else ""
    )
    links = [
        ("estimate", "estimate"),
        ("units", "cycles"),
        ("layers", "layers"),
        ("twice", "twice"),
        ("roofline", "roofline"),
        ("reuse", "reuse"),
        ("traffic", "memory"),
    ]
    nav = "".join(f'<a href="#{name}-title">{text}</a>' for name, text in links if name in sections)
    title = escape(", ".join(name for name, _ in runs))
    return (
        f'<header><h1>{title}</h1><button class="theme" title="light or dark">theme</button></header>'
        f"<p>{escape(what)}</p><nav>{nav}</nav>"
    )


def _facts(data: Data) -> dict[str, Cell]:
    """The headline of a run."""
    cycles, clock = data["cycles"], data["clock_mhz"]
    facts: dict[str, Cell] = {
        "target": data["target"],
        "engine": data["engine"],
        "clock, MHz": clock,
        "cycles": cycles,
        "ms at this clock": cycles / clock / 1000,
        "MACs": data["macs"],
        "multiplications": data["multiplications"],
        "products not multiplied, %": 100 * (1 - data["multiplications"] / data["macs"]) if data["macs"] else None,
        "MACs a cycle": data["macs"] / cycles if cycles else None,
    }
    if "peak_macs" in data:
        facts["of the peak, %"] = 100 * data["macs"] / (cycles * data["peak_macs"]) if cycles else None
    facts |= {
        "bytes read": data["dram_bytes_read"],
        "bytes written": data["dram_bytes_written"],
        "MACs on the host": data["host_macs"],
    }
    facts |= {f"energy, µJ: {term}": pj / 1e6 for term, pj in (data["energy_pj"] or {}).items()}
    facts |= {f"cycles, {name.replace('_', ' ')}": value for name, value in (data["baselines"] or {}).items()}
    facts |= {f"adapters: {name.replace('_', ' ')}": value for name, value in (data.get("paging") or {}).items()}
    return facts | {f"FPGA {key}": value for key, value in (data["fpga"] or {}).items()}


def _form(value: Cell) -> str:
    if not isinstance(value, float) or value.is_integer():
        return ",.0f"
    return ",.2f" if abs(value) >= 10 else ".3g"


def _cards(runs: Runs) -> str:
    """Cards of one run; of several a table, with each figure against the first run's."""
    facts = [_facts(data) for _, data in runs]
    if len(runs) == 1:
        cards = "".join(
            f'<div class="card"><b data-key="{escape(key)}" data-value="{escape(str(value))}">'
            f"{escape(_number(value, _form(value)))}</b><span>{escape(key)}</span></div>"
            for key, value in facts[0].items()
            if value is not None
        )
        return f'<div class="cards">{cards}</div>'
    keys = dict.fromkeys(key for each in facts for key in each)
    rows = []
    for key in keys:
        first, *others = (each.get(key) for each in facts)
        cells = [escape(key), _number(first, _form(first))]
        for value in others:
            cells += [_number(value, _form(value)), _times(value, first)]
        rows.append(("", cells))
    columns = [column for name, _ in runs[1:] for column in ((name, " "), ("times", " "))]
    return table([("", ""), (runs[0][0], " "), *columns], rows, sorts=False)


def _times(value: Cell, first: Cell) -> str:
    """How many times the first run's figure; nothing for what is no number."""
    numbers = isinstance(value, int | float) and isinstance(first, int | float) and first
    return f"{value / first:.2f}" if numbers else ""  # type: ignore[operator]


def _estimates(runs: Runs) -> list[str]:
    """Of runs that are estimates: their phases, the memory that they need, which targets fit, and what was assumed."""
    body: list[str] = []
    for name, data in runs:
        if (found := data.get("estimate")) is None:
            continue
        of = f"<h3>{escape(name)}</h3>" if len(runs) > 1 else ""
        keys = {"name": "", "starts": ",d", "tokens": ",d", "cycles": ",d", "ms": ",.2f", "tokens_per_second": ",.2f"}
        columns = [("phase" if key == "name" else key.replace("_per_", " a "), form) for key, form in keys.items()]
        rows = [("", [escape(phase["name"]), *(phase[key] for key in list(keys)[1:])]) for phase in found["phases"]]
        body += [of, table(columns, rows, sorts=False)]
        fits = [("", [escape(each["target"]), each["why_not"] or "yes"]) for each in found["fits"]]
        body += [table([("target", ""), ("fits", "")], fits, sorts=False)] if fits else []
        body += [f"<p>{escape(note)}</p>" for note in found["notes"]]
    return ['<h2 id="estimate-title">Estimate</h2>', *body] if body else []


_TWICE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "ports, or lanes": {"matrix": ("busy", "product", "raw")},
    "bytes a cycle of the bus": {"load": ("busy", "memory"), "store": ("busy", "memory"), "fetch": ("miss",)},
    "vector lanes": {"vector": ("busy",)},
}
"""What a target may have more of -> the units that are faster then, and the causes of theirs that shrink."""
_TWICE_TEXT = (
    "Most cycles that a machine with twice as many would save on this program: half of what units spend on that work, "
    "for no more lies on any way through the run. A compilation for that target, beside this one, tells what it does save."
)


def _twice(runs: Runs) -> list[str]:
    """What twice of something buys at most, of each run."""
    columns = [("twice the", ""), ("units", "")]
    columns += [
        column
        for name, _ in runs
        for column in ((f"saves at most, {name}" if len(runs) > 1 else "saves at most", ",d"), ("share", ".1%"))
    ]
    rows = []
    for what, units in _TWICE.items():
        cells: list[Cell] = [what, ", ".join(units)]
        for _, data in runs:
            saved = sum(data["stalls"][unit][cause] for unit, causes in units.items() for cause in causes) // 2
            cells += [saved, saved / max(1, data["cycles"])]
        rows.append(("", cells))
    return [f'<h2 id="twice-title">Twice of it</h2><p>{escape(_TWICE_TEXT)}</p>', table(columns, rows, sorts=False)]


def _units(runs: Runs) -> str:
    columns = [("unit", ""), ("cause", "")]
    columns += [
        column for name, _ in runs for column in ((f"cycles, {name}" if len(runs) > 1 else "cycles", ",d"), ("share", ".1%"))
    ]
    rows = []
    for unit, causes in runs[0][1]["stalls"].items():
        for cause in causes:
            cells: list[Cell] = [escape(unit), cause]
            for _, data in runs:
                cycles = data["stalls"][unit][cause]
                cells += [cycles, cycles / max(1, data["cycles"])]
            rows.append(("", cells))
    return table(columns, rows)


def _details(layer: Data) -> str:
    """A layer's name, which opens what each unit spent on it."""
    rows = [
        f"{unit}: " + ", ".join(f"{cause} {cycles:,}" for cause, cycles in layer["stalls"][unit].items() if cycles)
        for unit in _UNITS
        if any(layer["stalls"].get(unit, {}).values())
    ]
    name = re.sub(r"([./])", r"\1<wbr>", escape(layer["name"]))
    return f"<details><summary>{name}</summary>{'<br>'.join(escape(row) for row in rows) or 'nothing'}</details>"


def _layers(runs: Runs) -> str:
    """Each layer of the first run; of several runs their cycles beside it, where they have a layer of that name."""
    first, others = runs[0][1], runs[1:]
    columns = [("layer", ""), ("operator", ""), ("cycles", ",d"), ("share", ".1%")]
    columns += [column for name, _ in others for column in ((f"cycles, {name}", ",d"), ("times", ".2f"))]
    columns += [("matrix busy", ",d"), ("vector busy", ",d"), ("MACs", ",d"), ("removed", ".1%"), ("adapter MACs", ",d")]
    columns += [("removed of these", ".1%"), ("bytes read", ",d"), ("bytes written", ",d"), ("energy, pJ", ",.0f")]
    columns.append(("error", ".2%"))
    known = [{layer["name"]: layer for layer in data["layers"]} for _, data in others]
    rows = []
    for n, layer in enumerate(first["layers"]):
        base, products = layer["macs"] - layer["adapter_macs"], layer["multiplications"] - layer["adapter_multiplications"]
        cells: list[Cell] = [_details(layer), layer["operator"], layer["cycles"], layer["cycles"] / max(1, first["cycles"])]
        for each in known:
            other = each.get(layer["name"])
            cells += [None, None] if other is None else [other["cycles"], other["cycles"] / max(1, layer["cycles"])]
        cells += [
            layer["stalls"]["matrix"]["busy"],
            layer["stalls"]["vector"]["busy"],
            base,
            1 - products / base if base else None,
        ]
        own = layer["adapter_macs"]
        cells += [own or None, 1 - layer["adapter_multiplications"] / own if own else None]
        cells += [layer["bytes_read"], layer["bytes_written"], layer["energy_pj"], layer["error"]]
        rows.append((f' id="layer-{n}"', cells))
    return table(columns, rows)
