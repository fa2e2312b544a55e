"""Real weights to codes so that results change least on calibration data: steps by search, rounding by GPTQ.

What rounding takes from one row of a weight, the rows that are not rounded yet make up for (Frantar et al., arXiv:2210.17323,
algorithm 1). G is the sum of x x^T over the rows x that the linear reads, U the upper Cholesky factor of G^-1: the error of row
k, over U[k, k], is taken off the rows behind it times U[k, :]. Rows with the most energy G[k, k] come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
DAMPING = 0.01
"""What is added to the diagonal of G, as a share of its mean: data of few rows says nothing of some directions."""
BLOCK = 128
"""Rows whose errors are taken off the rows behind them together."""
SHRUNK = np.linspace(1.0, 0.6, 33)
"""Steps that are tried, as shares of the one that clamps nothing."""


def best_steps(weight: Float64, high: int, energy: Float64) -> Float64:
    """The step of each column [n] with the least error of rounding, rows weighted by how large what they meet is.

    Args:
        weight: [k, n], of one scale group.
        high: the largest code; the smallest is -high - 1.
        energy: [k], mean squares of what the rows are multiplied with.
    """
    widest = np.abs(weight).max(axis=0, initial=0) / high
    best, least = widest, np.full(weight.shape[1], np.inf)
    weights = (energy + DAMPING * (energy.mean() or 1.0))[:, None]
    for share in SHRUNK:
        step = widest * share
        held = np.where(step > 0, step, 1.0)
        error = (weights * (np.clip(np.rint(weight / held), -high - 1, high) * held - weight) ** 2).sum(axis=0)
        best = np.where(error < least, step, best)
        least = np.minimum(error, least)
    return np.asarray(best)


def compensated(weight: Float64, steps: Float64, high: int, gram: Float64) -> Int64:
    """Codes [k, n] in -high - 1 .. high, rounded one row after the other as GPTQ does.

    Args:
        weight: [k, n].
        steps: [k, n], of each code; 0 where all codes are 0.
        high: the largest code.
        gram: [k, k], the sum of x x^T.
    """
    energy = np.diag(gram)
    order = np.argsort(-energy, kind="stable")
    held = np.where(steps > 0, steps, 1.0)[order]
    left = weight[order]
    square = gram[np.ix_(order, order)] + np.eye(len(gram)) * (DAMPING * energy.mean() or 1.0)
    inverse = np.linalg.inv(square)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    codes = np.empty(weight.shape, np.int64)
    for first in range(0, len(weight), BLOCK):
        own = slice(first, min(first + BLOCK, len(weight)))
        errors = np.empty((own.stop - first, weight.shape[1]))
        for k in range(first, own.stop):
            rounded = np.clip(np.rint(left[k] / held[k]), -high - 1, high)
            codes[order[k]] = rounded
            errors[k - first] = (left[k] - rounded * held[k]) / upper[k, k]
            left[k + 1 : own.stop] -= np.outer(upper[k, k + 1 : own.stop], errors[k - first])
        left[own.stop :] -= upper[own, own.stop :].T @ errors
    return codes
