"""Fixtures of the compiler's tests: the MiniLM example, small models, small adapters."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from axlora.compiler.frontend import tvm_import
from axlora.isa.target import Target

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def quick_llvm() -> Iterator[None]:
    """These tests compile some hundred models and run each a few times: with few optimizations that takes half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tvm_import.LLVM, "opt-level", 0)
        yield


@pytest.fixture(scope="session")
def minilm(minilm_build: ModuleType) -> ModuleType:
    """examples/minilm/build.py as a module."""
    return minilm_build


@pytest.fixture(scope="session")
def minilm_dir(minilm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built example: two layers, 16 tokens, 12 samples."""
    folder = tmp_path_factory.mktemp("minilm")
    minilm.build(folder, tokens=16, layers=2, samples=12)
    return folder


@pytest.fixture(scope="session")
def target() -> Target:
    """The preset `test`: 8-bit activations, 32-bit accumulators."""
    return Target.load("test")


@pytest.fixture(scope="session")
def wide_target(target: Target) -> Target:
    """16-bit activations, 48-bit accumulators."""
    return dataclasses.replace(target, activation_bits=16, accumulator_bits=48)


Nodes = list[onnx.NodeProto]


class Builder:
    """Builds small ONNX models, one line a node; names carry no meaning on purpose."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: Nodes = []
        self.initializers: list[onnx.TensorProto] = []
        self.count = 0

    def constant(self, value: np.ndarray) -> str:
        self.count += 1
        self.initializers.append(numpy_helper.from_array(value, f"val_{self.count}"))
        return f"val_{self.count}"

    def floats(self, *shape: int, spread: float = 0.1) -> str:
        return self.constant(self.random.normal(0, spread, shape).astype(np.float32))

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        self.count += 1
        out = out or f"t_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n_{self.count}", **attributes))
        return out

    def qdq(self, name: str, scale: float, zero: int, dtype: type = np.int8, out: str = "") -> str:
        pair = [self.constant(np.array(scale, np.float32)), self.constant(np.array(zero, dtype))]
        return self.node("DequantizeLinear", self.node("QuantizeLinear", name, *pair), *pair, out=out)

    def weight(self, k: int, n: int, per_tensor: bool = False, dtype: type = np.int8) -> str:
        """DQ of random codes, symmetric about `dtype`'s middle."""
        middle = 128 if dtype is np.uint8 else 0
        codes = (self.random.integers(-127, 128, (k, n)) + middle).astype(dtype)
        if per_tensor:
            scale, zero = np.array(0.002, np.float32), np.array(middle, dtype)
        else:
            scale = self.random.uniform(0.001, 0.003, n).astype(np.float32)
            zero = np.full(n, middle, dtype)
        names = [self.constant(v) for v in (codes, scale, zero)]
        return self.node("DequantizeLinear", *names, axis=1)

    def model(self, inputs: dict[str, list[object]], outputs: list[str], opset: int = 18) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
        free = [f"free_{i}" for i in range(max(len(s) for s in inputs.values()))]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, free) for n in outputs]
        graph = helper.make_graph(self.nodes, "g", given, results, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.fixture
def build() -> Builder:
    """A fresh model builder."""
    return Builder()


@pytest.fixture
def write_peft(tmp_path: Path) -> Callable[..., Path]:
    """Write a PEFT directory: tensors by key, and fields of the configuration to change."""

    def write(tensors: dict[str, np.ndarray], name: str = "adapter", **fields: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["x"], "bias": "none"} | fields
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "adapter_model.safetensors")
        return folder

    return write
