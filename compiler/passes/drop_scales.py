"""A model without its static scales of activations, each of which a Q/DQ pair carries; weights keep theirs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.host_graph import live
from axlora.compiler.passes.dataflow import Dataflow


def drop_scales(g: Dataflow, clips: bool = True) -> onnx.ModelProto:
    """A copy of `g.model` whose Q/DQ pairs are gone.

    A pair that stands for a ReLU or ReLU6, which onnxruntime's quantizer folds into it, becomes a Clip.

    Args:
        clips: False: a Relu where zero is the lower end, which loses what a ReLU6 cuts off and what calibration did not see;
            nothing where it is the upper end, as behind logits that calibration saw below zero alone.
    """
    behind: dict[str, str] = {}
    clamped: dict[str, onnx.NodeProto] = {}
    model = onnx.ModelProto()
    model.CopyFrom(g.model)
    writers = {name: node for node in g.model.graph.node for name in node.output}
    for node in g.model.graph.node:
        if node.op_type != "DequantizeLinear" or (codes := g.codes_of(node.output[0])) is None:
            continue
        source, limits = str(writers[codes].input[0]), g.clamp(codes)
        if limits is None or (limits[0] != 0 and not clips):
            behind[node.output[0]] = source
        elif not clips:
            clamped[node.output[0]] = helper.make_node("Relu", [source], [node.output[0]], name=f"{node.name}/Relu")
        else:
            bounds = [f"{node.output[0]}.{end}" for end in ("least", "most")]
            values = (np.array(limit, np.float32) for limit in limits)
            model.graph.initializer.extend(map(numpy_helper.from_array, values, bounds))
            clamped[node.output[0]] = helper.make_node("Clip", [source, *bounds], [node.output[0]], name=f"{node.name}/Clip")
    for node in (*model.graph.node, *clamped.values()):
        for i, name in enumerate(node.input):
            while name in behind:
                name = behind[name]
            node.input[i] = name
    nodes = [clamped.get(n.output[0], n) for n in model.graph.node if n.output[0] not in behind]
    for output in model.graph.output:
        if output.name in behind:
            nodes.append(helper.make_node("Identity", [behind[output.name]], [output.name], name=output.name))
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in live(nodes, {o.name for o in model.graph.output}, set())]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
