"""The front half of the compiler: an ONNX model and adapters to integer linears and the integer graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.errors import BadAdapter, BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.calibrate import calibrate
from axlora.compiler.frontend.canonical import canonical
from axlora.compiler.frontend.found import Activation, FoundLinear
from axlora.compiler.frontend.graph import Graph
from axlora.compiler.frontend.recognise import recognise, static
from axlora.compiler.integer_graph import IntegerGraph
from axlora.compiler.layer import Linear, Lowered, Tensor
from axlora.compiler.passes.adapters import GRAPH, add_adapter, graph_branch
from axlora.compiler.passes.host_graph import build_host_graph
from axlora.compiler.passes.placement import place
from axlora.compiler.passes.quantize_adapter import quantize_adapter
from axlora.compiler.passes.quantize_linear import quantize_linear
from axlora.isa.target import Target

_LOG = logging.getLogger(__name__)


def _tensor(g: Graph, activation: Activation, float_name: str, columns: int) -> Tensor:
    shape = g.shape(float_name)
    return Tensor(activation.tensor, prod(shape[:-1]), columns, shape, activation.bits, activation.scale, activation.zero_point)


def _linears(g: Graph, found: tuple[tuple[FoundLinear, Activation], ...], target: Target, weight_bits: int) -> Lowered:
    """Quantize the linears and the branches that the graph itself holds."""
    linears: list[Linear] = []
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for each, x in found:
        linear, y = quantize_linear(each, x, target, weight_bits)
        if each.loras:
            own = quantize_adapter(linear, GRAPH, graph_branch(each.loras), target, x.bits)
            linear = replace(linear, adapters=(own,))
        linears.append(linear)
        inputs.setdefault(x.tensor, _tensor(g, x, each.x_name, linear.k))
        outputs.setdefault(y.tensor, _tensor(g, y, g.nodes[g.producer[each.result]].output[0], linear.n))
    own_name = GRAPH if any(x.adapters for x in linears) else None
    names = (GRAPH,) if own_name else ()
    return Lowered(
        tuple(linears), tuple(inputs.values()), tuple(outputs.values()), place(g, found), names, default_adapter=own_name
    )


def lower(
    model: onnx.ModelProto | str | Path,
    target: Target,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    adapter_map: Mapping[str, str] | None = None,
    shapes: Mapping[str, int] | None = None,
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None,
    activation: str = "static8",
    weight_bits: int = 8,
    max_lora_rank: int | None = None,
    dump_passes: Path | None = None,
) -> tuple[Lowered, IntegerGraph]:
    """Lower a model to integer linears, and compile its integer graph.

    Args:
        model: path or proto of the ONNX model.
        target: the machine: bits of activations and accumulators.
        adapters: name -> PEFT directory, in slot order.
        adapter_map: module -> node, where names do not tell.
        shapes: values of the model's free dimensions.
        calibration: input name -> samples (first axis), for models without scales of their own.
        activation: `static8` or `static16`: bits of the scales that calibration makes.
        weight_bits: 2, 3, 4 or 8, for float weights; integer weights of the file stay as they are.
        max_lora_rank: refuse wider adapters, and build the integer graph for this rank.
        dump_passes: directory for the text of every phase.

    Raises:
        BadModel, BadAdapter, UnsupportedOperator: one line that says what, where and what to do.
    """
    if weight_bits not in (2, 3, 4, 8):
        raise BadModel(f"weight_bits is {weight_bits}", "weight_bits", "must be 2, 3, 4 or 8")
    if activation not in ("static8", "static16"):
        raise BadModel(f"activation is {activation!r}", "activation", "static8 and static16 are supported")
    proto, where = onnx_reader.read(model, shapes)
    g, found = recognise(proto)
    if not found:
        raise UnsupportedOperator("no linear with constant weights found", where, "MatMul and Gemm are taken")
    without = tuple(f for f in found if f.x is None)
    if calibration is not None and without:
        proto = calibrate(proto, without, calibration, 16 if activation == "static16" else 8, where)
        g, found = recognise(proto)
    elif calibration is not None:
        _LOG.info("%s carries its own scales: the calibration data is not used", where)
    ready = static(found)
    if not ready:
        raise BadModel(f"input of linear {found[0].name!r} has no static scale", where, "give calibration data")
    lowered = _linears(g, ready, target, weight_bits)
    for name, path in (adapters or {}).items():
        lowered = add_adapter(lowered, name, path, target, adapter_map, max_lora_rank)
    if adapter_map:
        _check_map(adapter_map, lowered, where)
    graph = IntegerGraph.build(lowered, target, max_lora_rank)
    plain = canonical(g, ready, lowered.linears, graph.rank)
    host = build_host_graph(plain, lowered, graph.rank, target.activation_bits, where, dump_passes)
    return lowered, replace(graph, host=host)


def _check_map(adapter_map: Mapping[str, str], lowered: Lowered, where: str) -> None:
    known = {x.node for x in lowered.linears} | {x.name for x in lowered.linears}
    for module, node in adapter_map.items():
        if node not in known:
            raise BadAdapter(f"adapter map sends {module!r} to {node!r}, no linear of {where}", where, "fix the map")
