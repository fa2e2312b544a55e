"""Serving studies (`axlora serve-sim`): a table, and a page with when each request waited, was prefilled and was decoded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from rich.table import Table

from axlora.report.charts import Data, Spec
from axlora.report.page import Column, filled, table

Studies = Sequence[Data]
"""`Study.to_json` of each."""
_PARTS = {"waits": "#b9c2cc", "prompt": "#e8743b", "decodes": "#2f7ed8"}
"""Part of a request's time -> colour, in their order."""
_COLUMNS: tuple[Column, ...] = (
    ("most at once", ""),
    ("adapters", ",d"),
    ("places", ",d"),
    ("tokens/s", ",.1f"),
    ("mean batch", ".2f"),
    ("busy", ".1%"),
    ("first token p50, ms", ",.2f"),
    ("p99", ",.2f"),
    ("a token p50, ms", ",.3f"),
    ("p99", ",.3f"),
    ("latency p50, ms", ",.1f"),
    ("p99", ",.1f"),
    ("adapter hits", ",d"),
    ("blocked, ms", ",.1f"),
    ("adapters copied", ",d"),
    ("waited for copies, ms", ",.1f"),
)


def _row(data: Data) -> list[Any]:
    """Figures of a study, as `_COLUMNS`; times in milliseconds."""
    times: list[float | None] = []
    for name in ("time_to_first_token", "time_per_token", "latency"):
        times += [None if data[name] is None else 1000 * data[name][p] for p in ("p50", "p99")]
    hits = sum(own["hits"] for own in data["adapters"])
    blocked = 1000 * sum(own["blocked"] for own in data["adapters"])
    figures = [data["tokens_per_second"], data["mean_batch"], data["busy"]]
    copies = data["paging"]
    copied = (None, None) if copies is None else (copies["misses"], copies["stall_cycles"] / data["clock_mhz"] / 1000)
    limits = [str(data["max_batch"]), data["max_loras"], data["adapter_places"]]
    return [*limits, *figures, *times, hits, blocked, *copied]


def serving_table(studies: Studies) -> Table:
    """A row a study."""
    first = studies[0]
    title = f"{len(first['requests'])} requests on {first['target']} at {first['clock_mhz']:,} MHz"
    found = Table(*(name for name, _ in _COLUMNS), title=title)
    for column in found.columns:
        column.justify = "right"
    for data in studies:
        cells = zip(_row(data), _COLUMNS, strict=True)
        found.add_row(*("" if v is None else v if isinstance(v, str) else format(v, form) for v, (_, form) in cells))
    return found


def serving_page(studies: Studies, library: str) -> str:
    """One page without network; `library` as of `report.page.page`."""
    first = studies[0]
    drawn: dict[str, Spec] = {}
    what = (
        f"engine {first['engine']} of target {first['target']}, {first['clock_mhz']:,} MHz, {len(first['requests'])} requests"
    )
    body = [f'<header><h1>Serving</h1><button class="theme" title="light or dark">theme</button></header><p>{escape(what)}</p>']
    body.append(table(_COLUMNS, [("", _row(data)) for data in studies]))
    if len(studies) > 1:
        drawn["limits"] = _limits(studies)
        body += ['<h2>Throughput and latency</h2><p>Each point is a study.</p><div class="chart" id="limits"></div>']
    for n, data in enumerate(studies):
        drawn[f"requests-{n}"] = _requests(data)
        drawn[f"batch-{n}"] = _starts(data)
        held = "" if data["adapter_places"] is None else f", {data['adapter_places']} in the memory"
        title = f"At most {_limit(data)}{held}"
        body += [
            f'<h2 id="study-{n}">{title}</h2><p>Each line is a request, from its arrival to its last token.</p>',
            f'<div class="chart" id="requests-{n}"></div>',
            "<p>Cycles of prompts (0), and of starts by how many decode together.</p>",
            f'<div class="chart" id="batch-{n}"></div>',
            _details(data),
        ]
    return filled("serving", body, drawn, library)


def _limit(data: Data) -> str:
    """Sequences and adapters of a study."""
    counts = {"sequence": data["max_batch"], "adapter": data["max_loras"]}
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items())


def _details(data: Data) -> str:
    """Each request's times."""
    columns = (
        ("request", ""),
        ("adapter", ""),
        ("prompt", ",d"),
        ("new", ",d"),
        ("arrival, s", ",.4f"),
        ("waited, ms", ",.2f"),
        ("first token, ms", ",.2f"),
        ("latency, ms", ",.2f"),
    )
    rows = []
    for r in data["requests"]:
        waited, first, all_ = (1000 * (r[k] - r["arrival"]) for k in ("joined", "first_token", "finished"))
        name = escape(r["name"])
        rows.append(("", [name, r["adapter"] or "", r["prompt_tokens"], r["new_tokens"], r["arrival"], waited, first, all_]))
    return table(columns, rows)


def _requests(data: Data) -> Spec:
    """A line a request in the order of arrival, cut by what it waited for."""
    values = []
    for place, r in enumerate(sorted(data["requests"], key=lambda r: r["arrival"])):
        ends = (r["arrival"], r["joined"], r["first_token"], r["finished"])
        for part, start, end in zip(_PARTS, ends, ends[1:], strict=False):
            own = {
                "request": r["name"] if r["name"] == str(place + 1) else f"{place + 1} {r['name']}",
                "adapter": r["adapter"] or "base",
                "part": part,
            }
            values.append(own | {"start": start, "end": end, "ms": 1000 * (end - start)})
    hover = [{"field": f, "title": f} for f in ("request", "adapter", "part")] + [{"field": "ms", "format": ",.2f"}]
    return {
        "data": {"values": values},
        "mark": "bar",
        "width": "container",
        "height": 14 * max(1, len(data["requests"])),
        "encoding": {
            "y": {"field": "request", "type": "nominal", "title": None, "sort": None},
            "x": {"field": "start", "type": "quantitative", "title": "seconds"},
            "x2": {"field": "end"},
            "color": {"field": "part", "type": "nominal", "title": None, "scale": _scale()},
            "tooltip": hover,
        },
    }


def _scale() -> Spec:
    return {"domain": list(_PARTS), "range": list(_PARTS.values())}


def _starts(data: Data) -> Spec:
    """Cycles by how many sequences decode together."""
    return {
        "data": {"values": [dict(own) for own in data["starts"]]},
        "mark": "bar",
        "width": "container",
        "height": 160,
        "encoding": {
            "x": {"field": "sequences", "type": "ordinal", "title": "sequences decoding together", "axis": {"labelAngle": 0}},
            "y": {"field": "cycles", "type": "quantitative", "title": "cycles"},
            "tooltip": [{"field": f, "title": f, "format": ","} for f in ("sequences", "starts", "cycles")],
        },
    }


def _limits(studies: Studies) -> Spec:
    """Tokens a second over the latency of the slowest hundredth."""
    values = [
        {
            "limits": _limit(d),
            "latency": 1000 * d["latency"]["p99"],
            "rate": d["tokens_per_second"],
        }
        for d in studies
    ]
    return {
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 90},
        "width": "container",
        "height": 240,
        "encoding": {
            "x": {"field": "latency", "type": "quantitative", "title": "latency p99, ms"},
            "y": {"field": "rate", "type": "quantitative", "title": "tokens a second"},
            "color": {"field": "limits", "type": "nominal", "title": None},
            "tooltip": [{"field": f, "title": f} for f in ("limits", "latency", "rate")],
        },
    }
