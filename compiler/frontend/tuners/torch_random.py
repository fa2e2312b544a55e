"""What PyTorch draws of a seed: permutations, which FourierFT and WaveFT place coefficients by, and TinyLoRA's projections."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def _words(seed: int, count: int) -> npt.NDArray[np.uint32]:
    """Words of the Mersenne Twister."""
    return np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 1 << 32, count, dtype=np.uint32)


def permutation(size: int, seed: int, count: int) -> Int64:
    """The first `count` of torch.randperm(size, generator=torch.Generator().manual_seed(seed)).

    Step i swaps element i with one of the rest, which the next word of the Mersenne Twister picks (aten/native/TensorFactories
    .cpp, randperm_cpu); the steps after `count` leave those alone.
    """
    words = _words(seed, count)
    moved: dict[int, int] = {}
    found = np.empty(count, np.int64)
    for i in range(count):
        other = i + int(words[i]) % (size - i) if i < size - 1 else i
        found[i] = moved.get(other, other)
        moved[other] = moved.get(i, i)
    return found


def normals(size: int, seed: int) -> Float64:
    """torch.normal(0, 1, (size,), generator=torch.Generator().manual_seed(seed)) of 16 or more numbers, to 1e-6.

    Sixteen uniform numbers at a time become normal ones by Box and Muller; the last sixteen are drawn anew where they are no
    whole block (aten/native/cpu/DistributionTemplates.h, normal_fill).
    """
    uniform = (_words(seed, size + 16) & 0xFFFFFF) / float(1 << 24)

    def normal(block: Float64) -> Float64:
        radius, angle = np.sqrt(-2 * np.log(1 - block[:8])), 2 * np.pi * block[8:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    found = np.empty(size)
    for first in range(0, size - 15, 16):
        found[first : first + 16] = normal(uniform[first : first + 16])
    if size % 16:
        found[-16:] = normal(uniform[size:])
    return found
