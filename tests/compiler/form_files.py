"""The models of docs/forms.md, and each form of them as onnxruntime's tools write it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import decoders as D
import exported as E
import form_exports as X
import numpy as np
import onnx
import onnxruntime as ort
from genai import Builder
from onnx import helper, numpy_helper
from optimized import Encoder

Feed = dict[str, np.ndarray]
CALIBRATED, SEED = 4, 9
"""Samples of calibration, and what they are drawn by."""
QONNX = "qonnx.custom_op.general"


@dataclass(frozen=True)
class Tiny:
    """A model of the page."""

    title: str
    path: Path = Path()
    fused: str = ""
    """What onnxruntime's optimizer of transformers calls the architecture."""
    heads: int = X.HEADS
    hidden: int = X.HIDDEN
    script: Path | None = None
    """The same model by the TorchScript exporter, whose patterns that optimizer knows."""
    own: tuple[tuple[str, Callable[[], onnx.ModelProto]], ...] = ()
    """Form -> what writes it, of a model that no file holds: those are all its forms."""


def _both(title: str, name: str, fused: str) -> Tiny:
    path, script = (E.MODELS / f"{name}.{exporter}.onnx" for exporter in E.EXPORTERS)
    return Tiny(title, path, fused, E.HEADS, E.HIDDEN, script)


def _genai(**options: Any) -> onnx.ModelProto:
    """For whole sequences: the caches that come in are read by nothing, and none goes out."""
    proto = Builder(**options).model()
    del proto.graph.output[1:]
    return proto


_GENAI = (
    ("float", partial(_genai, bits=0)),
    ("float16", partial(_genai, bits=0, half=True)),
    ("NBits 4", _genai),
)
MODELS = (
    _both("Llama", "llama", "gpt2"),
    _both("Llama, LoRA", "llama-lora", "gpt2"),
    Tiny("Llama, ORT GenAI", own=_GENAI),
    Tiny("Qwen 2", X.FOLDER / "qwen2.onnx", "qwen3"),
    Tiny("Qwen 3", D.FOLDER / "qwen3.onnx", "qwen3"),
    Tiny("Mistral", X.FOLDER / "mistral.onnx", "qwen3"),
    Tiny("Gemma", D.FOLDER / "gemma.onnx", "gpt2"),
    Tiny("GPT-NeoX", D.FOLDER / "neox.onnx", "gpt_neox"),
    Tiny("Phi", D.FOLDER / "phi.onnx", "gpt2"),
    Tiny("OPT", D.FOLDER / "opt.onnx", "gpt2"),
    Tiny("Gemma 2", X.FOLDER / "gemma2.onnx", "gpt2"),
    _both("GPT-2", "gpt2", "gpt2"),
    _both("GPT-2, LoRA", "gpt2-lora", "gpt2"),
    _both("BERT", "bert", "bert"),
    _both("BERT, LoRA", "bert-lora", "bert"),
    Tiny("BERT, fused Attention", own=(("fused", lambda: Encoder(False).model()),)),
    Tiny("BERT, MultiHeadAttention", own=(("fused", lambda: Encoder(True).model()),)),
    _both("DistilBERT", "distilbert", "bert"),
    Tiny("ViT", X.FOLDER / "vit.onnx", "vit"),
    Tiny("T5", X.FOLDER / "t5.onnx", "t5"),
    Tiny("Whisper", X.FOLDER / "whisper.onnx", "bart"),
    Tiny("MobileNet", X.FOLDER / "mobilenet.onnx"),
    Tiny("ResNet", X.FOLDER / "resnet.onnx"),
    Tiny("U-Net", X.FOLDER / "unet.onnx"),
)


def loaded(tiny: Tiny) -> onnx.ModelProto:
    """The float file, or the first of a model's own forms."""
    return fixed(tiny.own[0][1]() if tiny.own else onnx.load(tiny.path))


def fixed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """One sequence of tokens, in place; shapes inside, over which quantizers trip, are dropped."""
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_value = X.TOKENS if i else 1
    return proto


def feeds(proto: onnx.ModelProto, count: int, seed: int = 0) -> Iterator[Feed]:
    """Random inputs: ids, images, sound; masks of ones."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        feed: Feed = {}
        for value in proto.graph.input:
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            if kind.kind == "f":
                feed[value.name] = random.normal(0, 1, shape).astype(kind)
            elif "mask" in value.name:
                feed[value.name] = np.ones(shape, kind)
            else:
                feed[value.name] = random.integers(0, 2 if "type" in value.name else E.VOCAB, shape).astype(kind)
        yield feed


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """onnxruntime without rewrites of its own."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options)


def half(tiny: Tiny, _: Path) -> onnx.ModelProto:
    """Inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(loaded(tiny), keep_io_types=True)


def static(activation: str, weight: str, operators: bool, tiny: Tiny, folder: Path) -> onnx.ModelProto:
    """quantize_static with four samples; a scale a column where weights are symmetric."""
    from onnxruntime import quantization as q

    proto = loaded(tiny)

    class Samples(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._all = feeds(proto, CALIBRATED, seed=SEED)

        def get_next(self) -> Feed | None:
            return next(self._all, None)

    symmetric = activation == "QInt8"
    onnx.save(proto, folder / "float.onnx")
    q.quantize_static(
        folder / "float.onnx",
        folder / "q.onnx",
        Samples(),
        quant_format=q.QuantFormat.QOperator if operators else q.QuantFormat.QDQ,
        activation_type=getattr(q.QuantType, activation),
        weight_type=getattr(q.QuantType, weight),
        per_channel=symmetric,
        extra_options={"ActivationSymmetric": symmetric},
    )
    return onnx.load(folder / "q.onnx")


def dynamic(tiny: Tiny, folder: Path) -> onnx.ModelProto:
    """quantize_dynamic, weights of int8."""
    from onnxruntime import quantization as q

    q.quantize_dynamic(loaded(tiny), folder / "q.onnx", weight_type=q.QuantType.QInt8)
    return onnx.load(folder / "q.onnx")


def blocks(bits: int, symmetric: bool, pairs: bool, tiny: Tiny, _: Path) -> onnx.ModelProto:
    """A scale for each 32 weights of a column: MatMulNBits, or DequantizeLinear with blocks of int4 or uint4."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    proto = loaded(tiny)
    if pairs:
        proto = onnx.version_converter.convert_version(proto, 21) if proto.opset_import[0].version < 21 else proto
    form = QuantFormat.QDQ if pairs else QuantFormat.QOperator
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric, bits=bits, quant_format=form)
    quantizer = MatMulNBitsQuantizer(proto, algo_config=config)
    quantizer.process()
    return quantizer.model.model


def optimized(source: Path, path: Path, level: ort.GraphOptimizationLevel) -> Path:
    """What onnxruntime's own optimizations make of a file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options)
    return path


def extended(tiny: Tiny, folder: Path) -> onnx.ModelProto:
    """What onnxruntime saves of its extended optimizations."""
    onnx.save(loaded(tiny), folder / "float.onnx")
    level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnx.load(optimized(folder / "float.onnx", folder / "extended.onnx", level))


def fused(tiny: Tiny, folder: Path) -> onnx.ModelProto:
    """What onnxruntime's optimizer of transformers makes of its basic optimizations; nothing new of other models."""
    from onnxruntime.transformers.optimizer import optimize_model

    if not tiny.fused:
        return loaded(tiny)
    onnx.save(fixed(onnx.load(tiny.script or tiny.path)), folder / "float.onnx")
    level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    path = optimized(folder / "float.onnx", folder / "basic.onnx", level)
    made = optimize_model(str(path), tiny.fused, num_heads=tiny.heads, hidden_size=tiny.hidden, opt_level=0)
    return made.model


def quants(tiny: Tiny, folder: Path) -> onnx.ModelProto:
    """QONNX: each pair of the symmetric QDQ form as a Quant, weights as floats in front of one."""
    proto = static("QInt8", "QInt8", False, tiny, folder)
    held = {i.name: i for i in proto.graph.initializer}
    made = {n.output[0]: n for n in proto.graph.node}
    new: list[onnx.TensorProto] = []

    def hold(value: Any, name: str) -> str:
        most = np.finfo(np.float32).max
        new.append(numpy_helper.from_array(np.clip(value, -most, most).astype(np.float32), name))
        return name

    nodes = []
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        source, out = node.input[0], node.output[0]
        scale, zero = (numpy_helper.to_array(held[name]) for name in node.input[1:3])
        axis, read = next((a.i for a in node.attribute if a.name == "axis"), 1), ""
        bits = 32 if zero.dtype == np.int32 else 8
        if source in made:
            read = made[source].input[0]
        else:
            codes = numpy_helper.to_array(held[source])
            shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)] if scale.ndim else []
            scale, zero = scale.reshape(shape), zero.reshape(shape)
            read = hold((codes.astype(np.float64) - zero) * scale, f"{out}/reals")
        if bits == 32:
            nodes.append(helper.make_node("Identity", [read], [out]))
            continue
        reads = [read, hold(scale, f"{out}/scale"), hold(zero, f"{out}/zero"), hold(bits, f"{out}/bits")]
        how = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
        nodes.append(helper.make_node("Quant", reads, [out], name=f"{out}/Quant", domain=QONNX, **how))
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(new)
    read_names = {name for node in nodes for name in node.input}
    kept = [i for i in proto.graph.initializer if i.name in read_names]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.opset_import.append(helper.make_opsetid(QONNX, 1))
    return proto


FORMS: dict[str, Callable[[Tiny, Path], onnx.ModelProto]] = {
    "float": lambda tiny, _: loaded(tiny),
    "float16": half,
    "QDQ, symmetric": partial(static, "QInt8", "QInt8", False),
    "QDQ, asymmetric": partial(static, "QUInt8", "QUInt8", False),
    "dynamic int8": dynamic,
    "NBits 8": partial(blocks, 8, True, False),
    "NBits 4": partial(blocks, 4, False, False),
    "NBits 2": partial(blocks, 2, False, False),
    "blocks of int4": partial(blocks, 4, True, True),
    "QOperator": partial(static, "QUInt8", "QUInt8", True),
    "extended": extended,
    "fused": fused,
    "QONNX": quants,
}
"""Column -> how the file is made."""
WRITTEN = {
    "float": "as it was exported",
    "float16": "`convert_float_to_float16` of `onnxruntime.transformers`",
    "QDQ, symmetric": "`quantize_static`, codes of int8, weights with a scale a column",
    "QDQ, asymmetric": "`quantize_static`, codes of uint8",
    "dynamic int8": "`quantize_dynamic`",
    "NBits 8": "`MatMulNBits` of 8 bits in blocks of 32, without zero points",
    "NBits 4": "of 4 bits, with zero points",
    "NBits 2": "of 2 bits, with zero points",
    "blocks of int4": "`DequantizeLinear` of opset 21 with `block_size` 32",
    "QOperator": "`quantize_static` in operators on codes: QLinearMatMul, QGemm, QLinearConv, QLinearAdd, ..",
    "extended": "what onnxruntime saves of its extended optimizations: FusedMatMul, FusedConv, FusedGemm, ..",
    "fused": "`optimize_model` of `onnxruntime.transformers`: SkipLayerNormalization, BiasGelu, ..; two rows hold "
    "its Attention, MultiHeadAttention and EmbedLayerNormalization",
    "QONNX": "Quant in place of each pair of the symmetric QDQ form, which is what onnxruntime runs",
}
"""Column -> its words on the page."""
FLOATS = ("float", "float16", "extended", "fused")
"""Forms without codes."""
BOUNDED = ("QDQ, symmetric", "QDQ, asymmetric", "dynamic int8", "NBits 4", "NBits 2", "blocks of int4", "QOperator", "QONNX")
"""Forms in which the machine may be 1.1 times as far from the float model as onnxruntime is: there codes of weights, or of
activations in both, are what counts."""


def quantized(form: str) -> bool:
    """Whether a form holds codes."""
    return form not in FLOATS


def made(tiny: Tiny, form: str) -> onnx.ModelProto | None:
    """A form of a model; None where the tool leaves the file as it was."""
    if tiny.own:
        return fixed(dict(tiny.own)[form]()) if form in dict(tiny.own) else None
    with tempfile.TemporaryDirectory() as folder:
        proto = FORMS[form](tiny, Path(folder))
    if form in ("float", "float16"):
        return proto
    quantized = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
    if any(node.domain not in ("", "ai.onnx") or node.op_type in quantized for node in proto.graph.node):
        return proto
    return None


def reference(tiny: Tiny, form: str, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The file that onnxruntime runs: of QONNX, which it does not take, the pairs of which it was made."""
    if form != "QONNX":
        return proto
    with tempfile.TemporaryDirectory() as folder:
        return FORMS["QDQ, symmetric"](tiny, Path(folder))
