"""Where the tensors between host and machine lie in memory, and what must hold of them in a package of stages."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from axlora.compiler.backend.memory_layout import ALIGN
from axlora.compiler.backend.plan import output_bytes
from axlora.compiler.errors import BadModel, BadPackage
from axlora.compiler.frontend.sizes import check_host
from axlora.compiler.layer import TOKENS, Host, Tensor

from .layers import LayerInfo
from .validate import Check

EXECUTED = 256
"""Most instructions that a weight tile and token group costs; the backend emits about 30."""
_SIZE = 2 << 30


@dataclass(frozen=True)
class InputInfo:
    """What linears read: the tensor; the regions `input NAME` and `token words NAME` hold it (docs/isa.md, regions)."""

    tensor: Tensor
    blocks: int
    stage: int


@dataclass(frozen=True)
class TileInfo:
    """One column tile of an output in memory."""

    first: int
    groups: int
    stride: int


@dataclass(frozen=True)
class OutputInfo:
    """A linear's result: the tensor and its column tiles, the nth in the region `output NAME/n`."""

    tensor: Tensor
    element: int
    tiles: tuple[TileInfo, ...]
    stage: int

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that hold its tiles."""
        return tuple(f"output {self.tensor.name}/{n}" for n in range(len(self.tiles)))


class TensorChecks:
    """The checks of inputs and outputs of stages, and of the host part that they come from and go to."""

    def __init__(self, check: Check, inputs: tuple[InputInfo, ...], outputs: tuple[OutputInfo, ...]) -> None:
        self.check, self.m, self.t, self.inputs, self.outputs = check, check.m, check.t, inputs, outputs
        self.stages = len(check.m.functions)
        self._read = {i.tensor.name: i for i in inputs}
        self._written = {o.tensor.name: o for o in outputs}

    def all(self) -> None:
        """Every check, the cheap ones first."""
        c, m = self.check, self.m
        c.need(m.host is not None, "host", m.host, "there")
        assert m.host is not None
        c.need(m.max_loras == m.slots, "max_loras", m.max_loras, f"{m.slots}, as slots")
        for a, b in itertools.pairwise(m.functions):
            c.need(a.address + a.size == b.address, "functions", b.address, f"{a.address + a.size}, behind {a.name}")
        self._tensors()
        for number, layer in enumerate(m.layers):
            self._layer(layer, f"layers[{number}]")
        c.tiles()
        for n, o in enumerate(self.outputs):
            self._tiles(n, o)
        c.adapters()
        self._regions()
        c.vectors()
        for stage, function in enumerate(m.functions):
            tokens = max((i.tensor.tokens for i in self.inputs if i.stage == stage), default=1)
            c.need(function.rows == tokens, f"functions[{stage}].rows", function.rows, f"{tokens}")
            c.ends(function, EXECUTED * self._work())
        self._host(m.host)

    def _work(self) -> int:
        """Weight tiles times token groups."""
        work = len(self.m.layers)
        for info in self.m.layers:
            s, plan = info.tiling.shape, info.tiling.plan
            groups = -(-self._read[info.input].tensor.tokens // self.t.tokens)
            work += len(plan.column_tiles(s)) * len(plan.row_tiles(s)) * groups
        return work

    def _tensor(self, t: Tensor, bits: tuple[int, ...], field: str) -> None:
        """Sizes and scale of a tensor."""
        c = self.check
        c.need(bool(t.shape) and all(d > 0 for d in t.shape), f"{field}.shape", t.shape, "positive")
        c.within(t.tokens, 1, TOKENS, f"{field}.tokens")
        c.within(t.columns, 1, _SIZE, f"{field}.columns")
        c.within(t.offset_columns, 0, (t.columns - 1) * t.per_token, f"{field}.offset_columns")
        size, wanted = 1, t.tokens * t.values
        for d in t.shape:
            size = min(size * d, _SIZE)
        c.need(size == wanted and t.shape[-1] == t.values, f"{field}.shape", t.shape, f"{t.tokens} x {t.values}")
        c.need(t.bits in bits, f"{field}.bits", t.bits, f"one of {bits}")
        c.need(t.scale > 0, f"{field}.scale", t.scale, "positive")
        top = 1 << (t.bits - 1)
        c.within(t.zero_point, -top, top - 1, f"{field}.zero_point")

    def _tensors(self) -> None:
        """Inputs and outputs of the machine."""
        c, t = self.check, self.t
        c.unique([i.tensor.name for i in self.inputs], "inputs")
        c.unique([o.tensor.name for o in self.outputs], "outputs")
        for n, i in enumerate(self.inputs):
            field = f"inputs[{n}]"
            self._tensor(i.tensor, (8, 16) if t.activation_bits == 16 else (8,), f"{field}.tensor")
            c.within(i.stage, 0, self.stages - 1, f"{field}.stage")
            c.within(i.blocks, -(-i.tensor.columns // t.lanes), _SIZE // t.abuf_line_bytes, f"{field}.blocks")
            read = max((layer.tiling.shape.blocks for layer in self.m.layers if layer.input == i.tensor.name), default=0)
            c.need(i.blocks == read, f"{field}.blocks", i.blocks, f"{read}, as its layers read")
        for n, o in enumerate(self.outputs):
            field = f"outputs[{n}]"
            self._tensor(o.tensor, (8, 16, 32), f"{field}.tensor")
            c.within(o.stage, 0, self.stages - 1, f"{field}.stage")
            c.need(o.element * 8 == o.tensor.bits, f"{field}.element", o.element, f"{o.tensor.bits // 8}")

    def _layer(self, info: LayerInfo, field: str) -> None:
        """A linear's numbers are those of its input and its output."""
        c = self.check
        c.named([info.input], self._read, f"{field}.input")
        c.named([info.output], self._written, f"{field}.output")
        read, written = self._read[info.input], self._written[info.output]
        x, y = read.tensor, written.tensor
        c.need(x.tokens == y.tokens, f"{field}.input's tokens", x.tokens, f"{y.tokens}")
        c.need(not x.per_token or (x.scale, x.zero_point) == (1.0, 0), f"{field}.x_scale", x.scale, "1")
        c.need(info.y_scale > 0, f"{field}.y_scale", info.y_scale, "positive")
        c.within(info.stage, read.stage, self.stages - 1, f"{field}.stage")
        wanted = {
            "k": x.columns,
            "offset_rows": x.offset_columns,
            "n": y.columns,
            "x_bits": x.bits,
            "output_bits": y.bits,
            "zero_point": y.zero_point,
            "stage": written.stage,
            "token_scale": x.per_token,
            "bias_end": x.per_token,
            "x_scale": x.scale,
            "x_zero": x.zero_point,
            "bias_step" if x.per_token else "y_scale": y.scale,
        }
        c.layer(info, field, x.tokens, wanted)

    def _tiles(self, number: int, o: OutputInfo) -> None:
        """The places of a linear's result are its column tiles."""
        info = next((layer for layer in self.m.layers if layer.output == o.tensor.name), None)
        self.check.need(info is not None, f"outputs[{number}]", o.tensor.name, "what a layer writes")
        assert info is not None
        found = [(tile.first, tile.groups, tile.stride) for tile in o.tiles]
        s = info.tiling.shape
        wanted = [(first, count, output_bytes(self.t, s, count)) for first, count in info.tiling.plan.column_tiles(s)]
        self.check.need(found == wanted, f"outputs[{number}].tiles", found, f"{wanted}")

    def _spans(self) -> dict[str, tuple[int, int, int]]:
        """Region -> (bytes, the first and the last stage in which it is in use)."""
        t, found = self.t, {}
        for i in self.inputs:
            groups, name = -(-i.tensor.tokens // t.tokens), i.tensor.name
            last = max((layer.stage for layer in self.m.layers if layer.input == name), default=i.stage)
            found[f"input {name}"] = (groups * i.blocks * t.abuf_line_bytes, i.stage, last)
            found[f"token words {name}"] = (groups * t.tokens * 4, i.stage, last)
        for o in self.outputs:
            groups = -(-o.tensor.tokens // t.tokens)
            for region, tile in zip(o.regions, o.tiles, strict=True):
                found[region] = (tile.stride * groups, o.stage, o.stage)
        return found

    def _regions(self) -> None:
        """Regions are those of the tensors, close to the image, and those of one stage do not overlap."""
        c, m, spans = self.check, self.m, self._spans()
        c.need(m.regions.keys() == spans.keys(), "regions", sorted(m.regions.keys() ^ spans.keys())[:3], "those of the tensors")
        for name, (size, _, _) in spans.items():
            c.need(m.regions[name][1] == size, f"bytes of region {name!r}", m.regions[name][1], f"{size}")
        end = max((address + size for address, size in m.regions.values()), default=len(m.image))
        c.within(m.adapter_address, end, end + 2 * ALIGN, "adapter_address")
        for stage in range(self.stages):
            live = sorted(m.regions[name] for name, (_, first, last) in spans.items() if first <= stage <= last)
            for (a, size), (b, _) in itertools.pairwise(live):
                c.need(a + size <= b, "address of a region", b, f"{a + size} or more: another one is in use")

    def _host(self, host: Host) -> None:
        """The host graph takes and gives what the machine's stages give and take."""
        c = self.check
        try:
            known = check_host(host, self.stages)
        except BadModel as error:
            raise BadPackage(f"host.onnx: {error.message}", f"{c.where}, {error.where}", "compile again") from None
        given = {o.tensor.source: (o, o.stage + 1) for o in self.outputs}
        c.unique([o.tensor.source for o in self.outputs], "outputs: source")
        for name, stage in host.arrivals:
            found = given.get(name)
            good = found is not None and found[1] == stage
            c.need(good, "host.arrivals", name, "the result of a linear of the stage before")
        tensors = [(i.tensor, i.stage, True) for i in self.inputs]
        tensors += [(o.tensor, o.stage + 1, False) for o, _ in given.values() if o.tensor.source in known]
        for tensor, stage, reads in tensors:
            value = known.get(tensor.source)
            good = value is not None and value.stage <= stage and value.shape == tensor.shape
            c.need(good, f"source of tensor {tensor.name}", tensor.source, f"a tensor {tensor.shape} of host.onnx")
            assert value is not None
            floats = tensor.bits == 32 or (reads and value.dtype == "float32")
            kind = "float32" if floats else f"int{tensor.bits}"
            c.need(value.dtype == kind, f"source of tensor {tensor.name}", f"{value.dtype}", kind)
