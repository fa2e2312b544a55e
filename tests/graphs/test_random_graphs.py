"""Random models: each runs as onnxruntime runs it, within the noise of quantization, or is refused by name.

`python tests/graphs/run.py --count 5000` draws more, and makes what fails smaller.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from axlora.compiler.frontend import tvm_import

sys.path.insert(0, str(Path(__file__).parent))

from check import check
from run import machine
from strategy import Drawn, models

EACH, LEAST_RAN = 25, 15


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few optimizations of the host's code, and no notices: every model is run once."""
    logging.disable(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tvm_import.LLVM, "opt-level", 0)
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("number", range(4))
def test_random_graphs(number: int) -> None:
    """The same 25 models every time, four times; most of them run. With calibration data some run whole."""
    seen: Counter[str] = Counter()
    target, calibrated = machine(number)

    @seed(number)
    @settings(
        max_examples=EACH,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def run(drawn: Drawn) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = check(drawn, Path(folder), target, calibrated)
            seen[found.kind if found.ran else "refused"] += 1

    run()
    assert seen["linears"] + seen["whole"] >= LEAST_RAN, seen
    assert calibrated == bool(seen["whole"]), seen
