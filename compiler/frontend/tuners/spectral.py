"""FourierFT, WaveFT and C3A: few coefficients of a transform of the change."""

from __future__ import annotations

import numpy as np

from axlora.compiler.frontend.adapter_content import Base, Dense, PeftChange
from axlora.compiler.frontend.tuners.tensors import Float64, Own
from axlora.compiler.frontend.tuners.torch_random import permutation


def _placed(own: Own, name: str, shape: tuple[int, int]) -> Float64:
    """The coefficients in a matrix [out, in], at places that the configuration's seed draws."""
    spectrum = own.get(name, 1)
    n, k = shape
    if len(spectrum) > n * k:
        raise ValueError(f"{len(spectrum)} coefficients")
    dense = np.zeros(n * k)
    dense[permutation(n * k, own.config.count("random_loc_seed", 777), len(spectrum))] = spectrum
    return dense.reshape(n, k)


def fourierft(own: Own) -> PeftChange:
    """The real part of the inverse 2-D Fourier transform (Gao et al., arXiv:2405.03003; PEFT, tuners/fourierft/layer.py)."""
    scale = own.config.number("scaling", 150.0)

    def of(base: Base) -> Dense:
        k, n = base.shape
        return Dense((np.fft.ifft2(_placed(own, "fourierft_spectrum", (n, k))).real * scale).T)

    return PeftChange(own.module, own.tuner, of)


def waveft(own: Own) -> PeftChange:
    """The inverse 2-D wavelet transform of one level, of db1 (Haar) (PEFT, tuners/waveft/layer.py).

    With use_idwt false, the coefficients are the change itself.
    """
    scale = own.config.number("scaling", 25.0)
    family = own.config.fields.get("wavelet_family", "db1")
    inverse = own.config.fields.get("use_idwt", True)
    if inverse and family != "db1":
        raise own.bad(f"uses the wavelet {family!r}", "db1 is read; merge the adapter into the base before exporting")

    def of(base: Base) -> Dense:
        k, n = base.shape
        placed = _placed(own, "waveft_spectrum", (n, k))
        if inverse:
            padded = np.pad(placed, ((0, n % 2), (0, k % 2)))
            (sums, horizontal), (vertical, diagonal) = (np.split(half, 2, axis=1) for half in np.split(padded, 2))
            bands = np.block([[sums, vertical], [horizontal, diagonal]])  # details of rows are called horizontal
            placed = _haar(_haar(bands).T).T[:n, :k]
        return Dense(placed.T * scale)

    return PeftChange(own.module, own.tuner, of)


def _haar(coefficients: Float64) -> Float64:
    """The inverse Haar transform along rows: the first half are sums of neighbours, the second their differences."""
    low, high = np.split(coefficients, 2)
    return np.asarray(np.stack([low + high, low - high], axis=1).reshape(coefficients.shape) / np.sqrt(2))


def c3a(own: Own) -> PeftChange:
    """Blocks of circulant matrices, divided by the inputs (Chen et al., arXiv:2407.19342; PEFT, tuners/c3a/utils.py).

    Element (i, j) of block (m, n) is kernel[m, n, (j - i) mod size].
    """
    kernel = own.get("c3a_kernel", 3)
    outer, inner, size = kernel.shape
    turned = (np.arange(size)[None, :] - np.arange(size)[:, None]) % size
    delta = kernel[:, :, turned].transpose(0, 2, 1, 3).reshape(outer * size, inner * size)
    return PeftChange(own.module, own.tuner, lambda base: Dense(delta.T / base.shape[0]), outer * size)
