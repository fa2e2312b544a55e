"""Bytes for the machine's memory: weight tiles, records, scales, adapter blocks, activations and results."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.backend.plan import Plan, Shape
from axlora.compiler.layer import Adapter, Codes, Linear, Records
from axlora.isa.formats import Format, pack, unpack
from axlora.isa.regions import padded
from axlora.isa.target import Target

Int64 = npt.NDArray[np.int64]


def weight_lines(target: Target, codes: npt.NDArray[np.integer[Any]], fmt: Format) -> bytes:
    """A tile of codes [blocks*L, groups*P] as WBUF lines in the order [block][group], whole words.

    Within a line: bank l's word; a word holds 8/storage groups of P codes.
    """
    blocks, groups = codes.shape[0] // target.lanes, codes.shape[1] // target.ports
    per = 8 // fmt.storage
    tile = codes.reshape(blocks, target.lanes, groups // per, per * target.ports)
    return pack(tile.transpose(0, 2, 1, 3), fmt).tobytes()


def weight_codes(target: Target, data: bytes, fmt: Format, blocks: int, groups: int) -> Int64:
    """Inverse of `weight_lines`: codes [blocks*L, groups*P]."""
    per = 8 // fmt.storage
    words = np.frombuffer(data, np.uint8).reshape(blocks, groups // per, target.lanes, target.ports)
    codes = unpack(words, fmt).transpose(0, 2, 1, 3)
    return codes.reshape(blocks * target.lanes, groups * target.ports).astype(np.int64)


def ones_line(target: Target) -> bytes:
    """One line of S8 codes: 1 in the first column of every lane, for the sum of x."""
    line = np.zeros((target.lanes, target.ports), np.uint8)
    line[:, 0] = 1
    return line.tobytes()


def record_bytes(bias: Int64, m1: Int64, last: Int64, columns: int) -> bytes:
    """PBUF records of `columns` columns; `last` is the shift of base records or the m2 of adapter records."""
    out = np.zeros((columns, 8), np.uint8)
    n = bias.size
    out[:n, :4] = bias.astype("<i4").view(np.uint8).reshape(n, 4)
    out[:n, 4:6] = m1.astype("<u2").view(np.uint8).reshape(n, 2)
    out[:n, 6:8] = last.astype("<u2").view(np.uint8).reshape(n, 2)
    if n < columns:
        out[n:, 6] = 1
    return out.tobytes()


def base_records(records: Records, columns: int) -> bytes:
    """Base records padded to `columns`."""
    return record_bytes(records.bias, records.m1, records.shift, columns)


def scale_lines(target: Target, codes: Codes, shape: Shape, columns: tuple[int, int], rows: tuple[int, int]) -> bytes:
    """SBUF lines of a tile, [scale group][column group]: P scales, P zero points, padding."""
    assert codes.scale is not None
    t = target
    down = slice(rows[0] // shape.per_group, (rows[0] + rows[1]) // shape.per_group)
    across = slice(columns[0] * t.ports, (columns[0] + columns[1]) * t.ports)
    height, width = down.stop - down.start, columns[1]
    out = np.zeros((height, width, t.sbuf_line_bytes), np.uint8)
    for place, values in ((0, codes.scale), (t.ports, codes.zero)):
        if values is not None:
            tile = padded(values[down, across].astype(np.uint8), height, width * t.ports)
            out[..., place : place + t.ports] = tile.reshape(height, width, t.ports)
    return out.tobytes()


def adapter_offsets(target: Target, shape: Shape, plan: Plan) -> tuple[list[int], int]:
    """Byte offsets of A, the A records, then B and the records of each column tile; and the size, in whole beats."""
    t = target
    sizes = [shape.rank_groups * shape.blocks * t.wbuf_line_bytes, shape.rank_groups * t.ports * 8]
    for _, count in plan.column_tiles(shape):
        sizes += [shape.rank_blocks * count * t.wbuf_line_bytes, count * t.ports * 8]
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + -(-size // t.beat_bytes) * t.beat_bytes)
    return offsets[:-1], offsets[-1]


def adapter_bytes(target: Target, linear: Linear, adapter: Adapter | None, rank: int, shape: Shape, plan: Plan) -> bytes:
    """The piece of an adapter block for one linear; zeros with the base's records where the adapter leaves it alone.

    Args:
        rank: the adapter's rank over all linears (its run-time counts); A and B are padded with zeros to it.
    """
    t = target
    offsets, size = adapter_offsets(target, shape, plan)
    out = bytearray(size)

    def put(place: int, data: bytes) -> None:
        out[offsets[place] : offsets[place] + len(data)] = data

    groups, blocks = -(-rank // t.ports), -(-rank // t.lanes)
    bias, m1, m2 = linear.records.bias, linear.records.m1, np.zeros_like(linear.records.m1)
    b = np.zeros((blocks * t.lanes, shape.groups * t.ports), np.int64)
    if adapter is not None:
        a = padded(adapter.a.codes, shape.blocks * t.lanes, groups * t.ports)
        lines = weight_lines(target, a, Format.S8)
        line = np.frombuffer(lines, np.uint8).reshape(shape.blocks, groups, t.wbuf_line_bytes)
        put(0, np.ascontiguousarray(line.transpose(1, 0, 2)).tobytes())
        put(1, base_records(adapter.a_records, groups * t.ports))
        b = padded(adapter.b.codes, *b.shape)
        bias, m1, m2 = adapter.bias, adapter.m1, adapter.m2
    else:
        put(1, base_records(Records(*(np.zeros(0, np.int64),) * 3), groups * t.ports))
    for number, (first, count) in enumerate(plan.column_tiles(shape)):
        columns = slice(first * t.ports, (first + count) * t.ports)
        put(2 + 2 * number, weight_lines(target, np.ascontiguousarray(b[:, columns]), Format.S8))
        put(3 + 2 * number, record_bytes(bias[columns], m1[columns], m2[columns], count * t.ports))
    return bytes(out)
