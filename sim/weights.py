"""Segments of a row, and their codes decoded once: values for the arithmetic, cache indices for the timing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from axlora.isa import numerics
from axlora.isa.formats import Format, unpack
from axlora.isa.target import Target
from axlora.timing.matrix import MatmulTiming, cache_index, matmul_timing

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """One entry of the matrix unit's segment table (SEGW and SEGA)."""

    fmt: Format = Format.S2
    slot: int = 0
    line: int = 0
    groups: int = 0
    block_stride: int = 0
    group_stride: int = 0
    acc: int = 0
    scale_line: int = 0
    scale_stride: int = 0
    scaled: bool = False
    sums: bool = False

    def with_weights(self, fmt: Format, slot: int, line: int, groups: int, block: int, group: int) -> Segment:
        """After a SEGW."""
        return replace(self, fmt=fmt, slot=slot, line=line, groups=groups, block_stride=block, group_stride=group)

    def with_sums(self, acc: int, scale_line: int, scale_stride: int, scaled: bool, sums: bool) -> Segment:
        """After a SEGA."""
        return replace(self, acc=acc, scale_line=scale_line, scale_stride=scale_stride, scaled=scaled, sums=sums)

    def index(self, blocks: int) -> npt.NDArray[np.int64]:
        """gi of docs/isa.md: int64 [blocks, groups]."""
        b = np.arange(blocks)[:, None] * self.block_stride
        return (b + np.arange(self.groups)[None] * self.group_stride) & 0xFFFF

    def last_line(self, blocks: int) -> int:
        """Greatest line offset that the segment reads."""
        return int((self.index(blocks) >> self.sub_bits).max())

    @property
    def sub_bits(self) -> int:
        """log2 of the groups in a word."""
        return {8: 0, 4: 1, 2: 2}[self.fmt.storage]


@dataclass(frozen=True)
class Part:
    """The codes of one segment as values."""

    values: Int64
    """[rows, columns]."""
    single: npt.NDArray[np.float32] = field(repr=False)
    magnitude: int
    """max over columns of sum |value|."""

    def multiply(self, x: Int64) -> Int64:
        """Exact x @ values; single precision when the bound allows (sums below 2**24)."""
        if int(np.abs(x).max(initial=0)) * self.magnitude < 1 << 24:
            return (x.astype(np.float32) @ self.single).astype(np.int64)
        return numerics.matmul(x, self.values)


@dataclass(frozen=True)
class Prepared:
    """One MATMUL's weights: each active segment's values, and the timing that they cause."""

    parts: list[Part]
    timing: MatmulTiming


class WeightCache:
    """Remembers decoded weights and MATMUL timings: by buffer version first, by content second.

    Content is remembered across runs, so a repeated tile costs its timing once in a process. `clear()` makes a run cold.
    """

    def __init__(self) -> None:
        self._recent: dict[object, Prepared] = {}
        self._content: dict[object, Prepared] = {}

    def new_run(self) -> None:
        """Forget what is keyed by buffer versions."""
        self._recent = {}

    def clear(self) -> None:
        """Forget everything."""
        self._recent, self._content = {}, {}

    def prepare(
        self,
        target: Target,
        segments: list[Segment],
        blocks: int,
        wbuf: npt.NDArray[np.uint8],
        versions: npt.NDArray[np.int64],
        codebook: Int64,
    ) -> Prepared:
        """Values and timing of the active segments over `blocks` row blocks; wbuf is [lines, lanes, ports] bytes."""
        book = codebook.tobytes() if any(s.fmt is Format.CB4 for s in segments) else b""
        newest = tuple(int(versions[s.line : s.line + s.last_line(blocks) + 1].max()) for s in segments)
        shape = tuple(replace(s, acc=0, scale_line=0, scale_stride=0, scaled=False, sums=False, slot=0) for s in segments)
        recent = (target, shape, blocks, newest, book)
        if recent in self._recent:
            return self._recent[recent]
        raws = [wbuf[s.line + (s.index(blocks) >> s.sub_bits)] for s in segments]
        digest = hashlib.blake2b(digest_size=16)
        for raw in raws:
            digest.update(raw.tobytes())
        content = (target, tuple(replace(s, line=0) for s in shape), blocks, digest.digest(), book)
        if content not in self._content:
            self._content[content] = self._decode(target, segments, blocks, raws, codebook)
        self._recent[recent] = self._content[content]
        return self._recent[recent]

    @staticmethod
    def _decode(
        target: Target, segments: list[Segment], blocks: int, raws: list[npt.NDArray[np.uint8]], codebook: Int64
    ) -> Prepared:
        parts, indices, clear = [], [], []
        last_class = -1
        for segment, raw in zip(segments, raws, strict=True):
            codes = unpack(raw, segment.fmt)  # [blocks, groups, lanes, codes of a word]
            if segment.sub_bits:
                codes = codes.reshape(*raw.shape[:3], 1 << segment.sub_bits, target.ports)
                sub = segment.index(blocks) & ((1 << segment.sub_bits) - 1)
                codes = np.take_along_axis(codes, sub[:, :, None, None, None], axis=3)[..., 0, :]
            index = cache_index(codes, segment.fmt)
            values = codebook[codes] if segment.fmt is Format.CB4 else codes.astype(np.int64)
            values = values.transpose(0, 2, 1, 3).reshape(blocks * target.lanes, -1)
            parts.append(Part(values, values.astype(np.float32), int(np.abs(values).sum(axis=0).max())))
            indices.append(index.transpose(0, 2, 1, 3))
            clear += [segment.fmt.format_class != last_class] + [False] * (segment.groups - 1)
            last_class = segment.fmt.format_class
        clear[0] = True
        row = np.ascontiguousarray(np.concatenate(indices, axis=2))
        return Prepared(parts, matmul_timing(target, row, np.array(clear)))
