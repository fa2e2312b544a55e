"""How a model's inputs become starts of the machine, and results its outputs: what differs between kinds of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.embeddings import Table

from .choice import AdapterChoice
from .decoder import Context
from .engines import Engine, Progress
from .inputs import InputsInfo, Kind, Values
from .machine import Machine
from .run import Run
from .validate import Check


class Interface(Protocol):
    """A frozen dataclass: its fields stand in the manifest, its arrays in arrays.safetensors."""

    kind: ClassVar[Kind]

    def inputs_info(self, m: Machine, /) -> InputsInfo:
        """Shape and type of each of the model's inputs."""

    def check_inputs(self, m: Machine, inputs: Mapping[str, npt.ArrayLike], /) -> Values:
        """The inputs in the model's types.

        Raises:
            BadInput: missing, unknown, wrong shape, not numbers, not finite, out of the type's range.
        """

    def random_inputs(self, m: Machine, rng: np.random.Generator, /) -> Values:
        """Inputs that a run takes."""

    def summary(self, m: Machine, /) -> str:
        """Sizes, in words."""

    def marks(self, m: Machine, number: int, /) -> dict[int, str]:
        """Instruction of a function -> the layer or operator that begins there."""

    def embeddings(self, m: Machine, /) -> tuple[Table, ...]:
        """Tables of token ids, by which files of adapters that hold embeddings are checked."""

    def prove(self, m: Machine, /) -> None:
        """Try on a sample what the host does in a run.

        Raises:
            UnsupportedOperator: an operator of the host part, by node.
        """

    def sequence(self, m: Machine, engine: Engine, adapter: str | None, shared: bool = False, /) -> Context:
        """An empty sequence of a language model.

        Args:
            shared: other sequences run on the engine between its starts, so all that a start writes is read back.

        Raises:
            BadInput: no language model.
        """

    def run(
        self,
        m: Machine,
        engine: Engine,
        inputs: Mapping[str, npt.ArrayLike],
        adapter: AdapterChoice,
        progress: Progress | None,
        /,
    ) -> Run:
        """Run the model; `progress` is called with (done, in all) after each start, or sequence of a language model.

        Raises:
            BadInput: as `check_inputs`. BadAdapter: as `choice.chosen`, or not one for each batch row.
        """

    def validate(self, c: Check, /) -> None:
        """Check the fields of a package that was read, after `Check.machine`.

        Raises:
            BadPackage: names the field, what it holds, and what it must be.
        """
