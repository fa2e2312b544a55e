"""What must hold between the parts of a package, beyond its hashes: sizes, addresses, names, stages and values.

A package that passes can be simulated without reading or writing outside its memory and without hanging. What the machine
itself refuses (an illegal instruction, a local address) it still refuses when it runs: `MachineError`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from axlora.compiler.backend.link import ALIGN, LINE
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import output_bytes
from axlora.compiler.errors import BadModel, BadPackage
from axlora.compiler.frontend.sizes import check_host
from axlora.compiler.layer import TOKENS, Tensor
from axlora.isa.formats import Format
from axlora.isa.instruction import BadInstruction, Instruction, decode
from axlora.isa.legality import IllegalProgram, executed
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS, Opcode
from axlora.isa.regions import slot_values

from .choice import AdapterInfo
from .layers import LayerInfo, read_arrays
from .program import InputInfo, OutputInfo, Program
from .validate_linears import MEMORY_LIMIT, LinearChecks

EXECUTED = 256
"""Most instructions that a weight tile and token group costs; the backend emits about 30."""


_FLOW = (Opcode.HALT, Opcode.LOOP, Opcode.ENDLOOP)
_OTHER = Instruction(Opcode.SET)


@dataclass(frozen=True)
class _Region:
    """Bytes of memory that are in use from one stage to another."""

    name: str
    address: int
    size: int
    first: int
    last: int


class _Check(LinearChecks):
    """The checks of one program; `where` is the package."""

    def __init__(self, program: Program, where: str) -> None:
        super().__init__(program, where)
        self.p = program
        self.stages = len(program.starts)

    def all(self) -> None:
        """Every check, the cheap ones first."""
        self.numbers()
        self.tensors()
        for number, layer in enumerate(self.p.layers):
            self.layer(layer, f"layers[{number}]")
        self.tiles()
        self.adapters()
        self.memory()
        self.vectors(read_arrays(self.p.vectors))
        self.program()
        self.host()

    def numbers(self) -> None:
        """Counts and addresses of the whole program."""
        p = self.p
        count = len(p.program) // INSTRUCTION_BYTES
        self.need(len(p.program) % (LINE * INSTRUCTION_BYTES) == 0, "program", len(p.program), "whole cache lines")
        self.need(bool(p.starts) and p.starts[0] == 0, "program.starts", p.starts[:1], "a list from 0")
        good = all(a < b and b % LINE == 0 for a, b in itertools.pairwise(p.starts)) and p.starts[-1] < count
        self.need(good, "program.starts", p.starts, f"rising, below {count}")
        self.within(p.slots, 0, SLOTS, "slots")
        self.within(p.rank, 0, 1 << 16, "rank")
        self.within(p.weights_address, len(p.program), MEMORY_LIMIT, "weights.address")
        self.within(p.adapter_address, p.weights_address + len(p.weights), MEMORY_LIMIT, "adapter_address")
        self.within(p.adapter_size, 0, MEMORY_LIMIT, "adapter_size")
        total = p.adapter_address + p.adapter_size * max(1, len(p.adapters))
        self.within(total, 0, MEMORY_LIMIT, "memory of program, weights and adapters")
        for value, field in ((p.weights_address, "weights.address"), (p.adapter_address, "adapter_address")):
            self.need(value % ALIGN == 0, field, value, f"a multiple of {ALIGN}")

    def tensor(self, t: Tensor, bits: tuple[int, ...], field: str) -> None:
        """Sizes and scale of a tensor."""
        self.need(bool(t.shape) and all(d > 0 for d in t.shape), f"{field}.shape", t.shape, "positive")
        self.within(t.tokens, 1, TOKENS, f"{field}.tokens")
        self.within(t.columns, 1, MEMORY_LIMIT, f"{field}.columns")
        self.within(t.offset_columns, 0, (t.columns - 1) * t.per_token, f"{field}.offset_columns")
        size, wanted = 1, t.tokens * t.values
        for d in t.shape:
            size = min(size * d, MEMORY_LIMIT)
        self.need(size == wanted and t.shape[-1] == t.values, f"{field}.shape", t.shape, f"{t.tokens} x {t.values}")
        self.need(t.bits in bits, f"{field}.bits", t.bits, f"one of {bits}")
        self.need(t.scale > 0, f"{field}.scale", t.scale, "positive")
        top = 1 << (t.bits - 1)
        self.within(t.zero_point, -top, top - 1, f"{field}.zero_point")

    def tensors(self) -> None:
        """Inputs and outputs of the machine."""
        p, t = self.p, self.t
        self.unique([i.tensor.name for i in p.inputs], "inputs")
        self.unique([o.tensor.name for o in p.outputs], "outputs")
        for n, i in enumerate(p.inputs):
            field = f"inputs[{n}]"
            self.tensor(i.tensor, (8, 16) if t.activation_bits == 16 else (8,), f"{field}.tensor")
            self.within(i.stage, 0, self.stages - 1, f"{field}.stage")
            self.within(i.blocks, -(-i.tensor.columns // t.lanes), MEMORY_LIMIT // t.abuf_line_bytes, f"{field}.blocks")
            read = max((layer.tiling.shape.blocks for layer in p.layers if layer.input == i.tensor.name), default=0)
            self.need(i.blocks == read, f"{field}.blocks", i.blocks, f"{read}, as its layers read")
        for n, o in enumerate(p.outputs):
            field = f"outputs[{n}]"
            self.tensor(o.tensor, (8, 16, 32), f"{field}.tensor")
            self.within(o.stage, 0, self.stages - 1, f"{field}.stage")
            self.need(o.element * 8 == o.tensor.bits, f"{field}.element", o.element, f"{o.tensor.bits // 8}")

    def layer(self, info: LayerInfo, field: str) -> None:
        """A linear's numbers, and that they are those of its input, its output and its tiling."""
        p = self.p
        read: InputInfo | None = next((i for i in p.inputs if i.tensor.name == info.input), None)
        written: OutputInfo | None = next((o for o in p.outputs if o.tensor.name == info.output), None)
        if read is None or written is None:
            name, kind = (info.output, "output") if read is not None else (info.input, "input")
            self.need(False, f"{field}.{kind}", name, f"an {kind} of the package")
        assert read is not None
        assert written is not None
        self.need(info.format in Format.__members__, f"{field}.format", info.format, f"one of {', '.join(Format.__members__)}")
        same: tuple[tuple[str, int, int], ...] = (
            ("k", info.k, read.tensor.columns),
            ("offset_rows", info.offset_rows, read.tensor.offset_columns),
            ("n", info.n, written.tensor.columns),
            ("x_bits", info.x_bits, read.tensor.bits),
            ("output_bits", info.output_bits, written.tensor.bits),
            ("zero_point", info.zero_point, written.tensor.zero_point),
            ("stage", info.stage, written.stage),
            ("token_scale", info.token_scale, read.tensor.per_token),
            ("input's tokens", read.tensor.tokens, written.tensor.tokens),
        )
        for name, found, wanted in same:
            self.need(found == wanted, f"{field}.{name}", found, f"{wanted}")
        self.scales(info, read.tensor, written.tensor, field)
        self.within(info.stage, read.stage, self.stages - 1, f"{field}.stage")
        self.within(info.first, p.starts[info.stage], len(p.program) // INSTRUCTION_BYTES - 1, f"{field}.first")
        self.within(info.guard, 0, 31, f"{field}.guard")
        self.within(info.bias_shift, 0, 15, f"{field}.bias_shift")
        self.need(info.error is None or info.error >= 0, f"{field}.error", info.error, "not negative")
        self.tiling(info, read.tensor.tokens, f"{field}.tiling")

    def scales(self, info: LayerInfo, x: Tensor, y: Tensor, field: str) -> None:
        """A linear's scales are those of its tensors."""
        step = info.bias_step if info.token_scale else info.y_scale
        for name, found, wanted in (
            ("x_scale", info.x_scale, x.scale),
            ("x_zero", info.x_zero, x.zero_point),
            ("bias_step" if info.token_scale else "y_scale", step, y.scale),
        ):
            self.need(found == wanted, f"{field}.{name}", found, f"{wanted}")
        self.need(info.y_scale > 0, f"{field}.y_scale", info.y_scale, "positive")
        self.need(info.bias_end == info.token_scale, f"{field}.bias_end", info.bias_end, f"{info.token_scale}")
        self.need(not x.per_token or (x.scale, x.zero_point) == (1.0, 0), f"{field}.x_scale", x.scale, "1")

    def adapters(self) -> None:
        """Names, ranks and blocks of adapters."""
        p = self.p
        names = [a.name for a in p.adapters]
        self.unique(names, "adapters")
        self.need(p.default_adapter is None or p.default_adapter in names, "default_adapter", p.default_adapter, "an adapter")
        self.need(bool(p.slots) or not names, "slots", p.slots, "1 or more: the package has adapters")
        self.need(sum(a.pinned for a in p.adapters) <= p.slots, "adapters", "all pinned", f"pinned in {p.slots} at most")
        tilings = [layer.tiling for layer in p.layers if layer.tiling.shape.slots]
        pieces = sum(adapter_offsets(self.t, tiling.shape, tiling.plan)[1] for tiling in tilings)
        size = -(-pieces // ALIGN) * ALIGN
        self.need(p.adapter_size == size, "adapter_size", p.adapter_size, f"{size}")
        for number, a in enumerate(p.adapters):
            self.adapter(a, f"adapters[{number}]")

    def adapter(self, a: AdapterInfo, field: str) -> None:
        """One adapter's block."""
        self.within(a.rank, 1, self.p.rank, f"{field}.rank")
        self.need(len(a.block) == self.p.adapter_size, f"{field}: bytes", len(a.block), f"{self.p.adapter_size}")

    def regions(self) -> list[_Region]:
        """Where activations and results lie, and in which stages they are in use."""
        p, t = self.p, self.t
        found = []
        for i in p.inputs:
            groups = -(-i.tensor.tokens // t.tokens)
            last = max((layer.stage for layer in p.layers if layer.input == i.tensor.name), default=i.stage)
            words = groups * t.tokens * 4
            found.append(_Region(f"input {i.tensor.name}", i.address, groups * i.blocks * t.abuf_line_bytes, i.stage, last))
            found.append(_Region(f"token words of {i.tensor.name}", i.token_words, words, i.stage, last))
        for o in p.outputs:
            groups = -(-o.tensor.tokens // t.tokens)
            found += [_Region(f"output {o.tensor.name}", x.address, x.stride * groups, o.stage, o.stage) for x in o.tiles]
        return found

    def memory(self) -> None:
        """Regions lie between weights and adapters, and those of one stage do not overlap."""
        p = self.p
        regions = self.regions()
        low, end = p.weights_address + len(p.weights), max((r.address + r.size for r in regions), default=0)
        first = p.weights_address + -(-len(p.weights) // ALIGN) * ALIGN
        least = min((r.address for r in regions), default=first)
        self.need(least == first, "weights.address", p.weights_address, f"{p.weights_address + least - first}")
        for r in regions:
            self.within(r.address, low, p.adapter_address - r.size, f"address of {r.name}")
            good = r.address % self.t.beat_bytes == 0
            self.need(good, f"address of {r.name}", r.address, f"a multiple of {self.t.beat_bytes}")
        self.within(p.adapter_address, low, end + 2 * ALIGN, "adapter_address")
        for stage in range(self.stages):
            live = sorted((r for r in regions if r.first <= stage <= r.last), key=lambda r: r.address)
            for a, b in itertools.pairwise(live):
                self.need(a.address + a.size <= b.address, f"address of {b.name}", b.address, f"behind {a.name}")

    def program(self) -> None:
        """Every stage ends, after about as many instructions as its tiles need."""
        p = self.p
        data = [p.program[at : at + INSTRUCTION_BYTES] for at in range(0, len(p.program), INSTRUCTION_BYTES)]
        registers: dict[int, int] = {}
        for slot in range(1, p.slots + 1):
            registers |= slot_values(self.t, slot, p.adapter_address, p.rank)
        work = len(p.layers)
        for info in p.layers:
            s, plan = info.tiling.shape, info.tiling.plan
            groups = -(-next(i.tensor.tokens for i in p.inputs if i.tensor.name == info.input) // self.t.tokens)
            work += len(plan.column_tiles(s)) * len(plan.row_tiles(s)) * groups
        for stage, (first, following) in enumerate(itertools.pairwise([*p.starts, len(data)])):
            try:
                part = [_flow(d) for d in data[first:following]]
                executed(part, registers, EXECUTED * work)
            except (BadInstruction, IllegalProgram) as error:
                raise BadPackage(f"program.bin: stage {stage}: {error}", self.where, "compile again") from None

    def host(self) -> None:
        """The host graph takes and gives what the machine's stages give and take."""
        try:
            known = check_host(self.p.host, self.stages)
        except BadModel as error:
            raise BadPackage(f"host.onnx: {error.message}", f"{self.where}, {error.where}", "compile again") from None
        given = {o.tensor.source: (o, o.stage + 1) for o in self.p.outputs}
        self.unique([o.tensor.source for o in self.p.outputs], "outputs: source")
        for name, stage in self.p.host.arrivals:
            found = given.get(name)
            good = found is not None and found[1] == stage
            self.need(good, "host.arrivals", name, "the result of a linear of the stage before")
        tensors = [(i.tensor, i.stage, True) for i in self.p.inputs]
        tensors += [(o.tensor, o.stage + 1, False) for o, _ in given.values() if o.tensor.source in known]
        for tensor, stage, reads in tensors:
            value = known.get(tensor.source)
            good = value is not None and value.stage <= stage and value.shape == tensor.shape
            self.need(good, f"source of tensor {tensor.name}", tensor.source, f"a tensor {tensor.shape} of host.onnx")
            assert value is not None
            floats = tensor.bits == 32 or (reads and value.dtype == "float32")
            kind = "float32" if floats else f"int{tensor.bits}"
            self.need(value.dtype == kind, f"source of tensor {tensor.name}", f"{value.dtype}", kind)

    def output(self, info: LayerInfo, number: int) -> None:
        """The places of a linear's result are its column tiles."""
        place = next(n for n, o in enumerate(self.p.outputs) if o.tensor.name == info.output)
        found = [(tile.first, tile.groups, tile.stride) for tile in self.p.outputs[place].tiles]
        s = info.tiling.shape
        wanted = [(first, count, output_bytes(self.t, s, count)) for first, count in info.tiling.plan.column_tiles(s)]
        self.need(found == wanted, f"outputs[{place}].tiles", found, f"{wanted}")


def _flow(data: bytes) -> Instruction:
    """An instruction that steers the program; any other stands as SET, the machine judges it when it runs.

    Raises:
        BadInstruction: as `decode`.
    """
    if not any(data):
        return Instruction(Opcode.HALT)
    return decode(data) if data[0] & 0x3F in _FLOW else _OTHER


def validate(program: Program, where: str) -> None:
    """Check a program that was read from a package.

    Raises:
        BadPackage: names the field, what it holds, and what it must be.
    """
    _Check(program, where).all()
