"""Explorations (`axlora explore`): the Pareto front as a table, and a page with every trial."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from rich.table import Table

from axlora.report.charts import Data, Spec
from axlora.report.page import Cell, Column, filled, table

_UNITS = {
    "cycles": ("cycles", ",.0f"),
    "energy": ("energy, µJ", ",.3f"),
    "area": ("LUTs of lanes", ",.0f"),
    "error": ("error", ".3%"),
}
"""Objective -> its title and format."""


def _chosen(data: Data) -> list[Data]:
    """The base's trial, and those of the front by the first objective."""
    first = data["objectives"][0]
    front = sorted((t for t in data["trials"] if t["front"]), key=lambda t: t["values"][first])
    return [t for t in data["trials"] if t["number"] == data["base_trial"] and not t["front"]] + front


def _label(data: Data, trial: Data) -> str:
    base = trial["number"] == data["base_trial"]
    what = "front" if trial["front"] else "refused" if trial["values"] is None else ""
    return ", ".join(filter(None, (what, data["base"] if base else "")))


def front_table(data: Data) -> Table:
    """A row a point of the front, and the base; `data`: `Study.to_json`."""
    trials, front = data["trials"], sum(t["front"] for t in data["trials"])
    refused = sum(t["values"] is None for t in trials)
    found = Table(title=f"{len(trials)} trials of {data['points']} points, {refused} refused; {front} on the front")
    found.add_column("trial", justify="right")
    found.add_column("")
    for name in data["objectives"]:
        found.add_column(_UNITS[name][0], justify="right")
    names = list(trials[0]["point"]) if trials else []
    for name in names:
        found.add_column(name, justify="right")
    for trial in _chosen(data):
        values = [format(trial["values"][name], _UNITS[name][1]) for name in data["objectives"]]
        found.add_row(str(trial["number"]), _label(data, trial), *values, *(str(trial["point"][name]) for name in names))
    return found


def exploring_page(data: Data, library: str) -> str:
    """One page without network; `library` as of `report.page.page`."""
    objectives: Sequence[str] = data["objectives"]
    names = list(data["trials"][0]["point"]) if data["trials"] else []
    columns: list[Column] = [
        ("trial", ",d"),
        ("kind", ""),
        *(_UNITS[name] for name in objectives),
        *((name, "") for name in names),
        ("refused", ""),
    ]
    rows = []
    for trial in data["trials"]:
        values: list[Cell] = [None if trial["values"] is None else trial["values"][name] for name in objectives]
        cells: list[Cell] = [str(trial["number"]), _label(data, trial), *values, *(str(trial["point"][name]) for name in names)]
        rows.append((f' id="trial-{trial["number"]}"', [*cells, trial["refused"] or ""]))
    ran = sum(t["values"] is not None for t in data["trials"])
    what = f"{len(data['trials'])} trials, {ran} of them ran; all objectives are to be small. Base: {data['base']}."
    pairs = [(objectives[0], other) for other in objectives[1:]] or [(objectives[0], objectives[0])]
    body = [
        f'<header><h1>Exploration</h1><button class="theme" title="light or dark">theme</button></header><p>{escape(what)}</p>'
    ]
    drawn: dict[str, Spec] = {}
    for n, (x, y) in enumerate(pairs):
        drawn[f"front-{n}"] = _scatter(data, x, y)
        body.append(f'<h2>{escape(_UNITS[y][0])} over {escape(_UNITS[x][0])}</h2><div class="chart" id="front-{n}"></div>')
    body += ["<h2>Trials</h2>", table(columns, rows)]
    return filled("exploration", body, drawn, library)


def _scatter(data: Data, x: str, y: str) -> Spec:
    """Every trial that ran; a point leads to its row."""
    values: list[dict[str, Any]] = [
        {"x": t["values"][x], "y": t["values"][y], "kind": _label(data, t) or "other", "href": f"#trial-{t['number']}"}
        | {name: str(value) for name, value in t["point"].items()}
        for t in data["trials"]
        if t["values"] is not None
    ]
    names = list(data["trials"][0]["point"]) if data["trials"] else []
    return {
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 80, "cursor": "pointer"},
        "width": "container",
        "height": 320,
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": _UNITS[x][0], "scale": {"zero": False}},
            "y": {"field": "y", "type": "quantitative", "title": _UNITS[y][0], "scale": {"zero": False}},
            "color": {"field": "kind", "type": "nominal", "title": None},
            "href": {"field": "href", "type": "nominal"},
            "tooltip": [{"field": f, "title": f} for f in names] + [{"field": "x", "title": x}, {"field": "y", "title": y}],
        },
    }
