"""What the mutators start from: small models, an adapter, packages, inputs; written once into a folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

import axlora
from axlora.adapters import add_adapter

MODELS = Path(__file__).parents[1] / "compiler" / "models"
TOKENS, K, N, RANK = 4, 16, 12, 3
FREE = {"batch": 1, "sequence": TOKENS}
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {}, "float": {"tokens": TOKENS}, "external": {}, "bert": FREE, "gpt2": FREE, "llama": FREE, "bert-qdq": FREE,
}  # fmt: skip
"""Base model -> `shapes` of its compilation."""
PACKAGES: dict[str, dict[str, Any]] = {
    "tiny": {"shapes": {}}, "bert": {"shapes": FREE}, "gpt2": {"generate": True, "max_context": 6, "chunk": 2},
}  # fmt: skip
"""Base model -> options of its package: of linears, of whole sequences, of a language model."""
MODULES = ("layers.0.query", "layers.0.value")
_SOURCES = {"bert": "bert.script.onnx", "gpt2": "gpt2.dynamo.onnx", "llama": "llama.script.onnx"}


def _qdq(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], name: str, scale: float, zero: int) -> str:
    constants += [
        numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"),
        numpy_helper.from_array(np.array(zero, np.int8), f"{name}_zero"),
    ]
    pair = [f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [name, *pair], [f"{name}_codes"], f"{name}_q"))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_codes", *pair], [f"{name}_dq"], f"{name}_d"))
    return f"{name}_dq"


def tiny() -> onnx.ModelProto:
    """Two linears of one quantized input, one with a zero point a column; Tanh joins them on the host."""
    rng = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    x = _qdq(nodes, constants, "x", 0.02, -3)
    for number, module in enumerate(MODULES):
        zero = rng.integers(-9, 10, N) if number else np.zeros(N)
        values = {
            "w": rng.integers(-100, 101, (K, N)).astype(np.int8),
            "w_scale": rng.uniform(0.001, 0.003, N).astype(np.float32),
            "w_zero": zero.astype(np.int8),
            "bias": rng.normal(0, 0.2, N).astype(np.float32),
        }
        constants += [numpy_helper.from_array(v, f"{module}.{part}") for part, v in values.items()]
        codes = [f"{module}.{part}" for part in ("w", "w_scale", "w_zero")]
        nodes.append(helper.make_node("DequantizeLinear", codes, [f"{module}.real"], f"{module}.dq", axis=1))
        path = "/" + module.replace(".", "/")
        nodes.append(helper.make_node("MatMul", [x, f"{module}.real"], [f"{module}.product"], f"{path}/MatMul"))
        nodes.append(helper.make_node("Add", [f"{module}.product", f"{module}.bias"], [f"y{number}"], f"{path}/Add"))
        _qdq(nodes, constants, f"y{number}", 0.03, 5)
    nodes.append(helper.make_node("Tanh", ["y0_dq"], ["t"], "tanh"))
    nodes.append(helper.make_node("Mul", ["t", "y1_dq"], ["y"], "mul"))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [TOKENS, K])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [TOKENS, N])]
    graph = helper.make_graph(nodes, "tiny", given, result, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def floating() -> onnx.ModelProto:
    """Two float linears in a row, a free dimension."""
    rng = np.random.default_rng(8)
    weights = [("a", (K, N)), ("a_bias", (N,)), ("b", (N, K)), ("b_bias", (K,))]
    constants = [numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name) for name, shape in weights]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], "/model/up/MatMul"),
        helper.make_node("Add", ["xa", "a_bias"], ["u"], "/model/up/Add"),
        helper.make_node("Relu", ["u"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "b", "b_bias"], ["y"], "/model/down/Gemm"),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", K])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", K])]
    graph = helper.make_graph(nodes, "floating", given, result, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _adapter(folder: Path) -> None:
    rng = np.random.default_rng(9)
    folder.mkdir(parents=True)
    tensors = {}
    for module in MODULES:
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = rng.normal(0, 0.2, (RANK, K)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.normal(0, 0.2, (N, RANK)).astype(np.float32)
    config: dict[str, Any] = json.loads((MODELS / "bert-lora" / "adapter_config.json").read_text())
    config |= {"r": RANK, "target_modules": ["query", "value"], "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")


def _tokens(folder: Path, module: str, ids: tuple[int, ...], features: int) -> None:
    """Trained rows of an embedding beside an adapter's branches."""
    config = json.loads((folder / "adapter_config.json").read_text()) | {"trainable_token_indices": [*ids]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    rows = np.random.default_rng(3).normal(0, 0.1, (len(ids), features)).astype(np.float32)
    own = {f"base_model.model.{module}.token_adapter.trainable_tokens_delta": rows}
    save_file(load_file(folder / "adapter_model.safetensors") | own, folder / "adapter_model.safetensors")


def _exported() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_models", MODELS.parent / "exported.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build(folder: Path) -> None:
    """Write models/NAME/, adapters/NAME/, packages/NAME.axl, files/ into `folder`."""
    for name in SHAPES:
        (folder / "models" / name).mkdir(parents=True)
        path = folder / "models" / name / "model.onnx"
        if name in ("tiny", "float"):
            onnx.save(tiny() if name == "tiny" else floating(), path)
        elif name == "external":
            onnx.save(tiny(), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
        elif name == "bert-qdq":
            _exported().quantize(MODELS / "bert.script.onnx", "qdq", path)
        else:
            shutil.copyfile(MODELS / _SOURCES[name], path)
    _adapter(folder / "adapters" / "tiny")
    for name in ("bert", "gpt2"):
        shutil.copytree(MODELS / f"{name}-lora", folder / "adapters" / name)
    _tokens(folder / "adapters" / "gpt2", "transformer.wte", (1, 30), 24)
    for name in PACKAGES:
        model = folder / "models" / name / "model.onnx"
        program = axlora.compile(model, "test", max_loras=2, max_lora_rank=8, **PACKAGES[name])
        program = add_adapter(program, "law", folder / "adapters" / name)
        program.save(folder / "packages" / f"{name}.axl")
    files = folder / "files"
    files.mkdir()
    for name, file in (("tiny", "in.npz"), ("bert", "bert.npz")):
        np.savez(files / file, **axlora.load(folder / "packages" / f"{name}.axl").random_inputs(1))
    (files / "map.json").write_text(json.dumps({m: f"/{m.replace('.', '/')}/MatMul" for m in MODULES}))
    (files / "target.toml").write_text(axlora.Target.load("test").to_toml())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
