"""The accelerator's region of a module of rows, read back: all that the backend and the references know of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from axlora.compiler import layer
from axlora.compiler.operators import Attention, Op
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.passes.row_calls import KINDS, PREFIX, read

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Operators on rows, and what the module says of their values and linears."""

    input: str
    """Value that holds the rows which the host gives."""
    rows: int
    """Of a sequence, of a batch, or most that a cache holds."""
    starts: Starts
    operators: tuple[Op, ...]
    outputs: Mapping[str, int]
    """Value -> number of the output that it is."""
    widths: Mapping[str, int]
    """Value -> its features."""
    largest: Mapping[str, float]
    """Value, and what a value's channels are divided to (NAME/smooth) -> largest magnitude that calibration saw."""
    smooth: Mapping[str, Float64]
    """Value -> what its channels [n] are divided by for linears."""
    steps: Mapping[str, float]
    """Linear -> value of an output code, a power of two."""
    ranks: Mapping[str, int]
    """Linear that adapters may change -> widest rank."""

    @property
    def rank(self) -> int:
        """Of the widest adapter."""
        return max(self.ranks.values(), default=0)

    @property
    def context(self) -> int:
        """Most tokens of a sequence; 1 where rows are none of a sequence."""
        return 1 if self.starts is Starts.ROWS else self.rows

    @property
    def head(self) -> int:
        """Features of the widest head of attention."""
        return max((op.dim for op in self.operators if isinstance(op, Attention)), default=0)


def read_region(module: tvm.IRModule, linears: Sequence[layer.Linear]) -> Region:
    """The one region of a module that `LowerRows` and `Partition` made.

    Args:
        linears: in the order of the parameters that hold their tensors, `wN_weight` of the Nth.
    """
    regions = {
        variable.name_hint: function
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function) and (function.attrs or {}).get("Codegen") == "axlora"
    }
    calls = [
        binding.value
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and getattr(binding.value.op, "name_hint", "") in regions
    ]
    assert len(calls) == 1, f"the passes made {len(calls)} regions of the accelerator, not one"
    function = regions[calls[0].op.name_hint]
    return _Reading(dict(zip(function.params, calls[0].args, strict=True)), linears).region(function)


class _Reading:
    """One region's reading."""

    def __init__(self, given: Mapping[Any, Any], linears: Sequence[layer.Linear]) -> None:
        """`given`: parameter of the region -> what `main` passes."""
        self._given, self._linears = given, linears
        self._composites: dict[Any, relax.Function] = {}
        self._values: dict[Any, str] = {}
        """Variable -> the value that it is."""
        self._divided: dict[Any, str] = {}
        """Variable -> the value whose divided channels it is."""
        self._arrays: dict[Any, npt.NDArray[Any]] = {}
        self._operators: list[Op] = []
        self._outputs: dict[str, int] = {}
        self._widths: dict[str, int] = {}
        self._largest: dict[str, float] = {}
        self._smooth: dict[str, Float64] = {}
        self._steps: dict[str, float] = {}
        self._ranks: dict[str, int] = {}

    def region(self, function: relax.Function) -> Region:
        """What its calls say."""
        first: tuple[str, int, Starts] | None = None
        for binding in (b for block in function.body.blocks for b in block.bindings):
            variable, value = binding.var, binding.value
            if isinstance(value, relax.Function):
                self._composites[variable] = value
            elif isinstance(value, relax.Call):
                called = self._composites[value.op]
                kind = str(called.attrs["Composite"]).removeprefix(PREFIX)
                if kind == "input":
                    name, rows = self._value(variable, called), int(variable.ty.shape.values[0])
                    first = name, rows, Starts(called.attrs["starts"])
                elif kind == "smooth":
                    self._divide(variable, value, called)
                elif kind == "output":
                    self._outputs[self._values[value.args[0]]] = int(called.attrs["number"])
                else:
                    self._operator(kind, variable, value, called)
        assert first is not None, "the region of the accelerator reads no rows"
        return Region(
            *first,
            tuple(self._operators),
            self._outputs,
            self._widths,
            self._largest,
            self._smooth,
            self._steps,
            self._ranks,
        )

    def _value(self, variable: Any, called: relax.Function) -> str:
        """The value that a call makes, with what its attributes say of it."""
        name = str(called.attrs["y"])
        self._values[variable], self._widths[name] = name, int(variable.ty.shape.values[1])
        self._largest[name] = float(called.attrs["largest"])
        return name

    def _divide(self, variable: Any, call: relax.Call, called: relax.Function) -> None:
        x, by = call.args
        self._divided[variable] = self._values[x]
        self._smooth[self._values[x]] = self._array(by)
        self._largest[str(called.attrs["y"])] = float(called.attrs["largest"])

    def _operator(self, kind: str, variable: Any, call: relax.Call, called: relax.Function) -> None:
        assert kind in KINDS, f"there is no operator {kind!r} of rows"
        self._value(variable, called)
        args = {str(p.name): each for p, each in zip(called.params, call.args, strict=True)}
        arguments: dict[str, str | npt.NDArray[Any]]
        if kind == "linear":
            name, x = self._linear(self._given[args["weight"]]), args["x"]
            self._steps[name] = float(called.attrs["step"])
            if "a" in args:
                self._ranks[name] = int(args["a"].ty.shape.values[1])
            arguments = {"name": name, "x": self._divided[x] if x in self._divided else self._values[x]}
        else:
            arguments = {n: self._values[a] if a in self._values else self._array(a) for n, a in args.items()}
        self._operators.append(read(kind, called.attrs, arguments))

    def _linear(self, weight: Any) -> str:
        """The linear whose weight a parameter of `main` is."""
        found = re.fullmatch(r"w(\d+)_weight", str(weight.name))
        assert found is not None, f"{weight.name!r} is no weight of a linear"
        return self._linears[int(found[1])].name

    def _array(self, parameter: Any) -> npt.NDArray[Any]:
        """A constant, read once."""
        constant = self._given[parameter]
        if constant not in self._arrays:
            self._arrays[constant] = np.asarray(constant.value.numpy())
        return self._arrays[constant]
