"""A target: the parameters of one machine, read from TOML and checked."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .errors import Error
from .opcodes import MOST_WINDOWS

ENGINES = ("mac", "reuse", "table")
"""Product engines; the place of each is its number in Verilog and C++."""


class BadTarget(Error):
    """A target names an unknown field, or a value out of its range."""


def _power(low: int, high: int) -> tuple[Callable[[int], bool], str]:
    return (lambda v: low <= v <= high and v & (v - 1) == 0), f"a power of two from {low} to {high}"


def _range(low: int, high: int) -> tuple[Callable[[int], bool], str]:
    return (lambda v: low <= v <= high), f"{low} to {high}"


def _one_of(*values: int) -> tuple[Callable[[int], bool], str]:
    return (lambda v: v in values), "one of " + ", ".join(map(str, values))


MOST_MULTIPLIERS = {"mac": 16, "reuse": 4, "table": 2}
"""Of a lane, by engine: each is a bank of the result cache (`reuse`), or of the tables (`table`)."""
_RULES: dict[str, tuple[Callable[[int], bool], str]] = {
    "lanes": _power(2, 64),
    "ports": _power(2, 16),
    "multipliers": _power(1, 16),
    "multiplier_latency": _range(1, 8),
    "tokens": _power(1, 8),
    "fifo_depth": _range(5, 64),
    "activation_bits": _one_of(8, 16),
    "accumulator_bits": _one_of(32, 48),
    "index_entries": _one_of(128, 256),
    "vector_lanes": _power(1, 16),
    "beat_bytes": _power(4, 32),
    "burst_beats": _power(2, 64),
    "outstanding": _range(1, 8),
    "read_latency": _range(1, 255),
    "write_latency": _range(1, 255),
    "wbuf_lines": _power(16, 32768),
    "abuf_lines": _power(4, 16384),
    "ubuf_lines": _power(2, 16384),
    "acc_words": _power(8, 32768),
    "group_words": _power(4, 4096),
    "pbuf_groups": _power(4, 16384),
    "tbuf_tokens": _power(8, 4096),
    "sbuf_lines": _power(4, 32768),
    "obuf_beats": _power(16, 65536),
    "cbuf_words": _power(16, 32768),
    "vbuf_words": _power(16, 32768),
    "table_entries": _power(16, 32768),
    "icache_lines": _power(2, 256),
    "windows": _range(1, MOST_WINDOWS),
    "clock_mhz": _range(1, 2000),
}


@dataclass(frozen=True)
class Target:
    """Parameters of one machine. Sizes are in the units of docs/isa.md."""

    name: str
    engine: str
    """`mac`, `reuse` or `table`."""
    lanes: int
    """L: rows multiplied at once."""
    ports: int
    """P: codes a lane takes per cycle."""
    multipliers: int
    """M: multipliers a lane, for each token; of `table`, adders that fill a table."""
    multiplier_latency: int
    """LAT, cycles."""
    tokens: int
    """T: tokens that share a lane's tag pipeline."""
    fifo_depth: int
    """D: product groups a lane may run ahead."""
    activation_bits: int
    accumulator_bits: int
    index_entries: int
    """Entries of the result cache: 128, or 256 if U8 is used."""
    group_scales: bool
    """Whether the group rescale unit is built."""
    vector_lanes: int
    """V: elements per cycle of the vector unit."""
    beat_bytes: int
    """B: bytes of a memory beat."""
    burst_beats: int
    """Most beats of a burst; bursts end at multiples of it."""
    outstanding: int
    """Read bursts that load keeps in flight."""
    read_latency: int
    """RLAT of the memory model, cycles."""
    write_latency: int
    """WLAT of the memory model, cycles."""
    wbuf_lines: int
    abuf_lines: int
    ubuf_lines: int
    acc_words: int
    group_words: int
    pbuf_groups: int
    tbuf_tokens: int
    sbuf_lines: int
    obuf_beats: int
    cbuf_words: int
    """Words of V 32-bit elements that load writes for the vector unit."""
    vbuf_words: int
    """Words of V 32-bit elements that the vector unit writes."""
    table_entries: int
    """Records of function tables."""
    icache_lines: int
    clock_mhz: int
    windows: int = 1
    """Windows of registers R16..R31: sequences whose positions a program knows."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= 80 or not self.name.isprintable():
            raise BadTarget(f"name is {str(self.name)[:80]!r}, must be a text of one line", "target", "fix name")
        where = f"target {self.name!r}"
        if self.engine not in ENGINES:
            raise BadTarget(f"{where}: engine is {self.engine!r}, must be one of {', '.join(ENGINES)}", where, "fix engine")
        for field, (rule, text) in _RULES.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not rule(value):
                raise BadTarget(f"{where}: {field} is {value!r}, must be {text}", where, f"fix {field}")
        if not isinstance(self.group_scales, bool):
            raise BadTarget(f"{where}: group_scales is {self.group_scales!r}, must be true or false", where, "fix group_scales")
        beat, most = self.beat_bytes, MOST_MULTIPLIERS[self.engine]
        rules = (
            ("multipliers", self.multipliers <= self.ports, f"at most ports ({self.ports})"),
            ("multipliers", self.multipliers <= most, f"at most {most} with engine {self.engine}"),
            ("vector_lanes", self.vector_lanes <= min(self.ports, self.lanes), "at most ports and lanes"),
            ("beat_bytes", self.lanes * self.ports >= beat, f"at most lanes*ports ({self.lanes * self.ports})"),
            ("beat_bytes", self.abuf_line_bytes >= beat, f"at most an activation line ({self.abuf_line_bytes} bytes)"),
            ("tbuf_tokens", 4 * self.tbuf_tokens >= 2 * beat, f"at least two beats of words ({beat // 2})"),
            ("cbuf_words", self.cbuf_words * self.vector_lanes * 4 >= 2 * beat, f"at least two beats ({2 * beat} bytes)"),
            ("cbuf_words", self.cbuf_words * self.vector_lanes * 4 <= 65536 * beat, "at most 65536 beats of CBUF"),
            ("obuf_beats", self.obuf_beats * beat >= 2 * self.vector_word_bytes, "at least two words of vector_lanes elements"),
            ("fifo_depth", self.fifo_depth >= self.multiplier_latency + 4, "at least multiplier_latency + 4"),
            ("burst_beats", self.burst_beats * beat <= 4096, "burst_beats*beat_bytes at most 4096 (AXI4)"),
            ("burst_beats", self.burst_beats * beat >= 64, "burst_beats*beat_bytes at least 64 (a cache line)"),
            ("wbuf_lines", self.wbuf_lines * self.wbuf_line_beats <= 65536, "at most 65536 beats of WBUF"),
            ("abuf_lines", self.abuf_lines * self.abuf_line_beats <= 65536, "at most 65536 beats of ABUF"),
        )
        for field, good, text in rules:
            if not good:
                raise BadTarget(f"{where}: {field} is {getattr(self, field)}, must be {text}", where, f"fix {field}")

    @property
    def element_bytes(self) -> int:
        """Bytes of an activation."""
        return self.activation_bits // 8

    @property
    def wbuf_line_bytes(self) -> int:
        """L*P."""
        return self.lanes * self.ports

    @property
    def wbuf_line_beats(self) -> int:
        """Beats of a WBUF line."""
        return self.wbuf_line_bytes // self.beat_bytes

    @property
    def abuf_line_bytes(self) -> int:
        """L*T*AB/8."""
        return self.lanes * self.tokens * self.activation_bits // 8

    @property
    def abuf_line_beats(self) -> int:
        """Beats of an ABUF line."""
        return self.abuf_line_bytes // self.beat_bytes

    @property
    def sbuf_line_bytes(self) -> int:
        """max(2P, B)."""
        return max(2 * self.ports, self.beat_bytes)

    @property
    def pbuf_bytes(self) -> int:
        """Bytes of PBUF."""
        return self.pbuf_groups * self.ports * 8

    @property
    def vector_word_bytes(self) -> int:
        """4*V."""
        return 4 * self.vector_lanes

    @property
    def pipe(self) -> int:
        """PIPE: cycles from the last pop of a MATMUL to the unit being idle."""
        return self.lanes.bit_length() - 1 + 5 + (3 if self.group_scales else 0)

    @classmethod
    def from_mapping(cls, data: dict[str, object], where: str) -> Target:
        """Build from a TOML table; refuses unknown and missing fields by name."""
        known = {f.name for f in dataclasses.fields(cls)}
        for key in data:
            if key not in known:
                raise BadTarget(f"{where}: unknown field {key!r}", where, f"known fields: {', '.join(sorted(known))}")
        for key in sorted(known - {"windows"} - set(data)):
            raise BadTarget(f"{where}: field {key!r} is missing", where, "see a preset with `axlora targets test`")
        return cls(**data)  # type: ignore[arg-type]

    @classmethod
    def load(cls, name: str | Path) -> Target:
        """A preset by name, or a TOML file by path.

        Raises:
            BadTarget: no such preset or file, not TOML, an unknown field, a value out of range.
        """
        text = str(name)
        preset = resources.files(__package__) / "presets" / f"{text}.toml"
        if "/" not in text and not text.endswith(".toml") and preset.is_file():
            return cls.from_mapping(tomllib.loads(preset.read_text()), f"preset {text}")
        path = Path(text)
        if not path.is_file():
            raise BadTarget(f"no target {text!r}", text, f"presets: {', '.join(cls.presets())}; or the path of a TOML file")
        try:
            data = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadTarget(f"{text}: not a TOML file: {error}", text, "see docs/isa.md, targets") from None
        return cls.from_mapping(data, text)

    @staticmethod
    def presets() -> list[str]:
        """Names of the presets."""
        folder = resources.files(__package__) / "presets"
        return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))

    def to_toml(self) -> str:
        """The target as TOML text."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            text = f'"{value}"' if isinstance(value, str) else str(value).lower()
            lines.append(f"{field.name} = {text}")
        return "\n".join(lines) + "\n"
