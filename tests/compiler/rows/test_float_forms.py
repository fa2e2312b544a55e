"""Magnitudes over sequences: batches change nothing, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_decoder import VOCABULARY, Sizes, random_decoder

from axlora.compiler.rows import float_forms


@pytest.mark.parametrize("batch", [1, 20, 1 << 20])
def test_magnitudes_are_the_largest_of_each_sequence(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of unlike lengths, in batches of one, of some and of all."""
    monkeypatch.setattr(float_forms, "BATCH", batch)
    decoder, rng = random_decoder(Sizes(context=12)), np.random.default_rng(3)
    sequences = [float_forms.Sample(decoder.rows(rng.integers(0, VOCABULARY, n)), n) for n in (12, 5, 7, 1, 12, 3)]
    wanted: dict[str, np.ndarray] = {}
    for rows, keys, _ in sequences:
        for name, value in float_forms.evaluate(decoder.model, rows, decoder.products, keys).items():
            wanted[name] = np.maximum(wanted.get(name, 0.0), np.abs(value).max(axis=0))
    found = float_forms.magnitudes(decoder.model, sequences, decoder.products)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
