"""Relax pass: what a whole model does with rows becomes calls of composite functions, an operator each.

What makes the first rows stays as it was imported: the host does it, and gives them in fixed point, padding last; behind the
operators it makes the model's outputs of rows. Values between are rows of 32-bit integers, whose fractions follow from the
magnitudes that stand beside them (`rows/formulas.py`). No tensors of the module are what the machine keeps (the cache) and the
adapters' slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

from axlora.compiler import layer
from axlora.compiler.operators import Add, Attention, Beside, Linear, Mul, Op, Pool, Rotary, Slice, Window, operands
from axlora.compiler.passes.linear_calls import LinearVars
from axlora.compiler.passes.lower_linears import Names, live
from axlora.compiler.passes.row_calls import Array, composite, external, reads, written
from axlora.compiler.transformer import Output, Stream, Transformer

Expr = Any
TO_ROWS, FROM_ROWS = "to_rows", "from_rows"
"""The host's functions: floats to fixed point and back."""
PLACES = "places"
"""Argument of what heeds more than a row: the place of the first, and how many are no padding."""

BESIDE = "beside"
"""Argument of a further stream's first rows: the first stream's."""


class Starts(Enum):
    """Which rows come to a start of the machine."""

    SEQUENCE = "sequence"
    """Those of a sequence."""
    ROWS = "rows"
    """Any of a batch: nothing mixes them."""
    DECODE = "decode"
    """One or more that follow those in the cache."""


@dataclass(frozen=True)
class Calibrated:
    """A recognised model, and what is known of its values and linears."""

    model: Transformer
    largest: Mapping[str, float]
    """Value, and what a value's channels are divided to (NAME/smooth) -> largest magnitude seen."""
    linears: Sequence[layer.Linear]
    """Quantized for per-token inputs, 32-bit outputs."""
    starts: Starts
    rank: int = 0
    """Of the widest adapter."""
    adaptable: Set[str] | None = None
    """Linears that adapters may change; None: all."""

    def peak(self, name: str) -> dict[str, float]:
        """The largest magnitude of a value, as an attribute."""
        return {"largest": float(self.largest[name])}

    def branch(self, linear: layer.Linear) -> int:
        """Rank of a linear's branch; 0: it has none."""
        return self.rank if self.adaptable is None or linear.name in self.adaptable else 0


def widths(model: Transformer, outputs: Mapping[str, int]) -> dict[str, int]:
    """Features of every value; `outputs`: linear -> its columns."""
    found = {own.input: own.features for own in model.all_streams(0)}
    for op in model.operators:
        match op:
            case Linear():
                found[op.y] = outputs[op.name]
            case Attention() | Rotary() | Slice():
                found[op.y] = op.heads * op.dim
            case Add() | Mul():
                found[op.y] = found[op.a]
            case Beside():
                found[op.y] = found[op.a] + found[op.b]
            case Window():
                found[op.y] = found[op.x] * op.taps
            case _:
                found[op.y] = found[op.x]
    return found


def one_row(operators: Sequence[Op]) -> frozenset[str]:
    """Values of one row: the results of pools, and the results of operators that read those."""
    single: set[str] = set()
    for op in operators:
        if isinstance(op, Pool) or any(name in single for name in operands(op)):
            single.add(op.y)
    return frozenset(single)


@tvm.ir.transform.module_pass(opt_level=0, name="lower_rows")
class LowerRows:
    """The pass, for this model."""

    def __init__(self, names: Names, calibrated: Calibrated) -> None:
        """`names`: of the imported module."""
        self.names, self.calibrated = names, calibrated

    def transform_module(self, module: tvm.IRModule, _: Any) -> tvm.IRModule:
        """The module whose `main` takes the model's inputs, the tables that the host reads and the linears' tensors."""
        others = {v: f for v, f in module.functions_items() if not isinstance(f, relax.Function)}
        return _Rewriting(self.names, self.calibrated, relax.BlockBuilder(tvm.IRModule(others))).module(module["main"])


class _Rewriting:
    """One application of the pass."""

    def __init__(self, names: Names, calibrated: Calibrated, builder: relax.BlockBuilder) -> None:
        self._names, self._given, self._builder = names, calibrated, builder
        model, linears = calibrated.model, calibrated.linears
        self._model, self._widths, self._single = model, widths(model, {x.name: x.n for x in linears}), one_row(model.operators)
        read = {op.name for op in model.operators if isinstance(op, Linear)}
        self._vars = {
            linear.name: LinearVars.declare(linear, f"w{n}", calibrated.branch(linear))
            for n, linear in enumerate(linears)
            if linear.name in read
        }
        self._steps = {linear.name: linear.output_step for linear in linears}
        self._streams = model.streams
        self._places: list[Expr] = []
        """Of each stream: the place of its first row, and how many are no padding."""
        self._values: dict[str, Expr] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Expr] = {}
        self._rows: list[int] = []
        """Of each stream."""
        self._orders: list[Expr] = []
        """Of each stream [rows]: the places of the rows in the model's order; None if they are in it."""

    def module(self, main: relax.Function) -> tvm.IRModule:
        """The module with `main` rewritten."""
        names, model, builder = self._names, self._model, self._builder
        sources = [names.variables[each.source] for each in model.all_streams(0)]
        mask = names.variables[model.mask] if model.mask else None
        kept, needed = live(main, {*sources} if mask is None else {*sources, mask})
        given = {names.variables[name] for name in names.inputs}
        params = [p for p in main.params if p in given or p in needed] + [v for own in self._vars.values() for v in own.all()]
        with builder.function("main", params, {"num_input": len(given)}):
            with builder.dataflow():
                for binding in kept:
                    builder.emit_normalized(binding)
                for each, source in zip(model.all_streams(0), sources, strict=True):
                    self._first(each, source, mask)
                for op in model.operators:
                    self._operator(op)
                result = builder.emit_output(relax.Tuple(self._outputs()))
            builder.emit_func_output(result)
        return builder.get()

    def _first(self, stream: Stream, source: Expr, mask: Expr) -> None:
        """The rows of a stream that the host gives, and their places."""
        name, emit, counted = stream.input, self._builder.emit, len(self._rows) == self._model.masked
        self._rows.append(prod(int(d) for d in source.ty.shape.values) // stream.features)
        self._orders.append(None)
        if stream.given is not None and stream.given.index is not None and stream.source == stream.given.input:
            places = relax.const(stream.given.index.reshape(-1), "int64")  # pixels: no tensor of the graph lies so
            source = emit(relax.op.take(emit(relax.op.reshape(source, (-1,))), places, axis=0))
        x = emit(relax.op.reshape(source, (self._rows[-1], stream.features)))
        if mask is None or not counted:
            self._places.append(relax.const(np.array([0, self._rows[-1]]), "int64"))
        else:
            padding = emit(relax.op.equal(emit(relax.op.reshape(mask, (-1,))), relax.const(0, str(mask.ty.dtype))))
            self._orders[-1] = emit(relax.op.argsort(emit(relax.op.astype(padding, "int32"))))
            x = emit(relax.op.take(x, self._orders[-1], axis=0))
            tokens = emit(relax.op.astype(emit(relax.op.logical_not(padding)), "int64"))
            keys = emit(relax.op.sum(tokens, keepdims=True))
            self._places.append(emit(relax.op.concat([relax.const(np.zeros(1), "int64"), keys])))
        rows = self._host(TO_ROWS, x, self._type(name), {"y": name})
        attributes = {"y": name, "starts": self._given.starts.value, "counted": int(counted)} | self._given.peak(name)
        args = {"x": rows}
        if self._values:  # streams that nothing else connects are one region all the same
            args[BESIDE] = self._values[self._model.input]
        self._values[name] = self._call("input", args, self._type(name), attributes)

    def _operator(self, op: Op) -> None:
        """The call of one operator."""
        attributes, arrays = written(op)
        args = {name: self._values[value] for name, value in reads(op).items()}
        if self._streams[op.y] == len(self._rows):  # a window begins it
            assert isinstance(op, Window)
            self._rows.append(op.rows)
            self._orders.append(None)
            self._places.append(relax.const(np.array([0, op.rows]), "int64"))
        args |= {name: self._constant(value) for name, value in arrays.items()}
        if isinstance(op, Linear):
            own = {name: v for name, v in vars(self._vars[op.name]).items() if v is not None}
            args, attributes["step"] = {"x": self._divided(op.x), **own}, self._steps[op.name]
        elif isinstance(op, Attention | Rotary | Pool):
            args[PLACES] = self._places[self._streams[op.k if isinstance(op, Attention) else op.x]]
        kind, attributes = type(op).__name__.lower(), attributes | self._given.peak(op.y)
        self._values[op.y] = self._call(kind, args, self._type(op.y), attributes)

    def _divided(self, x: str) -> Expr:
        """A value as linears read it: its channels divided where calibration says so."""
        name = f"{x}/smooth"
        if x not in self._model.smooth:
            return self._values[x]
        if name not in self._values:
            args = {"x": self._values[x], "by": self._constant(self._model.smooth[x])}
            self._values[name] = self._call("smooth", args, self._type(x), {"y": name} | self._given.peak(name))
        return self._values[name]

    def _outputs(self) -> list[Expr]:
        """The model's outputs."""
        stored: dict[str, Expr] = {}
        for number, each in enumerate(self._model.outputs):
            if each.value not in stored:  # the region of the first output that is a value is that of all of them
                own = {"x": self._values[each.value]}
                stored[each.value] = self._call("output", own, self._type(each.value), {"number": number})
        return [self._output(each, stored[each.value]) for each in self._model.outputs]

    def _output(self, output: Output, rows: Expr) -> Expr:
        """Of the rows of its value."""
        emit, real = self._builder.emit, relax.TensorType(self._shape(output.value), "float32")
        y = self._host(FROM_ROWS, rows, real, {"y": output.value})
        order = self._orders[self._streams[output.value]]
        if order is not None and output.value not in self._single:
            y = emit(relax.op.take(y, emit(relax.op.argsort(order)), axis=0))
        if output.index is not None:
            places = relax.const(output.index.reshape(-1), "int64")
            y = emit(relax.op.take(emit(relax.op.reshape(y, (-1,))), places, axis=0))
        return emit(relax.op.reshape(y, output.shape)) if output.shape else y

    def _shape(self, value: str) -> tuple[int, int]:
        return 1 if value in self._single else self._rows[self._streams[value]], self._widths[value]

    def _type(self, value: str) -> relax.TensorType:
        return relax.TensorType(self._shape(value), "int32")

    def _constant(self, value: Array) -> Expr:
        """A constant; layers share those that are equal."""
        whole = np.ascontiguousarray(value)
        key = (str(value.dtype), value.shape, blake2b(whole.data).digest())
        if key not in self._constants:
            self._constants[key] = relax.const(whole, str(value.dtype))
        return self._constants[key]

    def _call(self, kind: str, args: Mapping[str, Expr], out: Any, attributes: Mapping[str, Any]) -> Expr:
        function = self._builder.add_func(composite(kind, args, out, attributes), f"ax_{kind}")
        return self._builder.emit(relax.Call(function, [*args.values()]))

    def _host(self, name: str, x: Expr, out: Any, attributes: Mapping[str, Any]) -> Expr:
        function = external(name, {"x": x}, out).with_attrs({"Host": name, **attributes})
        return self._builder.emit(relax.Call(self._builder.add_func(function, name), [x]))
