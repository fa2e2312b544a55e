"""The page of a report: its numbers are those of RUN.json, its charts are what Vega draws, and it needs no network."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from axlora.cli import main
from axlora.report.page import page

LIBRARY = "window.vegaEmbed = () => {};"


class _Reader(HTMLParser):
    """Values, links and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.keys: dict[str, str] = {}
        self.ids: set[str] = set()
        self.sources: list[str] = []
        self.scripts: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._in = tag
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.sources += [found[name] or "" for name in ("src", "href") if name in found]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append(found.get("data-value") or "")
        if "data-key" in found:
            self.keys[found["data-key"] or ""] = found["data-value"] or ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts.append(data)


def _charts(text: str) -> dict[str, Any]:
    found = re.search(r"^const CHARTS = (.*);$", text, re.M)
    assert found is not None
    charts: dict[str, Any] = json.loads(found[1])
    return charts


def test_every_number_is_the_files(run: dict[str, Any]) -> None:
    read = _Reader(page([("one", run)], LIBRARY))
    for key, field in (("cycles", "cycles"), ("MACs", "macs"), ("multiplications", "multiplications")):
        assert int(read.keys[key]) == run[field]
    assert float(read.keys["ms at this clock"]) == run["cycles"] / run["clock_mhz"] / 1000
    assert float(read.keys["of the peak, %"]) == 100 * run["macs"] / (run["cycles"] * run["peak_macs"])
    *cycles, ports, bus, vector = [int(row[2]) for row in read.rows if len(row) == 4]
    assert cycles == [value for causes in run["stalls"].values() for value in causes.values()]
    matrix, load, store = (run["stalls"][unit] for unit in ("matrix", "load", "store"))
    assert ports == (matrix["busy"] + matrix["product"] + matrix["raw"]) // 2
    fetch = run["stalls"]["fetch"]["miss"]
    assert bus == (load["busy"] + load["memory"] + store["busy"] + store["memory"] + fetch) // 2
    assert vector == run["stalls"]["vector"]["busy"] // 2
    layers = [row for row in read.rows if len(row) > 4]
    assert [(int(row[2]), int(row[4])) for row in layers] == [
        (x["cycles"], x["stalls"]["matrix"]["busy"]) for x in run["layers"]
    ]
    assert sum(int(row[2]) for row in layers) == run["cycles"]
    assert {f"layer-{n}" for n in range(len(run["layers"]))} <= read.ids


def test_charts_are_drawn_and_lead_to_rows_that_are_there(run: dict[str, Any]) -> None:
    text = page([("one", run)], LIBRARY)
    ids = _Reader(text).ids
    charts = _charts(text)
    assert set(charts) == {"units", "layers", "roofline", "reuse", "traffic"} <= ids
    for name, spec in charts.items():
        drawn = vl_convert.vegalite_to_svg(spec | {"width": 500})
        assert "<svg" in drawn
        assert name == "units" or any(
            layer["name"] in drawn.replace("&lt;", "<").replace("&gt;", ">") for layer in run["layers"]
        )
    points = charts["roofline"]["layer"][1]["data"]["values"]
    assert {point["href"][1:] for point in points} <= ids
    roof = charts["roofline"]["layer"][0]["data"]["values"]
    assert all(end["rate"] == min(run["peak_macs"], end["intensity"] * run["beat_bytes"]) for end in roof)


def test_sections_are_those_that_tell_something(run: dict[str, Any]) -> None:
    """No chart of reuse where every product was multiplied; of an estimate its phases and notes; links to no other section."""
    phase = {"name": "decode", "starts": 1, "tokens": 2, "cycles": run["cycles"], "ms": 0.5, "tokens_per_second": 4000.0}
    facts = {"memory_bytes": 5, "phases": [phase], "notes": ["a note"], "fits": [{"target": "test", "why_not": "too small"}]}
    plain = run | {"multiplications": run["macs"], "estimate": facts}
    for runs in ([("one", plain)], [("one", plain), ("two", run)]):
        text = page(runs, LIBRARY)
        read = _Reader(text)
        assert ("reuse" in _charts(text)) == (len(runs) > 1)
        assert {source[1:] for source in read.sources if source.endswith("-title")} <= read.ids
        assert ["", "1", "2", str(run["cycles"]), "0.5", "4000.0"] in read.rows
        assert all(part in text for part in ("<td>decode</td>", ">too small</td>", "<p>a note</p>"))
    assert "estimate-title" not in page([("two", run)], LIBRARY)


def test_it_asks_nothing_of_the_network_and_names_stay_text(run: dict[str, Any]) -> None:
    evil = copy.deepcopy(run)
    evil["layers"][0]["name"] = "</script><img src=x onerror=alert(1)>"
    text = page([("<b>", evil)], vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    read = _Reader(text)
    assert all(source.startswith("#") for source in read.sources)
    assert "<img src=x" not in text
    assert text.count("</script") == 2
    assert len(text) < 5_000_000


def test_runs_stand_beside_each_other(run: dict[str, Any]) -> None:
    other = copy.deepcopy(run)
    other["layers"][0]["cycles"] += 7
    text = page([("a", run), ("b", other)], LIBRARY)
    rows = [row for row in _Reader(text).rows if len(row) > 8]
    assert [int(row[4]) - int(row[2]) for row in rows] == [7] + [0] * (len(rows) - 1)
    for spec in _charts(text).values():
        assert "<svg" in vl_convert.vegalite_to_svg(spec | {"width": 500})


def test_the_command_writes_a_page_whole_or_not_at_all(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["report", str(tmp_path / "run.json"), "--html", str(tmp_path / "page.html")]) == 0
    assert "vegaEmbed" in (tmp_path / "page.html").read_text()
    assert main(["report", str(tmp_path / "run.json"), "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
