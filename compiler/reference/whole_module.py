"""A whole model as one Relax module run by LLVM: what the host does, and the region with integers in place of its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from axlora.compiler import layer
from axlora.compiler.frontend.bounds import bound_indices
from axlora.compiler.frontend.tvm_import import compiled
from axlora.compiler.operators import Attention, Linear
from axlora.compiler.passes.ax_boundary import ax_from_rows, ax_to_rows
from axlora.compiler.passes.linear_calls import Emitter, LinearVars, parameters
from axlora.compiler.passes.lower_rows import FROM_ROWS, PLACES, TO_ROWS
from axlora.compiler.reference.integer_module import RelaxRows, Start, cache_shapes
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import Region, calls, region_of

Expr = Any
_HOST: dict[str, Callable[..., Expr]] = {TO_ROWS: ax_to_rows, FROM_ROWS: ax_from_rows}


class WholeModule:
    """Runs `Lowered.regions` of a whole model, all rows in one start with an empty cache; LLVM compiles it at the first run."""

    def __init__(
        self, regions: layer.Regions, region: Region, linears: Sequence[layer.Linear], bits: int, context: int
    ) -> None:
        """`region`: the module's own; `bits`: of activations; `context`: tokens of the cache."""
        self._regions, self._region, self._linears = regions, region, {linear.name: linear for linear in linears}
        self._bits, self._context = bits, context

    @cached_property
    def module(self) -> tvm.IRModule:
        """The module, with a body for each function that `main` calls."""
        old = dict(self._regions.module.functions_items())
        region, function, _ = region_of(self._regions.module)
        builder = relax.BlockBuilder()
        emitter = Emitter(builder.add_func, builder.emit)
        fractions: dict[str, int] = {}
        replaced = {region.name_hint: region}

        def integers() -> Expr:
            outputs, found = self._integers(builder, emitter, function)
            fractions.update(found)
            return outputs

        _define(builder, region.name_hint, list(function.params), integers)
        for variable, each in old.items():
            host = (each.attrs or {}).get("Host")
            if host is not None:
                (x,), out = each.params, each.ret_ty
                shape = tuple(int(d) for d in x.ty.shape.values)
                fixed, result = (*shape, fractions[str(each.attrs["y"])]), (shape, str(out.dtype))
                body = _call(emitter, _HOST[str(host)], fixed, x, result)
                _define(builder, variable.name_hint, [x], body)
                replaced[variable.name_hint] = variable
        new = {replaced.get(v.name_hint, v): f for v, f in builder.finalize().functions_items()}
        return tvm.IRModule(old | new)

    def _integers(self, builder: relax.BlockBuilder, emitter: Emitter, function: relax.Function) -> tuple[Expr, dict[str, int]]:
        """The results of the region as its row operations give them, and the fraction of every value."""
        region, called = self._region, list(calls(function))
        products = [call for call in called if call.kind == "linear"]
        names = [op.name for op in region.operators if isinstance(op, Linear)]
        linears = {
            name: (self._linears[name], LinearVars(**{part.name: call.args.get(part.name) for part in fields(LinearVars)}))
            for name, call in zip(names, products, strict=True)
        }
        caches = {
            name: relax.const(np.zeros(shape, dtype))
            for name, (shape, dtype) in cache_shapes(region.operators, self._context).items()
        }
        rows = [call.args["x"] for call in called if call.kind == "input"]
        places = [relax.const(np.array([0, length]), "int64") for length in region.lengths]
        keys = {op.y: op.k for op in region.operators if isinstance(op, Attention)}
        for call in called:
            if PLACES in call.args:
                own = str(call.attributes["y"])
                places[region.streams[keys.get(own, own)]] = call.args[PLACES]
        start = Start(region.lengths, self._context, self._bits, rows, places, caches, linears)
        to = RelaxRows(builder, emitter, start)
        fractions = lower(region, to, self._bits, self._context)[1]
        stored = {call.variable: to.outputs[int(call.attributes["number"])] for call in called if call.kind == "output"}
        return _with(function, stored), fractions

    def run(self, arguments: Mapping[str, npt.NDArray[Any]], adapter: str | None = None) -> list[npt.NDArray[Any]]:
        """The model's outputs in order, of the base or under an adapter.

        Args:
            arguments: the model's inputs and what `Regions.arguments` names beside them, of the model's types and shapes.
        """
        given = [arguments[name] for name in self._regions.arguments]
        for linear in (self._linears[name] for name in self._regions.linears):
            own = next((a for a in linear.adapters if a.name == adapter), None)
            given += parameters(linear, self._region.ranks.get(linear.name, 0), own)
        return [y.numpy() for y in self._run(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in given])]

    @cached_property
    def _run(self) -> Any:
        return compiled(bound_indices(self.module))["main"]


def _call(emitter: Emitter, make: Callable[..., Expr], fixed: tuple[int, ...], x: Expr, out: Any) -> Callable[[], Expr]:
    return lambda: emitter.call(make, fixed, [x], out)


def _define(builder: relax.BlockBuilder, name: str, params: list[Expr], body: Callable[[], Expr]) -> None:
    """Add a function."""
    with builder.function(name, params):
        with builder.dataflow():
            result = builder.emit_output(body())
        builder.emit_func_output(result)


def _with(function: relax.Function, stored: Mapping[Any, Expr]) -> Expr:
    """What a region returns, its outputs from `stored`."""
    bound = {binding.var: binding.value for block in function.body.blocks for binding in block.bindings}
    result = function.body.body
    while result not in stored and isinstance(result, relax.Var):
        result = bound[result]
    return relax.Tuple([stored[each] for each in result.fields]) if isinstance(result, relax.Tuple) else stored[result]
