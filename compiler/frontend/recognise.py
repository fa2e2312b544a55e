"""Find the linears of an ONNX graph and the low-rank branches beside them, by structure and never by name.

A linear is MatMul or Gemm with a constant matrix, its bias Add on either side, its LoRA branches
y + s (x.A).B, with or without Q/DQ pairs between, and the Q/DQ after it. A branch belongs to a base that reads the same x.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.found import FoundLinear, GraphLora, WeightCodes
from axlora.compiler.frontend.graph import Graph, attribute

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Product:
    """x times a constant matrix."""

    index: int
    x: str
    weight: Float64
    codes: WeightCodes | None
    bias: Float64 | None


@dataclass
class _Delta:
    """A low-rank branch on its way back from the Add to x."""

    x: str
    lora: GraphLora
    nodes: list[int] = field(default_factory=list)


def _product(g: Graph, index: int) -> _Product | None:
    node = g.nodes[index]
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
        return None
    transposed = node.op_type == "Gemm" and bool(attribute(node, "transB"))
    found = g.weight(node.input[1], axis=0 if transposed else 1)
    if found is None or g.constant(node.input[0]) is not None:
        return None
    weight, codes = found
    bias = None
    if node.op_type == "Gemm":
        if attribute(node, "alpha", 1) != 1 or attribute(node, "beta", 1) != 1 or attribute(node, "transA"):
            return None
        if transposed:
            weight = weight.T
            codes = WeightCodes(codes.codes.T, codes.scale, codes.bits) if codes is not None else None
        if len(node.input) > 2 and node.input[2]:
            bias = _vector(g, node.input[2], weight.shape[1])
            if bias is None:
                return None
    return _Product(index, node.input[0], weight, codes, bias)


def _vector(g: Graph, name: str, n: int) -> Float64 | None:
    """A constant that broadcasts along the last dimension only, as [n]; a dequantized one too."""
    value = g.constant(name)
    node = g.node_of(name)
    if value is None and node is not None and node.op_type == "DequantizeLinear":
        raw, scale = g.constant(node.input[0]), g.constant(node.input[1])
        zero = g.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if raw is not None and scale is not None and zero is not None:
            value = (raw.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
    if value is None or value.size not in (1, n) or (value.size > 1 and value.shape[-1] != n):
        return None
    return np.broadcast_to(value.astype(np.float64).reshape(-1), (n,)).copy()


def _delta(g: Graph, name: str) -> _Delta | None:
    """Read `name` backwards as s (x.A).B + bias; None if it is anything else."""
    scale, bias, nodes = 1.0, None, []
    second: _Product | None = None
    while True:
        passed = g.strip(name)
        nodes += _between(g, name, passed)
        node = g.node_of(passed)
        if node is None:
            return None
        index = g.producer[passed]
        sides = list(node.input[:2])
        if node.op_type in ("Mul", "Div"):
            factors = [g.scalar(s) for s in sides]
            if factors[1] is not None:
                scale, name = (scale * factors[1] if node.op_type == "Mul" else scale / factors[1]), sides[0]
            elif factors[0] is not None and node.op_type == "Mul":
                scale, name = scale * factors[0], sides[1]
            else:
                return None
        elif node.op_type == "Add" and second is None:
            n = g.shape(passed)[-1]
            vectors = [_vector(g, s, n) for s in sides]
            side = 1 if vectors[1] is not None else 0
            found = vectors[side]
            if found is None:
                return None
            bias = scale * found + (0 if bias is None else bias)
            name = sides[1 - side]
        else:
            product = _product(g, index)
            if product is None:
                return None
            if second is not None:
                if product.bias is not None or product.weight.shape[1] >= min(product.weight.shape[0], second.weight.shape[1]):
                    return None
                lora = GraphLora(product.weight, second.weight, scale, bias)
                return _Delta(g.strip(product.x), lora, [*nodes, index, second.index])
            second, name = product, product.x
            if product.bias is not None:
                bias = scale * product.bias + (0 if bias is None else bias)
        if second is None or index != second.index:
            nodes.append(index)


def _between(g: Graph, name: str, behind: str) -> list[int]:
    """Nodes that `strip` passes from `name` back to `behind`."""
    nodes = []
    while name != behind:
        index = g.producer[name]
        nodes.append(index)
        name = g.nodes[index].input[0]
    return nodes


def _bases(g: Graph, name: str, depth: int = 0) -> set[str]:
    """The x of every product that reaches `name` through Adds, Q/DQ and reshapes."""
    name = g.strip(name)
    node = g.node_of(name)
    if node is None or depth > 64:
        return set()
    if node.op_type == "Add":
        return _bases(g, node.input[0], depth + 1) | _bases(g, node.input[1], depth + 1)
    product = _product(g, g.producer[name])
    return {g.strip(product.x)} if product is not None else set()


def _branches(g: Graph) -> dict[int, tuple[int, _Delta]]:
    """Add node -> which operand is a LoRA branch, and the branch."""
    found = {}
    for index, node in enumerate(g.nodes):
        if node.op_type != "Add":
            continue
        for side in (1, 0):
            delta = _delta(g, node.input[side])
            if delta is not None and delta.x in _bases(g, node.input[1 - side]):
                found[index] = (side, delta)
                break
    return found


def _through_qdq(g: Graph, name: str) -> tuple[str, list[int]] | None:
    """`name` behind one Q/DQ pair (or a reshape or cast), if its only reader's only reader is that; else None."""
    nodes: list[int] = []
    for _ in range(2):
        readers = g.readers.get(name, [])
        if len(readers) != 1 or name in g.outputs:
            return None
        node = g.nodes[readers[0]]
        nodes.append(readers[0])
        name = node.output[0]
        if node.op_type == "DequantizeLinear" or (
            node.op_type in ("Reshape", "Unsqueeze", "Squeeze", "Cast") and g.strip(name) == g.strip(node.input[0])
        ):
            return name, nodes
        if node.op_type != "QuantizeLinear":
            return None
    return None


def _modules(g: Graph, index: int, weight_input: str) -> tuple[str, ...]:
    """Dotted module paths of a product: scope metadata, then the weight's name, then the node's."""
    node = g.nodes[index]
    paths = []
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [s.strip(" '\"") for s in entry.value.strip("[]").split(",")]
            paths += [s for s in reversed(scopes[:-1] or scopes) if s][:1]
    name = weight_input
    while (source := g.node_of(name)) is not None:
        paths.append(name)
        name = source.input[0]
    paths += [name, node.name.strip("/").replace("/", ".")]
    for ending in (".weight", ".weight_quantized", "_quantized", ".base_layer", ".MatMul", ".Gemm", ".matmul"):
        paths = [p.removesuffix(ending) for p in paths]
    return tuple(dict.fromkeys(p for p in paths if p))


def _linear(g: Graph, product: _Product, branches: dict[int, tuple[int, _Delta]], names: set[str]) -> FoundLinear:
    node = g.nodes[product.index]
    n = product.weight.shape[1]
    bias = np.zeros(n) if product.bias is None else product.bias
    nodes, loras = [product.index], []
    name = node.output[0]
    while name not in g.outputs:
        readers = g.readers.get(name, [])
        if len(readers) != 1:
            break
        index = readers[0]
        reader = g.nodes[index]
        if reader.op_type == "Add":
            side = list(reader.input).index(name)
            found = branches.get(index)
            vector = _vector(g, reader.input[1 - side], n)
            if found is not None and found[0] != side and found[1].x == g.strip(product.x):
                loras.append(found[1].lora)
                nodes += found[1].nodes
            elif vector is not None:
                bias = bias + vector
            else:
                break
            nodes.append(index)
            name = reader.output[0]
            continue
        passed = _through_qdq(g, name)
        after = g.readers.get(passed[0], []) if passed is not None else []
        joins = len(after) == 1 and (after[0] in branches or _is_bias(g, after[0], n))
        if passed is None or not joins or passed[0] in g.outputs:
            break
        nodes += passed[1]
        name = passed[0]
    output, result = None, name
    readers = g.readers.get(name, [])
    if len(readers) == 1 and name not in g.outputs and g.nodes[readers[0]].op_type == "QuantizeLinear":
        output = g.activation(g.nodes[readers[0]].output[0])
        if output is not None:
            nodes.append(readers[0])
            result = output.codes
    modules = _modules(g, product.index, node.input[1])
    label = _unique(max(modules, key=lambda path: path.count("."), default=node.output[0]), names)
    codes = g.codes_of(product.x) or _codes_behind(g, product.x)
    x = g.activation(codes) if codes is not None else None
    return FoundLinear(
        label, node.name or node.output[0], modules, node.output[0], product.x, x, product.weight, product.codes, bias,
        output.tensor if output is not None else name, output, tuple(loras), tuple(nodes), result,
    )  # fmt: skip


def _codes_behind(g: Graph, name: str) -> str | None:
    """Codes behind a reshape that keeps the last dimension."""
    while True:
        node = g.node_of(name)
        if node is None or g.strip(name) == name:
            return None
        codes = g.codes_of(name)
        if codes is not None:
            return codes
        name = node.input[0]


def _is_bias(g: Graph, index: int, n: int) -> bool:
    node = g.nodes[index]
    return node.op_type == "Add" and any(_vector(g, s, n) is not None for s in node.input)


def _unique(name: str, taken: set[str]) -> str:
    label, count = name, 1
    while label in taken:
        count += 1
        label = f"{name}#{count}"
    taken.add(label)
    return label


def recognise(model: onnx.ModelProto) -> tuple[Graph, tuple[FoundLinear, ...]]:
    """The linears of a model read by `onnx_reader.read`, in the graph's order.

    Raises:
        BadModel: weights or biases that are not finite.
    """
    g = Graph(model)
    branches = _branches(g)
    inside = {index for _, delta in branches.values() for index in delta.nodes}
    names: set[str] = set()
    found = []
    for index in range(len(g.nodes)):
        product = _product(g, index) if index not in inside else None
        if product is None:
            continue
        linear = _linear(g, product, branches, names)
        if not np.isfinite(linear.weight).all() or not np.isfinite(linear.bias).all():
            raise BadModel("weights or bias hold NaN or infinity", linear.name, "export the model again")
        found.append(linear)
    return g, tuple(found)
