"""Writes one integer linear as calls of the `ax_*` operators: used by the lowering pass and by the integer graph alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from axlora.compiler.layer import Adapter, Codes, Int64, Linear
from axlora.compiler.passes import ax_ops

Expr = Any


def _is_narrow(weight: Codes) -> bool:
    """Whether what the codes are worth fits in 8 signed bits."""
    values = weight.stored if weight.codebook is None else weight.codebook
    return int(values.min(initial=0)) >= -128 and int(values.max(initial=0)) <= 127


@dataclass(frozen=True)
class LinearVars:
    """The run-time tensors of one linear, as variables of the Relax function."""

    weight: Expr
    scale: Expr | None
    zero: Expr | None
    bias: Expr
    m1: Expr
    shift: Expr
    a: Expr | None = None
    a_bias: Expr | None = None
    a_m1: Expr | None = None
    a_shift: Expr | None = None
    b: Expr | None = None
    m2: Expr | None = None

    @classmethod
    def declare(cls, linear: Linear, prefix: str, rank: int) -> LinearVars:
        """Fresh variables; `rank` 0: no adapter branch."""

        def var(part: str, shape: tuple[int, ...], dtype: str) -> Expr:
            return relax.Var(f"{prefix}_{part}", relax.TensorType(shape, dtype))

        k, n = linear.k, linear.n
        narrow = _is_narrow(linear.weight)
        grouped = linear.weight.group > 0
        groups = -(-k // linear.weight.group) if grouped else 0
        base = cls(
            weight=var("weight", (k, n), "int8" if narrow else "int16"),
            scale=var("scale", (groups, n), "uint8") if grouped else None,
            zero=var("zero", (groups, n), "int8") if grouped else None,
            bias=var("bias", (n,), "int32"),
            m1=var("m1", (n,), "uint16"),
            shift=var("shift", (n,), "uint8"),
        )
        if not rank:
            return base
        return cls(
            **vars(base)
            | {
                "a": var("a", (k, rank), "int8"),
                "a_bias": var("a_bias", (rank,), "int32"),
                "a_m1": var("a_m1", (rank,), "uint16"),
                "a_shift": var("a_shift", (rank,), "uint8"),
                "b": var("b", (rank, n), "int8"),
                "m2": var("m2", (n,), "uint16"),
            }
        )

    def all(self) -> list[Expr]:
        """The variables in the order of the function's parameters."""
        return [v for v in vars(self).values() if v is not None]


@dataclass
class Emitter:
    """Adds PrimFuncs to a module (each distinct one once) and emits calls of them."""

    add: Callable[[Expr, str], Expr]
    """Adds a PrimFunc under a name hint, returns its GlobalVar."""
    emit: Callable[[Expr], Expr]
    """Binds an expression to a fresh variable."""
    known: dict[tuple[object, ...], Expr] = field(default_factory=dict)

    def call(
        self,
        make: Callable[..., Expr],
        fixed: tuple[object, ...],
        args: list[Expr],
        out: tuple[tuple[int, ...], str] | list[tuple[tuple[int, ...], str]],
    ) -> Expr:
        """Emit `make(*fixed)` on `args`; `out` is shape and dtype of the result, or a list of them."""
        key = (make.__name__, *fixed)
        if key not in self.known:
            function = make(*fixed)
            symbol = str(function.attrs["global_symbol"])
            count = sum(k[0] == key[0] for k in self.known)
            unique = f"{symbol}_{count}" if count else symbol  # Relax refuses two functions of one global symbol
            self.known[key] = self.add(function.with_attr("global_symbol", unique), unique)
        results = out if isinstance(out, list) else [out]
        types = [relax.TensorType(shape, dtype) for shape, dtype in results]
        return self.emit(relax.call_tir(self.known[key], args, types if isinstance(out, list) else types[0]))


def accumulator_type(k: int, x_bits: int, w_bits: int) -> str:
    """int32 if no k products of the widest codes can leave it, else int64."""
    return "int32" if k << (x_bits - 1 + w_bits - 1) < 1 << 31 else "int64"


def emit_linear(
    to: Emitter, linear: Linear, x: Expr, tokens: int, bits: tuple[int, int], v: LinearVars, token_scale: list[Expr]
) -> dict[str, Expr]:
    """Emit the linear on codes `x` [tokens, K].

    Args:
        bits: of the codes of x, and of the codes of x.A (the target's activation bits).
        token_scale: mantissa and shift [tokens, 1], or empty.

    Returns:
        `acc`, `codes`, and with an adapter branch `u`, `e`, `acc2`: the boundaries of `IntegerGraph.run`.
    """
    k, n, x_type, u_type = linear.k, linear.n, f"int{bits[0]}", f"int{bits[1]}"
    w_type = str(v.weight.ty.dtype.dtype)
    done: dict[str, Expr] = {}
    if v.scale is not None:
        acc_type = "int64"
        fixed: tuple[object, ...] = (tokens, k, n, linear.weight.group, x_type, w_type)
        done["acc"] = to.call(ax_ops.ax_grouped_matmul, fixed, [x, v.weight, v.scale, v.zero], ((tokens, n), acc_type))
    else:
        acc_type = accumulator_type(k, bits[0], 8 if w_type == "int8" else 16)
        fixed = (tokens, k, n, x_type, w_type, acc_type)
        done["acc"] = to.call(ax_ops.ax_matmul, fixed, [x, v.weight], ((tokens, n), acc_type))
    args, acc2_type = [done["acc"], v.bias, v.m1, v.shift], "int64"
    if v.a is not None and v.b is not None:
        rank = int(v.a.ty.shape.values[1])
        a_type = accumulator_type(k, bits[0], 8)
        acc_a = to.call(ax_ops.ax_matmul, (tokens, k, rank, x_type, "int8", a_type), [x, v.a], ((tokens, rank), a_type))
        both = to.call(
            ax_ops.ax_block_quantize,
            (tokens, rank, a_type, linear.bias_shift, bits[1]),
            [acc_a, v.a_bias, v.a_m1, v.a_shift],
            [((tokens, rank), u_type), ((tokens, 1), "uint8")],
        )
        done["u"], done["e"] = to.emit(both[0]), to.emit(both[1])
        acc2_type = accumulator_type(rank, bits[1], 8)
        fixed = (tokens, rank, n, u_type, "int8", acc2_type)
        done["acc2"] = to.call(ax_ops.ax_matmul, fixed, [done["u"], v.b], ((tokens, n), acc2_type))
        args += [done["acc2"], v.m2, done["e"]]
    spec = ax_ops.Requantize(
        linear.output_bits,
        linear.zero_point,
        linear.guard,
        linear.bias_shift,
        linear.bias_end,
        linear.token_scale,
        v.a is not None,
    )
    done["codes"] = to.call(
        ax_ops.ax_requantize, (tokens, n, acc_type, spec, acc2_type), args + token_scale, ((tokens, n), f"int{spec.bits}")
    )
    return done


def _pad(value: Int64, shape: tuple[int, ...], fill: int = 0) -> Int64:
    out = np.full(shape, fill, np.int64)
    out[tuple(slice(0, s) for s in value.shape)] = value
    return out


def parameters(linear: Linear, rank: int, adapter: Adapter | None) -> list[npt.NDArray[Any]]:
    """The run-time tensors of a linear under one adapter (None: base), in the order of `LinearVars.all`."""
    values, records = linear.weight.values(), linear.records
    narrow = _is_narrow(linear.weight)
    k, n = linear.k, linear.n
    arrays: list[npt.NDArray[Any]] = [values.astype(np.int8 if narrow else np.int16)]
    if linear.weight.group:
        groups = -(-k // linear.weight.group)
        scale = linear.weight.scale if linear.weight.scale is not None else np.ones((groups, n), np.int64)
        zero = linear.weight.zero if linear.weight.zero is not None else np.zeros((groups, n), np.int64)
        arrays += [scale.astype(np.uint8), zero.astype(np.int8)]
    bias, m1 = (adapter.bias, adapter.m1) if adapter else (records.bias, records.m1)
    arrays += [bias.astype(np.int32), m1.astype(np.uint16), records.shift.astype(np.uint8)]
    if rank:
        a = adapter.a.values() if adapter else np.zeros((k, 0), np.int64)
        none = np.zeros(0, np.int64)
        a_bias, a_m1, a_shift = (
            (adapter.a_records.bias, adapter.a_records.m1, adapter.a_records.shift) if adapter else (none, none, none)
        )
        b = adapter.b.values() if adapter else np.zeros((0, n), np.int64)
        arrays += [
            _pad(a, (k, rank)).astype(np.int8),
            _pad(a_bias, (rank,)).astype(np.int32),
            _pad(a_m1, (rank,)).astype(np.uint16),
            _pad(a_shift, (rank,), 1).astype(np.uint8),
            _pad(b, (rank, n)).astype(np.int8),
            _pad(adapter.m2 if adapter else none, (n,)).astype(np.uint16),
        ]
    return arrays
