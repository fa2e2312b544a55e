"""The permutation that PyTorch draws of a seed, which FourierFT and WaveFT place their coefficients by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def permutation(size: int, seed: int, count: int) -> Int64:
    """The first `count` of torch.randperm(size, generator=torch.Generator().manual_seed(seed)).

    Step i swaps element i with one of the rest, which the next word of the Mersenne Twister picks (aten/native/TensorFactories
    .cpp, randperm_cpu); the steps after `count` leave those alone.
    """
    words = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 1 << 32, count, dtype=np.uint32)
    moved: dict[int, int] = {}
    found = np.empty(count, np.int64)
    for i in range(count):
        other = i + int(words[i]) % (size - i) if i < size - 1 else i
        found[i] = moved.get(other, other)
        moved[other] = moved.get(i, i)
    return found
