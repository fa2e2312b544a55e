"""What recognition asks of a model's Relax function: constants behind Q/DQ, weights with their codes, activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt
import tvm
from onnx import TensorProto
from tvm import relax

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.bounds import bound_indices
from axlora.compiler.frontend.recognised import Activation, BlockCodes, Reals, WeightCodes
from axlora.compiler.frontend.tvm_import import compiled
from axlora.compiler.passes.read_module import PASSIVE, RESHAPES, Array, ReadModule

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_MOVES = (
    *PASSIVE, *RESHAPES, "sum", "mean", "permute_dims", "nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d", "quantize",
    "dequantize",
)  # fmt: skip
"""Operators whose results have no other sign than their inputs."""
_NOT_NEGATIVE = ("nn.relu", "nn.softmax", "sigmoid", "exp", "abs", "sqrt", "rsqrt")


@dataclass(frozen=True)
class Matrix:
    """A constant weight of the graph."""

    shape: tuple[int, int]
    """[k, n], however the graph stores it."""
    codes: WeightCodes | BlockCodes | None
    read: Callable[[], Reals]
    """The reals [k, n], in the type that the graph holds them in."""


def _is_integer(value: Array) -> bool:
    return bool(np.issubdtype(value.dtype, np.integer)) or "int4" in str(value.dtype)


@dataclass(eq=False)
class Dataflow(ReadModule):
    """A model as it is recognised."""

    _activations: dict[str, Activation] = field(init=False, default_factory=dict)

    def real(self, name: str) -> npt.NDArray[np.float64] | None:
        """Value of a constant, or of one that went through Q/DQ (scales along its last dimension, or one); or None."""
        value = self.constant(name)
        if value is not None:
            return value.astype(np.float64)
        node = self.node_of(name)
        if node is None or node.op not in (*PASSIVE, "dequantize"):
            return None
        if node.op in PASSIVE:
            return self.real(node.inputs[0])
        raw, scale, zero = self._codes_of_constant(node.inputs[0]), self.constant(node.inputs[1]), self.constant(node.inputs[2])
        if raw is None or scale is None or zero is None:
            return None
        return np.asarray((raw.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64))

    def _codes_of_constant(self, name: str) -> Array | None:
        """A constant, or what quantize makes of one (exporters' Constant nodes keep their QuantizeLinear)."""
        node = self.node_of(name)
        if node is None or node.op != "quantize":
            return self.constant(name)
        real, scale, zero = (self.constant(n) for n in node.inputs[:3])
        if real is None or scale is None or zero is None or zero.dtype.kind not in "iu":
            return None
        limits = np.iinfo(zero.dtype.name)
        codes = np.rint(real.astype(np.float32) / scale.astype(np.float32)).astype(np.int64) + zero.astype(np.int64)
        return np.clip(codes, limits.min, limits.max)

    def scalar(self, name: str) -> float | None:
        """Value of a constant or dequantized constant with one element, or None."""
        value = self.real(name) if self._is_small(name) else None
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def vector(self, name: str, n: int) -> npt.NDArray[np.float64] | None:
        """A constant that broadcasts along a last dimension of n only, as [n]; a dequantized one too."""
        value = self.real(name) if self._is_small(name) else None
        if value is None or value.size not in (1, n) or (value.size > 1 and value.shape[-1] != n):
            return None
        return np.broadcast_to(value.reshape(-1), (n,)).copy()

    def _is_small(self, name: str) -> bool:
        """Not a matrix: cheap to look at."""
        shape = self.shape(name) if name in self._values or name in self._shapes else ()
        return int(prod(shape)) <= max(shape, default=1)

    def matrix(self, name: str, axis: int = 1) -> Matrix | None:
        """A constant matrix with its codes if the file has them; None if it is not constant.

        Args:
            axis: dimension of the output columns, which scales run along.

        Raises:
            UnsupportedOperator: codes with scales that are not one a tensor or one a column.
        """
        node = self.node_of(name)
        if node is not None and node.op == "permute_dims" and len(self.shape(name)) == 2:
            return self.matrix(node.inputs[0], 1 - axis)
        codes = self._dequantized(name, axis)
        if codes is not None:
            k, n = codes.stored.shape
            return Matrix((k, n), codes, lambda: codes.reals)
        return self._floats(name, axis)

    def _floats(self, name: str, axis: int) -> Matrix | None:
        source: str | None = name
        while source is not None and source not in self._values:
            node = self.node_of(source)
            source = node.inputs[0] if node is not None and node.op in (*PASSIVE, "permute_dims") else None
        if source is None or len(self.shape(name)) != 2:
            return None
        held = self._values[source]
        if held.data_type not in _FLOATS if isinstance(held, TensorProto) else held.dtype.kind != "f":
            return None

        def read() -> Reals:
            value = self.constant(name)
            assert value is not None
            return value if axis == 1 else value.T

        rows, columns = self.shape(name)
        return Matrix((rows, columns) if axis == 1 else (columns, rows), None, read)

    def _dequantized(self, name: str, axis: int) -> WeightCodes | None:
        node = self.node_of(name)
        if node is None or node.op != "dequantize":
            return None
        scale = self.constant(node.inputs[1])
        if scale is None or self.constant(node.inputs[0]) is None:
            return None
        given = int(node.number("axis", 1)) % 2
        if scale.size > 1 and (given != axis or scale.ndim > 1):
            where = node.source.name or name
            raise UnsupportedOperator(
                "weight scales are not one a tensor or one an output column", where, "quantize per output channel"
            )
        return self.codes(node.inputs[0], scale, node.inputs[2], axis)

    def codes(self, name: str, scale: Array, zero_name: str, axis: int) -> WeightCodes | None:
        """Constant integer weights with one scale, or one a column; None if they are not constant.

        A negative scale is legal; its column's codes are mirrored, so that the scale is positive and the values are the same.

        Args:
            axis: dimension of the columns in the file; the result is [k, n].
        """
        raw = self.constant(name)
        zero = self.constant(zero_name) if zero_name else np.zeros((), np.int64)
        if raw is None or zero is None or raw.ndim != 2 or not _is_integer(raw):
            return None
        n = raw.shape[axis]
        bits = 4 if "int4" in str(raw.dtype) else 8
        if raw.dtype.itemsize > 1 or scale.size not in (1, n) or zero.size not in (1, n):
            return None
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        wide = raw.astype(np.int16)
        columns = np.broadcast_to(scale.astype(np.float64).reshape(-1), (n,)).copy()
        zeros = np.broadcast_to(zero.astype(np.int64).reshape(-1), (n,)).copy()
        zero_of = zeros if axis == 1 else zeros[:, None]
        sign = np.where(columns < 0, -1, 1).astype(np.int16)  # (code - zero) * -scale = (zero - code) * scale
        signs, columns = sign if axis == 1 else sign[:, None], np.abs(columns)
        centred = (wide - zero_of.astype(np.int16)) * signs
        if centred.min(initial=0) >= low and centred.max(initial=0) <= high:
            stored, offset = centred.astype(np.int8), None
        else:
            shift, top = 0 if "uint" in str(raw.dtype) else -low, (1 << bits) - 1
            stored = np.where(signs < 0, top - (wide + shift), wide + shift).astype(np.uint8)
            offset = np.where(sign < 0, top - (zeros + shift), zeros + shift)
        return WeightCodes(stored if axis == 1 else stored.T, columns, bits, offset)

    def activation(self, codes: str) -> Activation | None:
        """The activation whose codes a quantize writes, or None if `codes` is not one (per tensor, constant scale)."""
        if codes in self._activations:
            return self._activations[codes]
        node = self.node_of(codes)
        if node is None or node.op != "quantize":
            return None
        scale, zero = self.scalar(node.inputs[1]), self.constant(node.inputs[2])
        if scale is None or zero is None or zero.size != 1 or zero.dtype not in (np.int8, np.int16):
            return None
        if not np.isfinite(scale) or scale <= 0:
            raise BadModel(f"scale is {scale}", node.source.name or codes, "calibrate the model again")
        shown = [o for i in self.readers.get(codes, []) for o in self.nodes[i].outputs if o in self.outputs]
        tensor = shown[0] if shown else node.inputs[0]
        taken = {a.tensor for a in self._activations.values()}
        name, count = tensor, 1
        while name in taken:
            count += 1
            name = f"{tensor}#{count}"
        bits = zero.dtype.itemsize * 8
        found = Activation(name, codes, scale, int(zero.reshape(-1)[0]), bits)
        self._activations[codes] = found
        return found

    def codes_of(self, name: str) -> str | None:
        """The codes that a dequantize turns into `name`, if a quantize of the same scale wrote them."""
        node = self.node_of(name)
        if node is None or node.op != "dequantize":
            return None
        quantize = self.node_of(node.inputs[0])
        if quantize is None or quantize.op != "quantize":
            return None
        same = all(
            np.array_equal(a, b)
            for i in (1, 2)
            if (a := self.constant(quantize.inputs[i])) is not None and (b := self.constant(node.inputs[i])) is not None
        )
        return node.inputs[0] if same else None

    def clamp(self, codes: str) -> tuple[float, float] | None:
        """The range of reals that a quantize clamps to, where it stands for a ReLU or ReLU6 that was folded into it.

        Its zero point is then at an end of the codes, and its input is not known to lie on that side of zero anyway. What
        softmax reads has no such function: where a mask of large negative numbers is in it, scores above zero are below a step.

        Args:
            codes: what it writes.
        """
        node = self.nodes[self.producer[codes]]
        scale, zero = self.scalar(node.inputs[1]), self.constant(node.inputs[2])
        if scale is None or zero is None or zero.size != 1 or zero.dtype.kind not in "iu":
            return None
        limits, middle = np.iinfo(zero.dtype.name), int(zero.reshape(-1)[0])
        if middle not in (limits.min, limits.max) or (middle == limits.min and self._not_negative(node.inputs[0])):
            return None
        if middle == limits.max and self._is_scores(codes):
            return None
        return (limits.min - middle) * scale, (limits.max - middle) * scale

    def _is_scores(self, codes: str) -> bool:
        """Whether softmax alone reads what codes stand for."""
        reals = [name for i in self.readers.get(codes, []) for name in self.nodes[i].outputs]
        readers = [self.nodes[i].op for name in reals for i in self.readers.get(name, [])]
        return bool(readers) and all(op == "nn.softmax" for op in readers)

    def _not_negative(self, name: str, depth: int = 16) -> bool:
        """Whether a tensor's values are never below zero, by the operators that give it."""
        constant = self.scalar(name)
        if constant is not None:
            return constant >= 0
        node = self.node_of(name)
        if node is None or not depth:
            return False
        match node.op:
            case "clip":
                return node.static[0][0] >= 0
            case "maximum":
                return any(self._not_negative(each, depth - 1) for each in node.inputs)
            case "power":
                exponent = self.scalar(node.inputs[1])
                return exponent is not None and exponent % 2 == 0
            case "where":
                return all(self._not_negative(each, depth - 1) for each in node.inputs[1:])
            case "minimum" | "add" | "divide":
                return all(self._not_negative(each, depth - 1) for each in node.inputs)
            case "multiply":
                return node.inputs[0] == node.inputs[1] or all(self._not_negative(each, depth - 1) for each in node.inputs)
            case "log":  # of 1 and more, as in Softplus
                inside = self.node_of(node.inputs[0])
                ones = [] if inside is None or inside.op != "add" else [self.scalar(each) for each in inside.inputs]
                return any(one is not None and one >= 1 for one in ones) and self._not_negative(node.inputs[0], depth - 1)
        return node.op in _NOT_NEGATIVE or (node.op in _MOVES and self._not_negative(node.inputs[0], depth - 1))

    def strip(self, name: str) -> str:
        """The tensor behind Q/DQ pairs that clamp nothing, casts and reshapes that keep the last dimension."""
        while True:
            node = self.node_of(name)
            codes = self.codes_of(name)
            if codes is not None and self.clamp(codes) is not None:
                return name
            if codes is not None:
                name = self.nodes[self.producer[codes]].inputs[0]
            elif node is not None and (
                node.op in PASSIVE or (node.op in RESHAPES and self.shape(node.inputs[0])[-1:] == self.shape(name)[-1:])
            ):
                name = node.inputs[0]
            else:
                return name

    def evaluate(self, wanted: Sequence[str], given: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
        """Values of tensors that no other inputs than the given ones change, by LLVM.

        Args:
            wanted: names of tensors.
            given: for each run, input -> value.

        Returns:
            for each run, the values in the order of `wanted`.
        """
        function = self.module["main"]
        bindings = [b for block in function.body.blocks for b in block.bindings]
        by_name = {name: variable for variable, name in self._variables.items()}
        outputs = [by_name[name] for name in wanted]
        needed, kept = set(outputs), []
        for binding in reversed(bindings):
            if binding.var in needed:
                kept.append(binding)
                needed |= set(relax.analysis.free_vars(binding.value))
        final = relax.Var("result", relax.TupleType([v.ty for v in outputs]))
        block = relax.DataflowBlock([*reversed(kept), relax.VarBinding(final, relax.Tuple(outputs))])
        params = [p for p in function.params if p in needed]
        body = relax.SeqExpr([block], final)
        alone = relax.Function(params, body, relax.TupleType([v.ty for v in outputs])).with_attr("global_symbol", "main")
        own = {v: f for v, f in self.module.functions_items() if not isinstance(f, relax.Function)}
        module = bound_indices(tvm.IRModule({**own, self.module.get_global_var("main"): alone}))
        run = compiled(module)["main"]
        results = []
        for values in given:
            arguments = []
            for p in params:
                name = self._variables[p]
                value = values[name] if name in values else self.constant(name)
                assert value is not None
                arguments.append(tvm.runtime.tensor(np.ascontiguousarray(value.astype(str(p.ty.dtype)))))
            results.append([np.asarray(v.numpy()) for v in run(*arguments)])
        return results
