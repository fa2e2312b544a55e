"""A compiled model: what `axlora.compile` gives, `save` writes and `axlora.load` reads; `session` runs it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .choice import AdapterChoice
from .engines import Called, Engine, OwnStart
from .inputs import InputsInfo, Kind, Values
from .interface import Interface
from .machine import Machine
from .package import read, write
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
    ) -> Session:
        """Run the model on an engine, as often as is wanted.

        Args:
            adapter: what runs mean that name none; the adapter of the sequence of a language model.
            start: runs the machine, instead of an engine.
            engine: `sim`, `rtl`, `hls`, an `axlora.engines.Engine`, or an open board.
        """
        return Session(self, self.interface, engine_of(engine) if start is None else Called(start), adapter)


def load(path: str | Path) -> Program:
    """Read a package.

    Raises:
        BadPackage: not a package, another schema version, a file missing, truncated or edited, values that do not fit
            (`axlora.validate`).
    """
    machine, interface = read(Path(path))
    return Program(**{f.name: getattr(machine, f.name) for f in fields(Machine)}, interface=interface)
