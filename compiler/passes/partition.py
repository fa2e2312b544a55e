"""Relax passes: each integer linear becomes a composite function, and neighbours merge into accelerator regions."""

from __future__ import annotations

import itertools
import re
from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import GlobalVarPattern, TuplePattern, is_op, is_tuple_get_item, wildcard

COMPOSITE = "axlora.linear"


def _call(*args: Any) -> Any:
    return is_op("relax.call_tir")(GlobalVarPattern(""), TuplePattern(list(args)))


def _is_integer(context: Any) -> bool:
    """The pattern's root is a requantization of ours."""
    return str(context.matched_expr.args[0].name_hint).startswith("ax_requantize")


def patterns(rank: int) -> list[tuple[str, Any, dict[str, Any], Any]]:
    """What `emit_linear` makes: a product (grouped or not), the adapter branch if rank > 0, the requantization.

    The requantization may have a scale a token: its mantissa and shift.
    """
    forms: list[tuple[str, Any, dict[str, Any], Any]] = []
    for grouped, token_scale in itertools.product((True, False), (True, False)):
        x = wildcard()
        product = _call(x, *(wildcard() for _ in range(3 if grouped else 1)))
        records = [wildcard(), wildcard(), wildcard()]
        tokens = [wildcard(), wildcard()] if token_scale else []
        if rank:
            both = _call(_call(x, wildcard()), wildcard(), wildcard(), wildcard())
            u, e = is_tuple_get_item(both, 0), is_tuple_get_item(both, 1)
            root = _call(product, *records, _call(u, wildcard()), wildcard(), e, *tokens)
        else:
            root = _call(product, *records, *tokens)
        forms.append((COMPOSITE, root, {}, _is_integer))
    return forms


@tvm.ir.transform.module_pass(opt_level=0, name="partition")
class Partition:
    """`FuseOpsByPattern`, then `MergeCompositeFunctions`: regions carry the attribute `Codegen = axlora`."""

    def __init__(self, rank: int) -> None:
        """`rank`: of the adapter branches, 0 for none."""
        self.rank = rank

    def transform_module(self, module: tvm.IRModule, _: Any) -> tvm.IRModule:
        """The module with its regions."""
        fused = relax.transform.FuseOpsByPattern(patterns(self.rank), bind_constants=False)(module)
        return relax.transform.MergeCompositeFunctions()(fused)


def stages_of(module: tvm.IRModule) -> dict[int, int]:
    """The linears inside the accelerator's regions, and the stage of each: one more than the latest that it depends on.

    A linear is known by the variable of its weight, `wN_weight`, as `LinearVars.declare` names it.
    """
    regions = {
        variable.name_hint
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function) and (function.attrs or {}).get("Codegen") == "axlora"
    }
    after: dict[Any, int] = {}
    """Variable -> the stage from which on it is known."""
    found: dict[int, int] = {}
    for binding in (b for block in module["main"].body.blocks for b in block.bindings):
        value = binding.value
        stage = max((after.get(v, 0) for v in relax.analysis.free_vars(value)), default=0)
        inside = isinstance(value, relax.Call) and getattr(value.op, "name_hint", "") in regions
        if inside:
            names = (re.fullmatch(r"w(\d+)_weight", str(getattr(a, "name", ""))) for a in value.args)
            found |= {int(name[1]): stage for name in names if name is not None}
        after[binding.var] = stage + inside
    return found


def flatten(module: tvm.IRModule) -> tvm.IRModule:
    """The partitioned module for LLVM: composites lifted, regions plain functions of the module."""
    for var, function in module.functions_items():
        if isinstance(function, relax.Function) and "Codegen" in (function.attrs or {}):
            module.update_func(var, function.without_attr("Codegen"))
    return relax.transform.LambdaLift()(module)
