"""The phases of a whole transformer as text, for `--dump-passes`; what is compiled does not depend on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import printer

from axlora.isa.assembly import disassemble

from .build import Image
from .ops import Transformer


def dump_model(folder: Path | None, model: onnx.ModelProto) -> None:
    """Write `whole_0_normalised.txt`: the ONNX graph that recognition sees, constants by type and shape alone."""
    if folder is None:
        return
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for tensor in shown.graph.initializer:
        shown.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del shown.graph.initializer[:]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "whole_0_normalised.txt").write_text(printer.to_text(shown))


def dump_operators(folder: Path | None, model: Transformer) -> None:
    """Write `whole_1_recognised.txt`: the operators of the machine that the graph was recognised as."""
    if folder is None:
        return
    with np.printoptions(threshold=8, precision=4, linewidth=10**6):
        lines = [" ".join(repr(op).split()) for op in model.operators]
    (folder / "whole_1_recognised.txt").write_text("\n".join(lines) + "\n")


def dump_programs(folder: Path | None, image: Image) -> None:
    """Write `whole_2_program_N.asm`: the instructions of the start of N rows, for each N."""
    if folder is None:
        return
    for rows, program in image.programs.items():
        (folder / f"whole_2_program_{rows}.asm").write_text("\n".join(disassemble(i) for i in program) + "\n")
