"""Codes of a linear [n, k], outputs first, whatever order and packing a file had them in; and the operator that takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.hf.weights import Weights

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Integers:
    """weight[n, k] = (codes - zeros) * scales, both of the block of k."""

    codes: npt.NDArray[np.uint8]
    """[n, k], unsigned."""
    bits: int
    """2 to 8; those of 3 are held in nibbles."""
    rows: int
    """Of a block."""
    scales: npt.NDArray[np.float32]
    """[n, blocks]."""
    zeros: npt.NDArray[np.uint8] | None
    """[n, blocks]; None: the middle."""
    order: npt.NDArray[np.int32] | None = None
    """[k]: the block of each row, where it is not its place that tells."""
    operator: str = "MatMulNBits"

    @property
    def reals(self) -> npt.NDArray[np.float32]:
        """[n, k]: what the codes stand for."""
        block = np.arange(self.codes.shape[1]) // self.rows if self.order is None else self.order
        zeros = 1 << (self.bits - 1) if self.zeros is None else self.zeros[:, block].astype(np.float32)
        return np.asarray((self.codes - zeros) * self.scales[:, block], np.float32)

    def columns(self, first: int, n: int) -> Integers:
        """Some of its outputs."""
        part = slice(first, first + n)
        return replace(
            self, codes=self.codes[part], scales=self.scales[part], zeros=None if self.zeros is None else self.zeros[part]
        )

    @property
    def _storage(self) -> int:
        return next(bits for bits in (2, 4, 8) if bits >= self.bits)

    def _stored(self, codes: Array, columns: int) -> Array:
        """[n, columns, low bits first], the middle of the codes' bits moved to that of the storage's."""
        width = self._storage
        whole = np.zeros((codes.shape[0], columns), np.uint8)
        whole[:, : codes.shape[1]] = codes + ((1 << (width - 1)) - (1 << (self.bits - 1)))
        parts = whole.reshape(codes.shape[0], -1, 8 // width)
        packed = np.zeros(parts.shape[:2], np.uint8)
        for i in range(8 // width):
            packed |= parts[:, :, i] << np.uint8(width * i)
        return packed

    def constants(self) -> Mapping[str, Array]:
        """Codes, scales, zero points and the blocks of rows in another order."""
        n, groups = self.scales.shape
        per = 8 // self._storage
        size = -(-self.rows // per) * per
        assert groups == 1 or size == self.rows, "blocks of several rows a byte"
        codes = self._stored(self.codes, groups * size).reshape(n, groups, -1)
        found = {"weight": codes, "scales": self.scales}
        if self.zeros is not None or self.order is not None:
            zeros = np.full_like(self.scales, 1 << (self.bits - 1), np.uint8) if self.zeros is None else self.zeros
            found["zeros"] = self._stored(zeros, -(-groups // per) * per)
        if self.order is not None:
            found["g_idx"] = self.order
        return found

    def attributes(self) -> Mapping[str, int]:
        """Of MatMulNBits."""
        n, k = self.codes.shape
        per = 8 // self._storage
        return {"K": k, "N": n, "bits": self._storage, "block_size": -(-self.rows // per) * per}


@dataclass(frozen=True)
class Entries:
    """weight[n, k] = table[codes] * absmax of the block of rows * k + place: bitsandbytes' 4 bits."""

    codes: npt.NDArray[np.uint8]
    """[n, k]."""
    kind: int
    """`quant_type` of the operator: 0 FP4, 1 NF4."""
    rows: int
    """Of a block."""
    largest: npt.NDArray[np.float32]
    """[blocks], of the weight [n, k] as one row."""
    operator: str = "MatMulBnb4"

    def columns(self, first: int, n: int) -> Entries:
        """Some of its outputs, which must be whole blocks."""
        k = self.codes.shape[1]
        part = slice(first * k // self.rows, (first + n) * k // self.rows)
        assert first * k % self.rows == 0, "outputs that are whole blocks"
        return replace(self, codes=self.codes[first : first + n], largest=self.largest[part])

    def constants(self) -> Mapping[str, Array]:
        """Codes, two a byte, the first in the high bits; and the largest magnitudes."""
        flat = self.codes.reshape(-1)
        flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        return {"weight": flat[0::2] << 4 | flat[1::2], "absmax": self.largest}

    def attributes(self) -> Mapping[str, int]:
        """Of MatMulBnb4."""
        n, k = self.codes.shape
        return {"K": k, "N": n, "block_size": self.rows, "quant_type": self.kind}


Held = Integers | Entries
"""A weight as an operator of com.microsoft takes it."""


class Packing(Protocol):
    """How the linears of a directory are held."""

    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        """The codes of a module's weight; None: it is floats.

        Raises:
            BadModel: as `Weights.entry`; parts that contradict each other.
        """


class Floats:
    """No linear is codes."""

    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        """Always None."""
        return None
