"""Makes `programs`, the tiny decoders and the helpers of this folder importable."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "fpga"))
sys.path.insert(0, str(TESTS / "rtl"))
sys.path.insert(0, str(TESTS / "compiler" / "rows"))
