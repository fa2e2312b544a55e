"""Models whose linears run on the machine: the host part and starts in turn, codes at the boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.boundary import Quantized, quantize, restore, token_rows
from axlora.compiler.errors import BadAdapter, BadModel, UnsupportedOperator
from axlora.compiler.frontend.embeddings import Table, tables_of
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.frontend.supported import named
from axlora.compiler.row_changes import TableChanges
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.regions import region_bytes, region_codes, token_words

from .choice import AdapterChoice, AdapterInfo, Rows
from .engines import Engine, Left, Progress, Start
from .inputs import Inputs, InputsInfo, Kind, Values, cast, checked, no_sequence
from .layer_counters import Operator, marks, operator_shares
from .layers import LayerInfo
from .machine import Bytes, Int64, Machine
from .run import Layer, Run, run_of
from .tensors import InputInfo, OutputInfo, TensorChecks
from .validate import Check

_NOISE = 100
"""Largest code of what stands in for the machine's results when the host part is tried."""


@dataclass(frozen=True)
class Stages:
    """A function a stage; the host part runs before, between and after them."""

    kind: ClassVar[Kind] = Kind.LINEARS
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    owners: dict[str, npt.NDArray[np.int32]]
    """Function -> for each of its instructions the number of a layer, among those of its stage."""

    def inputs_info(self, m: Machine) -> InputsInfo:
        """Shape and type of each of the model's inputs."""
        assert m.host is not None
        found = {}
        for value in m.host.model.graph.input:
            if value.name in m.host.inputs:
                kind = value.type.tensor_type
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                found[value.name] = (tuple(d.dim_value for d in kind.shape.dim), np.dtype(dtype))
        return found

    def check_inputs(self, m: Machine, inputs: Inputs) -> Values:
        """The inputs in the model's types.

        Raises:
            BadInput: missing, unknown, wrong shape, not numbers, not finite, out of the type's range.
        """
        known = self.inputs_info(m)
        return {name: cast(name, value, known[name][1]) for name, value in checked(inputs, known).items()}

    def random_inputs(self, m: Machine, rng: np.random.Generator) -> Values:
        """Inputs that a run takes.

        Floats are normal, over the range of the static scale where a linear reads the input itself; integers index their table;
        a mask (an input with `mask` in its name) is all ones.
        """
        scales = {i.tensor.source: i.tensor for i in self.inputs if not i.tensor.per_token}
        out: Values = {}
        for name, (shape, dtype) in self.inputs_info(m).items():
            if "mask" in name.lower() or dtype.kind == "b":
                out[name] = np.ones(shape, dtype)
            elif dtype.kind in "iu":
                out[name] = rng.integers(0, _rows_of(m, name), shape).astype(dtype)
            elif name in scales:
                t = scales[name]
                top = 1 << (t.bits - 1)
                codes = np.clip(rng.normal(t.zero_point, top / 4, shape), -top, top - 1)
                out[name] = ((codes - t.zero_point) * t.scale).astype(dtype)
            else:
                out[name] = rng.normal(0, 1, shape).astype(dtype)
        return out

    def summary(self, m: Machine) -> str:
        """Sizes, in words."""
        size = sum(f.size for f in m.functions)
        return f"{size // INSTRUCTION_BYTES} instructions, {(len(m.image) - size) / 1024:.0f} KiB of weights"

    def marks(self, m: Machine, number: int) -> dict[int, str]:
        """Instruction of a function -> the layer or operator that begins there."""
        names = [layer.name for layer in _layers(m, number)]
        return marks(names, self.owners[m.functions[number].name])

    def embeddings(self, m: Machine) -> tuple[Table, ...]:
        """Tables of token ids, by which files of adapters that hold embeddings are checked."""
        assert m.host is not None
        return tables_of(Graph(m.host.model))

    def rows_of(self, _: TableChanges) -> Rows:
        """What adapters add to rows of embeddings: nothing, as the host graph picks them."""
        return {}

    def check_reach(self, _: AdapterInfo) -> None:
        """What an adapter makes of rows of embeddings fits in the machine's numbers: it changes none."""

    def prove(self, m: Machine) -> None:
        """Try what the host does in a run: build the host part, run it on random inputs, with noise for the machine's results.

        Raises:
            UnsupportedOperator: operators of the host part that TVM does not compile, by node.
        """
        from axlora.compiler.frontend.tvm_import import refused  # a second that loading a whole model need not take

        assert m.host is not None
        rng = np.random.default_rng(0)

        def machine(stage: int, _: Values) -> Values:
            found = [info.tensor for info in self.outputs if info.stage == stage]
            return {t.source: restore(t, rng.integers(-_NOISE, _NOISE, (t.tokens, t.columns))) for t in found}

        part, graph = m.host_part, m.host.model.graph
        try:
            outputs = part.run(self.random_inputs(m, np.random.default_rng(0)), machine)
        except Exception as error:  # TVM raises several types here
            raise refused(m.host.model, error) from error
        for value in graph.output:
            shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            found = outputs[value.name].shape if value.name in outputs else shape
            if found != shape:
                node = next(n for n in graph.node if value.name in n.output)
                what = f"operator {node.op_type} in this form (TVM gives {value.name!r} the shape {found}, ONNX {shape})"
                raise UnsupportedOperator(what, named(node), "replace it in the model, or leave that result out")

    def sequence(self, m: Machine, engine: Engine, adapter: str | None, shared: bool = False) -> NoReturn:
        """An empty sequence of a language model, which this is not; `shared`: other sequences run in between."""
        no_sequence()

    def new_batch(self, m: Machine, engine: Engine) -> NoReturn:
        """Sequences of a language model that decode together."""
        no_sequence()

    def run(self, m: Machine, engine: Engine, inputs: Inputs, adapter: AdapterChoice, progress: Progress | None) -> Run:
        """Run the model; `progress` is called with (done, in all) after each start, or sequence of a language model.

        Raises:
            BadInput: as `check_inputs`. BadAdapter: as `choice.chosen`, or not one for each batch row.
        """
        given = self.check_inputs(m, inputs)
        used, rows = m.slot_of(adapter)
        memory, slots = m.memory(), [used.index(name) + 1 if name in used else 0 for name in rows]
        registers = m.registers(memory, used)
        tensors = {info.tensor.name: info.tensor for info in self.outputs}
        lefts: list[Left] = []
        codes: dict[str, Int64] = {}
        saturated = 0

        def machine(stage: int, values: Values) -> Values:
            nonlocal memory, saturated
            read = {i.tensor.name: quantize(i.tensor, values[i.tensor.source]) for i in self.inputs if i.stage == stage}
            saturated += sum(q.saturated for q in read.values())
            self._put(m, memory, stage, read, slots)
            places = [m.regions[name] for o in self.outputs if o.stage == stage for name in o.regions]
            lefts.append(engine.start(m.target, Start(m.functions[stage], memory, registers, places, places)))
            if progress is not None:
                progress(stage + 1, len(m.functions))
            memory = lefts[-1].memory
            found = {o.tensor.name: self._codes(m, memory, o) for o in self.outputs if o.stage == stage}
            codes.update(found)
            return {tensors[name].source: restore(tensors[name], value) for name, value in found.items()}

        outputs = m.host_part.run(given, machine)
        for name, value in outputs.items():
            if value.dtype.kind == "f" and np.isnan(value).any():
                raise BadModel(f"output {name!r} holds NaN", f"output {name!r}", "check the model's inputs and weights")
        layers: list[Layer] = []
        for stage, left in enumerate(lefts):
            if left.trace is not None:
                f, own = m.functions[stage], [Operator(x.name, x.operator, x.error) for x in _layers(m, stage)]
                layers += operator_shares(m, f, own, self.owners[f.name], left.trace, left.counters["cycles"])
        return run_of(m, engine, outputs, codes, lefts, tuple(layers), saturated)

    def validate(self, c: Check) -> None:
        """Check what was read from a package, after `Check.machine`.

        Raises:
            BadPackage: names the field, what it holds, and what it must be.
        """
        TensorChecks(c, self.inputs, self.outputs).all()
        c.owners(self.owners, [len(_layers(c.m, stage)) for stage in range(len(c.m.functions))])

    def _put(self, m: Machine, memory: Bytes, stage: int, codes: Mapping[str, Quantized], slots: list[int]) -> None:
        """Write a stage's codes and token words into the memory; `slots` of the batch rows."""
        t = m.target
        for info in (i for i in self.inputs if i.stage == stage):
            name, found = info.tensor.name, codes[info.tensor.name]
            groups = -(-info.tensor.tokens // t.tokens)
            m.put(memory, f"input {name}", region_bytes(t, found.codes, info.blocks, groups))
            each = token_rows(info.tensor, len(slots))
            if not each:
                rows = info.tensor.shape[0]
                raise BadAdapter(f"{len(slots)} adapters named for {rows} batch rows", "adapter", "one, or one per batch row")
            scale = () if found.mantissa is None or found.shift is None else (found.mantissa[:, 0], found.shift[:, 0])
            words = token_words(np.repeat(slots, each), *scale)
            m.put(memory, f"token words {name}", words + bytes(4 * groups * t.tokens - len(words)))

    def _codes(self, m: Machine, memory: Bytes, info: OutputInfo) -> Int64:
        t = m.target
        groups = -(-info.tensor.tokens // t.tokens)
        columns = max(tile.first + tile.groups for tile in info.tiles) * t.ports
        full = np.zeros((groups * t.tokens, columns), np.int64)
        for name, tile in zip(info.regions, info.tiles, strict=True):
            address, size = m.regions[name]
            blocks, width = -(-tile.groups * t.ports // t.lanes), tile.groups * t.ports
            values = region_codes(t, memory[address : address + size], info.element, blocks, groups, tile.stride)
            full[:, tile.first * t.ports : tile.first * t.ports + width] = values[:, :width]
        return full[: info.tensor.tokens, : info.tensor.columns]


def _layers(m: Machine, stage: int) -> list[LayerInfo]:
    return [layer for layer in m.layers if layer.stage == stage]


def _rows_of(m: Machine, name: str) -> int:
    """Smallest table that an integer input indexes (Gather along axis 0), or 2 if it indexes none."""
    assert m.host is not None
    graph = m.host.model.graph
    sizes = {i.name: i.dims[0] for i in graph.initializer if len(i.dims)}
    names, rows = {name}, []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in sizes:
            rows.append(int(sizes[node.input[0]]))
        elif names & set(node.input) and node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze"):
            names |= set(node.output)
    return min(rows, default=2)
