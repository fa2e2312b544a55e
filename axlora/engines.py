"""Where starts of the machine run: the simulator, Verilog in Verilator, the HLS C++ in its C simulation, a board."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

import numpy as np

from axlora.isa.errors import Error
from axlora.isa.image import Image, ImageResult
from axlora.isa.opcodes import COUNTERS, INSTRUCTION_BYTES, Unit
from axlora.isa.target import Target
from axlora.sim.run import SimResult, run_image
from axlora.sim.timeline import Trace
from axlora.sim.writers import writers

from .extras import need
from .machine import Bytes, Function, Int64

if TYPE_CHECKING:
    from axlora.fpga.host import Board

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Start:
    """One start of the machine."""

    function: Function
    memory: Bytes
    """If it is the memory that the last start left, changed or not, an engine may keep what lies in it."""
    registers: dict[int, int]
    results: Sequence[tuple[int, int]]
    """(address, bytes) that the host reads afterwards."""
    written: Sequence[tuple[int, int]]
    """(address, bytes) that the program may write."""
    trace: bool = True
    """Whether `Left.steps` and `Left.trace` are wanted; they take memory and time."""

    @property
    def image(self) -> Image:
        """For what runs images."""
        return Image(self.memory.tobytes(), self.function.address, self.registers, self.memory.size, trace=self.trace)


@dataclass(frozen=True)
class Step:
    """One instruction's execution, for `axlora diff`."""

    index: int
    unit: str
    accept: int
    done: int


class Steps(Sequence[Step]):
    """Executions, in the order in which they were accepted."""

    def __init__(self, rows: Int64 | None = None) -> None:
        """`rows`: int64 [n, 4], index, unit, accept and done of each."""
        self.rows = np.zeros((0, 4), np.int64) if rows is None else rows

    @classmethod
    def of(cls, unit: Int64, address: Int64, accept: Int64, done: Int64) -> Steps:
        """Of instructions at byte addresses, in any order."""
        order = np.lexsort((unit, accept))
        return cls(np.stack([address // INSTRUCTION_BYTES, unit, accept, done], axis=1)[order])

    def after(self, base: int) -> Int64:
        """The rows, `base` cycles later."""
        moved: Int64 = self.rows + np.array([0, 0, base, base])
        return moved

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Step]:
        return (Step(index, Unit(unit).name.lower(), accept, done) for index, unit, accept, done in self.rows.tolist())

    @overload
    def __getitem__(self, place: int) -> Step: ...

    @overload
    def __getitem__(self, place: slice) -> Steps: ...

    def __getitem__(self, place: int | slice) -> Step | Steps:
        if isinstance(place, slice):
            return Steps(self.rows[place])
        return next(iter(Steps(self.rows[place][None])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Steps) and np.array_equal(self.rows, other.rows)


@dataclass(frozen=True)
class Parted:
    """An instruction of the simulator whose result another engine has otherwise."""

    instruction: int
    unit: str
    signal: str
    cycle: int
    """In which the simulator's unit accepted it."""


@dataclass(frozen=True)
class Left:
    """What a start left."""

    memory: Bytes
    counters: dict[str, int]
    steps: Steps = field(default_factory=Steps)
    trace: Trace | None = None
    """Of the simulator: what each instruction did, for the shares of layers."""
    parted: Parted | None = None
    """The first STORE whose bytes are not the simulator's, if the engine looks for it."""


@runtime_checkable
class Engine(Protocol):
    """Runs starts of the machine of one target."""

    @property
    def view(self) -> str:
        """What `Run.view` says."""

    @property
    def clock_mhz(self) -> int | None:
        """The clock that it runs at; None: the target's."""

    def start(self, target: Target, start: Start) -> Left:
        """Run from the function's first instruction to HALT."""


@dataclass(frozen=True)
class Simulator:
    """To the bit and to the cycle; without `timing` to the bit alone."""

    timing: bool = True
    view = "sim"
    clock_mhz = None

    def start(self, target: Target, start: Start) -> Left:
        found = run_image(target, start.memory, start.function.address, start.registers, timing=self.timing)
        return left_of(found, start.trace)


def left_of(found: SimResult, trace: bool) -> Left:
    """What a run on the simulator left, with its trace if that is wanted."""
    if found.trace is None or not trace:
        return Left(found.memory, found.counters)
    t = found.trace
    return Left(found.memory, found.counters, Steps.of(t.unit, t.address, t.accept, t.done), t)


class MachineStopped(RuntimeError):
    """A program that the simulator runs to its end stopped with an error, or did not end, or a bench beside it failed."""


class BadVerilog(Error):
    """Verilog of the user's does not build."""


@dataclass(frozen=True)
class Verilator:
    """The Verilog; needs the extra `rtl`."""

    waves: str | Path | None = None
    """Where a file of all signals goes: VCD if it is so called, else FST; of the last start, if there are several."""
    rtl: Path | None = None
    """Folder of all Verilog files of a machine; None: ours."""
    span: tuple[int, int] | None = None
    """Instructions, as `axlora disasm` counts them, from the first of which to the last waves go; None: all."""
    beside: bool = False
    """Run the simulator too, and look for the STORE that parts them."""
    bench: Path | None = None
    """A Python file whose coroutine `bench(dut)` runs beside every start; every signal is visible to it."""
    view = "rtl"
    clock_mhz = None

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`.

        Raises:
            MissingExtra: Verilator or cocotb is not installed. BadVerilog: that of `rtl` does not build.
            MachineStopped: the machine stopped with an error, ran longer than the simulator's by far, or the bench failed.
        """
        need("rtl")
        from axlora.rtl.runner import BenchFailed, NoEnd, SimulationFailed, Waves, run_images  # of an extra

        own = Simulator().start(target, start) if self.rtl or self.span or self.beside else None
        limit = None if own is None else _PATIENCE * (own.counters["cycles"] + 1000)
        span = None if own is None or self.span is None else _cycles_of(own.steps, self.span)
        whole = None if self.waves is None or self.span else Waves(Path(self.waves))
        try:
            (found,) = run_images(target, [start.image], whole, self.rtl, limit, self.bench)
            if self.waves is not None and span is not None:
                run_images(target, [start.image], Waves(Path(self.waves), span), self.rtl)
        except BenchFailed as error:
            raise MachineStopped(f"the bench failed: {error}") from None
        except NoEnd as error:
            cycles = own.counters["cycles"] if own else 0
            raise MachineStopped(f"{error}, the simulator's in {cycles}") from None
        except SimulationFailed as error:
            if self.rtl is None:
                raise
            lines = error.log.read_text(errors="replace").splitlines()
            first = next((line for line in lines if line.startswith("%Error")), str(error))
            raise BadVerilog(f"{self.rtl} does not build: {first}", str(self.rtl), f"all of it: {error.log}") from None
        events = np.array(found.events, np.int64).reshape(-1, 4)
        memory = _memory(found, "Verilog")
        parted = None if own is None else _parted(target, start, own, memory)
        return Left(memory, found.counters, Steps.of(*events.T), parted=parted)


_PATIENCE = 4
_MOST_PLACES = 1 << 14
"""Bytes that differ of which the STORE is looked for."""


def _cycles_of(steps: Steps, span: tuple[int, int]) -> tuple[int, int] | None:
    """The cycles in which instructions of a span are executed, first and last; None: none is."""
    index, _, accept, done = steps.rows.T
    inside = (index >= span[0]) & (index <= span[1])
    return (int(accept[inside].min()), int(done[inside].max())) if inside.any() else None


def _parted(target: Target, start: Start, own: Left, memory: Bytes) -> Parted | None:
    """The first STORE of the simulator whose bytes are not those in `memory`."""
    places = np.flatnonzero(own.memory != memory)
    if not places.size:
        return None
    places = places[:: -(-places.size // _MOST_PLACES)]
    number, address = writers(target, start.memory, start.function.address, start.registers, places)
    known = np.flatnonzero(number >= 0)
    if not known.size:
        return None
    first = known[np.argmin(number[known])]
    stores = own.steps.rows[own.steps.rows[:, 1] == Unit.STORE]
    return Parted(int(address[first]) // INSTRUCTION_BYTES, "store", "data", int(stores[number[first], 2]))


@dataclass(frozen=True)
class Hls:
    """The HLS C++, without time: `cycles` is 0, as are the counters that depend on time (all but `UNTIMED`).

    Needs g++ and the extra `fpga`.
    """

    view = "hls"
    clock_mhz = None

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`.

        Raises:
            HlsFailed: g++ or the ap_int headers are missing. MachineStopped: the machine stopped with an error.
        """
        from axlora.fpga.hls_run import run_images  # of an extra

        (found,) = run_images(target, [replace(start, trace=False).image])
        counters = {c.name: found.counters.get(c.name, 0) for c in COUNTERS}
        return Left(_memory(found, "C++"), counters)


@dataclass
class OnBoard:
    """An open board with a bitstream of the target; a cache stays in the board's memory from start to start."""

    board: Board
    progress: Progress | None = None
    """Called with (bytes sent, bytes to send) of each start."""
    onchip: bool = field(default=True, init=False)
    """Every start so far ran from on-chip memory, whose timing is the simulator's."""

    @property
    def view(self) -> str:
        """`board`, or `board-sdram`: its counters of time are its own."""
        return "board" if self.onchip else "board-sdram"

    @property
    def clock_mhz(self) -> int:
        """Of the bitstream."""
        return round(self.board.clock_mhz)

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`.

        Raises:
            BoardError: the board failed.
        """
        at = start.function.address
        found = self.board.run(start.memory, at, start.registers, start.results, start.written, progress=self.progress)
        self.onchip = self.onchip and found.onchip
        return Left(found.memory, found.counters)


@dataclass(frozen=True)
class Around:
    """An engine that adds something to what another does."""

    engine: Engine

    @property
    def view(self) -> str:
        """The other's."""
        return self.engine.view

    @property
    def clock_mhz(self) -> int | None:
        """The other's."""
        return self.engine.clock_mhz


@dataclass(frozen=True)
class Kept(Around):
    """Keeps what starts left but for the memory."""

    starts: list[tuple[Function, Left]] = field(default_factory=list, init=False)
    """In the order in which they ran."""

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`, with a trace."""
        left = self.engine.start(target, replace(start, trace=True))
        self.starts.append((start.function, replace(left, memory=left.memory[:0])))
        return left


OwnStart = Callable[[Bytes, int, dict[int, int]], Any]
"""(memory, program's address, registers) -> what is left, with `memory` whole and all `counters` by name: a PYNQ driver's."""


@dataclass(frozen=True)
class Called:
    """A function that runs starts."""

    call: OwnStart
    view: str = "own"
    clock_mhz = None

    def start(self, target: Target, start: Start) -> Left:
        found = self.call(start.memory, start.function.address, start.registers)
        return Left(found.memory, dict(found.counters))


NAMED: dict[str, type[Simulator] | type[Verilator] | type[Hls]] = {"sim": Simulator, "rtl": Verilator, "hls": Hls}


def _memory(found: ImageResult, what: str) -> Bytes:
    if found.error:
        raise MachineStopped(f"the {what} stopped with error {found.error} at instruction {found.error_address:#x}")
    return np.frombuffer(found.memory, np.uint8).copy()
