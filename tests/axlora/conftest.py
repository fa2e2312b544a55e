"""Makes the tiny decoders of tests/compiler/transformer importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler" / "transformer"))
