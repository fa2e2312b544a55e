"""A random decoder as a plain ONNX export with free batch and sequence, and PEFT directories for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tiny_decoder import VOCABULARY, Decoder

from axlora.compiler.operators import Add, Apply, Attention, Function, Linear, Mul, Norm, NormKind, Rotary
from axlora.compiler.passes.quantize_adapter import Branch

POSITIONS = 64
"""Rows of the rotary tables and of the mask."""


class _Writer:
    """Nodes one after another."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def __call__(self, kind: str, *inputs: str, out: str = "", name: str = "", **attributes: object) -> str:
        out = out or f"tensor_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name or f"node_{len(self.nodes)}", **attributes))
        return out


def _heads(w: _Writer, x: str, count: int, dim: int) -> str:
    return w("Transpose", w("Reshape", x, w.integers(1, -1, count, dim)), perm=[0, 2, 1, 3])


def _packed(w: _Writer, x: str, first: int, count: int, dim: int) -> str:
    """Heads from a feature on."""
    part = w("Slice", x, w.integers(first), w.integers(first + count * dim), w.integers(2), w.integers(1))
    return _heads(w, part, count, dim)


def _norm(w: _Writer, op: Norm, x: str) -> str:
    if op.kind is NormKind.LAYER:
        assert op.bias is not None
        return w("LayerNormalization", x, w.constant(op.gain), w.constant(op.bias), epsilon=op.eps, axis=-1)
    mean = w("ReduceMean", w("Pow", x, w.constant(2)), w.integers(-1))
    return w("Mul", w.constant(op.gain), w("Mul", x, w("Reciprocal", w("Sqrt", w("Add", mean, w.constant(op.eps))))))


def _applied(w: _Writer, op: Apply, x: str) -> str:
    if op.function is Function.SILU:
        return w("Mul", x, w("Sigmoid", x))
    assert op.function is Function.GELU_TANH
    inner = w("Add", x, w("Mul", w("Pow", x, w.constant(3)), w.constant(0.044715)))
    turned = w("Add", w("Tanh", w("Mul", inner, w.constant(np.sqrt(2 / np.pi)))), w.constant(1))
    return w("Mul", w("Mul", x, w.constant(0.5)), turned)


def _rotated(w: _Writer, x: str, op: Rotary, tables: tuple[str, str]) -> str:
    half = op.dim // 2
    parts = [w("Slice", x, w.integers(first), w.integers(first + half), w.integers(3), w.integers(1)) for first in (0, half)]
    turned = w("Concat", w("Neg", parts[1]), parts[0], axis=3)
    return w("Add", w("Mul", x, tables[0]), w("Mul", turned, tables[1]))


def _attention(w: _Writer, op: Attention, q: str, k: str, v: str, mask: str) -> str:
    own = w.integers(*(h // (op.heads // op.kv_heads) for h in range(op.heads)))
    k, v = (w("Gather", x, own, axis=1) for x in (k, v))
    scores = w("Mul", w("MatMul", q, w("Transpose", k, perm=[0, 1, 3, 2])), w.constant(op.scale))
    mixed = w("MatMul", w("Softmax", w("Add", scores, mask), axis=-1), v)
    return w("Reshape", w("Transpose", mixed, perm=[0, 2, 1, 3]), w.integers(1, -1, op.heads * op.dim))


def write_onnx(decoder: Decoder, path: Path, past: bool = False) -> Path:
    """The decoder's operators as an exporter writes them; linears are named /model/layer.I/NAME/MatMul.

    `past`: with caches as inputs and outputs.
    """
    w, s = _Writer(), decoder.sizes
    own = w("Slice", w("Shape", "input_ids"), w.integers(1), w.integers(2))
    zero, one = w.integers(0), w.integers(1)
    caches: list[onnx.ValueInfoProto] = []
    made: list[onnx.ValueInfoProto] = []
    tokens = own
    if past:
        zero = w("Slice", w("Shape", "past_key_values.0.key"), w.integers(2), w.integers(3))
        tokens = w("Add", zero, own)

    def kept(x: str, part: str) -> str:
        """Behind what the cache has."""
        name = f"{len(caches) // 2}.{part}"
        for prefix, tokens_of, values in (("past_key_values", "past", caches), ("present", "total", made)):
            shape = ["batch", s.kv_heads, tokens_of, s.dim]
            values.append(helper.make_tensor_value_info(f"{prefix}.{name}", TensorProto.FLOAT, shape))
        return w("Concat", f"past_key_values.{name}", x, axis=2, out=f"present.{name}")

    angle = np.arange(POSITIONS)[:, None] / 10000 ** (np.arange(s.dim // 2)[None] / (s.dim // 2))
    tables = tuple(
        w("Slice", w.constant(np.tile(f(angle), 2)[None, None]), zero, tokens, w.integers(2), one) for f in (np.cos, np.sin)
    )
    causal = np.where(np.tri(POSITIONS, dtype=bool), 0, -1e9)[None, None]
    corner = w("Concat", zero, w.integers(0), axis=0)
    mask = w("Slice", w.constant(causal), corner, w("Concat", tokens, tokens, axis=0), w.integers(2, 3))
    rows = w("Gather", w.constant(decoder.model.embedding), "input_ids")
    if decoder.model.positions is not None:
        rows = w("Add", rows, w("Slice", w.constant(decoder.model.positions), zero, tokens, w.integers(0), one))
    known = {decoder.model.input: rows}
    heads: dict[str, str] = {}
    for op in decoder.model.operators:
        match op:
            case Norm():
                known[op.y] = _norm(w, op, known[op.x])
            case Linear():
                layer = op.name.replace(".", "/") if "." in op.name else op.name
                name = f"/model/layer.{layer}/MatMul" if "." in op.name else "/head/MatMul"
                weight, bias = (w.constant(value) for value in decoder.weights[op.name])
                out = {"out": "logits"} if op.y == decoder.model.output else {}
                known[op.y] = w("Add", w("MatMul", known[op.x], weight, name=name), bias, **out)
            case Rotary():
                heads[op.y] = _rotated(w, _heads(w, known[op.x], op.heads, op.dim), op, tables)
            case Attention():
                parts = zip((op.q, op.k, op.v), op.first, (op.heads, op.kv_heads, op.kv_heads), strict=True)
                q, k, v = (heads.get(x) or _packed(w, known[x], first, count, op.dim) for x, first, count in parts)
                if past:
                    k, v = kept(k, "key"), kept(v, "value")
                known[op.y] = _attention(w, op, q, k, v, mask)
            case Add() | Mul():
                known[op.y] = w(type(op).__name__, known[op.a], known[op.b])
            case Apply():
                known[op.y] = _applied(w, op, known[op.x])
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])
    graph = helper.make_graph(w.nodes, "decoder", [ids, *caches], [logits, *made], w.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_peft(branches: Mapping[str, Branch], folder: Path) -> Path:
    """LoRA of linears I.NAME as PEFT saves it; lora_alpha is the rank, so the scale is 1."""
    folder.mkdir()
    rank = next(iter(branches.values())).a.shape[1]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["x"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for name, branch in branches.items():
        layer, linear = name.split(".")
        for side, value in (("A", branch.a), ("B", branch.b)):
            key = f"base_model.model.model.layer.{layer}.{linear}.lora_{side}.weight"
            tensors[key] = np.ascontiguousarray(value.T.astype(np.float32))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
