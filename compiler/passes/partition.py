"""Relax passes: each integer linear becomes a composite function, and neighbours merge into accelerator regions."""

from __future__ import annotations

import itertools
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


def flatten(module: tvm.IRModule) -> tvm.IRModule:
    """The partitioned module for LLVM: composites lifted, regions plain functions of the module."""
    for var, function in module.functions_items():
        if isinstance(function, relax.Function) and "Codegen" in (function.attrs or {}):
            module.update_func(var, function.without_attr("Codegen"))
    return relax.transform.LambdaLift()(module)
