"""AxLoRA: compile a quantized model with LoRA adapters, simulate it to the cycle, run the same bytes in Verilog.

What stands in `__all__` is imported when it is first used: TVM, ONNX and numba take seconds.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "isa").is_dir():
    __path__.append(str(_ROOT))  # in a checkout the houses lie beside this folder, installed they lie in it

if TYPE_CHECKING:
    from axlora.compiler.errors import BadAdapter, BadModel, BadPackage, DoesNotFit, Error, UnsupportedOperator
    from axlora.compiler.pipelines.options import CompileOptions
    from axlora.isa.target import BadTarget, Target

    from .api import open, run_hls, run_rtl, simulate
    from .compiling import compile
    from .ensembles import Ensemble, ensemble
    from .generator import Token, generate
    from .inputs import BadInput
    from .program import Program, load
    from .run import Layer, Run
    from .session import Session

    Whole = Generator = Program

__version__ = "0.1.0"

_HOMES = {
    "axlora.compiler.errors": ("BadAdapter", "BadModel", "BadPackage", "DoesNotFit", "Error", "UnsupportedOperator"),
    "axlora.isa.target": ("BadTarget", "Target"),
    "axlora.api": ("open", "run_hls", "run_rtl", "simulate"),
    "axlora.compiling": ("compile",),
    "axlora.ensembles": ("Ensemble", "ensemble"),
    "axlora.generator": ("Token", "generate"),
    "axlora.inputs": ("BadInput",),
    "axlora.compiler.pipelines.options": ("CompileOptions",),
    "axlora.program": ("Generator", "Program", "Whole", "load"),
    "axlora.run": ("Layer", "Run"),
    "axlora.session": ("Session",),
}
_RENAMED = {"Generator": "Program", "Whole": "Program"}
"""Names of when packages were of three classes."""
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BadAdapter",
    "BadInput",
    "BadModel",
    "BadPackage",
    "BadTarget",
    "CompileOptions",
    "DoesNotFit",
    "Ensemble",
    "Error",
    "Generator",
    "Layer",
    "Program",
    "Run",
    "Session",
    "Target",
    "Token",
    "UnsupportedOperator",
    "Whole",
    "compile",
    "ensemble",
    "generate",
    "load",
    "open",
    "run_hls",
    "run_rtl",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'axlora' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
