"""The tiny Llama of examples/tiny_llama, quantized, as the integer reference runs it."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows.lower import lower
from axlora.isa.numerics import to_fixed
from axlora.isa.target import Target

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_llama"
sys.path.append(str(EXAMPLE))

import export  # noqa: E402

PROSE = export.ADAPTERS / "prose"
OUTLIERS = (3, 77)
Int64 = npt.NDArray[np.int64]


@functools.cache
def model() -> onnx.ModelProto:
    """The committed base as ONNX."""
    return export.model()


def with_outliers(factor: float = 30.0) -> onnx.ModelProto:
    """Two channels of every norm before linears times `factor`, the weights that read them divided: the same function."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model())
    held = {i.name: i for i in copy.graph.initializer}

    def scale(name: str, by: float) -> None:
        value = numpy_helper.to_array(held[name]).copy()
        value[list(OUTLIERS)] *= np.float32(by)
        held[name].CopyFrom(numpy_helper.from_array(value, name))

    layers = {name.split(".")[2] for name in held if name.startswith("model.layers.")}
    for layer in layers:
        at = f"model.layers.{layer}"
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            scale(f"{at}.{norm}.weight", factor)
            for reader in readers:
                scale(f"{at}.{reader}.weight", 1 / factor)
    return copy


class Quantized:
    """A compiled model beside its integer reference."""

    def __init__(self, target: Target, source: onnx.ModelProto, *, context: int, **options: Any) -> None:
        self.target = target
        self.found = lower_whole(source, target, CompileOptions(generate=True, max_context=context, **options))
        self.linears = {li.name: li for li in self.found.lowered.linears}

    def run(self, ids: Int64, cache: Cache, adapter: str | None) -> tuple[Int64, int]:
        """Integer logits [n, vocabulary] of tokens after those in the cache, and their fraction."""
        f = self.found
        rows = to_fixed(f.model.embedding[ids], f.image.input_fraction)
        reference = Reference(self.linears, [adapter] * len(ids), cache, self.target.activation_bits, rows)
        _, fractions = lower(f.region, reference, self.target.activation_bits, f.image.context)
        return reference.output, fractions[f.model.output]

    def compiled(self, adapter: str | None, prompt: int) -> Compiled:
        """The integer module with an empty cache, for a prompt of so many tokens."""
        return Compiled(self, adapter, prompt)

    def logits(self, windows: Int64, adapter: str | None) -> npt.NDArray[np.float32]:
        """Logits [n, t, vocabulary] of windows [n, t]."""
        found = [self.run(ids, Cache(), adapter) for ids in windows]
        return np.stack([np.ldexp(values.astype(np.float64), -fraction) for values, fraction in found]).astype(np.float32)


class Compiled:
    """The integer module of a model, run by LLVM: one sequence."""

    def __init__(self, quantized: Quantized, adapter: str | None, prompt: int) -> None:
        self.found, self.adapter = quantized.found, adapter
        self.length, needed = 0, {1}
        while self.length < prompt:
            needed.add(self._rows(prompt - self.length))
            self.length += self._rows(prompt - self.length)
        self.module = self.found.integers(quantized.target.activation_bits, sorted(needed))
        self.length, self.cache = 0, self.module.empty()

    def _rows(self, left: int) -> int:
        """Rows of the next start: as many as fit."""
        return max(n for n in self.found.image.programs if self.length % n == 0 and left >= n)

    def feed(self, ids: Int64) -> Int64:
        """Integer logits [n, vocabulary] of tokens after those that are there, by starts as large as fit."""
        image, found, done = self.found.image, [], 0
        while done < len(ids):
            count = self._rows(len(ids) - done)
            rows = to_fixed(self.found.model.embedding[ids[done : done + count]], image.input_fraction)
            outputs, self.cache = self.module.run(rows, self.length, cache=self.cache, adapter=self.adapter)
            found.append(outputs[0])
            done, self.length = done + count, self.length + count
        return np.concatenate(found)
