"""The whole all-MiniLM-L6-v2 as ONNX: token ids in, sentence embedding out; no PyTorch needed.

    python examples/minilm/encoder.py -o DIR

DIR/minilm.onnx          float
DIR/minilm_static.onnx   int8, static QDQ: weights per channel, inputs of all 36 linears per tensor (results stay float)
DIR/minilm_dynamic.onnx  int8, DynamicQuantizeLinear and MatMulInteger, weights per channel
`batch` and `sequence` are free. Inputs: input_ids and attention_mask, int64 [batch, sequence]. Output: embedding, float32
[batch, 384], the mean over the mask, of length 1.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from build import HEAD, HEADS, HIDDEN, Float, Scale, _Graph, calibrate, model_files, verified_weights

LAYERS = 6


@dataclass(frozen=True)
class Lora:
    """A PEFT adapter as tensors, for the float twin: `{module}.lora_A.weight` [r, in], `.lora_B.weight` [out, r]."""

    tensors: Mapping[str, Float]
    scale: float


@dataclass
class _Encoder:
    """Writes the graph; `quantized` is '', 'static' or 'dynamic'."""

    weights: Mapping[str, Float]
    quantized: str
    lora: Lora | None
    seen: Mapping[str, Scale] = field(default_factory=dict)
    g: _Graph = field(default_factory=_Graph)
    shared: dict[str, list[str]] = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)
    """Inputs of linears: what calibration looks at."""

    def const(self, name: str, value: object, dtype: npt.DTypeLike = np.float32) -> str:
        if all(i.name != name for i in self.g.initializers):
            self.g.constant(name, np.array(value, dtype))
        return name

    def linear(self, module: str, x: str) -> str:
        w = np.ascontiguousarray(self.weights[f"{module}.weight"].T)
        bias = self.g.constant(f"{module}.bias", self.weights[f"{module}.bias"])
        self.watched.append(x)
        if self.quantized == "dynamic":
            y = self._dynamic(module, x, w)
        else:
            real = self.g.constant(f"{module}.weight", w) if not self.quantized else self._codes(module, w)
            source = x if not self.quantized else self._qdq(x)
            y = self.g.node("MatMul", [source, real], f"{module}.product")
        y = self.g.node("Add", [y, bias], f"{module}.out")
        if self.lora is not None and f"{module}.lora_A.weight" in self.lora.tensors:
            y = self._branch(module, x, y)
        return y

    def _branch(self, module: str, x: str, y: str) -> str:
        assert self.lora is not None
        a, b = (
            self.g.constant(f"{module}.lora_{p}", np.ascontiguousarray(self.lora.tensors[f"{module}.lora_{p}.weight"].T))
            for p in "AB"
        )
        u = self.g.node("MatMul", [self.g.node("MatMul", [x, a], f"{module}.xa"), b], f"{module}.xab")
        v = self.g.node("Mul", [u, self.const(f"{module}.scaling", self.lora.scale)], f"{module}.delta")
        return self.g.node("Add", [y, v], f"{module}.joined")

    def _qdq(self, name: str) -> str:
        if name not in self.shared:
            self.shared[name] = [self.g.qdq(name, self.seen[name], f"{name}.dq")]
        return self.shared[name][0]

    def _quantized_weight(self, module: str, w: Float) -> tuple[str, str, str]:
        step = (np.abs(w).max(axis=0) / 127).astype(np.float32)
        codes = np.clip(np.rint(w / step), -127, 127).astype(np.int8)
        return (
            self.g.constant(f"{module}.weight_quantized", codes),
            self.g.constant(f"{module}.weight_scale", step),
            self.g.constant(f"{module}.weight_zero_point", np.zeros(w.shape[1], np.int8)),
        )

    def _codes(self, module: str, w: Float) -> str:
        return self.g.node("DequantizeLinear", list(self._quantized_weight(module, w)), f"{module}.weight", axis=1)

    def _dynamic(self, module: str, x: str, w: Float) -> str:
        if x not in self.shared:
            names = [f"{x}.codes", f"{x}.scale", f"{x}.zero_point"]
            self.g.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names, name=f"/{x}/quantize"))
            self.shared[x] = names
        codes, scale, zero = self.shared[x]
        w_codes, w_scale, w_zero = self._quantized_weight(module, w)
        acc = self.g.node("MatMulInteger", [codes, w_codes, zero, w_zero], f"{module}.acc")
        real = self.g.node("Cast", [acc], f"{module}.cast", to=TensorProto.FLOAT)
        return self.g.node("Mul", [real, self.g.node("Mul", [scale, w_scale], f"{module}.scales")], f"{module}.product")

    def norm(self, module: str, x: str, out: str) -> str:
        names = [self.g.constant(f"{module}.{part}", self.weights[f"{module}.{part}"]) for part in ("weight", "bias")]
        node = helper.make_node("LayerNormalization", [x, *names], [out], name=f"/{out}/norm", axis=-1, epsilon=1e-12)
        self.g.nodes.append(node)
        return out

    def heads(self, x: str, out: str, perm: list[int]) -> str:
        split = self.g.node("Reshape", [x, self.const("heads_shape", [0, 0, HEADS, HEAD], np.int64)], f"{out}.split")
        self.g.nodes.append(helper.make_node("Transpose", [split], [out], name=f"/{out}/transpose", perm=perm))
        return out

    def embeddings(self) -> str:
        tables = {
            part: self.g.constant(f"embeddings.{part}", self.weights[f"embeddings.{part}.weight"])
            for part in ("word_embeddings", "position_embeddings", "token_type_embeddings")
        }
        words = self.g.node("Gather", [tables["word_embeddings"], "input_ids"], "words")
        size = self.g.node("Shape", ["input_ids"], "size")
        length = self.g.node("Gather", [size, self.const("one", 1, np.int64)], "length")
        where = self.g.node("Range", [self.const("zero", 0, np.int64), length, "one"], "where")
        places = self.g.node("Gather", [tables["position_embeddings"], where], "places")
        kind = self.g.node("Gather", [tables["token_type_embeddings"], "zero"], "kind")
        total = self.g.node("Add", [self.g.node("Add", [words, places], "placed"), kind], "embedded")
        return self.norm("embeddings.LayerNorm", total, "hidden_0")

    def attention(self, i: int, x: str, mask: str) -> str:
        path = f"encoder.layer.{i}.attention"
        q = self.heads(self.linear(f"{path}.self.query", x), f"{path}.q", [0, 2, 1, 3])
        k = self.heads(self.linear(f"{path}.self.key", x), f"{path}.k", [0, 2, 3, 1])
        v = self.heads(self.linear(f"{path}.self.value", x), f"{path}.v", [0, 2, 1, 3])
        scores = self.g.node("MatMul", [q, k], f"{path}.scores")
        scaled = self.g.node("Div", [scores, self.const("root", np.sqrt(HEAD))], f"{path}.scaled")
        masked = self.g.node("Add", [scaled, mask], f"{path}.masked")
        weights = self.g.node("Softmax", [masked], f"{path}.weights", axis=-1)
        mixed = self.g.node("MatMul", [weights, v], f"{path}.mixed")
        self.g.nodes.append(helper.make_node("Transpose", [mixed], [f"{path}.turned"], name=f"/{path}/turn", perm=[0, 2, 1, 3]))
        shape = self.const("join_shape", [0, 0, HIDDEN], np.int64)
        context = self.g.node("Reshape", [f"{path}.turned", shape], f"{path}.context")
        y = self.g.node("Add", [self.linear(f"{path}.output.dense", context), x], f"{path}.sum")
        return self.norm(f"{path}.output.LayerNorm", y, f"{path}.done")

    def feed_forward(self, i: int, x: str) -> str:
        path = f"encoder.layer.{i}"
        y = self.linear(f"{path}.intermediate.dense", x)
        erf = self.g.node("Erf", [self.g.node("Div", [y, self.const("sqrt2", np.sqrt(2))], f"{path}.z")], f"{path}.erf")
        one_more = self.g.node("Add", [erf, self.const("one_f", 1)], f"{path}.erf1")
        half = self.g.node("Mul", [y, self.const("half", 0.5)], f"{path}.half")
        y = self.linear(f"{path}.output.dense", self.g.node("Mul", [half, one_more], f"{path}.gelu"))
        return self.norm(f"{path}.output.LayerNorm", self.g.node("Add", [y, x], f"{path}.sum"), f"hidden_{i + 1}")

    def pool(self, x: str, mask: str) -> str:
        weights = self.g.node("Unsqueeze", [mask, self.const("last", [-1], np.int64)], "mask_column")
        summed = self.g.node("ReduceSum", [self.g.node("Mul", [x, weights], "kept"), self.const("along", [1], np.int64)], "sum")
        flat = self.g.node("Squeeze", [summed, "along"], "total")
        squares = self.g.node("ReduceSum", [self.g.node("Mul", [flat, flat], "squared"), "last"], "squares")
        return self.g.node("Div", [flat, self.g.node("Sqrt", [squares], "length_of")], "embedding")


def encoder(
    weights: Mapping[str, Float],
    quantized: str = "",
    lora: Lora | None = None,
    seen: Mapping[str, Scale] | None = None,
    watch: bool = False,
) -> tuple[onnx.ModelProto, list[str]]:
    """The model.

    Args:
        weights: by PyTorch names.
        quantized: '' (float), 'static' or 'dynamic'.
        lora: branches to add, float.
        seen: for static: scale of every input of a linear.
        watch: give those as outputs too.

    Returns:
        The model, and the names of the inputs of its linears.
    """
    e = _Encoder(weights, quantized, lora, seen or {})
    x = e.embeddings()
    real = e.g.node("Cast", ["attention_mask"], "mask_f", to=TensorProto.FLOAT)
    away = e.g.node("Mul", [e.g.node("Sub", [real, e.const("one_f", 1)], "away"), e.const("far", 10000)], "away_far")
    mask = e.g.node("Unsqueeze", [away, e.const("middle", [1, 2], np.int64)], "mask_add")
    for i in range(LAYERS):
        x = e.feed_forward(i, e.attention(i, x, mask))
    e.pool(x, real)
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask")]
    names = list(dict.fromkeys(e.watched))
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", HIDDEN])]
    if watch:
        outputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
    graph = helper.make_graph(e.g.nodes, "minilm", ids, outputs, e.g.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), names


def tokenize(texts: list[str], length: int) -> dict[str, npt.NDArray[np.int64]]:
    """`input_ids` and `attention_mask` [texts, length], cut or padded to `length` tokens."""
    tokenizer = Tokenizer.from_file(str(model_files() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    found = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([f.ids for f in found], np.int64),
        "attention_mask": np.array([f.attention_mask for f in found], np.int64),
    }


def scales(weights: Mapping[str, Float], samples: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, Scale]:
    """Range of every input of a linear over the samples, by running the float model."""
    from onnx.reference import ReferenceEvaluator

    model, names = encoder(weights, watch=True)
    values = ReferenceEvaluator(model).run(names, dict(samples))
    return {n: calibrate(v, np.uint8) for n, v in zip(names, values, strict=True)}


def build(directory: Path, samples: Mapping[str, npt.NDArray[np.int64]]) -> None:
    """Write the three models; `samples` calibrate the static one."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = verified_weights()
    onnx.save(encoder(weights)[0], directory / "minilm.onnx")
    onnx.save(encoder(weights, "static", seen=scales(weights, samples))[0], directory / "minilm_static.onnx")
    onnx.save(encoder(weights, "dynamic")[0], directory / "minilm_dynamic.onnx")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the whole MiniLM as ONNX: float, static int8, dynamic int8.")
    parser.add_argument("-o", dest="directory", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    text = (model_files() / "README.md").read_text()
    sentences = [line.strip() for line in text.splitlines() if len(line.split()) > 5]
    build(options.directory, tokenize(sentences[:32], 64))
    logging.info("wrote %s", options.directory)


if __name__ == "__main__":
    main()
