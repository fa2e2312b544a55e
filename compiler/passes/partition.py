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


def partition(module: tvm.IRModule, rank: int) -> tvm.IRModule:
    """`FuseOpsByPattern`, then `MergeCompositeFunctions`: regions carry the attribute `Codegen = axlora`."""
    fused = relax.transform.FuseOpsByPattern(patterns(rank), bind_constants=False)(module)
    return relax.transform.MergeCompositeFunctions()(fused)


def linears_of(module: tvm.IRModule) -> tuple[int, ...]:
    """The linears inside the accelerator's regions, ascending.

    A linear is known by the variable of its weight, `wN_weight`, as `LinearVars.declare` names it.
    """
    regions = {
        variable.name_hint
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function) and (function.attrs or {}).get("Codegen") == "axlora"
    }
    found: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, relax.Call) and getattr(value.op, "name_hint", "") in regions:
            names = (re.fullmatch(r"w(\d+)_weight", str(getattr(a, "name", ""))) for a in value.args)
            found.update(int(name[1]) for name in names if name is not None)

    relax.analysis.post_order_visit(module["main"], visit)
    return tuple(sorted(found))


def flatten(module: tvm.IRModule) -> tvm.IRModule:
    """The partitioned module for LLVM: composites lifted, regions plain functions of the module."""
    for var, function in module.functions_items():
        if isinstance(function, relax.Function) and "Codegen" in (function.attrs or {}):
            module.update_func(var, function.without_attr("Codegen"))
    return relax.transform.LambdaLift()(module)
