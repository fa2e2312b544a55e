"""Relax pass: canonical base-plus-adapter linears, found by pattern, become calls of the integer `ax_*` operators.

This comes before partitioning, so that no float crosses into the accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import is_op, is_var, wildcard

from axlora.compiler.layer import Linear
from axlora.compiler.passes.emit import Emitter, LinearVars, emit_linear

Expr = Any


@dataclass(frozen=True)
class _Pattern:
    """One canonical form, with the parts that lowering asks for."""

    root: Any
    codes: Any
    weight: Any


def _pattern(lora: bool, quantized: bool) -> _Pattern:
    codes, weight = wildcard(), is_var()
    x = is_op("relax.dequantize")(codes, wildcard(), wildcard())
    real = is_op("relax.dequantize")(weight, is_var(), is_var())
    y = is_op("relax.add")(is_op("relax.matmul")(x, real), is_var())
    if lora:
        y = is_op("relax.add")(y, is_op("relax.matmul")(is_op("relax.matmul")(x, is_var()), is_var()))
    return _Pattern(is_op("relax.quantize")(y, wildcard(), wildcard()) if quantized else y, codes, weight)


class _Lowering(relax.PyExprMutator):  # type: ignore[misc]
    """Replaces the root of each match; the float nodes behind it die."""

    def __init__(self, module: tvm.IRModule, linears: tuple[Linear, ...], rank: int, bits: int) -> None:
        super().__init__(module)
        self.linears, self.rank, self.bits = linears, rank, bits
        self.emitter = Emitter(self.builder_.add_func, self.builder_.emit)
        self.vars: dict[int, LinearVars] = {}
        self.bound: Any = {}

    def lower(self, binding_value: Expr, index: int, codes: Expr) -> Expr:
        """Integer form of linear `index` on `codes`, in the shape of the float form."""
        linear, shape = self.linears[index], [int(d) for d in codes.ty.shape.values]
        tokens = prod(shape[:-1])
        v = self.vars[index] = LinearVars.declare(linear, f"w{index}", self.rank)
        flat = codes if len(shape) == 2 else self.builder_.emit(relax.op.reshape(codes, (tokens, shape[-1])))
        x_bits = int(str(codes.ty.dtype.dtype).removeprefix("int"))
        y = emit_linear(self.emitter, linear, flat, tokens, (x_bits, self.bits), v, [])["codes"]
        wanted = [int(d) for d in binding_value.ty.shape.values]
        y = y if wanted == [tokens, linear.n] else self.builder_.emit(relax.op.reshape(y, wanted))
        if linear.output_bits == 32:
            scale, zero = relax.const(linear.grid.y_scale if linear.grid else 1.0, "float32"), relax.const(0, "int32")
            real = relax.op.astype(relax.op.subtract(y, zero), "float32")
            y = self.builder_.emit(relax.op.multiply(real, scale))
        return y


def lower_linears(module: tvm.IRModule, linears: tuple[Linear, ...], rank: int, bits: int) -> tuple[tvm.IRModule, list[int]]:
    """Lower every canonical linear of `main`; its tensors become parameters after the model's inputs.

    Args:
        rank: of the adapter branches, 0 for none.
        bits: the target's activation bits.

    Returns:
        the module, and the linears in the order of their parameters.
    """
    forms = {q: _pattern(rank > 0, q) for q in (True, False)}
    function = module["main"]
    values = relax.analysis.get_var2val(function)

    class Rewrite(_Lowering):
        def visit_call_(self, call: Expr) -> Expr:
            for quantized in (True, False):
                form = forms[quantized]
                parts = form.root.extract_matched_expr(call, values)
                name = str(parts[form.weight].name) if parts is not None else ""
                if not (name.startswith("ax") and name.endswith("_w")):
                    continue
                index = int(name[2:-2])
                if (self.linears[index].output_bits < 32) is quantized:
                    return self.lower(call, index, self.visit_expr(parts[form.codes]))
            return super().visit_call_(call)

    mutator = relax.expr_functor.mutator(Rewrite)(module, linears, rank, bits)
    body = mutator.visit_expr(function.body)
    order = list(mutator.vars)
    inputs = [p for p in function.params if not str(p.name).startswith("ax")]
    params = inputs + [v for index in order for v in mutator.vars[index].all()]
    lowered = relax.Function(params, body, function.ret_ty).with_attr("num_input", len(inputs))
    mutator.builder_.update_func(module.get_global_var("main"), lowered.with_attr("global_symbol", "main"))
    result = relax.transform.DeadCodeElimination(["main"])(mutator.builder_.get())
    return result, order
