"""The phases of a compilation as text, for `--dump-passes`; what is compiled does not depend on it.

Every kind of model begins alike: the normalised ONNX graph, the Relax module that TVM imports, the module after each pass that
recognition wants, and what was recognised. Then come the modules of integers, and the instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import tvm
from onnx import printer

from axlora.isa.assembly import disassemble
from axlora.isa.instruction import Instruction


class Dump:
    """Writes one numbered file a phase; does nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._count = folder, 0

    def restart(self) -> None:
        """Number from 0 again: the model is read in another way."""
        self._count = 0

    @property
    def wanted(self) -> bool:
        """Whether anything is written: a text that is costly to make need not be made."""
        return self._folder is not None

    def _write(self, name: str, text: str, number: bool = True) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{self._count}_{name}").write_text(text)
            self._count += number

    def model(self, model: onnx.ModelProto) -> None:
        """The normalised ONNX graph, constants by type and shape alone: `normalised.txt`."""
        if self._folder is None:
            return
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        for tensor in shown.graph.initializer:
            shown.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        del shown.graph.initializer[:]
        self._write("normalised.txt", printer.to_text(shown))

    def modules(self, phases: Iterable[tuple[str, tvm.IRModule]]) -> None:
        """The Relax module after each phase, large constants left out: `NAME.py`."""
        if self._folder is not None:
            for name, module in phases:
                self._write(f"{name}.py", module.script(show_meta=False))

    def recognised(self, found: Sequence[object]) -> None:
        """What the module was recognised as: `recognised.txt`."""
        if self._folder is not None:
            with np.printoptions(threshold=8, precision=4, linewidth=10**6):
                lines = [" ".join(repr(one).split()) for one in found]
            self._write("recognised.txt", "\n".join(lines) + "\n")

    def programs(self, programs: Mapping[str, Sequence[Instruction]]) -> None:
        """The instructions of each program: `NAME.asm`."""
        if self._folder is None:
            return
        for place, (name, program) in enumerate(programs.items()):
            last = place == len(programs) - 1
            self._write(f"{name}.asm", "\n".join(disassemble(i) for i in program) + "\n", last)
