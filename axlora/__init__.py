"""AxLoRA: compile a quantized model with LoRA adapters, simulate it to the cycle, run the same bytes in Verilog."""

from __future__ import annotations

from axlora.compiler.errors import BadAdapter, BadModel, BadPackage, Error, UnsupportedOperator
from axlora.isa.target import BadTarget, Target

from .api import run_rtl, simulate
from .compiling import compile
from .generator import Generator, Session, Token, generate
from .on_hls import run_hls
from .package import load_any as load
from .program import BadInput, Program
from .run import Layer, Run
from .whole import Whole

__version__ = "0.1.0"

__all__ = [
    "BadAdapter",
    "BadInput",
    "BadModel",
    "BadPackage",
    "BadTarget",
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
    "generate",
    "load",
    "run_hls",
    "run_rtl",
    "simulate",
]
