"""The tiny Llama as ONNX, from the committed weights; no PyTorch needed.

    python examples/tiny_llama/export.py -o tiny.onnx [--adapter NAME]

`input_ids` int64 [batch, sequence] -> `logits` float32 [batch, sequence, 256], opset 20. Up to names and order the graph is
the one that torch.onnx.export(dynamo=True) makes of transformers' LlamaForCausalLM (eager attention, no attention mask). Its
nodes carry the module's path as the exporter writes it, so a PEFT directory finds its linears. With --adapter the LoRA is in
the graph.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

Float = npt.NDArray[np.float32]

HERE = Path(__file__).parent
BASE, ADAPTERS = HERE / "base", HERE / "adapters"
OPSET, IR_VERSION = 20, 10
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Config:
    """Sizes of the model, as config.json names them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True)
class Lora:
    """An adapter: y += scale * B (A x)."""

    tensors: Mapping[str, Float]
    """`{module}.lora_A.weight` [r, in] and `{module}.lora_B.weight` [out, r]."""
    scale: float


def read_config(directory: Path = BASE) -> Config:
    """Of the model in `directory`."""
    raw = json.loads((directory / "config.json").read_text())
    raw["rope_theta"] = raw.get("rope_theta") or raw["rope_parameters"]["rope_theta"]
    return Config(**{name: raw[name] for name in Config.__dataclass_fields__})


def read_weights(directory: Path = BASE) -> dict[str, Float]:
    """The weights by their PyTorch names (linears [out, in]), widened to float32."""
    return {k: v.astype(np.float32) for k, v in load_file(directory / "model.safetensors").items()}


def read_lora(directory: Path) -> Lora:
    """The PEFT adapter in `directory`."""
    config = json.loads((directory / "adapter_config.json").read_text())
    tensors = load_file(directory / "adapter_model.safetensors")
    named = {k.removeprefix("base_model.model."): v.astype(np.float32) for k, v in tensors.items()}
    return Lora(named, config["lora_alpha"] / config["r"])


@dataclass
class _Graph:
    """Collects nodes and initializers; a node's output is named after the module that is open."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=lambda: [""])
    names: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def module(self, path: str) -> Iterator[None]:
        """Nodes made inside belong to the module at `path`."""
        self.scopes.append(path)
        yield
        self.scopes.pop()

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """An initializer, once for each name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant("i64_" + "_".join(map(str, values)), np.array(values, np.int64))

    def node(self, kind: str, inputs: Sequence[str], leaf: str, output: str | None = None, **attributes: Any) -> str:
        """A node whose output is `output`, or the module's path and `leaf`."""
        path = self.scopes[-1]
        output = output or (f"{path}.{leaf}" if path else leaf)
        count = f"_{self.names[leaf]}" if self.names[leaf] else ""
        self.names[leaf] += 1
        made = helper.make_node(kind, inputs, [output], name=f"node_{leaf}{count}", **attributes)
        made.metadata_props.add(key=_SCOPES, value=str([*self.scopes, leaf]))
        self.nodes.append(made)
        return output


class _Llama:
    """The graph of a model, node by node in the exporter's order."""

    def __init__(self, config: Config, weights: Mapping[str, Float], lora: Lora | None) -> None:
        self.config, self.weights, self.lora, self.graph = config, weights, lora, _Graph()

    def linear(self, path: str, x: str, output: str | None = None) -> str:
        """x.W, and the LoRA branch if the adapter has one here; the result's name is `output` if given."""
        g = self.graph
        with g.module(path):
            weight = g.constant(f"{path}.weight", self.weights[f"{path}.weight"].T)
            if self.lora is None or f"{path}.lora_A.weight" not in self.lora.tensors:
                return g.node("MatMul", [x, weight], "linear", output)
            base = g.node("MatMul", [x, weight], "linear")
            for part in ("lora_A", "lora_B"):
                matrix = g.constant(f"{path}.{part}.weight", self.lora.tensors[f"{path}.{part}.weight"].T)
                with g.module(f"{path}.{part}"):
                    x = g.node("MatMul", [x, matrix], "linear")
            scale = g.constant("lora_scale", np.float32(self.lora.scale))
            return g.node("Add", [base, g.node("Mul", [x, scale], "mul")], "add", output)

    def norm(self, path: str, x: str) -> str:
        """x / sqrt(mean(x^2) + eps) * weight."""
        g = self.graph
        with g.module(path):
            square = g.node("Pow", [x, g.constant("two", np.float32(2))], "pow")
            mean = g.node("ReduceMean", [square, g.ints(-1)], "mean", keepdims=1)
            mean = g.node("Add", [mean, g.constant("epsilon", np.float32(self.config.rms_norm_eps))], "add")
            inverse = g.node("Reciprocal", [g.node("Sqrt", [mean], "sqrt")], "rsqrt")
            unit = g.node("Mul", [x, inverse], "mul")
            return g.node("Mul", [g.constant(f"{path}.weight", self.weights[f"{path}.weight"]), unit], "weighted")

    def positions(self) -> None:
        """`cos`, `sin` [1, 1, sequence, head_dim] and `mask` [1, 1, sequence, sequence], which all layers share."""
        g, c = self.graph, self.config
        for axis, name in enumerate(("batch", "sequence")):
            g.node("Shape", ["input_ids"], f"{name}_size", start=axis, end=axis + 1)
        length = g.node("Squeeze", ["sequence_size"], "length")
        zero, one = (g.constant(f"int_{i}", np.int64(i)) for i in (0, 1))
        arange = g.node("Range", [zero, length, one], "arange")
        key = g.node("Unsqueeze", [arange, g.ints(0, 1, 2)], "key_position")
        query = g.node("Unsqueeze", [arange, g.ints(0, 1, 3)], "query_position")
        seen = g.node("LessOrEqual", [key, query], "le")
        lowest = g.constant("lowest", np.finfo(np.float32).min)
        g.node("Where", [seen, g.constant("zero", np.float32(0)), lowest], "mask")
        with g.module("model.rotary_emb"):
            inverse = 1 / c.rope_theta ** (np.arange(0, c.head_dim, 2, dtype=np.float32) / c.head_dim)
            places = g.node("Cast", [g.node("Unsqueeze", [arange, g.ints(0, 2)], "unsqueeze")], "to", to=TensorProto.FLOAT)
            angle = g.node("Mul", [places, g.constant("model.rotary_emb.inv_freq", inverse.astype(np.float32))], "mul")
            angle = g.node("Concat", [angle, angle], "cat", axis=-1)
            for kind in ("Cos", "Sin"):
                wave = g.node(kind, [angle], kind.lower())
                g.node("Unsqueeze", [wave, g.ints(1)], "unsqueeze", kind.lower())

    def heads(self, leaf: str, x: str, count: int) -> str:
        """[batch, sequence, count * head_dim] -> [batch, count, sequence, head_dim]."""
        g = self.graph
        parts = ["batch_size", "sequence_size", g.ints(count), g.ints(self.config.head_dim)]
        shape = g.node("Concat", parts, f"{leaf}_shape", axis=0)
        return g.node(
            "Transpose", [g.node("Reshape", [x, shape], f"{leaf}_view", allowzero=1)], f"{leaf}_heads", perm=[0, 2, 1, 3]
        )

    def rotate(self, leaf: str, x: str) -> str:
        """x * cos + rotate_half(x) * sin."""
        g, half = self.graph, self.config.head_dim // 2
        straight = g.node("Mul", [x, "cos"], f"{leaf}_cos")
        end = g.constant("i64_end", np.array([np.iinfo(np.int64).max]))
        first = g.node("Slice", [x, g.ints(0), g.ints(half), g.ints(3), g.ints(1)], f"{leaf}_first")
        second = g.node("Slice", [x, g.ints(half), end, g.ints(3), g.ints(1)], f"{leaf}_second")
        turned = g.node("Concat", [g.node("Neg", [second], f"{leaf}_neg"), first], f"{leaf}_turned", axis=-1)
        return g.node("Add", [straight, g.node("Mul", [turned, "sin"], f"{leaf}_sin")], f"{leaf}_rotated")

    def repeat(self, leaf: str, x: str) -> str:
        """Each key or value head as often as query heads share it."""
        g, c = self.graph, self.config
        groups, heads, size = c.num_key_value_heads, c.num_attention_heads, g.ints(c.head_dim)
        parts = ["batch_size", g.ints(groups), g.ints(heads // groups), "sequence_size", size]
        wide = g.node("Concat", parts, f"{leaf}_wide", axis=0)
        flat = g.node("Concat", ["batch_size", g.ints(heads), "sequence_size", size], f"{leaf}_flat", axis=0)
        x = g.node("Expand", [g.node("Unsqueeze", [x, g.ints(2)], f"{leaf}_unsqueeze"), wide], f"{leaf}_expand")
        return g.node("Reshape", [x, flat], f"{leaf}_repeated", allowzero=1)

    def attention(self, path: str, x: str) -> str:
        """Causal, grouped queries."""
        g, c = self.graph, self.config
        q, k, v = (self.linear(f"{path}.{m}_proj", x) for m in "qkv")
        q = self.rotate("q", self.heads("q", q, c.num_attention_heads))
        k = self.repeat("k", self.rotate("k", self.heads("k", k, c.num_key_value_heads)))
        v = self.repeat("v", self.heads("v", v, c.num_key_value_heads))
        scores = g.node("MatMul", [q, g.node("Transpose", [k], "k_transposed", perm=[0, 1, 3, 2])], "scores")
        scores = g.node("Mul", [scores, g.constant("scaling", np.float32(c.head_dim**-0.5))], "scaled")
        weights = g.node("Softmax", [g.node("Add", [scores, "mask"], "masked")], "softmax", axis=-1)
        context = g.node("Transpose", [g.node("MatMul", [weights, v], "context")], "context_tokens", perm=[0, 2, 1, 3])
        shape = g.node("Concat", ["batch_size", "sequence_size", g.ints(-1)], "context_shape", axis=0)
        return self.linear(f"{path}.o_proj", g.node("Reshape", [context, shape], "context_view", allowzero=1))

    def mlp(self, path: str, x: str) -> str:
        """down(silu(gate(x)) * up(x))."""
        g = self.graph
        gate = self.linear(f"{path}.gate_proj", x)
        with g.module(f"{path}.act_fn"):
            gate = g.node("Mul", [gate, g.node("Sigmoid", [gate], "sigmoid")], "silu")
        up = self.linear(f"{path}.up_proj", x)
        return self.linear(f"{path}.down_proj", g.node("Mul", [gate, up], "product"))

    def model(self) -> onnx.ModelProto:
        """The whole."""
        g, c = self.graph, self.config
        with g.module("model"):
            table = g.constant("model.embed_tokens.weight", self.weights["model.embed_tokens.weight"])
            with g.module("model.embed_tokens"):
                x = g.node("Gather", [table, "input_ids"], "embedding", axis=0)
        self.positions()
        with g.module("model"):
            for i in range(c.num_hidden_layers):
                path = f"model.layers.{i}"
                with g.module(path):
                    normed = self.norm(f"{path}.input_layernorm", x)
                    with g.module(f"{path}.self_attn"):
                        attended = self.attention(f"{path}.self_attn", normed)
                    x = g.node("Add", [x, attended], "residual")
                    normed = self.norm(f"{path}.post_attention_layernorm", x)
                    with g.module(f"{path}.mlp"):
                        fed = self.mlp(f"{path}.mlp", normed)
                    x = g.node("Add", [x, fed], "output")
            x = self.norm("model.norm", x)
        self.linear("lm_head", x, "logits")
        return self._finish()

    def _finish(self) -> onnx.ModelProto:
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", self.config.vocab_size])
        body = helper.make_graph(self.graph.nodes, "tiny_llama", [ids], [logits], list(self.graph.initializers.values()))
        made = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(made, full_check=True)
        return made


def model(lora: Lora | None = None, directory: Path = BASE) -> onnx.ModelProto:
    """The committed base as ONNX, with `lora` in the graph if given."""
    return _Llama(read_config(directory), read_weights(directory), lora).model()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the tiny Llama as ONNX.")
    parser.add_argument("-o", dest="path", type=Path, required=True)
    parser.add_argument("--adapter", choices=sorted(p.name for p in ADAPTERS.iterdir()), help="put this LoRA in the graph")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model(read_lora(ADAPTERS / options.adapter) if options.adapter else None), options.path)
    logging.info("wrote %s", options.path)


if __name__ == "__main__":
    main()
