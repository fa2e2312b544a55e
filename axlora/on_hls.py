"""The self-test of an HLS project."""

from __future__ import annotations

import numpy as np

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.image import Image
from axlora.isa.legality import check_program
from axlora.isa.opcodes import ADAPTER_COUNTERS, UNTIMED
from axlora.isa.target import Target
from axlora.sim.run import SimResult, run_image

_DATA = 3904
"""Bytes from one buffer's data to the next; no power of two, so that no two buffers hold the same."""

_SELF_TEST = """\
LOAD buffer=0 address={a[0]} rows=1 beats={weights}
LOAD buffer=1 address={a[1]} rows=1 beats={activations}
LOAD buffer=2 address={a[2]} rows=1 beats={records}
LOAD buffer=3 address={a[3]} rows=1 beats=2
LOAD buffer=5 address={a[4]} rows=1 beats=8
LOAD buffer=6 address={a[5]} rows=1 beats={table} post=0,1
SEGW segment=0 format=3 groups=1 block_stride=1 wait=0
SEGA segment=0
SEGW segment=1 format=2 line=2 groups=1 block_stride=1
SEGA segment=1 acc=1
MATMUL segments=2 blocks=2 first=1 tokens={tokens} post=4
VCFG guard=1 bias_shift=2 wait=1
VOUT zero_point=3 wait=4
VQT acc=1 to=32768 groups=1 tokens={tokens} post=9
SEGW segment=0 format=0 groups=1 block_stride=1 wait=9
MATMUL segments=1 acc=2 line=32768 blocks=1 post=5
VREQ groups=1 tokens={tokens} wait=5 post=10
STORE address=32768 rows=1 beats={region} wait=10 post=14
VLEN valid=7 step=1 wait=14
VPITCH a=1 b=2 to=4
VCON ca=65459 cb=1000 shift=11
VTAB low=4294901760 last=7 step=14 shift=8
VMAP function=0 reduce=3 a=32768 b=32769 words=2 rows=2 into=1 size=2
VROW function=2 factor=3 add=5 shift=7 adjust=12 rows=2 scalar=1
VMAP function=2 reduce=1 to=8 words=2 rows=2 into=1 size=2 scale=1
VROW function=3 factor=1 rows=2 scalar=2
VMAP function=3 a=8 words=2 into=3 size=2 post=11
VMAP function=1 reduce=2 b=32768 words=1 into=2 size={size}
STORE address=34816 rows=1 beats=2 wait=11
LOOP count=3 body=1
STORE address=35840 rows=1 beats=1 bytes=1 rx=1
ENDLOOP
HALT
"""


def self_test(target: Target) -> tuple[Image, SimResult]:
    """A program that uses every unit of a target on seeded data, and what the simulator makes of it."""
    t, beat = target, target.beat_bytes
    region = -(-t.ports // t.lanes) * t.tokens * t.lanes
    text = _SELF_TEST.format(
        a=[4096 + n * _DATA // 64 * 64 for n in range(6)],
        weights=4 * t.wbuf_line_beats,
        activations=2 * t.abuf_line_beats,
        records=-(-16 * t.ports // beat),
        table=8 * 8 // beat,
        tokens=t.tokens,
        region=-(-region // beat),
        size=t.activation_bits // 16,
    )
    program = assemble(text)
    registers = {1: 1}
    check_program(program, registers)
    data = encode_program(program)
    memory = np.random.default_rng(0).integers(0, 256, 36864, np.uint8)
    memory[: len(data)] = np.frombuffer(data, np.uint8)
    image = Image(memory.tobytes(), 0, registers, memory.size)
    return image, run_image(target, image.memory, 0, registers)


def hls_counters(result: SimResult) -> dict[str, int]:
    """The counters that the C++ has, of a timed simulation."""
    assert result.trace is not None
    found = {name: result.counters[name] for name in UNTIMED}
    for name in ADAPTER_COUNTERS:
        found[name] = result.trace.total(name)
    return found
