"""Relax pass: indices as they are, without the importer's care for negative ones.

`from_onnx` reads a row i of a table of n as where(i < 0, i + n, i). Whoever picks rows by a model's ids takes care of negative
ones before (`axlora.sequences`), and NumPy takes a constant index as it is. Without the detour a `take` reads the ids, which
recognition of whole models looks for. A model with a host part, which picks rows itself, goes without this pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

_READS = ("relax.take", "relax.gather_nd", "relax.gather_elements")


@mutator
class _Plain(PyExprMutator):  # type: ignore[misc]
    """Rewrites the calls that pick by index."""

    def visit_call_(self, call: Any) -> Any:
        """One call."""
        call = super().visit_call_(call)
        if getattr(call.op, "name", "") not in _READS:
            return call
        plain = self._plain(call.args[1])
        return call if plain is None else relax.Call(call.op, [call.args[0], plain, *call.args[2:]], call.attrs)

    def _bound(self, value: Any, name: str) -> Any:
        """The call of an operator that a variable is bound to; None if it is bound to anything else."""
        found = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        return found if isinstance(found, relax.Call) and getattr(found.op, "name", "") == name else None

    def _plain(self, index: Any) -> Any:
        """x of where(x < 0, x + n, x); None if that is not what `index` is."""
        chosen = self._bound(index, "relax.where")
        if chosen is None:
            return None
        less, added = self._bound(chosen.args[0], "relax.less"), self._bound(chosen.args[1], "relax.add")
        if less is None or added is None or not hasattr(getattr(less.args[1], "value", None), "numpy"):
            return None
        x = chosen.args[2]
        zero = not np.asarray(less.args[1].value.numpy()).any()
        return x if zero and less.args[0].same_as(x) and added.args[0].same_as(x) else None


@tvm.ir.transform.module_pass(opt_level=0, name="plain_indices")  # type: ignore[untyped-decorator]
def plain_indices(module: tvm.IRModule, _: Any) -> tvm.IRModule:
    """The module with every index read as it is."""
    rewriter = _Plain(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            rewriter.builder_.update_func(variable, rewriter.visit_expr(function))
    return rewriter.builder_.get()
