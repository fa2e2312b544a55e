"""Pages in a real browser: numbers, links, sorting, hovering, both themes, at the widths of a phone and of a desktop."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from playwright.sync_api import Browser, Page, sync_playwright

from axlora import Program
from axlora.cli import main
from axlora.report.exploring import exploring_page
from axlora.report.page import page
from axlora.report.serving import serving_page
from axlora.serving import Limits, Request, Served, Study

WIDTHS = {"phone": 390, "desktop": 1280}
CELLS = "rows => rows.map(row => [...row.cells].map(cell => [cell.textContent, cell.dataset.value]))"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None)
    assert path, "no chromium: apt-get install chromium (make test does so where it is root)"
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=path, args=arguments)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(program: Program, run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: run.html by the command, compare.html, serving.html, exploring.html."""
    folder = tmp_path_factory.mktemp("pages")
    program.save(folder / "m.axl")
    assert main(["simulate", str(folder / "m.axl"), "--random", "0", "--html", str(folder / "run.html")]) == 0
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    other = copy.deepcopy(run)
    other["cycles"] += other["layers"][0]["cycles"]
    other["layers"][0]["cycles"] *= 2
    (folder / "compare.html").write_text(page([("first", run), ("second", other)], library))
    (folder / "serving.html").write_text(serving_page([_study(1), _study(4)], library))
    (folder / "exploring.html").write_text(exploring_page(_exploration(), library))
    return folder


def _study(most: int) -> dict[str, Any]:
    """A study of six requests, each of which waits for the one before."""
    study = Study("zcu104", "reuse", 200, Limits(most, 2), starts={n: (4, 90_000 * (n + 1)) for n in range(most + 1)})
    for n in range(6):
        came, joined, finished = 1_000_000 * n, 1_400_000 * n, 1_400_000 * (n + 2)
        request = Request(str(n + 1), came / 2e8, (1, 2, 3), 4, "law")
        study.served.append(Served(request, came, joined, joined + 200_000, finished, (1, 2, 3, 4), n > 0, 0))
    study.cycles = study.served[-1].finished
    return study.to_json()


def _exploration() -> dict[str, Any]:
    """Eight trials, one of them refused."""
    trials = [
        {"number": n, "point": {"engine": "reuse" if n % 2 else "mac", "lanes": 8 * n + 8}, "front": n < 3, "refused": None}
        | {"values": {"cycles": 9000 - 1000 * n, "energy": 1.0 + n / 3}}
        for n in range(7)
    ]
    last = {"number": 7, "point": {"engine": "mac", "lanes": 64}, "front": False, "values": None}
    last["refused"] = "wbuf_lines 16 are fewer than a tile of 64 rows takes, and no other tile fits this target"
    return {"objectives": ["cycles", "energy"], "base": "test", "base_trial": 1, "points": 8, "trials": [*trials, last]}


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """A function that opens a page at a width; whatever the console says, or is asked of a network, fails the test."""
    said: list[str] = []
    context = browser.new_context(viewport={"width": WIDTHS["desktop"], "height": 900}, color_scheme="light")

    def open_page(path: Path, width: int = WIDTHS["desktop"]) -> Page:
        shown = context.new_page()
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        shown.set_viewport_size({"width": width, "height": 900})
        shown.goto(path.as_uri())
        shown.wait_for_function("[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg'))")
        return shown

    yield open_page
    context.close()
    assert not said


def test_the_numbers_of_the_tables_are_those_of_the_file(opened: Any, pages: Path, run: dict[str, Any]) -> None:
    """As they are shown, and as they are sorted by."""
    shown = opened(pages / "run.html")
    units = shown.locator("#units + div tbody tr").evaluate_all(CELLS)
    wanted = [(unit, cause, n) for unit, causes in run["stalls"].items() for cause, n in causes.items()]
    assert [(row[0][0], row[1][0], int(row[2][0].replace(",", ""))) for row in units] == wanted
    assert [row[3][0] for row in units] == [f"{n / run['cycles']:.1%}" for _, _, n in wanted]
    layers = shown.locator("tr[id^=layer-]").evaluate_all(CELLS)
    for row, layer in zip(layers, run["layers"], strict=True):
        products = layer["macs"] - layer["adapter_macs"], layer["multiplications"] - layer["adapter_multiplications"]
        busy = [layer["stalls"][unit]["busy"] for unit in ("matrix", "vector")]
        numbers = [layer["cycles"], *busy, products[0], layer["bytes_read"], layer["bytes_written"]]
        texts = [row[place][0] for place in (2, 4, 5, 6, 10, 11)]
        assert [int(text.replace(",", "")) for text in texts] == numbers
        assert row[7][0] == f"{1 - products[1] / products[0]:.1%}"
        assert float(row[12][1]) == layer["energy_pj"]
    cards = shown.locator(".card b")
    by_key = {card.get_attribute("data-key"): card.inner_text() for card in cards.all()}
    for key, name in (("cycles", "cycles"), ("MACs", "macs"), ("bytes read", "dram_bytes_read")):
        assert by_key[key] == f"{run[name]:,}"


def test_the_theme_is_toggled_and_charts_follow(opened: Any, pages: Path) -> None:
    shown = opened(pages / "run.html")
    colours = []
    for theme in ("light", "dark", "light"):
        assert shown.locator("html").get_attribute("data-theme") == theme
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = shown.evaluate("getComputedStyle(document.body).color")
        shown.wait_for_function("""() => {
          const style = getComputedStyle(document.documentElement).getPropertyValue('--ink').trim();
          return document.querySelector('#units svg text').getAttribute('fill') === style; }""")
        colours.append((paper, ink))
        shown.locator("button.theme").click()
    assert colours[0] == colours[2] != colours[1]


def test_a_bar_leads_to_its_layer_and_what_each_unit_spent_on_it(opened: Any, pages: Path, run: dict[str, Any]) -> None:
    """Why is this layer slow: one click."""
    shown = opened(pages / "run.html")
    shown.locator("#layers .mark-rect.role-mark path").nth(1).click()
    row = shown.locator("#layer-1")
    shown.wait_for_function("location.hash === '#layer-1'")
    assert row.locator("details").get_attribute("open") is not None
    box = row.bounding_box()
    assert -1 < box["y"] < 900
    text = row.locator("details").inner_text()
    for unit in ("load", "matrix", "vector", "store"):
        for cause, cycles in run["layers"][1]["stalls"][unit].items():
            assert (f"{cause} {cycles:,}" in text) == bool(cycles), (unit, cause)


def test_links_of_the_head_lead_to_sections(opened: Any, pages: Path) -> None:
    shown = opened(pages / "run.html")
    for link in shown.locator("nav a").all():
        link.click()
        assert shown.locator(link.get_attribute("href")).is_visible()


def test_what_twice_the_ports_buy_is_a_click_away(opened: Any, pages: Path, run: dict[str, Any]) -> None:
    shown = opened(pages / "run.html")
    shown.locator("nav a", has_text="twice").click()
    row = shown.locator("#twice-title ~ div").first.locator("tbody tr").first
    assert -1 < row.bounding_box()["y"] < 900
    matrix = run["stalls"]["matrix"]
    most = (matrix["busy"] + matrix["product"] + matrix["raw"]) // 2
    assert row.inner_text().split("\t")[2:] == [f"{most:,}", f"{most / run['cycles']:.1%}"]


def test_what_an_adapter_costs_is_in_the_first_table_of_two_runs(opened: Any, pages: Path, run: dict[str, Any]) -> None:
    """And of each layer in its row."""
    shown = opened(pages / "compare.html")
    row = shown.locator("table").first.locator("tr", has_text="cycles").first
    assert row.bounding_box()["y"] < 900
    more = run["cycles"] + run["layers"][0]["cycles"]
    assert row.inner_text().split("\t")[1:] == [f"{run['cycles']:,}", f"{more:,}", f"{more / run['cycles']:.2f}"]
    assert [shown.locator(f"#layer-{n} td").nth(5).inner_text() for n in range(2)] == ["2.00", "1.00"]


def test_a_table_is_sorted_by_a_column_down_and_up(opened: Any, pages: Path, run: dict[str, Any]) -> None:
    shown = opened(pages / "run.html")
    head = shown.locator("th", has_text="cycles").first
    wanted = sorted(n for causes in run["stalls"].values() for n in causes.values())
    for order, numbers in (("descending", wanted[::-1]), ("ascending", wanted)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        rows = shown.locator("#units + div tbody tr").evaluate_all(CELLS)
        assert [int(row[2][1]) for row in rows] == numbers
    shown.locator("th", has_text="unit").first.locator("button").click()
    rows = shown.locator("#units + div tbody tr").evaluate_all(CELLS)
    assert [row[0][0] for row in rows] == sorted((row[0][0] for row in rows), reverse=True)


@pytest.mark.parametrize("chart", ["units", "layers", "roofline", "reuse", "traffic"])
def test_a_mark_says_what_it_is_when_it_is_pointed_at(opened: Any, pages: Path, run: dict[str, Any], chart: str) -> None:
    shown = opened(pages / "run.html")
    group = ".mark-symbol.role-mark path" if chart == "roofline" else ".mark-rect.role-mark path"
    shown.locator(f"#{chart} {group}").first.hover()
    tip = shown.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    text = tip.inner_text()
    assert (list(run["stalls"]) if chart == "units" else [layer["name"] for layer in run["layers"]])[0] in text
    assert "NaN" not in text


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["run", "compare", "serving", "exploring"])
def test_nothing_scrolls_sideways_but_tables_in_their_frames(opened: Any, pages: Path, name: str, width: int) -> None:
    shown = opened(pages / f"{name}.html", width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    wide = "charts => charts.filter(chart => chart.scrollWidth > chart.clientWidth).map(chart => chart.id)"
    assert shown.locator(".chart").evaluate_all(wide) == []
    outside = "tables => tables.filter(t => !t.closest('.wide')).length"
    assert shown.locator("table").evaluate_all(outside) == 0


def test_runs_of_one_layer_do_not_lie_on_each_other(opened: Any, pages: Path) -> None:
    """Bars of two runs in the chart of reuse, which shows shares: one beside the other, none behind."""
    shown = opened(pages / "compare.html")
    boxes = [path.bounding_box() for path in shown.locator("#reuse .mark-rect.role-mark path").all()]
    assert len(boxes) == 4
    assert len({round(box["y"]) for box in boxes}) == 4
    assert len({round(box["x"]) for box in boxes}) == 1
