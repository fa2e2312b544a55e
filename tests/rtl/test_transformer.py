"""A decoder layer with LoRA in Verilog: every byte of memory, every cycle and counter is the simulator's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tiny_decoder import VOCABULARY, IntegerReference, Machine, Sizes, random_branches, random_decoder

from axlora.compiler.operators import Function, NormKind
from axlora.isa.target import Target
from axlora.rtl.runner import Image, run_images
from axlora.sim.run import SimResult, run_image


def _compare(target: Target, sizes: Sizes, chunks: Sequence[int], ranks: dict[str, int], names: Sequence[str | None]) -> None:
    """Starts one after another, each from the memory that the simulator left; all of them in one power-up of the Verilog."""
    decoder = random_decoder(sizes, seed=5)
    linears = decoder.quantized(target, {name: random_branches(decoder, rank, rank) for name, rank in ranks.items()})
    machine = Machine(decoder, target, linears, ranks)
    wanted = IntegerReference(decoder, linears, target.activation_bits, machine.image.context)
    ids = np.random.default_rng(6).integers(0, VOCABULARY, sum(chunks))
    images: list[Image] = []
    results: list[SimResult] = []
    for count in chunks:
        now = ids[machine.position : machine.position + count]
        own = [names[r % len(names)] for r in range(machine.position, machine.position + count)]
        start = machine.start(wanted.rows(now), own)
        images.append(Image(start.memory.tobytes(), start.program, start.registers, len(start.memory)))
        results.append(run_image(target, start.memory, start.program, start.registers))
        assert np.array_equal(machine.finish(start, results[-1].memory), wanted.feed(now, own))
    for number, (sim, rtl) in enumerate(zip(results, run_images(target, images), strict=True)):
        assert rtl.error == 0, f"start {number}: error {rtl.error} at {rtl.error_address:#x}"
        different = {k: (v, rtl.counters[k]) for k, v in sim.counters.items() if v != rtl.counters[k]}
        assert not different, f"start {number}: (simulator, Verilog) {different}"
        parted = np.flatnonzero(np.frombuffer(rtl.memory, np.uint8) != sim.memory)
        assert parted.size == 0, f"start {number}: memory parts at byte {parted[0]:#x}"
        assert sim.cycles == rtl.cycles > 0
        assert all(sim.counters[name] for name in ("matrix_busy", "vector_busy", "load_busy", "store_busy"))


def test_a_layer_with_lora_from_prefill_to_decode() -> None:
    """Four starts of two rows, then three of one, past the first edge of lanes; base and adapter side by side."""
    sizes = Sizes(layers=1, features=24, heads=2, kv_heads=1, dim=8, inner=40, context=13)
    _compare(Target.load("test"), sizes, [2, 2, 2, 2, 1, 1, 1], {"a": 4}, [None, "a"])


def test_a_layer_of_experts_with_lora() -> None:
    """Gates of two of five experts, whose linears have adapters: prefill and decode."""
    sizes = Sizes(layers=1, features=24, heads=2, kv_heads=1, dim=8, inner=24, context=12, experts=5)
    _compare(Target.load("test"), sizes, [2, 2, 1], {"a": 4}, [None, "a"])


@pytest.mark.slow
def test_layer_norms_gelu_and_two_adapters() -> None:
    sizes = Sizes(layers=1, context=13, norm=NormKind.LAYER, function=Function.GELU)
    _compare(Target.load("test"), sizes, [2, 2, 2, 1, 1, 1], {"a": 4, "b": 13}, [None, "b", "a"])
