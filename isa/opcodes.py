"""Opcodes, units, buffers, formats, error codes, counters and the register map: every number that two views share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Unit(IntEnum):
    """The five units; the value is the unit number that ERR_CODE reports."""

    FETCH = 0
    LOAD = 1
    MATRIX = 2
    VECTOR = 3
    STORE = 4


class Opcode(IntEnum):
    """Bits 5..0 of an instruction."""

    HALT = 0x01
    SET = 0x02
    LOOP = 0x03
    ENDLOOP = 0x04
    WINDOW = 0x05
    LOAD = 0x08
    SEGW = 0x10
    SEGA = 0x11
    CODEBOOK = 0x12
    MATMUL = 0x13
    VCFG = 0x18
    VOUT = 0x19
    VREQ = 0x1A
    VQT = 0x1B
    VMAP = 0x1C
    VROW = 0x1D
    VLEN = 0x1E
    VPITCH = 0x1F
    STORE = 0x20
    VCON = 0x21
    VTAB = 0x22
    SPITCH = 0x23
    VBANK = 0x24


UNIT_OF = {
    Opcode.HALT: Unit.FETCH,
    Opcode.SET: Unit.FETCH,
    Opcode.LOOP: Unit.FETCH,
    Opcode.ENDLOOP: Unit.FETCH,
    Opcode.WINDOW: Unit.FETCH,
    Opcode.LOAD: Unit.LOAD,
    Opcode.SEGW: Unit.MATRIX,
    Opcode.SEGA: Unit.MATRIX,
    Opcode.CODEBOOK: Unit.MATRIX,
    Opcode.MATMUL: Unit.MATRIX,
    Opcode.VCFG: Unit.VECTOR,
    Opcode.VOUT: Unit.VECTOR,
    Opcode.VREQ: Unit.VECTOR,
    Opcode.VQT: Unit.VECTOR,
    Opcode.VMAP: Unit.VECTOR,
    Opcode.VROW: Unit.VECTOR,
    Opcode.VLEN: Unit.VECTOR,
    Opcode.VPITCH: Unit.VECTOR,
    Opcode.VCON: Unit.VECTOR,
    Opcode.VTAB: Unit.VECTOR,
    Opcode.VBANK: Unit.VECTOR,
    Opcode.STORE: Unit.STORE,
    Opcode.SPITCH: Unit.STORE,
}
"""The unit that executes each opcode."""


class Buffer(IntEnum):
    """Destinations of LOAD. WKEY is WBUF written column by column: a transposition on the way in."""

    WBUF = 0
    ABUF = 1
    PBUF = 2
    TBUF = 3
    SBUF = 4
    CBUF = 5
    FBUF = 6
    WKEY = 7


class Map(IntEnum):
    """Functions of VMAP (sub bits 1..0)."""

    MAC = 0
    MUL = 1
    SCALE = 2
    TABLE = 3


class Reduce(IntEnum):
    """Reductions of VMAP over a row (sub bits 3..2)."""

    NONE = 0
    SUM = 1
    MAX = 2
    ABSMAX = 3


class Row(IntEnum):
    """Functions of VROW (sub bits 1..0)."""

    COPY = 0
    RECIPROCAL = 1
    RSQRT = 2
    TOKEN = 3


class Into(IntEnum):
    """Where VMAP puts its results (misc bits 4..3)."""

    NOTHING = 0
    VBUF = 1
    UBUF = 2
    OBUF = 3


class ErrorCode(IntEnum):
    """Why the machine stopped (register ERR_CODE, bits 7..0)."""

    NONE = 0
    ILLEGAL = 1
    LOCAL_ADDRESS = 2
    MEMORY_ADDRESS = 3
    AXI_READ = 4
    AXI_WRITE = 5
    SEMAPHORE = 6
    LOOP = 7
    WATCHDOG = 8


SEMAPHORES = 16
SEMAPHORE_MAX = 15
WORD = (
    ("op", 6),
    ("wait_a", 5),
    ("wait_b", 5),
    ("post_a", 5),
    ("post_b", 5),
    ("sub", 6),
    ("rx", 5),
    ("ry", 5),
    ("rz", 5),
    ("misc", 17),
    ("x", 32),
    ("y", 16),
    ("z", 16),
)
"""An instruction, low bits first: (field, bits)."""
SEGMENTS = 9
ROWS = 64
"""Most rows of a VMAP or VROW."""
SCALARS = 4
SLOTS = 8
LOOP_DEPTH = 4
REGISTERS_OF_ALL = 16
"""R0..R15 are one for all windows; of R16..R31 every window has its own."""
MOST_WINDOWS = 15
MOST_REGISTERS = REGISTERS_OF_ALL * (1 + MOST_WINDOWS)
QUEUE_DEPTH = 16
"""Instructions that wait in front of each unit: as many as distributed memory holds in its smallest part."""
POSTED = 16
"""Most bursts of STORE that have begun and are not answered."""
STORE_STEP = 4
"""Least cycles from the start of a burst of STORE to that of the next."""
INSTRUCTION_BYTES = 16
CACHE_LINE_BYTES = 64
FETCH_FLIGHTS = 4
"""Most cache lines that fetch has asked for and that are not there; a power of two."""
UBUF_BIT = 0x8000
CBUF_BIT = 0x8000
VPIPE = 23
"""Stages of the vector unit's pipeline: the result of an element is written VPIPE cycles after its step of the walk."""
MAP_PIPE = 16
"""Cycles from the step of the walk of a VMAP's last word until the unit is idle. What is written at stage 18 can be read three
cycles later: no unit reads a result sooner than three cycles after it accepts."""
REDUCE_PIPE = 18
"""Cycles from the step of a row's last word until its reduction can be read, less log2(V), the levels of pairs of a word."""
READ_AFTER = 17
"""The q-th word of a VMAP reads what the words up to q - READ_AFTER wrote to VBUF: read at stage 2, written at stage 18."""


def poster(semaphore: int) -> Unit:
    """The only unit that may post a semaphore (0..15)."""
    return _POSTERS[semaphore >> 2]


_POSTERS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)


MULTIPLES = 16
"""Entries of a table of the table engine: an activation times each value of a nibble."""
FILL_ADDS = 24
"""Additions of a fill: 16 multiples x*0 .. x*15, and for the signed nibbles 8 of them less 16 x."""


@dataclass(frozen=True)
class Counter:
    """One 64-bit performance counter: name, unit of measure, definition."""

    name: str
    unit: str
    meaning: str


COUNTERS: tuple[Counter, ...] = (
    Counter("cycles", "cycles", "from the first instruction look-up through the last cycle of HALT"),
    Counter("instructions", "instructions", "left ISSUE, HALT included"),
    Counter("fetch_busy", "cycles", "LOOKUP, DECODE, RESOLVE, and the ISSUE cycle in which an instruction leaves"),
    Counter("fetch_miss", "cycles", "REQ; LOOKUP while a line is on its way, RESOLVE while one ahead is not granted"),
    Counter("fetch_queue", "cycles", "ISSUE while the unit's queue is full"),
    Counter("fetch_halt", "cycles", "HALT in ISSUE while a queue or a unit is not empty or a line is on its way"),
    Counter("load_busy", "cycles", "a beat for load arrives"),
    Counter("load_memory", "cycles", "executing, no beat arrives"),
    Counter("load_semaphore", "cycles", "idle, the head of the queue waits for a semaphore"),
    Counter("load_idle", "cycles", "idle, the queue is empty; or the cycle that accepts"),
    Counter("matrix_busy", "cycles", "executing MATMUL and not one of the next two"),
    Counter("matrix_raw", "cycles", "every FIFO has a group, the accumulator is still being written"),
    Counter("matrix_product", "cycles", "from g0 on: groups remain to pop and a lane's FIFO is empty"),
    Counter("matrix_weights", "cycles", "idle, the head waits for a semaphore of load"),
    Counter("matrix_semaphore", "cycles", "idle, the head waits for another unit's semaphore only"),
    Counter("matrix_idle", "cycles", "idle, the queue is empty; or the cycle that accepts"),
    Counter("vector_busy", "cycles", "executing VREQ, VQT, VMAP or VROW"),
    Counter("vector_semaphore", "cycles", "idle, the head waits for a semaphore"),
    Counter("vector_idle", "cycles", "idle, the queue is empty; or the cycle that accepts"),
    Counter("store_busy", "cycles", "a W beat is sent"),
    Counter("store_memory", "cycles", "executing, no W beat is sent"),
    Counter("store_semaphore", "cycles", "idle, the head waits for a semaphore"),
    Counter("store_idle", "cycles", "idle, the queue is empty; or the cycle that accepts"),
    Counter("lane_groups", "lane-cycles", "a lane's group is in its first issue cycle"),
    Counter("lane_misses", "lane-cycles", "further issue cycles of a group; table engine: it waits for its tables"),
    Counter("lane_fifo_full", "lane-cycles", "a group is at issue and no FIFO place is free"),
    Counter("macs", "codes x tokens", "codes that lanes took, times tokens of the segment's mask, padding included"),
    Counter("multiplications", "codes x tokens", "products that a multiplier or a fill's adder made, times tokens of the mask"),
    Counter("zeros", "codes x tokens", "codes that are zero, in formats that skip zero (reuse engine), times tokens"),
    Counter("rescales", "columns x tokens", "group rescale multiplications, sum segments excluded"),
    Counter("vector_elements", "elements", "elements that VREQ wrote, VQT quantized and VMAP went through"),
    Counter("saturations", "elements", "elements that a clamp of VREQ or VMAP or a sat32 of VQT changed"),
    Counter("fetch_beats", "beats", "beats read for instructions"),
    Counter("load_beats", "beats", "beats read by load"),
    Counter("store_beats", "beats", "beats written"),
)
"""Performance counters in register order."""

UNTIMED: tuple[str, ...] = tuple(c.name for c in COUNTERS if c.unit != "cycles" and c.name != "lane_fifo_full")
"""Counters that follow from the program and its data alone: the HLS C++, which knows no time, counts these."""

ADAPTER_COUNTERS = ("adapter_macs", "adapter_multiplications")
"""Shares of macs and multiplications in segments of a slot: simulator and HLS C++ count them, they are no registers."""

UNIT_COUNTERS: dict[Unit, tuple[str, ...]] = {
    unit: tuple(c.name for c in COUNTERS if c.name.startswith(unit.name.lower() + "_") and c.unit == "cycles") for unit in Unit
}
"""Per unit the counters that add up to `cycles`, busy first."""


@dataclass(frozen=True)
class Register:
    """One 32-bit register of the AXI4-Lite slave: byte offset, access (RO, RW, W1C, WO)."""

    name: str
    offset: int
    access: str
    meaning: str


REGISTERS: tuple[Register, ...] = (
    Register(
        "CTRL",
        0x000,
        "WO",
        "bit 0 start (ignored while busy); bit 1 soft reset: stops a running program, then clears machine state and error",
    ),
    Register("STATUS", 0x004, "RO", "bit 0 busy, bit 1 done, bit 2 error"),
    Register("IRQ_ENABLE", 0x008, "RW", "bit 0: interrupt at done or error"),
    Register("IRQ_STATUS", 0x00C, "W1C", "bit 0: done or error happened"),
    Register("PROGRAM", 0x010, "RW", "memory byte address of the first instruction, a multiple of 64"),
    Register(
        "MEM_BASE",
        0x014,
        "RW",
        "added to every memory address on the AXI master; a multiple of 4096; kept while a program or a burst runs",
    ),
    Register("MEM_LIMIT", 0x018, "RW", "bytes of memory that the program may touch, before MEM_BASE is added"),
    Register("WATCHDOG", 0x01C, "RW", "cycles without progress until error 8; 0 switches it off"),
    Register("ERR_CODE", 0x020, "RO", "bits 7..0 error code, 15..8 unit"),
    Register("ERR_ADDR", 0x024, "RO", "memory byte address of the instruction"),
    Register("ID", 0x028, "RO", "0x41584C31: 'AXL1'"),
    Register("REGS", 0x080, "RW", "R0..R31, 4 bytes each (R0 reads zero)"),
    Register("COUNTERS", 0x100, "RO", "64-bit counters in table order, low word first"),
    Register("WINDOWS", 0x400, "RW", "R0..R31, 4 bytes each, then R16..R31 of windows 1, 2 .."),
)
MACHINE_ID = 0x41584C31
