"""How a model's inputs become starts of the machine, and results its outputs: all in which kinds of models differ."""

from __future__ import annotations

from .decoder import Decoder
from .sequences import Sequences
from .stages import Stages

Interface = Stages | Sequences | Decoder
"""A frozen dataclass: its fields stand in the manifest, its arrays in arrays.safetensors. `Stages` says what methods do."""
KINDS = {cls.kind: cls for cls in (Stages, Sequences, Decoder)}
