"""A tiny decoder in the layout of ORT GenAI's model builder, with random weights.

Norms stand in the empty domain and give the residual sum as their fourth result; attention is GroupQueryAttention with rotary
embedding, caches and lengths that are computed from the mask; every linear may be a MatMulNBits of 4 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
HIDDEN, INNER, HEADS, GROUPS, DIM, VOCABULARY, POSITIONS, BLOCK = 64, 96, 4, 2, 16, 48, 64, 32
_SUM = 3
"""Place of the residual sum among a norm's results."""


@dataclass
class Builder:
    """Writes nodes and weights as the builder does."""

    packed: bool = False
    """One qkv_proj in place of q, k and v."""
    bits: int = 4
    """Of weights; 0: floats."""
    layers: int = 2
    apart: bool = False
    """RotaryEmbedding nodes with positions of their own in front of attention, as the builder has them for other devices."""
    half: bool = False
    """Weights, caches and logits of 16 bits."""
    adapters: bool = False
    """A LoRA of rank 4 on o_proj and down_proj, in the graph."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def hold(self, name: str, value: Array) -> str:
        """A constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(
        self, kind: str, path: str, reads: Sequence[str], results: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node; its results are numbered."""
        names = [f"{path}/output_{i}" for i in range(results)]
        self.nodes.append(helper.make_node(kind, list(reads), names, name=path, domain=domain, **attributes))
        return names

    def linear(self, path: str, x: str, k: int, n: int) -> str:
        """x times a weight [k, n]."""
        weight = self.random.normal(0, 0.15, (k, n)).astype(np.float32)
        name = path.strip("/").replace("/", ".").replace(".MatMul", ".MatMul.weight")
        if not self.bits:
            return self.node("MatMul", path, [x, self.hold(name, weight)])[0]
        groups = k // BLOCK
        blocks = weight.T.reshape(n, groups, BLOCK)
        scales = np.abs(blocks).max(2) / 7
        codes = np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
        packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
        reads = [x, self.hold(f"{name}_Q4", packed), self.hold(f"{name}_scales", scales.astype(np.float32).reshape(-1))]
        attributes = {"K": k, "N": n, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        return self.node("MatMulNBits", f"{path}NBits", reads, domain=MICROSOFT, **attributes)[0]

    def adapted(self, path: str, x: str, k: int, n: int) -> str:
        """A linear, and the branch of its LoRA if there are any."""
        base = self.linear(f"{path}/MatMul", x, k, n)
        if not self.adapters:
            return base
        a = self.hold(f"{path}.lora_A.weight", self.random.normal(0, 0.2, (k, 4)).astype(np.float32))
        b = self.hold(f"{path}.lora_B.weight", self.random.normal(0, 0.2, (4, n)).astype(np.float32))
        inner = self.node("MatMul", f"{path}/lora_A/MatMul", [x, a])[0]
        branch = self.node("MatMul", f"{path}/lora_B/MatMul", [inner, b])[0]
        return self.node("Add", f"{path}/lora/Add", [base, branch])[0]

    def norm(self, path: str, total: str, new: str) -> tuple[str, str]:
        """The norm of a residual sum, and the sum; at first there is nothing to add."""
        gain = self.hold(f"{path}.weight", self.random.uniform(0.8, 1.2, HIDDEN).astype(np.float32))
        if not new:
            name = f"{path}/LayerNorm"
            return self.node("SimplifiedLayerNormalization", name, [total, gain], axis=-1, epsilon=1e-6, stash_type=1)[0], total
        names = [f"{path}/output_0", "", "", f"{path}/output_3"]
        kind = "SkipSimplifiedLayerNormalization"
        self.nodes.append(helper.make_node(kind, [total, new, gain], names, name=path, domain=MICROSOFT, epsilon=1e-6))
        return names[0], names[_SUM]

    def lengths(self) -> tuple[str, str]:
        """Lengths less one and the longest one, of the mask: int32 [batch] and int32 []."""
        path = "/model/attn_mask_reformat/attn_mask_subgraph"
        one = self.hold("/model/constants/INT64/[1]", np.array([1], np.int64))
        total = self.node("ReduceSum", f"{path}/ReduceSum", ["attention_mask", one], keepdims=0)[0]
        less = self.node("Sub", f"{path}/Sub", [total, one])[0]
        lengths = self.node("Cast", f"{path}/Sub/Cast", [less], to=TensorProto.INT32)[0]
        shape = self.node("Shape", f"{path}/Shape", ["attention_mask"])[0]
        index = self.hold("/model/constants/INT64/1", np.array(1, np.int64))
        longest = self.node("Gather", f"{path}/Gather", [shape, index], axis=0)[0]
        return lengths, self.node("Cast", f"{path}/Gather/Cast", [longest], to=TensorProto.INT32)[0]

    def attention(self, path: str, layer: int, x: str, lengths: tuple[str, str]) -> str:
        """GroupQueryAttention with its cache."""
        if self.packed:
            q = self.linear(f"{path}/qkv_proj/MatMul", x, HIDDEN, (HEADS + 2 * GROUPS) * DIM)
            reads = [q, "", ""]
        else:
            counts = {"q_proj": HEADS, "k_proj": GROUPS, "v_proj": GROUPS}
            reads = [self.linear(f"{path}/{name}/MatMul", x, HIDDEN, count * DIM) for name, count in counts.items()]
        tables = ["cos_cache", "sin_cache"]
        if self.apart:
            reads[:2] = [
                self.node("RotaryEmbedding", f"{path}/{part}/RotaryEmbedding", [x, "position_ids", *tables], domain=MICROSOFT)[
                    0
                ]
                for part, x in zip(("q_rotary", "k_rotary"), reads[:2], strict=True)
            ]
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        out = f"{path}/GroupQueryAttention/output_0"
        attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "scale": DIM**-0.5, "rotary_interleaved": 0}
        attributes |= {"do_rotary": int(not self.apart), "local_window_size": -1, "softcap": 0.0}
        reads += [*past, *lengths, *([] if self.apart else tables)]
        name = f"{path}/GroupQueryAttention"
        made = helper.make_node("GroupQueryAttention", reads, [out, *present], name=name, domain=MICROSOFT, **attributes)
        self.nodes.append(made)
        return self.adapted(f"{path}/o_proj", out, HEADS * DIM, HIDDEN)

    def mlp(self, path: str, x: str) -> str:
        """down(silu(gate(x)) * up(x))."""
        gate = self.linear(f"{path}/gate_proj/MatMul", x, HIDDEN, INNER)
        up = self.linear(f"{path}/up_proj/MatMul", x, HIDDEN, INNER)
        half = self.node("Sigmoid", f"{path}/act_fn/Sigmoid", [gate])[0]
        act = self.node("Mul", f"{path}/act_fn/Mul", [gate, half])[0]
        return self.adapted(f"{path}/down_proj", self.node("Mul", f"{path}/Mul", [act, up])[0], INNER, HIDDEN)

    def model(self) -> onnx.ModelProto:
        """ids, mask and caches -> logits and caches; batch, sequence and past are free."""
        table = self.hold("model.embed_tokens.weight", self.random.normal(0, 1, (VOCABULARY, HIDDEN)).astype(np.float32))
        angles = np.arange(POSITIONS)[:, None] / 10000 ** (np.arange(DIM // 2) * 2 / DIM)
        self.hold("cos_cache", np.cos(angles).astype(np.float32))
        self.hold("sin_cache", np.sin(angles).astype(np.float32))
        lengths = self.lengths()
        total, new = self.node("Gather", "/model/embed_tokens/Gather", [table, "input_ids"])[0], ""
        for layer in range(self.layers):
            path = f"/model/layers.{layer}"
            x, total = self.norm(f"{path}/input_layernorm", total, new)
            new = self.attention(f"{path}/attn", layer, x, lengths)
            x, total = self.norm(f"{path}/post_attention_layernorm", total, new)
            new = self.mlp(f"{path}/mlp", x)
        x, _ = self.norm(f"/model/layers.{self.layers}/final_norm_layernorm", total, new)
        self.linear("/lm_head/MatMul", x, HIDDEN, VOCABULARY)
        self.nodes[-1].output[0] = "logits"
        values = helper.make_tensor_value_info
        caches = [f"{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")]
        own = ["batch_size", GROUPS, "past_sequence_length", DIM]
        inputs = [
            values("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            values("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
            *(values(f"past_key_values.{name}", TensorProto.FLOAT, own) for name in caches),
        ]
        own = ["batch_size", GROUPS, "total_sequence_length", DIM]
        outputs = [
            values("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", VOCABULARY]),
            *(values(f"present.{name}", TensorProto.FLOAT, own) for name in caches),
        ]
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, self.constants)
        if self.apart:
            graph.input.append(values("position_ids", TensorProto.INT64, ["batch_size", "sequence_length"]))
        if self.half:
            in_half(graph)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def in_half(graph: onnx.GraphProto) -> None:
    """Floats of 16 bits, in place."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """The file as the builder leaves it: weights beside it."""
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=256)
    return path
