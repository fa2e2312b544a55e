"""All forms of operators that are rewritten into standard ones before anything else looks at the graph.

`TAKEN` is the list of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from axlora.compiler.frontend.forms import activations, attention, block_codes, experts, fused, norms, qonnx, qoperators, rotary
from axlora.compiler.frontend.forms.rewriter import File, Rewrite, Rewriter, branches
from axlora.compiler.frontend.storage import copy_without
from axlora.compiler.frontend.supported import STANDARD, opset, reason

_MICROSOFT = "com.microsoft"
TAKEN: Mapping[tuple[str, str], Rewrite] = {
    ("", "DequantizeLinear"): block_codes.dequantize,
    (_MICROSOFT, "DequantizeLinear"): block_codes.dequantize,
    (_MICROSOFT, "QuantizeLinear"): block_codes.quantize,
    (_MICROSOFT, "MatMulNBits"): block_codes.matmul_nbits,
    (_MICROSOFT, "MatMulBnb4"): block_codes.matmul_bnb4,
    (_MICROSOFT, "GatherBlockQuantized"): block_codes.gather,
    ("", "QLinearMatMul"): qoperators.matmul,
    ("", "QLinearConv"): qoperators.conv,
    ("", "ConvInteger"): qoperators.conv_integer,
    (_MICROSOFT, "QGemm"): qoperators.gemm,
    (_MICROSOFT, "QLinearAdd"): qoperators.binary("Add"),
    (_MICROSOFT, "QLinearMul"): qoperators.binary("Mul"),
    (_MICROSOFT, "QLinearSigmoid"): qoperators.unary("Sigmoid"),
    (_MICROSOFT, "QLinearLeakyRelu"): qoperators.unary("LeakyRelu"),
    (_MICROSOFT, "QLinearGlobalAveragePool"): qoperators.unary("GlobalAveragePool"),
    (_MICROSOFT, "QLinearSoftmax"): qoperators.softmax,
    (_MICROSOFT, "QLinearConcat"): qoperators.concat,
    (_MICROSOFT, "QLinearWhere"): qoperators.where,
    (_MICROSOFT, "MoE"): experts.moe,
    (_MICROSOFT, "QMoE"): experts.qmoe,
    (_MICROSOFT, "FusedMatMul"): fused.fused_matmul,
    (_MICROSOFT, "FusedGemm"): fused.fused_gemm,
    (_MICROSOFT, "FusedConv"): fused.fused_conv,
    (_MICROSOFT, "MatMulIntegerToFloat"): fused.matmul_integer_to_float,
    (_MICROSOFT, "DynamicQuantizeMatMul"): fused.dynamic_quantize_matmul,
    ("", "SimplifiedLayerNormalization"): norms.simplified,
    (_MICROSOFT, "SimplifiedLayerNormalization"): norms.simplified,
    ("", "SkipSimplifiedLayerNormalization"): norms.skip_simplified,
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): norms.skip_simplified,
    (_MICROSOFT, "SkipLayerNormalization"): norms.skip,
    (_MICROSOFT, "EmbedLayerNormalization"): norms.embed,
    (_MICROSOFT, "Gelu"): activations.gelu,
    (_MICROSOFT, "BiasGelu"): activations.gelu,
    (_MICROSOFT, "FastGelu"): activations.fast_gelu,
    (_MICROSOFT, "QuickGelu"): activations.quick_gelu,
    (_MICROSOFT, "RotaryEmbedding"): rotary.rotary,
    (_MICROSOFT, "GroupQueryAttention"): attention.grouped,
    (_MICROSOFT, "MultiHeadAttention"): attention.multi_head,
    (_MICROSOFT, "Attention"): attention.attention,
} | {
    (domain, kind): rewrite
    for domain in ("qonnx.custom_op.general", "onnx.brevitas")
    for kind, rewrite in (("Quant", qonnx.quant), ("BipolarQuant", qonnx.bipolar), ("Trunc", qonnx.trunc))
}
"""Domain and operator -> what stands in its place. A rewrite may leave a node as it is (a DequantizeLinear without blocks)."""

_BESIDE: Mapping[tuple[str, str], Rewrite] = {("", "Mul"): qoperators.conv_scaled}
"""What stands in the place of common operators in files that hold one of `TAKEN`."""


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain in STANDARD else node.domain


def _rewritten(graph: onnx.GraphProto, file: File) -> bool:
    """Rewrite a graph and its branches in place; true if a node changed, or was told why it has no path."""
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        for inner in branches(node):
            changed |= _rewritten(inner, file)
        kind = (_domain(node), node.op_type)
        known = TAKEN.get(kind, _BESIDE.get(kind))
        made = known(Rewriter(node, file)) if known is not None else None
        nodes += [node] if made is None else made
        changed |= made is not None or bool(reason(node))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return changed


def _is_taken(graph: onnx.GraphProto) -> bool:
    return any(
        (_domain(node), node.op_type) in TAKEN or any(_is_taken(inner) for inner in branches(node)) for node in graph.node
    )


def rewrite(source: onnx.ModelProto, folder: Path | None, where: str) -> onnx.ModelProto:
    """The model with every known form as standard operators; `source` itself if it has none.

    Args:
        source: as the file has it; not changed.
        folder: where external data lies.

    Raises:
        BadModel: a form whose parts contradict each other, or weights that cannot be read.
    """
    if not _is_taken(source.graph):
        return source
    file = File(folder or Path(), where, opset(source))
    file.collect(source.graph)
    model = onnx.ModelProto()
    copy_without(source, model, "graph")
    copy_without(source.graph, model.graph, "initializer")
    if not _rewritten(model.graph, file):
        return source
    del model.graph.value_info[:]
    model.graph.initializer.extend(t for t in source.graph.initializer if t.name not in file.added)
    for name in tuple(file.added):  # one at a time: codes of a big model are not held twice
        model.graph.initializer.add().CopyFrom(file.added.pop(name))
    return model
