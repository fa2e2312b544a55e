"""What `quantization_config` says of a directory's weights: GPTQ, AWQ, bitsandbytes, compressed-tensors. FP8 has no path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.forms.block_codes import BNB4, unpacked
from axlora.compiler.frontend.hf.config import Fields
from axlora.compiler.frontend.hf.packed_codes import Entries, Floats, Held, Integers, Packing
from axlora.compiler.frontend.hf.weights import FLOATS, Weights

Array = npt.NDArray[Any]
_WORDS, _WORD = ("I32",), 32
_BITS = (2, 3, 4, 8)
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of eight that each nibble holds, the lowest first."""
_TAKEN = "gptq, awq, bitsandbytes and compressed-tensors are taken"
_FLOAT8 = "float8 is not taken: save the model with floats of 16 bits, or quantize it to integers"
_TABLES = ("fp4", "nf4")
"""Names of the tables of `BNB4`."""
_ALIKE = 1e-3


def stream(words: Array, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Codes of `bits` bits that lie one behind the other in rows of words, low bits first: int32 [m, w] to [m, count]."""
    data = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if bits in (2, 4, 8):
        return unpacked(data, bits)[:, :count]
    flags = np.unpackbits(data, axis=1, bitorder="little", count=count * bits).reshape(len(data), count, bits)
    return np.asarray(flags @ (1 << np.arange(bits)), np.uint8)


def _rows(k: int, groups: int, path: str, weights: Weights) -> int:
    """Rows of a block, of `groups` that k rows have."""
    rows = -(-k // groups)
    if groups > 1 and (k % groups or rows % 8):
        raise BadModel(f"{path} has {groups} blocks of {k} rows", weights.where, "blocks of a multiple of 8 rows are taken")
    return rows


def _in_order(order: Array, rows: int, groups: int, path: str, weights: Weights) -> npt.NDArray[np.int32] | None:
    """None where the place of a row tells its block."""
    if np.array_equal(order, np.arange(len(order)) // rows):
        return None
    if order.min() < 0 or order.max() >= groups:
        raise BadModel(f"{path}.g_idx is outside of {groups} blocks", weights.where, "quantize the model again")
    return np.asarray(order, np.int32)


def _groups(k: int, size: int, path: str, weights: Weights) -> int:
    if size > 0 and k % size:
        raise BadModel(f"{path} has {k} rows, which are not blocks of {size}", weights.where, "quantize the model again")
    return k // size if size > 0 else 1


@dataclass(frozen=True)
class _Gptq:
    bits: int
    group: int
    """Rows of a block; -1: all."""
    less: int
    """What the file holds less of each zero point."""

    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        if f"{path}.qweight" not in weights:
            return None
        groups = _groups(k, self.group, path, weights)
        words = weights.array(f"{path}.qweight", (k * self.bits // _WORD, n), _WORDS)
        codes = stream(words.T, self.bits, k)
        zeros = stream(weights.array(f"{path}.qzeros", (groups, n * self.bits // _WORD), _WORDS), self.bits, n)
        scales = weights.array(f"{path}.scales", (groups, n)).astype(np.float32)
        rows, order = _rows(k, groups, path, weights), None
        if f"{path}.g_idx" in weights:
            order = _in_order(weights.array(f"{path}.g_idx", (k,), _WORDS), rows, groups, path, weights)
        zeros = (zeros + np.uint8(self.less)) & np.uint8((1 << self.bits) - 1)
        return Integers(codes, self.bits, rows, scales.T, zeros.T, order)


@dataclass(frozen=True)
class _Awq:
    group: int

    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        if f"{path}.qweight" not in weights:
            return None
        groups = _groups(k, self.group, path, weights)
        codes = self._columns(weights.array(f"{path}.qweight", (k, n // 8), _WORDS), n)
        zeros = self._columns(weights.array(f"{path}.qzeros", (groups, n // 8), _WORDS), n)
        scales = weights.array(f"{path}.scales", (groups, n)).astype(np.float32)
        return Integers(codes.T, 4, _rows(k, groups, path, weights), scales.T, zeros.T)

    def _columns(self, words: Array, n: int) -> npt.NDArray[np.uint8]:
        nibbles = stream(words, 4, n).reshape(len(words), -1, 8)
        return nibbles[:, :, np.argsort(_AWQ_ORDER)].reshape(len(words), n)


@dataclass(frozen=True)
class _Compressed:
    bits: int

    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        packed = f"{path}.weight_packed" in weights
        if not packed and f"{path}.weight_scale" not in weights:
            return None
        middle = 1 << (self.bits - 1)
        if packed:
            words = weights.array(f"{path}.weight_packed", (n, -(-k * self.bits // _WORD)), _WORDS)
            codes = stream(words, self.bits, k)
        else:
            codes = (weights.array(f"{path}.weight", (n, k), ("I8",)).astype(np.int16) + middle).astype(np.uint8)
        scales = weights.array(f"{path}.weight_scale").astype(np.float32)
        scales = (
            np.broadcast_to(scales, (n, scales.shape[1]))
            if scales.ndim == 2
            else np.broadcast_to(scales.reshape(-1, 1), (n, 1))
        )
        groups = scales.shape[1]
        rows, order, zeros = _rows(k, groups, path, weights), None, None
        name = f"{path}.weight_zero_point"
        if name in weights and weights.entry(name, kinds=("I8", "I32")).kind == "I32":
            held = weights.array(name, (-(-n * self.bits // _WORD), groups), _WORDS)
            zeros = stream(held.T, self.bits, n).T
        elif name in weights:
            zeros = (weights.array(name, (n, groups), ("I8",)).astype(np.int16) + middle).astype(np.uint8)
        if f"{path}.weight_g_idx" in weights:
            order = _in_order(weights.array(f"{path}.weight_g_idx", (k,), _WORDS), rows, groups, path, weights)
        return Integers(codes, self.bits, rows, scales, zeros, order)


class _Bnb4:
    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        name = f"{path}.weight"
        kind = next((i for i, table in enumerate(_TABLES) if f"{name}.quant_state.bitsandbytes__{table}" in weights), None)
        if kind is None:
            return None
        text = weights.array(f"{name}.quant_state.bitsandbytes__{_TABLES[kind]}", kinds=("U8",)).tobytes()
        state = Fields(json.loads(text), weights.where, f"quant_state of {name}")
        if state.value("shape", [0]) != [n, k]:
            raise state.wrong("shape", state.data.get("shape"), f"config.json tells {[n, k]}")
        table = weights.array(f"{name}.quant_map", (16,))
        if np.abs(table - BNB4[kind]).max() > _ALIKE:
            raise BadModel(f"{name}.quant_map is not the table of {_TABLES[kind]}", weights.where, "quantize the model again")
        rows = state.size("blocksize")
        count = -(-n * k // rows)
        largest = weights.array(f"{name}.absmax", (count,), ("U8", *FLOATS))
        if f"{name}.nested_absmax" in weights:
            outer, inner = (weights.array(f"{name}.nested_{part}") for part in ("absmax", "quant_map"))
            block = np.arange(count) // state.size("nested_blocksize")
            largest = inner[largest] * outer[block] + np.float32(state.value("nested_offset", 0.0))
        data = weights.array(name, (-(-n * k // 2), 1), ("U8",)).reshape(-1)
        codes = np.stack([data >> 4, data & 15], axis=1).reshape(-1)[: n * k].reshape(n, k)
        return Entries(codes, kind, rows, largest.astype(np.float32))


class _Bnb8:
    def read(self, weights: Weights, path: str, k: int, n: int) -> Held | None:
        if f"{path}.SCB" not in weights:
            return None
        codes = (weights.array(f"{path}.weight", (n, k), ("I8",)).astype(np.int16) + 128).astype(np.uint8)
        largest = weights.array(f"{path}.SCB").reshape(n, 1).astype(np.float32)
        return Integers(codes, 8, k, largest / np.float32(127), None)


def packing(data: Mapping[str, Any], where: str) -> Packing:
    """How a config.json says that linears are held.

    Raises:
        BadModel: a quantizer, or a form of it, that is not taken.
    """
    given = data.get("quantization_config", data.get("compression_config"))
    if given is None:
        return Floats()
    if not isinstance(given, Mapping):
        raise Fields(data, where).wrong("quantization_config", given, "an object is expected")
    f = Fields(given, where, "quantization_config of config.json")
    match method := f.value("quant_method", ""):
        case "gptq":
            form = f.value("checkpoint_format", "gptq")
            if form not in ("gptq", "gptq_v2"):
                raise f.wrong("checkpoint_format", form, "gptq and gptq_v2 are taken")
            if f.value("dynamic", {}):
                raise f.wrong("dynamic", given["dynamic"], "one form for all modules is taken")
            return _Gptq(_bits(f, _BITS), f.value("group_size", -1), int(form == "gptq"))
        case "awq":
            if (form := f.value("version", "gemm").lower()) != "gemm":
                raise f.wrong("version", form, "gemm is taken")
            _bits(f, (4,))
            return _Awq(f.value("group_size", 128))
        case "bitsandbytes":
            return _Bnb8() if f.value("load_in_8bit", False) or f.value("_load_in_8bit", False) else _Bnb4()
        case "compressed-tensors":
            return _compressed(f)
        case _:
            hint = _FLOAT8 if "fp8" in method else f"{_TAKEN}, or save the model with floats"
            raise f.wrong("quant_method", method, hint)


def _bits(f: Fields, taken: tuple[int, ...]) -> int:
    bits = f.value("bits w_bit num_bits", 0)
    if bits not in taken:
        raise f.wrong("bits", bits, f"{', '.join(map(str, taken))} {'are' if len(taken) > 1 else 'is'} taken")
    return bits


def _compressed(f: Fields) -> _Compressed:
    """All groups of modules must have codes of the same bits."""
    groups: dict[str, dict[str, Any]] = f.value("config_groups", {})
    found = [Fields(group.get("weights") or {}, f.where, f"config_groups of {f.path}") for group in groups.values()]
    if not found:
        raise f.wrong("config_groups", groups, "weights of integers are taken")
    for own in found:
        if (kind := own.value("type", "int")) != "int":
            raise own.wrong("type", kind, _FLOAT8 if own.value("num_bits", 8) == 8 else "weights of integers are taken")
    form = f.value("format", "pack-quantized")
    if form not in ("pack-quantized", "int-quantized", "naive-quantized"):
        raise f.wrong("format", form, "pack-quantized and int-quantized are taken")
    bits = {_bits(own, (4, 8)) for own in found}
    if len(bits) > 1:
        raise f.wrong("num_bits", sorted(bits), "codes of the same bits in all groups are taken")
    return _Compressed(bits.pop())
