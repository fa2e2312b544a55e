"""Indices that leave their table: TVM 0.27 reads and writes there (`Fast mode segfaults`), so they are bounded first.

Gather of floats gives NaN, which the run then refuses by name (`axlora.execute`, `compiler.boundary`); everything else takes
the nearest place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

_ALONG_AXIS = ("relax.gather_elements", "relax.scatter_elements")
_BY_PLACE = ("relax.gather_nd", "relax.scatter_nd")


def _extents(value: relax.Expr) -> list[int] | None:
    shape = getattr(value.ty, "shape", None)
    if shape is None or not all(isinstance(d, tvm.tirx.IntImm) for d in shape):
        return None
    return [int(d) for d in shape]


@mutator
class _Bounded(PyExprMutator):  # type: ignore[misc]
    """Rewrites the calls that index."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """One call."""
        call = super().visit_call_(call)
        name = getattr(call.op, "name", "")
        if name == "relax.take":
            floats = str(call.args[0].ty.dtype).startswith(("float", "bfloat"))
            return relax.op.take(call.args[0], call.args[1], call.attrs.axis, "nan" if floats else "clip")
        if name not in _ALONG_AXIS + _BY_PLACE:
            return call
        shape, places = _extents(call.args[0]), _extents(call.args[1])
        if not shape or not places:
            return call
        if name in _ALONG_AXIS:
            most = np.array(shape[int(call.attrs.axis)] - 1)
        else:
            first = int(getattr(call.attrs, "batch_dims", 0))
            most = np.array(shape[first : first + places[-1]]) - 1
        # the importer has made the others' negative indices positive
        least = -most - 1 if name == "relax.scatter_elements" else np.zeros(())
        return relax.Call(call.op, [call.args[0], self._clipped(call.args[1], least, most), *call.args[2:]], call.attrs)

    def _clipped(self, indices: relax.Expr, least: npt.NDArray[Any], most: npt.NDArray[Any]) -> relax.Expr:
        dtype = str(indices.ty.dtype)
        low = self.builder_.emit(relax.op.maximum(indices, relax.const(least.astype(dtype), dtype)))
        return self.builder_.emit(relax.op.minimum(low, relax.const(most.astype(dtype), dtype)))


def bound_indices(module: tvm.IRModule) -> tvm.IRModule:
    """The module with every run-time index inside its table."""
    rewriter = _Bounded(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            rewriter.builder_.update_func(variable, rewriter.visit_expr(function))
    return rewriter.builder_.get()
