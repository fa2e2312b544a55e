"""Charts of runs as Vega-Lite specifications: plain data, drawn by the page that holds them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Data = Mapping[str, Any]
Runs = Sequence[tuple[str, Data]]
"""(name, RUN.json) of each run."""
Spec = dict[str, Any]
_STEP = 18
"""Pixels of a bar."""
_COUNTS = ("cycles", "macs", "bytes")
"""Fields that are numbers; those of the others are names."""
_COLOURS = {"scheme": "tableau10"}
_CAUSES = {
    "busy": "#2f7ed8",
    "memory": "#e8743b",
    "semaphore": "#8e6bbf",
    "product": "#d9a514",
    "weights": "#13a4b4",
    "raw": "#b44a6c",
    "miss": "#e05252",
    "queue": "#8fbf6b",
    "halt": "#6b7785",
    "idle": "#b9c2cc",
}
"""Cause -> colour, in the order in which they lie in a bar."""


def moved(layer: Data) -> int:
    """Bytes that a layer read and wrote."""
    return int(layer["bytes_read"]) + int(layer["bytes_written"])


def _bars(values: list[dict[str, Any]], mark: str | Spec, encoding: Spec) -> Spec:
    """Horizontal bars, `_STEP` pixels each: rows of channel y, in each those of yOffset."""
    rows, beside = (len({v[encoding[c]["field"]] for v in values}) if c in encoding else 1 for c in ("y", "yOffset"))
    return {
        "data": {"values": values},
        "mark": mark,
        "encoding": encoding,
        "width": "container",
        "height": _STEP * rows * beside,
    }


def _by_run(runs: Runs) -> Spec:
    """The channel that tells several runs' bars of one colour apart."""
    return {"field": "run", "type": "ordinal", "title": "run", "sort": None} if len(runs) > 1 else {"value": 1}


def _quantity(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _category(field: str, title: str | None, **more: Any) -> Spec:
    return {"field": field, "type": "nominal", "title": title, **more}


def _layers_of(runs: Runs) -> Spec:
    """The channel of layers; what half of their names or more begin with is left out of its labels."""
    names = [layer["name"] for _, data in runs for layer in data["layers"]]
    counts = Counter(name[: n + 1] for name in names for n, letter in enumerate(name) if letter == ".")
    prefix = max((each for each, count in counts.items() if 2 * count >= len(names)), key=len, default="")
    label = f"indexof(datum.label, {json.dumps(prefix)}) == 0 ? slice(datum.label, {len(prefix)}) : datum.label"
    return _category("layer", None, sort=None, axis={"labelExpr": label})


def _hover(**titles: str) -> list[Spec]:
    return [{"field": field, "title": title} | ({"format": ","} if field in _COUNTS else {}) for field, title in titles.items()]


def units(runs: Runs) -> Spec:
    """A bar a unit, cut by what its cycles went to."""
    values = [
        {
            "run": name,
            "unit": unit,
            "cause": cause,
            "place": list(_CAUSES).index(cause),
            "cycles": cycles,
            "share": cycles / max(1, data["cycles"]),
        }
        for name, data in runs
        for unit, causes in data["stalls"].items()
        for cause, cycles in causes.items()
    ]
    encoding = {
        "y": _category("unit", None, sort=list(runs[0][1]["stalls"])),
        "x": _quantity("share", "share of all cycles", axis={"format": "%"}, stack="zero", scale={"domain": [0, 1]}),
        "color": _category("cause", None, scale={"domain": list(_CAUSES), "range": list(_CAUSES.values())}),
        "order": _quantity("place", ""),
        "tooltip": [*_hover(run="run", unit="unit", cause="cause", cycles="cycles"), {"field": "share", "format": ".1%"}],
    }
    if len(runs) > 1:
        encoding["yOffset"] = _category("run", None)
    return _bars(values, "bar", encoding)


def layers(runs: Runs) -> Spec:
    """Cycles of each layer in the order of the model; a bar leads to its row."""
    values = [
        {"run": name, "layer": layer["name"], "operator": layer["operator"], "cycles": layer["cycles"], "href": f"#layer-{n}"}
        for name, data in runs
        for n, layer in enumerate(data["layers"])
    ]
    encoding = {
        "y": _layers_of(runs),
        "x": _quantity("cycles", "cycles"),
        "color": _category("operator", "operator", scale=_COLOURS) if len(runs) == 1 else _category("run", "run"),
        "href": {"field": "href", "type": "nominal"},
        "tooltip": _hover(run="run", layer="layer", operator="operator", cycles="cycles"),
    }
    if len(runs) > 1:
        encoding["yOffset"] = _category("run", None)
    return _bars(values, {"type": "bar", "cursor": "pointer"}, encoding)


def roofline(runs: Runs) -> Spec:
    """MACs a cycle of each layer over its MACs a byte, below what its machine's lanes and bus allow."""
    points = [
        {
            "run": name,
            "layer": layer["name"],
            "href": f"#layer-{n}",
            "intensity": layer["macs"] / moved(layer),
            "rate": layer["macs"] / layer["cycles"],
            "macs": layer["macs"],
        }
        for name, data in runs
        for n, layer in enumerate(data["layers"])
        if layer["macs"] and layer["cycles"] and moved(layer)
    ]
    found = [p["intensity"] for p in points] or [1.0]
    lines = []
    for name, data in runs:
        knee = data["peak_macs"] / data["beat_bytes"]
        ends = (min(*found, knee / 4), knee, max(*found, 4 * knee))
        lines += [{"run": name, "intensity": x, "rate": min(data["peak_macs"], x * data["beat_bytes"])} for x in ends]
    x = _quantity("intensity", "MACs a byte of memory traffic", scale={"type": "log"})
    y = _quantity("rate", "MACs a cycle", scale={"type": "log"})
    colour = _category("run", "run" if len(runs) > 1 else None, **({} if len(runs) > 1 else {"legend": None}))
    dots = {
        "data": {"values": points},
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.75, "cursor": "pointer"},
        "encoding": {
            "x": x,
            "y": y,
            "color": colour,
            "href": {"field": "href", "type": "nominal"},
            "tooltip": [
                *_hover(run="run", layer="layer", macs="MACs"),
                {"field": "intensity", "title": "MACs a byte", "format": ".3~s"},
                {"field": "rate", "title": "MACs a cycle", "format": ".3~s"},
            ],
        },
    }
    roof = {
        "data": {"values": lines},
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {"x": x, "y": y, "color": colour},
    }
    return {"layer": [roof, dots], "width": "container", "height": 320}


def reuse(runs: Runs) -> Spec:
    """Share of a layer's products that no multiplier made, of the base's columns and of adapters' apart."""
    values = []
    for name, data in runs:
        for n, layer in enumerate(data["layers"]):
            own, made = layer["adapter_macs"], layer["adapter_multiplications"]
            both = [("base", layer["macs"] - own, layer["multiplications"] - made), ("adapters", own, made)]
            values += [
                {
                    "run": name,
                    "layer": layer["name"],
                    "of": of,
                    "bar": f"{of}, {name}",
                    "removed": 1 - products / macs,
                    "macs": macs,
                    "href": f"#layer-{n}",
                }
                for of, macs, products in both
                if macs
            ]
    encoding = {
        "y": _layers_of(runs),
        "x": _quantity("removed", "products not multiplied", axis={"format": "%"}, scale={"domain": [0, 1]}),
        "yOffset": _category("bar", None, sort=[f"{of}, {name}" for of in ("base", "adapters") for name, _ in runs]),
        "color": _category("of", "columns of", sort=["base", "adapters"], scale=_COLOURS),
        "opacity": _by_run(runs),
        "href": {"field": "href", "type": "nominal"},
        "tooltip": [*_hover(run="run", layer="layer", of="columns of", macs="MACs"), {"field": "removed", "format": ".1%"}],
    }
    return _bars(values, {"type": "bar", "cursor": "pointer"}, encoding)


def traffic(runs: Runs) -> Spec:
    """Bytes that each layer reads and writes."""
    values = [
        {"run": name, "layer": layer["name"], "way": way, "bytes": layer[f"bytes_{way}"], "href": f"#layer-{n}"}
        for name, data in runs
        for n, layer in enumerate(data["layers"])
        for way in ("read", "written")
    ]
    encoding = {
        "y": _layers_of(runs),
        "x": _quantity("bytes", "bytes"),
        "color": _category("way", None, scale=_COLOURS),
        "opacity": _by_run(runs),
        "href": {"field": "href", "type": "nominal"},
        "tooltip": _hover(run="run", layer="layer", way="", bytes="bytes"),
    }
    if len(runs) > 1:
        encoding["yOffset"] = _category("run", None)
    return _bars(values, {"type": "bar", "cursor": "pointer"}, encoding)
