"""The trained tiny Llama with its adapter: bits per byte in integers, the simulator's tokens, a layer in Verilog."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_decoder import partitioned
from tiny_llama import PROSE, Int64, Quantized, model, with_outliers

import axlora
from axlora.compiler.backend.build_image import build_region
from axlora.compiler.operators import Add
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import read_region
from axlora.compiler.transformer import Output
from axlora.isa.numerics import to_fixed
from axlora.isa.positions import position_registers
from axlora.isa.regions import slot_values, token_words
from axlora.isa.target import Target
from axlora.rtl.runner import Image, run_images
from axlora.sim.run import run_image

import corpus  # isort: skip
import bits  # isort: skip
import export  # isort: skip

SLOW, EXHAUSTIVE = pytest.mark.slow, pytest.mark.exhaustive
ZCU104 = Target.load("zcu104")
WIDE = dataclasses.replace(ZCU104, name="zcu104-a16", activation_bits=16, accumulator_bits=48)
WINDOWS, LENGTH = 12, 256
BOUNDS = {
    "W8A8": (ZCU104, 8, 0.007),
    "W4A8": (ZCU104, 4, 0.022),
    "W8A16": (WIDE, 8, 0.001),
}


def _share(quantized: Quantized, source: object, kind: str, adapter: str | None) -> float:
    """How many more bits per byte than float, as a share."""
    ids = corpus.windows(corpus.held_out(kind), LENGTH)[:WINDOWS]
    real = bits.bits_per_byte(bits.float_model(source)(ids), ids)
    return bits.bits_per_byte(quantized.logits(ids, adapter), ids) / real - 1


@pytest.mark.parametrize("form", [pytest.param(f, marks=SLOW if f == "W8A8" else EXHAUSTIVE) for f in BOUNDS])
def test_bits_per_byte_of_base_and_adapter(form: str) -> None:
    """Over 12 windows of 256 bytes of held-out text each: code for the base, prose for the adapter."""
    target, width, bound = BOUNDS[form]
    quantized = Quantized(target, model(), context=LENGTH, adapters={"prose": PROSE}, weight_bits=width)
    assert _share(quantized, model(), "code", None) < bound
    assert _share(quantized, export.model(export.read_lora(PROSE)), "prose", "prose") < bound


def _training_text() -> Int64:
    """Windows of training text of both kinds, half of each."""
    found = []
    for split in (corpus.code(), corpus.prose()):
        every = corpus.windows(b"".join(text for _, text in sorted(split.training.items())), LENGTH)
        found.append(every[np.random.default_rng(0).choice(len(every), 32, replace=False)])
    return np.concatenate(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("width", "quantizer", "bound"), [(4, "gptq", 0.008), (3, "gptq", 0.035), (8, "gptq", 0.001), (8, "rtn", 0.0015)]
)
def test_bits_per_byte_with_calibration_data(width: int, quantizer: str, bound: float) -> None:
    """As above; ranges of channels, and with GPTQ the codes of the weights too, are chosen for training text."""
    given = {"calibration": {"input_ids": _training_text()}, "weight_bits": width, "quantizer": quantizer}
    quantized = Quantized(ZCU104, model(), context=LENGTH, adapters={"prose": PROSE}, **given)
    assert _share(quantized, model(), "code", None) < bound
    assert _share(quantized, export.model(export.read_lora(PROSE)), "prose", "prose") < bound


@pytest.mark.exhaustive
def test_outlier_channels_cost_little_with_a_scale_a_token_and_less_with_data() -> None:
    source = with_outliers()
    assert 0.001 < _share(Quantized(ZCU104, source, context=LENGTH), source, "code", None) < 0.012
    data = {"input_ids": _training_text()}
    assert _share(Quantized(ZCU104, source, context=LENGTH, calibration=data), source, "code", None) < 0.004


def test_greedy_tokens_and_logits_equal_the_reference() -> None:
    """Prefill in chunks, then decode: every logit of every position, bit for bit; so the tokens are the reference's."""
    _same_tokens("prose", b"The following ex", 6)


@pytest.mark.parametrize("adapter", [pytest.param(None, marks=EXHAUSTIVE), pytest.param("prose", marks=SLOW)])
def test_64_greedy_tokens_equal_the_reference(adapter: str | None) -> None:
    _same_tokens(adapter, b"import os\n\n\ndef main(argv):\n", 64)


def _same_tokens(adapter: str | None, prompt: bytes, count: int) -> None:
    """Simulator, NumPy reference and the integer module that LLVM compiles."""
    options = {"adapters": {"prose": PROSE}}
    quantized = Quantized(ZCU104, model(), context=96, **options)
    program = axlora.compile(model(), ZCU104, generate=True, max_context=96, **options)
    session, cache, compiled = program.session(adapter), Cache(), quantized.compiled(adapter, len(prompt))
    ids: list[int] = list(prompt)
    for _ in range(count):
        found = session.feed(ids)
        wanted, fraction = quantized.run(np.array(ids), cache, adapter)
        assert fraction == program.interface.output_fraction
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(compiled.feed(np.array(ids)), wanted)
        ids = [int(wanted[-1].argmax())]
    tokens = [t.token for t in axlora.generate(program, list(prompt), max_new_tokens=3, adapter=adapter)]
    again = program.session(adapter)
    first = int(again.feed(list(prompt))[-1].argmax())
    assert tokens[0] == first


@pytest.mark.slow
def test_a_layer_with_lora_in_verilog() -> None:
    """Layer 0: prefill of 16 tokens, three decode steps: memory, cycles and every counter equal the simulator's."""
    target = Target.load("test")
    quantized = Quantized(target, model(), context=32, adapters={"prose": PROSE})
    f = quantized.found
    ends = [n for n, op in enumerate(f.model.operators) if isinstance(op, Add)][1]
    layer = dataclasses.replace(
        f.model, operators=f.model.operators[: ends + 1], outputs=(Output("h", f.model.operators[ends].y),)
    )
    used = {op.name for op in layer.operators if hasattr(op, "name")}
    linears = tuple(li for li in f.lowered.linears if li.name in used)
    held = {li.name: li for li in linears}
    module = partitioned(layer, held, f.region.largest, 32, Starts.DECODE, 8)
    region = read_region(module, linears)
    image = build_region(target, region, linears, slots=1)
    from axlora.compiler.backend.link import adapter_block

    block = adapter_block(target, linears, "prose", 8, image.tilings)
    memory = np.zeros(-(-image.size // 64) * 64, np.uint8)
    words = token_words(np.ones(max(image.programs), np.int64))
    places = ((0, image.data), (image.adapter_address, block), (image.regions["token words"][0], words))
    for address, data in places:
        memory[address : address + len(data)] = np.frombuffer(data, np.uint8)
    ids = np.frombuffer(b"def f(x):\n    return x", np.uint8)[:19].astype(np.int64)
    cache, position, images, results = Cache(), 0, [], []
    for count in [target.tokens] * (16 // target.tokens) + [1] * 3:
        rows = to_fixed(layer.embedding[ids[position : position + count]], image.input_fraction)
        address, width = image.regions["input"][0], image.input_words * target.vector_lanes
        memory = memory.copy()
        put = np.zeros((count, width), "<i4")
        put[:, : rows.shape[1]] = rows
        memory[address : address + put.nbytes] = put.view(np.uint8).reshape(-1)
        registers = {
            int(k): v for k, v in position_registers(target, position, count, image.dim, image.half, image.context).items()
        }
        registers |= slot_values(target, 1, image.adapter_address, 8)
        images.append(Image(memory.tobytes(), image.programs[count].address, registers, len(memory)))
        result = run_image(target, memory, image.programs[count].address, registers)
        results.append(result)
        memory, position = result.memory, position + count
        reference = Reference(held, ["prose"] * count, cache, 8, rows)
        lower(region, reference, 8, 32)
        at, wide = image.regions["output 0"][0], image.output_words[0] * target.vector_lanes
        out = memory[at : at + 4 * wide * count].view("<i4").reshape(count, wide)
        np.testing.assert_array_equal(out[:, : reference.output.shape[1]], reference.output)
    for sim, rtl in zip(results, run_images(target, images), strict=True):
        assert rtl.error == 0
        assert {k: v for k, v in sim.counters.items() if v != rtl.counters[k]} == {}
        assert rtl.cycles == sim.cycles > 0
        assert rtl.memory == sim.memory.tobytes()
