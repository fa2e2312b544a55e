"""Terminal tables of placement and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.table import Table


class PlacementRow(Protocol):
    """A row of the placement table."""

    @property
    def operator(self) -> str:
        """Name of the operator."""

    @property
    def where(self) -> str:
        """`accelerator` or `host`."""

    @property
    def reason(self) -> str:
        """Why there."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""


class RunLike(Protocol):
    """What the tables need of a run."""

    def to_json(self) -> dict[str, object]:
        """RUN.json."""


def placement_table(rows: Sequence[PlacementRow]) -> Table:
    """Every operator: where it went, why, MACs; and the totals."""
    table = Table("operator", "where", "why", "MACs", title="placement")
    table.columns[3].justify = "right"
    for row in rows:
        table.add_row(row.operator, row.where, row.reason, f"{row.macs:,}" if row.macs else "")
    for where in ("accelerator", "host"):
        total = sum(row.macs for row in rows if row.where == where)
        table.add_row(f"all on the {where}", where, "", f"{total:,}", style="bold")
    return table


def module_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """Which linear each module of each adapter changes, and by what evidence: (adapter, module, linear, evidence)."""
    table = Table("adapter", "module", "linear", "found by", title="modules of adapters")
    for row in rows:
        table.add_row(*row)
    return table


class AdapterRow(Protocol):
    """An adapter of a package."""

    @property
    def name(self) -> str:
        """What runs call it."""

    @property
    def rank(self) -> int:
        """Largest rank over its linears."""

    @property
    def block(self) -> bytes:
        """Its bytes for the machine."""

    @property
    def pinned(self) -> bool:
        """Keeps a slot in every run."""


def adapter_table(rows: Sequence[AdapterRow], slots: int, rank: int) -> Table:
    """The adapters of a package."""
    table = Table("adapter", "rank", "KiB", "pinned", title=f"adapters; {slots} slots, rank up to {rank}")
    for row in rows:
        table.add_row(row.name, str(row.rank), f"{len(row.block) / 1024:.0f}", "yes" if row.pinned else "")
    return table


def run_tables(run: RunLike) -> list[Table]:
    """Layers, then units, of one run."""
    data: Mapping[str, Any] = run.to_json()
    heads = ("cycles", "matrix busy", "MACs", "removed", "adapter MACs", "removed", "KiB in", "KiB out", "µJ", "error")
    prefix = _common([row["name"] for row in data["layers"] if "." in row["name"]])
    layers = Table("layer", *heads, title=f"layers on {data['target']}" + (f"; names without {prefix}" if prefix else ""))
    layers.columns[0].no_wrap = True
    for column in layers.columns[1:]:
        column.justify = "right"
    total = dict.fromkeys(("adapter_macs", "adapter_multiplications"), 0)
    for row in data["layers"]:
        for key in total:
            total[key] += row[key]
        layers.add_row(
            row["name"].removeprefix(prefix), *_layer_cells(row), "" if row["error"] is None else f"{row['error']:.2%}"
        )
    whole = {
        **data,
        **total,
        "bytes_read": data["counters"]["load_beats"] * data["beat_bytes"],
        "bytes_written": data["counters"]["store_beats"] * data["beat_bytes"],
        "energy_pj": None if data["energy_pj"] is None else sum(data["energy_pj"].values()),
    }
    layers.add_row("all", *_layer_cells(whole), "", style="bold")
    return [layers, _units([("", data)]), *_energies([("", data)]), *_baselines([("", data)]), *_paging(data)]


def _paging(data: Mapping[str, Any]) -> list[Table]:
    """What became of the adapters of one run, where the memory does not hold all of them."""
    if data["paging"] is None:
        return []
    table = Table(*(name.replace("_", " ") for name in data["paging"]), title="adapters in the memory's places")
    for column in table.columns:
        column.justify = "right"
    table.add_row(*(f"{value:,}" for value in data["paging"].values()))
    return [table]


def _common(names: Sequence[str]) -> str:
    """The dotted path that all names begin with."""
    parts = [name.split(".") for name in names]
    count = 0
    while parts and all(len(p) > count + 1 and p[count] == parts[0][count] for p in parts):
        count += 1
    return ".".join(parts[0][:count]) + "." if count else ""


def _layer_cells(row: Mapping[str, Any]) -> list[str]:
    """Base columns and adapter columns apart."""
    base, products = row["macs"] - row["adapter_macs"], row["multiplications"] - row["adapter_multiplications"]
    return [
        f"{row['cycles']:,}",
        f"{row['stalls']['matrix']['busy']:,}",
        f"{base:,}",
        f"{1 - products / base:.1%}" if base else "",
        f"{row['adapter_macs']:,}" if row["adapter_macs"] else "",
        f"{1 - row['adapter_multiplications'] / row['adapter_macs']:.1%}" if row["adapter_macs"] else "",
        f"{row['bytes_read'] / 1024:,.0f}",
        f"{row['bytes_written'] / 1024:,.0f}",
        "" if row["energy_pj"] is None else f"{row['energy_pj'] / 1e6:,.2f}",
    ]


def _baselines(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Table]:
    """Cycles of other machines beside those of each run that has them."""
    known = [(name, data) for name, data in runs if data.get("baselines")]
    if not known:
        return []
    table = Table("machine", title="cycles of other machines on the same starts")
    for name, _ in known:
        table.add_column(f"{name} cycles".strip(), justify="right", no_wrap=True)
        table.add_column("times", justify="right", no_wrap=True)
    for key in ("cycles", *known[0][1]["baselines"]):
        cells = []
        for _, data in known:
            cycles = {**data["baselines"], "cycles": data["cycles"]}[key]
            cells += ["not known", ""] if cycles is None else [f"{cycles:,}", f"{cycles / data['cycles']:.2f}"]
        table.add_row("this one" if key == "cycles" else key.replace("_", " "), *cells)
    return [table]


def _energies(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Table]:
    """Energy of each run, of which something is known, by term."""
    known = [(name, data["energy_pj"]) for name, data in runs if data.get("energy_pj")]
    if not known:
        return []
    table = Table("energy", title="energy, by published figures (docs/energy.md)")
    for name, _ in known:
        table.add_column(f"{name} µJ".strip(), justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
    wholes = [sum(terms.values()) for _, terms in known]
    rows = {term: [terms[term] for _, terms in known] for term in known[0][1]} | {"all": wholes}
    for term, values in rows.items():
        cells = [(f"{v / 1e6:,.2f}", f"{v / whole:.1%}") for v, whole in zip(values, wholes, strict=True)]
        table.add_row(term, *[cell for pair in cells for cell in pair], style="bold" if term == "all" else None)
    return [table]


def _units(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    table = Table("unit", "cycles spent", title="cycles of each unit; its lines add up to the run")
    for name, _ in runs:
        table.add_column(name or "cycles", justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
    for unit, causes in runs[0][1]["stalls"].items():
        for number, cause in enumerate(causes):
            values = []
            for _, data in runs:
                cycles = data["stalls"][unit][cause]
                values += [f"{cycles:,}", f"{cycles / max(1, data['cycles']):.1%}"]
            table.add_row(unit if number == 0 else "", cause, *values, end_section=number == len(causes) - 1)
    return table


def side_by_side(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Table]:
    """Totals and units of several RUN.json files beside each other."""
    table = Table("", *[name for name, _ in runs], title="runs")
    for column in table.columns[1:]:
        column.justify = "right"
    for key in (
        "view",
        "target",
        "engine",
        "clock_mhz",
        "cycles",
        "macs",
        "multiplications",
        "dram_bytes_read",
        "dram_bytes_written",
    ):
        table.add_row(key, *[f"{data[key]:,}" if isinstance(data[key], int) else str(data[key]) for _, data in runs])
    table.add_row("removed", *[f"{1 - d['multiplications'] / d['macs']:.1%}" if d["macs"] else "" for _, d in runs])
    if any(data["fpga"] for _, data in runs):
        for key in ("lut", "dsp", "bram", "mhz"):
            table.add_row(f"fpga {key}", *[f"{data['fpga'][key]:,}" if data["fpga"] else "" for _, data in runs])
    table.add_row("ms at clock", *[f"{d['cycles'] / d['clock_mhz'] / 1000:.3f}" for _, d in runs])
    return [table, _units(runs), *_energies(runs), *_baselines(runs)]
