"""Scales and zero points of the file before recognition: finite ones, and signed codes."""

from __future__ import annotations

import logging

import numpy as np
import onnx
from onnx import numpy_helper

from axlora.compiler.errors import BadModel

_LOG = logging.getLogger(__name__)
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def drop_infinite(model: onnx.ModelProto, where: str) -> None:
    """Take out the Q/DQ pairs of infinite scale, in place.

    onnxruntime's static quantizer makes one of a mask of -inf: (code - zero) * inf is then NaN wherever the mask is 0, and
    what torch writes behind the softmax turns NaN into attention to nothing. Without the pair the mask is the float model's.
    """
    graph = model.graph
    values = {i.name: i for i in graph.initializer}
    outputs = {o.name for o in graph.output}
    infinite = [
        node
        for node in graph.node
        if node.op_type in _PAIR and node.input[1] in values and np.isposinf(_reals(values[node.input[1]])).all()
    ]
    writer = {node.output[0]: node for node in infinite if node.op_type == _PAIR[0]}
    behind = {
        node.output[0]: writer[node.input[0]].input[0]
        for node in infinite
        if node.op_type == _PAIR[1] and node.input[0] in writer and node.output[0] not in outputs
    }
    if not behind:
        return
    for node in graph.node:
        for i, name in enumerate(node.input):
            while name in behind:
                name = behind[name]
            node.input[i] = name
    kept = [node for node in graph.node if node.output[0] not in behind]
    read = {name for node in kept for name in node.input} | outputs
    kept = [node for node in kept if node.output[0] not in writer or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
    _LOG.warning("%s: %d Q/DQ pairs of infinite scale (a mask of -inf has none) are left out", where, len(behind))


def _reals(tensor: onnx.TensorProto) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def check_scales(model: onnx.ModelProto, where: str) -> None:
    """Raise `BadModel` for a constant scale that is not finite: quantizers make one of a mask of -inf."""
    values = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in _PAIR or node.input[1] not in values:
            continue
        if not np.isfinite(_reals(values[node.input[1]])).all():
            what = f"scale of node {node.name or node.output[0]!r} is not finite"
            raise BadModel(what, where, "quantize again without that operator (a mask of -inf has no scale)")


def make_codes_signed(model: onnx.ModelProto) -> None:
    """Turn per-tensor unsigned Q/DQ pairs into signed ones, zero point less half the range: same values, in place."""
    graph = model.graph
    values = {i.name: i for i in graph.initializer}
    outputs = {o.name for o in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.output[0] in outputs:
            continue
        pair = readers.get(node.output[0], [])
        if not pair or any(n.op_type != "DequantizeLinear" for n in pair):
            continue
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in values:
                continue
            zero = numpy_helper.to_array(values[node.input[2]])
        else:
            zero = np.array(0, np.uint8)
        if zero.dtype not in (np.uint8, np.uint16):
            continue
        bits = zero.dtype.itemsize * 8
        signed = (zero.astype(np.int64) - (1 << (bits - 1))).astype(f"int{bits}")
        name = f"{node.output[0]}.signed_zero_point"
        graph.initializer.append(numpy_helper.from_array(signed, name))
        for each in (node, *pair):
            inputs = [*each.input[:2], name]
            del each.input[:]
            each.input.extend(inputs)
            kept = [a for a in each.attribute if a.name != "output_dtype"]
            del each.attribute[:]
            each.attribute.extend(kept)
