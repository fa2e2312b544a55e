"""The number by which host and bitstream know that they mean the same machine."""

from __future__ import annotations

import zlib

from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters


def target_id(target: Target) -> int:
    """CRC-32 of the machine's parameters and of its memory's latencies; not of its name or its clock."""
    parameters = target_parameters(target) | {"RLAT": target.read_latency, "WLAT": target.write_latency}
    return zlib.crc32(repr(sorted(parameters.items())).encode()) & 0x7FFFFFFF
