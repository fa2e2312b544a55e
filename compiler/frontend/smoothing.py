"""How much of the range of a value's channels goes into the weights that read it (SmoothQuant, Xiao et al., arXiv:2211.10438).

Channel k is divided by s[k] = max|x[k]|^a / max|W[k]|^(1-a), its weights are multiplied (equation 4): range that channels
lose, weights get. Of the strengths a, and no division at all, that is taken for which rows of calibration data predict the
least error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.recognised import FoundLinear

Float64 = npt.NDArray[np.float64]
STRENGTHS = (0.3, 0.5, 0.65, 0.8)
ROWS = 256
"""Most rows of a value that are kept."""
COLUMNS = 512
"""Most columns of a weight that are looked at."""


@dataclass
class Inputs:
    """What calibration data makes linears read: value -> some of its rows, and what it takes to round weights for them."""

    wants_grams: bool
    peaks: dict[str, Float64] = field(default_factory=dict)
    """Largest magnitude of each feature [k]."""
    rows: dict[str, Float64] = field(default_factory=dict)
    """[n, k], as many of each batch."""
    grams: dict[str, Float64] = field(default_factory=dict)
    """[k, k], the sum of x x^T over all rows, where they are wanted."""

    def add(self, name: str, rows: Float64, share: float = 1.0) -> None:
        """Rows [n, k] of a value, which are this share of all that will come."""
        peak = np.abs(rows).max(axis=0, initial=0)
        self.peaks[name] = np.maximum(self.peaks.get(name, 0.0), peak)
        kept = rows[_spread(len(rows), max(1, round(ROWS * share)))]
        self.rows[name] = np.concatenate([self.rows[name], kept]) if name in self.rows else kept
        if self.wants_grams:
            self.grams[name] = self.grams.get(name, 0.0) + rows.T @ rows


@dataclass(frozen=True)
class Widths:
    """How a value and the weights that read it become codes."""

    activation_bits: int
    weight_bits: int
    per_token: bool
    """Whether a row has a scale of its own; else all rows have one."""
    group: int = 0
    """Rows of the weights' scale groups; 0: a scale a column."""


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of `count` things, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def smoothing(inputs: Inputs, name: str, readers: Sequence[FoundLinear], widths: Widths) -> Float64 | None:
    """What the channels of a value are divided by [k], of geometric mean 1.

    None: nothing, which is predicted to be best or, where the file fixes the codes of a weight, all that can be.
    """
    if any(f.codes is not None for f in readers):
        return None
    weights = [f.weight[:, _spread(f.shape[1], COLUMNS)] for f in readers]
    peak, largest = inputs.peaks[name], np.max([np.abs(own).max(axis=1) for own in weights], axis=0)
    if not ((peak > 0) & (largest > 0)).any():
        return None
    results = [np.linalg.norm(inputs.rows[name] @ own) for own in weights]  # errors count by what they are part of
    weight = np.concatenate([own / (size or 1.0) for own, size in zip(weights, results, strict=True)], axis=1)
    best, least = None, _error(inputs, name, weight, widths, np.ones(peak.size))
    for by in _factors(peak, largest):
        error = _error(inputs, name, weight, widths, by)
        if error < least:
            best, least = by, error
    return best


def _factors(peak: Float64, weight: Float64) -> Iterator[Float64]:
    """s of each strength; `weight`: the largest magnitude of each row."""
    used = (peak > 0) & (weight > 0)
    for strength in STRENGTHS:
        factor = np.ones(peak.size)
        factor[used] = peak[used] ** strength / weight[used] ** (1 - strength)
        factor[used] /= np.exp(np.log(factor[used]).mean())
        yield np.clip(factor, 2.0**-10, 2.0**10).astype(np.float32).astype(np.float64)


def _error(inputs: Inputs, name: str, weight: Float64, widths: Widths, by: Float64) -> float:
    """The mean square error of a row's results: a rounded code is off by a twelfth of its step squared, each by itself."""
    rows = inputs.rows[name] / by
    own = weight * by[:, None]
    largest = np.abs(rows).max(axis=1) if widths.per_token else (inputs.peaks[name] / by).max()
    of_rows = float((largest**2).mean()) / _codes(widths.activation_bits) ** 2 * float((own**2).sum())
    size = widths.group or len(own)
    energy = (rows**2).mean(axis=0)
    of_weights = sum(
        float(energy[first : first + size].sum() * (np.abs(own[first : first + size]).max(axis=0) ** 2).sum())
        for first in range(0, len(own), size)
    )
    return (of_rows + of_weights / _codes(widths.weight_bits) ** 2) / 12


def _codes(bits: int) -> int:
    return (1 << (bits - 1)) - 1
