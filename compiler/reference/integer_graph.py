"""The integer graph: every linear of a `Lowered` as Relax/TIR integer operators, compiled by LLVM, with every boundary visible.

One compiled graph serves the base and every adapter: adapter tensors are run-time inputs, padded with zeros to the widest rank.
No adapter is zeros there and the base's own bias and multiplier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.tvm_import import compiled
from axlora.compiler.layer import Int64, Lowered
from axlora.compiler.passes.linear_calls import Emitter, LinearVars, emit_linear, parameters
from axlora.isa.target import Target

Arrays = dict[str, Int64]
_DTYPE = {8: np.int8, 16: np.int16, 32: np.int32}


@dataclass(frozen=True)
class _Stage:
    """One Relax function: the linears of a stage."""

    name: str
    linears: tuple[int, ...]
    inputs: tuple[str, ...]
    """Tensors of codes that no linear of the stage makes."""
    results: tuple[str, ...]


def widest(lowered: Lowered, max_lora_rank: int | None = None) -> int:
    """Rank that adapters are padded to: that of the widest, or what room is asked for."""
    return max([max_lora_rank or 0, *(a.rank for linear in lowered.linears for a in linear.adapters)])


def _add_stage(builder: relax.BlockBuilder, emitter: Emitter, lowered: Lowered, stage: int, rank: int, bits: int) -> _Stage:
    """Add the function of a stage to the module."""
    tensors = {t.name: t for t in lowered.inputs}
    indices = tuple(i for i, linear in enumerate(lowered.linears) if linear.stage == stage)
    linears = [lowered.linears[i] for i in indices]
    made = {linear.output for linear in linears}
    outside = tuple(name for name in dict.fromkeys(linear.input for linear in linears) if name not in made)
    codes: dict[str, Any] = {}
    scales: dict[str, list[Any]] = {}
    heads: list[Any] = []
    for i, name in enumerate(outside):
        t = tensors[name]
        codes[name] = relax.Var(f"x{i}", relax.TensorType((t.tokens, t.columns), f"int{t.bits}"))
        heads.append(codes[name])
        if t.per_token:
            kinds = (("mantissa", "uint16"), ("token_shift", "uint8"))
            scales[name] = [relax.Var(f"x{i}_{k}", relax.TensorType((t.tokens, 1), d)) for k, d in kinds]
            heads += scales[name]
    variables = [LinearVars.declare(linear, f"w{i}", rank) for i, linear in zip(indices, linears, strict=True)]
    results: dict[str, Any] = {}
    function = f"stage_{stage}"
    with builder.function(function, heads + [v for each in variables for v in each.all()]):
        with builder.dataflow():
            for linear, v in zip(linears, variables, strict=True):
                t = tensors[linear.input]
                token_scale = scales.get(linear.input, []) if linear.token_scale else []
                done = emit_linear(emitter, linear, codes[linear.input], t.tokens, (t.bits, bits), v, token_scale)
                codes[linear.output] = results[linear.output] = done.pop("codes")
                results.update({f"{linear.name}.{part}": value for part, value in done.items()})
            output = builder.emit_output(relax.Tuple(list(results.values())))
        builder.emit_func_output(output)
    return _Stage(function, indices, outside, tuple(results))


@dataclass(frozen=True)
class IntegerGraph:
    """The integer graph of all linears; LLVM compiles it at the first run. Make it with `build`."""

    lowered: Lowered
    target: Target
    rank: int
    """Rank that adapters are padded to; 0: no adapter branch."""
    _compiled: dict[str, Any]

    @classmethod
    def build(cls, lowered: Lowered, target: Target, max_lora_rank: int | None = None) -> IntegerGraph:
        """The graph of `lowered`, for adapters of up to `max_lora_rank` (default: the widest of them)."""
        return cls(lowered, target, widest(lowered, max_lora_rank), {})

    def _parts(self) -> dict[str, Any]:
        if not self._compiled:
            builder = relax.BlockBuilder()
            emitter = Emitter(builder.add_func, builder.emit)
            count = 1 + max(linear.stage for linear in self.lowered.linears)
            bits = self.target.activation_bits
            stages = [_add_stage(builder, emitter, self.lowered, s, self.rank, bits) for s in range(count)]
            module = builder.get()
            linears = self.lowered.linears
            self._compiled.update(
                stages=stages,
                script=module.script(),
                vm=compiled(module),
                base=[[tvm.runtime.tensor(p) for p in parameters(linear, self.rank, None)] for linear in linears],
            )
        return self._compiled

    @property
    def script(self) -> str:
        """The Relax module as text."""
        return str(self._parts()["script"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors of codes that no linear makes."""
        made = {linear.output for linear in self.lowered.linears}
        return tuple(name for name in dict.fromkeys(x.input for x in self.lowered.linears) if name not in made)

    def with_adapters(self, lowered: Lowered) -> IntegerGraph:
        """The same compiled graph over other adapters of the same linears."""
        return replace(self, lowered=lowered)

    def _weights(self, indices: tuple[int, ...], adapter: str | None) -> list[Any]:
        if adapter is not None and adapter not in self.lowered.adapters:
            known = ", ".join(self.lowered.adapters) or "none"
            raise BadModel(f"no adapter {adapter!r}", "adapter", f"adapters of this graph: {known}")
        arguments: list[Any] = []
        for index in indices:
            linear, base = self.lowered.linears[index], self._parts()["base"][index]
            found = next((a for a in linear.adapters if a.name == adapter), None)
            if found is None:
                arguments += base
            else:
                head = 1 if not linear.weight.group else 3
                arguments += base[:head]
                arguments += [tvm.runtime.tensor(p) for p in parameters(linear, self.rank, found)[head:]]
        return arguments

    def run(
        self,
        inputs: Mapping[str, Int64],
        adapter: str | None = None,
        token_scales: Mapping[str, tuple[Int64, Int64]] | None = None,
    ) -> Arrays:
        """Run on codes.

        Args:
            inputs: for each name of `self.inputs`, codes [tokens, K].
            adapter: name of an adapter, or None.
            token_scales: for each per-token input, mantissa and shift, each [tokens, 1].

        Returns:
            int64 arrays: `Linear.output` -> codes [tokens, N]; `{linear.name}.acc` [tokens, N]; for the linears that have this
            adapter also `.u` [tokens, rank], `.e` [tokens, 1] and `.acc2` [tokens, N].
        """
        results: Arrays = {}
        for stage in range(len(self._parts()["stages"])):
            results |= self.run_stage(stage, {**results, **inputs}, adapter, token_scales)
        return results

    def run_stage(
        self,
        stage: int,
        inputs: Mapping[str, Int64],
        adapter: str | None = None,
        token_scales: Mapping[str, tuple[Int64, Int64]] | None = None,
    ) -> Arrays:
        """`run` for the linears of one stage; `inputs` holds at least what they read."""
        tensors = {t.name: t for t in self.lowered.inputs}
        part = self._parts()["stages"][stage]
        heads = []
        for name in part.inputs:
            t = tensors[name]
            if name not in inputs or inputs[name].shape != (t.tokens, t.columns):
                got = "nothing" if name not in inputs else f"shape {inputs[name].shape}"
                raise BadModel(f"input has {got}, needs codes {(t.tokens, t.columns)}", name, "see Tensor.tokens, .columns")
            heads.append(tvm.runtime.tensor(inputs[name].astype(_DTYPE[t.bits])))
            if t.per_token:
                mantissa, shift = (token_scales or {})[name]
                heads.append(tvm.runtime.tensor(mantissa.reshape(t.tokens, 1).astype(np.uint16)))
                heads.append(tvm.runtime.tensor(shift.reshape(t.tokens, 1).astype(np.uint8)))
        outputs = self._parts()["vm"][part.name](*heads, *self._weights(part.linears, adapter))
        results = {name: outputs[i].numpy().astype(np.int64) for i, name in enumerate(part.results)}
        for index in part.linears:
            linear = self.lowered.linears[index]
            found = next((a for a in linear.adapters if a.name == adapter), None)
            if found is not None:
                results[f"{linear.name}.u"] = results[f"{linear.name}.u"][:, : found.rank]
            else:
                for name in ("u", "e", "acc2"):
                    results.pop(f"{linear.name}.{name}", None)
        return results
