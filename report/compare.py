"""Where two runs part: outputs, then cycles with the first instruction whose times differ, then counters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def first_difference(a: Mapping[str, Any], b: Mapping[str, Any], counters: Collection[str] | None = None) -> str:
    """One line that names the first difference of two RUN.json contents, empty if they are equal.

    Args:
        a, b: RUN.json (schema 1) of any two views of the same run.
        counters: those that are compared; None: all.
    """
    for key in ("target", "engine"):
        if a[key] != b[key]:
            return f"{key}: {a[key]} and {b[key]} are not the same machine"
    for name in sorted({*a["outputs"], *b["outputs"]}):
        if a["outputs"].get(name) != b["outputs"].get(name):
            return f"output {name} differs" + _first_step(a, b)
    for name in a["counters"] if counters is None else counters:
        if a["counters"][name] != b["counters"].get(name):
            return f"counter {name}: {a['counters'][name]} and {b['counters'].get(name)}" + _first_step(a, b)
    return ""


def _first_step(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The first instruction that is accepted or done in another cycle, or stores other bytes."""
    parted = []
    for found in filter(None, (a.get("parted"), b.get("parted"))):
        parted.append((found["cycle"], f"; first at instruction {found['instruction']} ({found['unit']}): {found['signal']}"))
    units = sorted({step[1] for step in a.get("steps", ())}) if b.get("steps") else ()
    for unit in units:
        mine = [s for s in a["steps"] if s[1] == unit]
        other = [s for s in b["steps"] if s[1] == unit]
        for one, two in zip(mine, other, strict=False):
            if one != two:
                signal = "index" if one[0] != two[0] else "accept" if one[2] != two[2] else "done"
                place = {"index": 0, "accept": 2, "done": 3}[signal]
                cycle = min(one[2], two[2])
                parted.append((cycle, f"; first at instruction {one[0]} ({unit}): {signal} {one[place]} and {two[place]}"))
                break
    return min(parted)[1] if parted else ""
