"""The accelerator's regions of a module, read back: all that the backend and the references know of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from axlora.compiler import layer
from axlora.compiler.operators import Op, Quantization, codes_of, made_rows, streams
from axlora.compiler.passes.lower_rows import PLACES, Starts
from axlora.compiler.passes.row_calls import KINDS, PREFIX, read

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Operators on rows, and what the module says of their values and linears."""

    inputs: tuple[str, ...]
    """Values that hold the rows which the host gives, one a stream."""
    lengths: tuple[int, ...]
    """Rows of each, and of those that windows make: of a sequence, of a batch, or most that a cache holds."""
    counted: int
    """The stream of which a register says how many rows are no padding: of the others none are."""
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
    def input(self) -> str:
        """Value that holds the first stream's rows."""
        return self.inputs[0]

    @property
    def rows(self) -> int:
        """Of the first stream."""
        return self.lengths[0]

    @cached_property
    def streams(self) -> dict[str, int]:
        """Value -> number of its stream."""
        return streams(self.operators, self.inputs)

    @property
    def rank(self) -> int:
        """Of the widest adapter."""
        return max(self.ranks.values(), default=0)

    @property
    def context(self) -> int:
        """Most tokens of a sequence; 1 where rows are none of a sequence."""
        return 1 if self.starts is Starts.ROWS else max(self.lengths)

    @property
    def codes(self) -> dict[str, Quantization]:
        """Value -> its codes, of values that are rounded to codes of one scale."""
        return codes_of(self.operators)


@dataclass(frozen=True)
class Called:
    """A call in a region."""

    variable: Any
    """Of its result."""
    kind: str
    """Of the composite function, without the prefix."""
    attributes: Mapping[str, Any]
    args: Mapping[str, Any]
    """By the names of the function's parameters."""


def _bindings(function: relax.Function) -> Iterator[Any]:
    return (binding for block in function.body.blocks for binding in block.bindings)


def _regions(module: tvm.IRModule) -> dict[Any, relax.Function]:
    """Variable -> region of the accelerator."""
    return {
        variable: function
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function) and (function.attrs or {}).get("Codegen") == "axlora"
    }


def region_of(module: tvm.IRModule) -> tuple[Any, relax.Function, relax.Call]:
    """The one region of a module that `LowerRows` and `Partition` made: its variable, itself, and its call in `main`."""
    regions = _regions(module)
    found = [b.value for b in _bindings(module["main"]) if isinstance(b.value, relax.Call) and b.value.op in regions]
    assert len(found) == 1, f"the passes made {len(found)} regions of the accelerator, not one"
    return found[0].op, regions[found[0].op], found[0]


def calls(region: relax.Function) -> Iterator[Called]:
    """The calls of composite functions, in their order."""
    composites: dict[Any, relax.Function] = {}
    for binding in _bindings(region):
        value = binding.value
        if isinstance(value, relax.Function):
            composites[binding.var] = value
        elif isinstance(value, relax.Call):
            called = composites[value.op]
            args = {str(p.name): each for p, each in zip(called.params, value.args, strict=True)}
            yield Called(binding.var, str(called.attrs["Composite"]).removeprefix(PREFIX), called.attrs, args)


def _index(weight: Any) -> int | None:
    """The number of the linear whose weight a variable of `main` is, `wN_weight`, as `LinearVars.declare` names it."""
    found = re.fullmatch(r"w(\d+)_weight", str(getattr(weight, "name", "")))
    return None if found is None else int(found[1])


def read_linears(given: layer.Regions, linears: Sequence[layer.Linear]) -> layer.LinearCalls:
    """The linears in the regions of a module that `LowerLinears` and `Partition` made, and the stage of each: one more than
    the latest that it depends on.

    Args:
        linears: in any order; each must be in a region.
    """
    module, by_name = given.module, {linear.name: linear for linear in linears}
    linears = [by_name[name] for name in given.linears]
    regions = _regions(module)
    after: dict[Any, int] = {}
    """Variable -> the stage from which on it is known."""
    stages: dict[int, int] = {}
    rows: dict[str, int] = {}
    for binding in _bindings(module["main"]):
        value = binding.value
        stage = max((after.get(v, 0) for v in relax.analysis.free_vars(value)), default=0)
        region = regions.get(value.op) if isinstance(value, relax.Call) else None
        after[binding.var] = stage + (region is not None)
        if region is not None:
            passed = dict(zip(region.params, value.args, strict=True))
            for call in calls(region):
                x, *others = call.args.values()
                (index,) = {found for each in others if (found := _index(passed.get(each))) is not None}
                stages[index], rows[linears[index].input] = stage, int(x.ty.shape.values[0])
    lost = [linear.name for index, linear in enumerate(linears) if index not in stages]
    assert not lost, f"the passes put these linears into no region of the accelerator: {', '.join(lost)}"
    order = sorted(stages, key=lambda index: (stages[index], index))
    return layer.LinearCalls(
        tuple(replace(linears[index], stage=stages[index]) for index in order), {x.input: rows[x.input] for x in linears}
    )


def read_region(module: tvm.IRModule, linears: Sequence[layer.Linear]) -> Region:
    """What the region of a module says.

    Args:
        linears: in the order of the parameters that hold their tensors, `wN_weight` of the Nth.
    """
    _, function, call = region_of(module)
    return _Reading(dict(zip(function.params, call.args, strict=True)), linears).region(function)


class _Reading:
    """One region's reading."""

    def __init__(self, given: Mapping[Any, Any], linears: Sequence[layer.Linear]) -> None:
        """`given`: parameter of the region -> what `main` passes."""
        self._given, self._linears = given, linears
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
        inputs: dict[str, int] = {}
        counted, starts = 0, Starts.SEQUENCE
        for call in calls(function):
            match call.kind:
                case "input":
                    counted = len(inputs) if call.attributes["counted"] else counted
                    starts = Starts(call.attributes["starts"])
                    inputs[self._value(call)] = int(call.variable.ty.shape.values[0])
                case "smooth":
                    x = self._divided[call.variable] = self._values[call.args["x"]]
                    self._smooth[x] = self._array(call.args["by"])
                    self._largest[str(call.attributes["y"])] = float(call.attributes["largest"])
                case "output":
                    self._outputs[self._values[call.args["x"]]] = int(call.attributes["number"])
                case "linear":
                    self._linear(call)
                case _:
                    self._operator(call)
        assert inputs, "the region of the accelerator reads no rows"
        return Region(
            tuple(inputs),
            (*inputs.values(), *made_rows(self._operators, tuple(inputs))),
            counted,
            starts,
            tuple(self._operators),
            self._outputs,
            self._widths,
            self._largest,
            self._smooth,
            self._steps,
            self._ranks,
        )

    def _value(self, call: Called) -> str:
        """The value that a call makes, with what its attributes say of it."""
        name = str(call.attributes["y"])
        self._values[call.variable], self._widths[name] = name, int(call.variable.ty.shape.values[1])
        self._largest[name] = float(call.attributes["largest"])
        return name

    def _linear(self, call: Called) -> None:
        """A linear: the one whose weight a parameter of `main` is."""
        self._value(call)
        weight, x = self._given[call.args["weight"]], call.args["x"]
        index = _index(weight)
        assert index is not None, f"{weight.name!r} is no weight of a linear"
        name = self._linears[index].name
        self._steps[name] = float(call.attributes["step"])
        if "a" in call.args:
            self._ranks[name] = int(call.args["a"].ty.shape.values[1])
        value = self._divided[x] if x in self._divided else self._values[x]
        self._operators.append(read(call.kind, call.attributes, {"name": name, "x": value}))

    def _operator(self, call: Called) -> None:
        assert call.kind in KINDS, f"there is no operator {call.kind!r} of rows"
        self._value(call)
        arguments = {
            name: self._values[each] if each in self._values else self._array(each)
            for name, each in call.args.items()
            if name != PLACES
        }
        self._operators.append(read(call.kind, call.attributes, arguments))

    def _array(self, parameter: Any) -> npt.NDArray[Any]:
        """A constant, read once."""
        constant = self._given[parameter]
        if constant not in self._arrays:
            self._arrays[constant] = np.asarray(constant.value.numpy())
        return self._arrays[constant]
