"""All 36 linears of the trained MiniLM as integer linears, quantized three ways, for the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from axlora.compiler.backend.link import Linked, link
from axlora.compiler.backend.plan import Plan, Shape, fits
from axlora.compiler.layer import Codes, Linear, LinearCalls, Records
from axlora.isa.assembly import encode_program
from axlora.isa.formats import Format
from axlora.isa.regions import region_bytes
from axlora.isa.target import Target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "minilm"))
from build import verified_weights

QUANTIZATIONS = ("int8 per tensor", "int8 per channel", "int4 per channel")


def quantize(weight: np.ndarray, how: str) -> Codes:
    """[out, in] float to codes [in, out]: symmetric, scale absmax / (2**(b-1) - 1)."""
    fmt = Format.S4 if how.startswith("int4") else Format.S8
    peak = np.abs(weight).max() if how.endswith("tensor") else np.abs(weight).max(axis=1, keepdims=True)
    return Codes(np.rint(weight / peak * fmt.high).astype(np.int64).T.copy(), fmt)


def linears(how: str, layers: range = range(6)) -> tuple[Linear, ...]:
    """Query, key, value, output and both feed-forward linears of each layer; four inputs by size and place."""
    weights = verified_weights()
    out = []
    for layer in layers:
        for part, source in (
            ("attention.self.query", "h"),
            ("attention.self.key", "h"),
            ("attention.self.value", "h"),
            ("attention.output.dense", "c"),
            ("intermediate.dense", "m"),
            ("output.dense", "f"),
        ):
            name = f"encoder.layer.{layer}.{part}"
            codes = quantize(weights[f"{name}.weight"], how)
            n = codes.codes.shape[1]
            ones = np.ones(n, np.int64)
            records = Records(0 * ones, (1 << 14) * ones, 24 * ones)
            out.append(Linear(name, f"{source}{layer}", f"{name}.out", codes, records))
    return tuple(out)


def uncut(target: Target, linear: Linear, shape: Shape) -> Plan:
    """Whole rows: all columns in one tile, the largest row tile and chunk that fit."""
    for rows in range(shape.blocks, 0, -1):
        for chunk in (4, 2, 1):
            if shape.blocks % rows == 0 and fits(target, shape, shape.groups, rows, chunk):
                return Plan(shape.groups, rows, chunk, 0)
    raise AssertionError(f"{linear.name}: no whole row fits {target.name}")


def link_linears(target: Target, parts: tuple[Linear, ...], tokens: int, *, whole_rows: bool) -> Linked:
    """The program for `tokens` tokens."""
    calls = LinearCalls(parts, {linear.input: tokens for linear in parts})
    return link(target, calls, planner=uncut) if whole_rows else link(target, calls)


def image(target: Target, linked: Linked, parts: tuple[Linear, ...], tokens: int, seed: int = 0) -> np.ndarray:
    """Memory with the program, the weights and random activations."""
    rng = np.random.default_rng(seed)
    memory = np.zeros(-(-linked.adapter_address // 64) * 64, np.uint8)
    columns = {li.input: li.k for li in parts}

    def put(address: int, data: bytes) -> None:
        memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

    put(0, encode_program(linked.program))
    put(linked.weights_address, linked.weights)
    for place in linked.inputs:
        x = np.clip(np.rint(rng.normal(0, 30, (tokens, columns[place.name]))), -128, 127).astype(np.int64)
        put(place.address, region_bytes(target, x, place.blocks, -(-tokens // target.tokens)))
    return memory
