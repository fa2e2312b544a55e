"""A compiled model: what `axlora.compile` gives, `save` writes and `axlora.load` reads; `session` runs it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .choice import AdapterChoice
from .engines import Called, Engine, OwnStart
from .inputs import BadInput, InputsInfo, Kind, Values
from .interface import Interface
from .machine import Machine
from .package import read, write
from .paging import Paged
from .session import Session, engine_of

if TYPE_CHECKING:
    from axlora.fpga.host import Board

Listed = tuple[str, bytes, dict[int, str]]
"""Title of a function (empty for the only one), its bytes, and instruction -> what begins there."""


@dataclass(frozen=True)
class Program(Machine):
    """A compiled model for one target, of any kind."""

    interface: Interface

    @property
    def kind(self) -> Kind:
        """How its inputs become starts of the machine."""
        return self.interface.kind

    @property
    def summary(self) -> str:
        """Sizes, in words."""
        return self.interface.summary(self)

    @property
    def inputs_info(self) -> InputsInfo:
        """Shape and type of each of the model's inputs."""
        return self.interface.inputs_info(self)

    def random_inputs(self, seed: int) -> Values:
        """Inputs that a run takes, for a first look without data."""
        return self.interface.random_inputs(self, np.random.default_rng(seed))

    def listing(self) -> list[Listed]:
        """The functions, for a disassembly."""
        return [
            (
                f"{f.name}: start of {f.rows} tokens" if len(self.functions) > 1 else "",
                self.image[f.address : f.address + f.size],
                self.interface.marks(self, number),
            )
            for number, f in enumerate(self.functions)
        ]

    def save(self, path: str | Path) -> None:
        """Write the package directory; replaces a package of that name, leaves nothing half-written.

        Raises:
            BadPackage: something that is not a package is in the way.
        """
        write(self, self.interface, Path(path))

    def session(
        self,
        adapter: AdapterChoice = None,
        start: OwnStart | None = None,
        *,
        engine: str | Engine | Board = "sim",
        adapter_places: int | None = None,
        page_rate: float | None = None,
    ) -> Session:
        """Run the model on an engine, as often as is wanted.

        Args:
            adapter: what runs mean that name none; the adapter of the sequence of a language model.
            start: runs the machine, instead of an engine.
            engine: `sim`, `rtl`, `hls`, an `axlora.engines.Engine`, or an open board.
            adapter_places: adapters that the machine's memory holds at once; the least recently used one makes room for
                another (`axlora.paging`). None: all of the package.
            page_rate: how fast they are copied there, in 10**6 bytes a second; None: a beat of the memory a cycle.

        Raises:
            BadAdapter: no such adapter. BadInput: no such engine, or no place beside those of pinned adapters.
        """
        if page_rate is not None and adapter_places is None:
            raise BadInput("a page rate without adapter places", "page-rate", "it says how fast adapters come to their places")
        machine = self if adapter_places is None else Paged.of(self, adapter_places, page_rate)
        return Session(machine, self.interface, engine_of(engine) if start is None else Called(start), adapter)


def load(path: str | Path) -> Program:
    """Read a package.

    Raises:
        BadPackage: not a package, another schema version, a file missing, truncated or edited, values that do not fit
            (`axlora.validate`).
    """
    machine, interface = read(Path(path))
    return Program(**{f.name: getattr(machine, f.name) for f in fields(Machine)}, interface=interface)
