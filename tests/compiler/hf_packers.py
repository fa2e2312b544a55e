"""Weights as quantizers pack them, by the formats' descriptions: one code at a time, nothing shared with the compiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)  # fmt: skip
"""`create_normal_map` of bitsandbytes."""
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32) / 12
"""`create_fp4_map`: 3 bits of magnitude below the sign, the largest is 1."""


@dataclass(frozen=True)
class Packed:
    """A module's tensors, and what they stand for."""

    tensors: dict[str, Array]
    """By what stands behind the module's name."""
    reals: npt.NDArray[np.float64]
    """[n, k]."""
    codes: npt.NDArray[np.int64]
    """[k, n], as the machine should hold them: signed, or indices of a codebook."""
    config: dict[str, Any]
    """`quantization_config`."""


def words(values: Array, bits: int) -> Array:
    """[m, count] unsigned to int32 [m, count * bits / 32], as one number a row of which the first value is the lowest part."""
    count = values.shape[1] * bits // 32
    numbers = [sum(int(v) << (bits * i) for i, v in enumerate(row)) for row in values]
    return np.array([[number >> (32 * i) & 0xFFFFFFFF for i in range(count)] for number in numbers], np.uint32).view(np.int32)


def gptq(
    random: np.random.Generator, k: int, n: int, bits: int = 4, rows: int = 16, version: int = 1, act: bool = False
) -> Packed:
    """GPTQ: codes along the inputs, zero points along the outputs, less one in version 1."""
    order = random.permutation(np.arange(k) // rows) if act else np.arange(k) // rows
    codes = random.integers(0, 1 << bits, (k, n))
    zeros = random.integers(0, 1 << bits, (k // rows, n))
    scales = random.uniform(0.005, 0.03, (k // rows, n)).astype(np.float16)
    stored = (zeros - 1) % (1 << bits) if version == 1 else zeros
    tensors = {
        "qweight": words(codes.T, bits).T,
        "qzeros": words(stored, bits),
        "scales": scales,
        "g_idx": order.astype(np.int32),
    }
    form = "gptq" if version == 1 else "gptq_v2"
    config = {"quant_method": "gptq", "bits": bits, "group_size": rows, "desc_act": act, "checkpoint_format": form}
    reals = (codes - zeros[order]) * scales.astype(np.float64)[order]
    return Packed(tensors, reals.T, codes - (1 << (bits - 1)), config)


def awq(random: np.random.Generator, k: int, n: int, rows: int = 16) -> Packed:
    """AWQ: eight outputs a word, in the order 0, 2, 4, 6, 1, 3, 5, 7."""
    codes, zeros = random.integers(0, 16, (k, n)), random.integers(0, 16, (k // rows, n))
    scales = random.uniform(0.005, 0.03, (k // rows, n)).astype(np.float16)

    def ordered(values: Array) -> Array:
        return words(values.reshape(len(values), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(len(values), -1), 4)

    order = np.arange(k) // rows
    tensors = {"qweight": ordered(codes), "qzeros": ordered(zeros), "scales": scales}
    config = {"quant_method": "awq", "bits": 4, "group_size": rows, "version": "gemm", "zero_point": True}
    return Packed(tensors, ((codes - zeros[order]) * scales.astype(np.float64)[order]).T, codes - 8, config)


def compressed(random: np.random.Generator, k: int, n: int, bits: int = 4, rows: int = 16, asymmetric: bool = False) -> Packed:
    """compressed-tensors, pack-quantized: codes plus their middle along the inputs, zero points along the outputs."""
    middle, groups = 1 << (bits - 1), k // rows
    codes = random.integers(-middle, middle, (n, k))
    zeros = random.integers(-middle, middle, (n, groups)) if asymmetric else np.zeros((n, groups), int)
    scales = random.uniform(0.005, 0.03, (n, groups)).astype(np.float16)
    tensors = {"weight_packed": words(codes + middle, bits), "weight_scale": scales, "weight_shape": np.array([n, k])}
    if asymmetric:
        tensors["weight_zero_point"] = words(zeros.T + middle, bits).T
    order = np.arange(k) // rows
    reals = (codes - zeros[:, order]) * scales.astype(np.float64)[:, order]
    return Packed(tensors, reals, codes.T, compressed_config("pack-quantized", bits))


def compressed_config(form: str, bits: int, kind: str = "int") -> dict[str, Any]:
    """A `quantization_config` of one group of modules."""
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, "strategy": "group"}, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def int8(random: np.random.Generator, k: int, n: int) -> Packed:
    """compressed-tensors, int-quantized: bytes with a scale an output."""
    codes = random.integers(-128, 128, (n, k))
    scales = random.uniform(0.0005, 0.002, (n, 1)).astype(np.float32)
    tensors = {"weight": codes.astype(np.int8), "weight_scale": scales}
    return Packed(tensors, codes * scales.astype(np.float64), codes.T, compressed_config("int-quantized", 8))


def bnb8(random: np.random.Generator, k: int, n: int) -> Packed:
    """bitsandbytes, 8 bits: bytes that are 127ths of each output's largest magnitude."""
    codes = random.integers(-127, 128, (n, k))
    largest = random.uniform(0.1, 0.3, n).astype(np.float32)
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    reals = codes * (largest.astype(np.float64) / 127)[:, None]
    return Packed({"weight": codes.astype(np.int8), "SCB": largest}, reals, codes.T, config)


def bnb4(random: np.random.Generator, k: int, n: int, kind: str = "nf4", rows: int = 16, nested: bool = False) -> Packed:
    """bitsandbytes, 4 bits: two codes a byte, the first in the high bits; largest magnitudes may be codes themselves."""
    table, codes = {"nf4": NF4, "fp4": FP4}[kind], random.integers(0, 16, (n, k))
    largest = random.uniform(0.1, 0.4, n * k // rows).astype(np.float32)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": rows, "dtype": "float16", "shape": [n, k]}
    flat = codes.reshape(-1)
    own: dict[str, Array] = {"": (flat[0::2] * 16 + flat[1::2]).astype(np.uint8)[:, None], ".quant_map": table}
    if nested:
        inner, size = np.sort(random.uniform(-1, 1, 256)).astype(np.float32), 16
        index, outer = (
            random.integers(0, 256, largest.size),
            random.uniform(0.05, 0.1, -(-largest.size // size)).astype(np.float32),
        )
        state |= {"nested_blocksize": size, "nested_dtype": "float32", "nested_offset": 0.25}
        largest = inner[index] * outer[np.arange(largest.size) // size] + np.float32(0.25)
        own |= {".absmax": index.astype(np.uint8), ".nested_absmax": outer, ".nested_quant_map": inner}
    else:
        own[".absmax"] = largest
    own[f".quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    reals = table.astype(np.float64)[codes] * largest.repeat(rows).reshape(n, k)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Packed({f"weight{part}": value for part, value in own.items()}, reals, codes.T, config)


Packer = Callable[[np.random.Generator, int, int], Packed]
FORMS: dict[str, Packer] = {
    **{f"gptq {bits}": lambda r, k, n, bits=bits: gptq(r, k, n, bits) for bits in (2, 3, 4, 8)},
    "gptq version 2": lambda r, k, n: gptq(r, k, n, version=2),
    "awq": awq,
    "compressed 4": compressed,
    "compressed 8": lambda r, k, n: compressed(r, k, n, 8),
    "compressed, zero points": lambda r, k, n: compressed(r, k, n, asymmetric=True),
    "int8": int8,
    "bnb8": bnb8,
    "nf4": bnb4,
    "nf4, nested": lambda r, k, n: bnb4(r, k, n, nested=True),
    "fp4": lambda r, k, n: bnb4(r, k, n, "fp4"),
}
"""Name -> random weights of a module with k inputs and n outputs."""
