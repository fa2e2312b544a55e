"""Relax pass: canonical base-plus-adapter linears, found by pattern, become calls of the integer `ax_*` operators.

This comes before partitioning, so that no float crosses into the accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import is_op, is_var, wildcard

from axlora.compiler.layer import Linear, Lowered, Tensor
from axlora.compiler.passes.linear_calls import Emitter, LinearVars, emit_linear

Expr = Any


@dataclass(frozen=True)
class _Pattern:
    """One canonical form, with the parts that lowering asks for."""

    root: Any
    codes: Any
    weight: Any


def _pattern(lora: bool, quantized: bool, per_token: bool) -> _Pattern:
    codes, weight = wildcard(), is_var()
    if per_token:
        x = is_op("relax.multiply")(is_op("relax.astype")(codes), is_var())
    else:
        x = is_op("relax.dequantize")(codes, wildcard(), wildcard())
    real = is_op("relax.dequantize")(weight, is_var(), is_var())
    y = is_op("relax.add")(is_op("relax.matmul")(x, real), is_var())
    if lora:
        y = is_op("relax.add")(y, is_op("relax.matmul")(is_op("relax.matmul")(x, is_var()), is_var()))
    return _Pattern(is_op("relax.quantize")(y, wildcard(), wildcard()) if quantized else y, codes, weight)


class _Lowering(relax.PyExprMutator):  # type: ignore[misc]
    """Replaces the root of each match; the float nodes behind it die."""

    def __init__(self, module: tvm.IRModule, lowered: Lowered, rank: int, bits: int) -> None:
        super().__init__(module)
        self.linears, self.rank, self.bits = lowered.linears, rank, bits
        self.tensors: dict[str, Tensor] = {t.name: t for t in lowered.inputs}
        self.emitter = Emitter(self.builder_.add_func, self.builder_.emit)
        self.vars: dict[int, LinearVars] = {}
        self.scales = {t.name: _scale_vars(i, t) for i, t in enumerate(lowered.inputs)}

    def form(self, index: int) -> tuple[bool, bool]:
        """(output quantized, per token) of linear `index`."""
        linear = self.linears[index]
        return linear.output_bits < 32, linear.token_scale

    def lower(self, index: int, codes: Expr) -> Expr:
        """Integer form of linear `index` on `codes`."""
        linear = self.linears[index]
        t = self.tensors[linear.input]
        v = self.vars[index] = LinearVars.declare(linear, f"w{index}", self.rank)
        scales = self.scales[t.name] if linear.token_scale else []
        y = emit_linear(self.emitter, linear, codes, t.tokens, (t.bits, self.bits), v, scales)["codes"]
        return _dequantized(self.builder_, y, linear) if linear.output_bits == 32 else y


def _scale_vars(i: int, t: Tensor) -> list[Expr]:
    """Mantissa and shift of a per-token tensor, as parameters."""
    if not t.per_token:
        return []
    kinds = (("mantissa", "uint16"), ("shift", "uint8"))
    return [relax.Var(f"x{i}_{kind}", relax.TensorType((t.tokens, 1), dtype)) for kind, dtype in kinds]


def _dequantized(builder: relax.BlockBuilder, y: Expr, linear: Linear) -> Expr:
    """32-bit codes as reals: nothing reads them as codes."""
    step = linear.output_step
    return builder.emit(relax.op.multiply(relax.op.astype(y, "float32"), relax.const(step, "float32")))


def lower_linears(module: tvm.IRModule, lowered: Lowered, rank: int, bits: int) -> tuple[tvm.IRModule, list[int]]:
    """Lower every canonical linear of `main`; its tensors become parameters after the inputs.

    Args:
        rank: of the adapter branches, 0 for none.
        bits: the target's activation bits.

    Returns:
        the module, and the linears in the order of their parameters.
    """
    forms = {(q, p): _pattern(rank > 0, q, p) for q in (True, False) for p in (False, True)}
    function = module["main"]
    values = relax.analysis.get_var2val(function)

    class Rewrite(_Lowering):
        def visit_call_(self, call: Expr) -> Expr:
            for kind, form in forms.items():
                parts = form.root.extract_matched_expr(call, values)
                name = str(parts[form.weight].name) if parts is not None else ""
                if name.startswith("ax") and name.endswith("_w") and self.form(int(name[2:-2])) == kind:
                    return self.lower(int(name[2:-2]), self.visit_expr(parts[form.codes]))
            return super().visit_call_(call)

    mutator = relax.expr_functor.mutator(Rewrite)(module, lowered, rank, bits)
    body = mutator.visit_expr(function.body)
    order = list(mutator.vars)
    codes = {str(p.name): p for p in function.params}
    inputs = [v for i, t in enumerate(lowered.inputs) for v in (codes[f"x{i}"], *mutator.scales[t.name])]
    params = inputs + [v for index in order for v in mutator.vars[index].all()]
    result = relax.Function(params, body, function.ret_ty).with_attr("num_input", len(inputs))
    mutator.builder_.update_func(module.get_global_var("main"), result.with_attr("global_symbol", "main"))
    return relax.transform.DeadCodeElimination(["main"])(mutator.builder_.get()), order
