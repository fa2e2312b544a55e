"""Hand a model of standard operators to TVM."""

from __future__ import annotations

import warnings
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend.bounds import bound_indices

LLVM: dict[str, Any] = {"kind": "llvm"}
"""The baseline CPU."""


def import_onnx(model: onnx.ModelProto, where: str, *, constants: bool = False) -> tvm.IRModule:
    """The Relax module; initializers stay parameters unless `constants`, so that nothing folds codes back into floats.

    Raises:
        UnsupportedOperator: TVM does not take an operator.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bound_indices(from_onnx(model, keep_params_in_input=not constants))
    except Exception as error:  # TVM raises several types here
        text = " ".join(str(error).split())[:160]
        raise UnsupportedOperator(f"TVM does not take the model: {text}", where, "simplify the export") from None


def compiled(module: tvm.IRModule) -> Any:
    """The Relax VM over the module's functions, compiled by LLVM."""
    return relax.VirtualMachine(relax.build(module, target=tvm.target.Target(LLVM)), tvm.cpu())
