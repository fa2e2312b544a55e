"""Energy of a run: actions that the machine's counters tell, times published energies of a table (docs/energy.md)."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from axlora.isa.errors import Error
from axlora.isa.opcodes import CACHE_LINE_BYTES, FILL_ADDS, INSTRUCTION_BYTES, MULTIPLES
from axlora.isa.target import Target

TERMS = ("multiplier", "adder", "cache", "buffers", "vector", "dram", "static")
"""Terms of `energy_pj`; they add up to the whole."""
LAYER_COUNTS = ("macs", "multiplications", "lane_groups", "rescales", "vector_elements")
"""Counters of which each layer has a share of its own, besides its beats and cycles."""
_ELEMENT_BITS = 32
_CODE_BITS = 8
_FIGURES = {
    "multiply": ("pj", "bits"),
    "add": ("pj", "bits"),
    "memory": ("pj", "bits", "bytes"),
    "dram": ("pj", "bits"),
    "static": ("watts", "bits"),
}
_TEXTS = ("node", "source")
_HINT = "see docs/energy.md; axlora/energy.toml of the installation is one"


class BadEnergyTable(Error):
    """A table of energies lacks a field, or holds one that it may not."""


@dataclass(frozen=True)
class EnergyTable:
    """Energies of operations at the widths and sizes that were published, and by which they are scaled."""

    multiply_pj: float
    """Of a bit of one factor times a bit of the other."""
    add_pj: float
    """Of a bit."""
    memory_pj: float
    """Of a bit in a memory of one byte; times the square root of its bytes."""
    dram_pj: float
    """Of a bit."""
    static_watts: float
    """Of a bit of memory on the chip."""

    def multiply(self, one: int, other: int) -> float:
        """PJ of a product of factors of these many bits."""
        return self.multiply_pj * one * other

    def add(self, bits: int) -> float:
        """PJ of an addition."""
        return self.add_pj * bits

    def access(self, bits: float, size: float) -> float:
        """PJ of reading or writing `bits` of a memory of `size` bytes."""
        return self.memory_pj * bits * math.sqrt(size)


def load_table(path: str | Path) -> EnergyTable:
    """A table from a TOML file of the form of axlora/energy.toml.

    Raises:
        BadEnergyTable: no such file, no TOML, a field that is missing, unknown, or no positive number, a figure without source.
    """
    try:
        return read_table(Path(path).read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadEnergyTable(f"{path} cannot be read: {error}", str(path), _HINT) from None


@functools.cache
def default_table() -> EnergyTable:
    """The table that comes with AxLoRA."""
    return read_table((resources.files(__package__) / "energy.toml").read_text(), "energy.toml")


def read_table(text: str, where: str) -> EnergyTable:
    """The text of a table; raises as `load_table`."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadEnergyTable(f"{where} is not TOML: {error}", where, _HINT) from None
    known = {*_FIGURES, "dram_kind"}
    for key in sorted(data.keys() ^ known):
        raise BadEnergyTable(f"{where}: {key} is {'missing' if key in known else 'unknown'}", where, _HINT)
    kinds, kind = data["dram"], data["dram_kind"]
    if not isinstance(kinds, dict) or kind not in kinds:
        raise BadEnergyTable(f"{where}: dram_kind is {kind!r}, no table dram.{kind} is there", where, _HINT)
    checked = {f"dram.{name}": _figure(entry, "dram", f"dram.{name}", where) for name, entry in kinds.items()}
    checked |= {name: _figure(data[name], name, name, where) for name in _FIGURES if name != "dram"}
    multiply, memory = checked["multiply"], checked["memory"]
    return EnergyTable(
        multiply["pj"] / multiply["bits"] ** 2,
        checked["add"]["pj"] / checked["add"]["bits"],
        memory["pj"] / memory["bits"] / math.sqrt(memory["bytes"]),
        checked[f"dram.{kind}"]["pj"] / checked[f"dram.{kind}"]["bits"],
        checked["static"]["watts"] / checked["static"]["bits"],
    )


def _figure(entry: object, kind: str, name: str, where: str) -> dict[str, float]:
    """The numbers of a figure; it has a node and a source too."""
    numbers = _FIGURES[kind]
    if not isinstance(entry, dict):
        raise BadEnergyTable(f"{where}: {name} is no table", where, _HINT)
    for key in sorted(entry.keys() ^ {*numbers, *_TEXTS}):
        what = "unknown" if key in entry else "missing"
        raise BadEnergyTable(f"{where}: {name}.{key} is {what}", where, f"it has {', '.join((*numbers, *_TEXTS))}")
    for key in _TEXTS:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise BadEnergyTable(f"{where}: {name}.{key} is empty", where, "name the publication, its table or figure")
    for key in numbers:
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise BadEnergyTable(f"{where}: {name}.{key} is {value!r}, must be a positive number", where, _HINT)
    return {key: float(entry[key]) for key in numbers}


def memory_bits(t: Target) -> int:
    """Bits of memory on the chip: buffers, instruction cache, products and FIFOs of the lanes."""
    width = t.tokens * t.ports * t.accumulator_bits
    size = t.wbuf_lines * t.wbuf_line_bytes + (t.abuf_lines + t.ubuf_lines) * t.abuf_line_bytes + t.pbuf_bytes
    size += 4 * t.tbuf_tokens + t.sbuf_lines * t.sbuf_line_bytes + t.obuf_beats * t.beat_bytes + 8 * t.table_entries
    size += (t.cbuf_words + t.vbuf_words) * t.vector_word_bytes + t.icache_lines * CACHE_LINE_BYTES
    bits = 8 * size + 2 * t.acc_words * width + (t.group_words * width if t.group_scales else 0)
    product = t.tokens * (t.activation_bits + _CODE_BITS)
    lane = {
        "mac": t.fifo_depth * t.ports * product,
        "reuse": t.fifo_depth * t.ports * product + t.ports * t.index_entries * product + t.index_entries,
        "table": 4 * MULTIPLES * t.ports * t.tokens * (t.activation_bits + 4),
    }
    return bits + t.lanes * lane[t.engine]


def energy(t: Target, n: Mapping[str, float], table: EnergyTable) -> dict[str, float]:
    """PJ of each of `TERMS`; linear in the counters `n`, so that shares of them add up.

    Args:
        t: the machine that ran.
        n: macs, multiplications, lane_groups, rescales, vector_elements; fetch_beats, load_beats, store_beats; instructions,
            cycles.
        table: of energies.
    """
    x, acc, ports = t.activation_bits, t.accumulator_bits, t.ports
    product, entry, beat = x + _CODE_BITS, x + 4, 8 * t.beat_bytes
    levels = t.lanes.bit_length() - 1
    sums = n["macs"] / t.lanes  # an accumulator takes one sum of all lanes
    tree = n["macs"] * sum(table.add(product + level) / 2**level for level in range(1, levels + 1))
    adder = tree + sums * table.add(acc) + 2 * n["rescales"] * table.add(acc)
    multiplier = 2 * n["rescales"] * table.multiply(_CODE_BITS, acc)
    fifo = 2 * n["macs"] * table.access(product, t.fifo_depth * ports * t.tokens * product / 8)
    reads = n["lane_groups"] * t.tokens
    cache = 0.0
    match t.engine:
        case "table":
            adder += (n["macs"] + n["multiplications"]) * table.add(entry)
            depth = 2 * MULTIPLES // t.multipliers
            one = table.access(entry, depth * t.tokens * entry / 8)
            fills = n["multiplications"] / FILL_ADDS
            cache = (2 * t.multipliers * n["macs"] + 2 * MULTIPLES * ports * fills) * one
            fifo, reads = 0.0, fills
        case "reuse":
            banks = t.multipliers
            one = table.access(product, t.index_entries // banks * t.tokens * product / 8)
            cache = (banks * n["macs"] + ports * n["multiplications"]) * one
            cache += n["lane_groups"] * table.access(ports, t.index_entries / 8)
    if t.engine != "table":
        multiplier += n["multiplications"] * table.multiply(x, _CODE_BITS)
        adder += n["macs"] * table.add(product)  # products of magnitudes get their sign
    bank = t.wbuf_lines * ports
    buffers = fifo + n["lane_groups"] * table.access(8 * ports, bank) + n["load_beats"] * table.access(beat, bank)
    buffers += reads * sum(table.access(x, lines * x / 8) for lines in (t.abuf_lines, t.ubuf_lines))
    buffers += 3 * sums * table.access(acc, t.acc_words * ports * acc / 8)  # read, and both copies written
    buffers += n["store_beats"] * table.access(beat, t.obuf_beats * t.beat_bytes)
    buffers += 3 * n["vector_elements"] * table.access(_ELEMENT_BITS, t.vbuf_words * t.vector_word_bytes)
    lines = t.icache_lines * CACHE_LINE_BYTES
    buffers += n["instructions"] * table.access(8 * INSTRUCTION_BYTES, lines) + n["fetch_beats"] * table.access(beat, lines)
    vector = table.multiply(_ELEMENT_BITS, _ELEMENT_BITS) + 2 * table.add(_ELEMENT_BITS)
    return {
        "multiplier": multiplier,
        "adder": adder,
        "cache": cache,
        "buffers": buffers,
        "vector": n["vector_elements"] * vector,
        "dram": (n["fetch_beats"] + n["load_beats"] + n["store_beats"]) * beat * table.dram_pj,
        "static": table.static_watts * memory_bits(t) * n["cycles"] / t.clock_mhz * 1e6,
    }
