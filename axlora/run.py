"""The result of a run, from the simulator or from Verilog, and its RUN.json."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import UNIT_COUNTERS
from axlora.isa.target import Target

from .energy import LAYER_COUNTS, EnergyTable, default_table, energy
from .engines import Engine, Left, Parted, Steps
from .machine import Int64, Machine
from .paging import Paging

SCHEMA = 1


@dataclass(frozen=True)
class Layer:
    """One linear's share of a run."""

    name: str
    operator: str
    macs: int
    """Codes times tokens that lanes took, padding included."""
    multiplications: int
    reuse_rate: float
    """1 - multiplications / macs."""
    cycles: int
    """From the end of the layer before to the end of this one; they add up to the run's cycles."""
    energy_pj: float | None = None
    """Its own actions, and a share by cycles of what fetch and leakage take; they add up to the run's."""
    lane_groups: int = 0
    rescales: int = 0
    vector_elements: int = 0
    adapter_macs: int = 0
    """Those of `macs` in columns of A and B."""
    adapter_multiplications: int = 0
    bytes_read: int = 0
    """From memory by load: weights, activations, records, adapter blocks."""
    bytes_written: int = 0
    stalls: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of load, matrix, vector and store: cycles by cause. Over the layers each adds up to the run's counter."""
    error: float | None = None
    """Root mean square of (result - float result) over that of the float result, on the first calibration sample: of a linear
    on the same input, of an operator of a whole model after all that came before it."""


@dataclass(frozen=True)
class Run:
    """Outputs, cycles and counters of a run."""

    target: Target
    view: str
    """`sim`, `rtl`, or `board` (`board-sdram`: its counters of time are its own)."""
    outputs: dict[str, npt.NDArray[Any]]
    """Output name to array of the ONNX model's shape and type."""
    codes: dict[str, npt.NDArray[np.int64]]
    """Result of every linear to integer codes [tokens, n]."""
    cycles: int
    counters: dict[str, int]
    layers: tuple[Layer, ...]
    steps: Steps = field(default_factory=Steps)
    host_macs: int = 0
    """Multiply-accumulates of the operators that the host ran."""
    saturated: int = 0
    """Input elements of linears that a static scale clamped."""
    fpga: Mapping[str, float] | None = None
    """Of the bitstream that it runs on, or is simulated for: lut, dsp, bram (used), mhz (reached)."""
    energy_pj: Mapping[str, float] | None = None
    """Term of `axlora.energy.TERMS` to pJ; None where nothing is known of time."""
    parted: Parted | None = None
    """See `axlora.engines.Left`; in cycles of the run."""
    baselines: Mapping[str, int | None] | None = None
    """Cycles of other machines (`axlora.baselines`)."""
    paging: Paging | None = None
    """What became of adapters, where the memory does not hold all of them."""

    @property
    def stalls(self) -> dict[str, dict[str, int]]:
        """Per unit: busy and each stall cause in cycles; they add up to `cycles`."""
        return {
            unit.name.lower(): {name.removeprefix(unit.name.lower() + "_"): self.counters[name] for name in names}
            for unit, names in UNIT_COUNTERS.items()
        }

    def with_energy(self, table: EnergyTable) -> Run:
        """The run with the energies of a table, whole and of each layer; without any where there are no cycles."""
        t, c = self.target, self.counters
        if not self.cycles:
            return self

        def of(layer: Layer) -> float:
            share = layer.cycles / self.cycles
            counts: dict[str, float] = {name: getattr(layer, name) for name in LAYER_COUNTS}
            counts |= {name: c[name] * share for name in ("instructions", "fetch_beats", "cycles")}
            counts |= {"load_beats": layer.bytes_read / t.beat_bytes, "store_beats": layer.bytes_written / t.beat_bytes}
            return math.fsum(energy(t, counts, table).values())

        layers = tuple(replace(layer, energy_pj=of(layer)) for layer in self.layers)
        return replace(self, layers=layers, energy_pj=energy(t, c, table))

    def to_json(self) -> dict[str, object]:
        """RUN.json, schema version 1 (docs/run_json.md). Asserts the sums that should hold."""
        c = self.counters
        for unit, causes in self.stalls.items():
            assert sum(causes.values()) == self.cycles, unit
        if self.layers and self.cycles:
            assert sum(layer.cycles for layer in self.layers) == self.cycles
            assert sum(layer.macs for layer in self.layers) == c["macs"]
            assert sum(layer.multiplications for layer in self.layers) == c["multiplications"]
            assert sum(layer.bytes_read for layer in self.layers) == c["load_beats"] * self.target.beat_bytes
            assert sum(layer.bytes_written for layer in self.layers) == c["store_beats"] * self.target.beat_bytes
            for unit in ("load", "matrix", "vector", "store"):
                for cause, cycles in self.stalls[unit].items():
                    assert sum(layer.stalls[unit][cause] for layer in self.layers) == cycles, (unit, cause)
            if self.energy_pj is not None:
                parts = [layer.energy_pj for layer in self.layers if layer.energy_pj is not None]
                assert math.isclose(math.fsum(parts), math.fsum(self.energy_pj.values()), rel_tol=1e-9)
        t = self.target
        return {
            "schema": SCHEMA,
            "view": self.view,
            "target": t.name,
            "engine": t.engine,
            "clock_mhz": t.clock_mhz,
            "beat_bytes": t.beat_bytes,
            "peak_macs": t.lanes * t.ports * t.tokens,
            "cycles": self.cycles,
            "counters": c,
            "stalls": self.stalls,
            "macs": c["macs"],
            "multiplications": c["multiplications"],
            "additions": c["macs"],
            "host_macs": self.host_macs,
            "saturated_inputs": self.saturated,
            "dram_bytes_read": (c["fetch_beats"] + c["load_beats"]) * t.beat_bytes,
            "dram_bytes_written": c["store_beats"] * t.beat_bytes,
            "layers": [vars(layer) for layer in self.layers],
            "energy_pj": None if self.energy_pj is None else dict(self.energy_pj),
            "baselines": None if self.baselines is None else dict(self.baselines),
            "fpga": None if self.fpga is None else dict(self.fpga),
            "paging": None if self.paging is None else self.paging.to_json(),
            "parted": None if self.parted is None else vars(self.parted),
            "steps": [[s.index, s.unit, s.accept, s.done] for s in self.steps],
            "outputs": {name: fingerprint(codes) for name, codes in self.codes.items()},
        }


def fingerprint(codes: npt.NDArray[np.int64]) -> str:
    """SHA-256 of a code array and its shape."""
    return hashlib.sha256(repr(codes.shape).encode() + np.ascontiguousarray(codes, "<i8").tobytes()).hexdigest()


def run_of(
    m: Machine,
    engine: Engine,
    outputs: dict[str, npt.NDArray[Any]],
    codes: dict[str, Int64],
    lefts: Sequence[Left],
    layers: tuple[Layer, ...],
    saturated: int = 0,
) -> Run:
    """The run: cycles and counters are sums over the starts; each start's steps come after those before."""
    counters = {name: sum(left.counters[name] for left in lefts) for name in lefts[0].counters}
    steps = []
    base, parted = 0, None
    for left in lefts:
        if parted is None and left.parted is not None:
            parted = replace(left.parted, cycle=left.parted.cycle + base)
        steps.append(left.steps.after(base))
        base += left.counters["cycles"]
    target = m.target if engine.clock_mhz is None else replace(m.target, clock_mhz=engine.clock_mhz)
    cycles = counters["cycles"]
    every = Steps(np.concatenate(steps))
    run = Run(target, engine.view, outputs, codes, cycles, counters, layers, every, m.host_macs, saturated, parted=parted)
    return run.with_energy(default_table())
