"""Relax pass: each linear of the imported function becomes codes, integer `ax_*` operators and its result.

The float operators that it stood for are gone, and with them the branches that adapters replace; what is left is the host part.
This comes before partitioning, so that no float crosses into the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from axlora.compiler.layer import Linear, Lowered, Tensor
from axlora.compiler.passes.ax_boundary import ax_quantize, ax_quantize_tokens
from axlora.compiler.passes.linear_calls import Emitter, LinearVars, emit_linear

Expr = Any
Smooth = Mapping[str, tuple[str, npt.NDArray[np.float64]]]
"""Tensor that linears read -> (tensor of the model, what its last dimension is divided by)."""


@dataclass(frozen=True)
class Names:
    """What the variables of the imported function stand for."""

    variables: Mapping[str, Any]
    """ONNX tensor -> its variable."""
    inputs: Sequence[str]
    """Of the model."""
    outputs: Mapping[str, Any]
    """Of the model, in order: name -> a variable, or a constant."""

    def arguments(self, main: relax.Function) -> tuple[str, ...]:
        """The ONNX names of a function's parameters, in order; parameters without one are left out."""
        known = {variable: name for name, variable in self.variables.items()}
        return tuple(known[p] for p in main.params if p in known)


def _read(binding: Any) -> Iterable[Any]:
    return relax.analysis.free_vars(binding.value)  # type: ignore[no-any-return]


def live(main: relax.Function, wanted: Set[Any], reads: Callable[[Any], Iterable[Any]] = _read) -> tuple[list[Any], Set[Any]]:
    """The bindings of a function that the wanted variables need, in order; and those variables with all that they need.

    Args:
        reads: what a binding needs.
    """
    kept, needed = [], set(wanted)
    for binding in reversed([b for block in main.body.blocks for b in block.bindings]):
        if binding.var in needed:
            kept.append(binding)
            needed |= set(reads(binding))
    return kept[::-1], needed


@tvm.ir.transform.module_pass(opt_level=0, name="lower_linears")
class LowerLinears:
    """The pass, for these linears."""

    def __init__(self, names: Names, lowered: Lowered, smooth: Smooth, rank: int, bits: int) -> None:
        """`rank`: of the adapter branches, 0 for none; `bits`: the target's activation bits."""
        self.names, self.lowered, self.smooth, self.rank, self.bits = names, lowered, smooth, rank, bits

    def transform_module(self, module: tvm.IRModule, _: Any) -> tvm.IRModule:
        """The module whose `main` takes the model's inputs, the host part's weights and the linears' tensors."""
        others = {v: f for v, f in module.functions_items() if not isinstance(f, relax.Function)}
        rewriting = _Rewriting(self, relax.BlockBuilder(tvm.IRModule(others)))
        return rewriting.module(module["main"])


class _Rewriting:
    """One application of the pass."""

    def __init__(self, given: LowerLinears, builder: relax.BlockBuilder) -> None:
        self._given, self._builder = given, builder
        self._emitter = Emitter(builder.add_func, builder.emit)
        lowered, variables = given.lowered, given.names.variables
        self._tensors = {t.name: t for t in lowered.inputs}
        self._codes: dict[str, list[Expr]] = {}
        """Tensor that linears read -> its codes; of one with a scale a token, mantissa and shift too."""
        self._sites: dict[Any, int] = {}
        """Variable of a linear's result -> the linear."""
        for index, t in enumerate(lowered.outputs):
            self._sites[variables[t.source]] = index
        self._vars = [LinearVars.declare(linear, f"w{i}", given.rank) for i, linear in enumerate(lowered.linears)]

    def _source(self, t: Tensor) -> Any:
        """The variable of the model that a linear's input is made from."""
        return self._given.names.variables[self._given.smooth.get(t.name, (t.source,))[0]]

    def module(self, main: relax.Function) -> tvm.IRModule:
        """The module with `main` rewritten."""
        names = self._given.names
        outputs = list(names.outputs.values())
        wanted = {value for value in outputs if isinstance(value, relax.Var)} | set(self._sites)
        kept, needed = live(main, wanted, self._reads)
        given = {names.variables[name] for name in names.inputs}
        params = [p for p in main.params if p in given or p in needed] + [v for each in self._vars for v in each.all()]
        builder = self._builder
        with builder.function("main", params, {"num_input": len(given)}):
            with builder.dataflow():
                for binding in kept:
                    if binding.var in self._sites:
                        value = self._linear(self._sites[binding.var])
                        builder.emit_normalized(relax.VarBinding(binding.var, value))
                    else:
                        builder.emit_normalized(binding)
                result = builder.emit_output(relax.Tuple(outputs))
            builder.emit_func_output(result)
        return builder.get()

    def _reads(self, binding: Any) -> Iterable[Any]:
        """The variables that a binding needs: of a linear, what it is made from."""
        if binding.var not in self._sites:
            return _read(binding)
        return [self._source(self._tensors[self._given.lowered.linears[self._sites[binding.var]].input])]

    def _linear(self, index: int) -> Expr:
        """A linear from the tensor that it reads to its result, in the model's shape and type; not bound yet."""
        linear, result = self._given.lowered.linears[index], self._given.lowered.outputs[index]
        t = self._tensors[linear.input]
        codes, *scales = self._codes_of(t)
        scales = scales if linear.token_scale else []
        bits = (t.bits, self._given.bits)
        y = emit_linear(self._emitter, linear, codes, t.tokens, bits, self._vars[index], scales)["codes"]
        if result.bits == 32:
            y = self._real(y, linear)
        return self._builder.normalize(relax.op.reshape(y, result.shape))

    def _real(self, y: Expr, linear: Linear) -> Expr:
        """32-bit codes as reals: nothing reads them as codes."""
        reals = self._builder.emit(relax.op.astype(y, "float32"))
        return self._builder.emit(relax.op.multiply(reals, relax.const(linear.output_step, "float32")))

    def _codes_of(self, t: Tensor) -> list[Expr]:
        if t.name not in self._codes:
            self._codes[t.name] = self._quantized(t, self._source(t))
        return self._codes[t.name]

    def _quantized(self, t: Tensor, x: Expr) -> list[Expr]:
        """Codes of x [tokens, columns], and mantissa and shift [tokens, 1] if every token has its own."""
        emit, own = self._builder.emit, f"int{t.bits}"
        if t.name in self._given.smooth:
            x = emit(relax.op.multiply(x, relax.const((1 / self._given.smooth[t.name][1]).astype(np.float32))))
        if str(x.ty.dtype).startswith("int"):
            return [emit(relax.op.reshape(x, (t.tokens, t.columns)))]
        if str(x.ty.dtype) != "float32":
            x = emit(relax.op.astype(x, "float32"))
        rows = emit(relax.op.reshape(x, (t.tokens, t.values)))
        codes = ((t.tokens, t.columns), own)
        if not t.per_token:
            scale, zero = np.array([t.scale], np.float32), np.array([t.zero_point], np.int64)
            given = [rows, relax.const(scale, "float32"), relax.const(zero, "int64")]
            return [self._emitter.call(ax_quantize, (*codes[0], t.bits), given, codes)]
        results: list[tuple[tuple[int, ...], str]] = [codes, *(((t.tokens, 1), kind) for kind in ("uint16", "uint8"))]
        fixed = (t.tokens, t.values, t.bits, t.offset_columns)
        parts = self._emitter.call(ax_quantize_tokens, fixed, [rows], results)
        return [emit(parts[n]) for n in range(3)]
