"""Makes the tiny decoders of tests/compiler/rows and the helpers of this folder importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "compiler" / "rows")]
