"""Find the linears of an ONNX graph and the low-rank branches beside them, by structure and never by name.

A linear is a product with a constant matrix (`products`), its bias Add on either side, its low-rank branches (`branches`),
with or without Q/DQ pairs between, and the Q/DQ after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.attach import scope_of
from axlora.compiler.frontend.recognised import MARK, FoundLinear
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.lora_branches import Delta, branches
from axlora.compiler.passes.matrix_products import Product, Products
from axlora.compiler.passes.read_module import PASSIVE, RESHAPES, Node

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Context:
    g: Dataflow
    products: Products
    branches: dict[int, tuple[int, Delta]]
    inside: set[int]
    """Nodes of branches."""
    exact: bool
    """Join nothing across Q/DQ pairs."""

    def readers(self, name: str) -> list[int]:
        """Readers of a tensor but those inside branches (DoRA reads the base's product)."""
        return [i for i in self.g.readers.get(name, []) if i not in self.inside]


def _passive(g: Dataflow, node: Node) -> bool:
    """Q, DQ, or a reshape or Cast that `strip` passes."""
    if node.op in ("quantize", "dequantize"):
        return True
    return node.op in (*RESHAPES, *PASSIVE) and g.strip(node.outputs[0]) == g.strip(node.inputs[0])


def _next_join(c: _Context, product: Product, name: str) -> tuple[str, list[int]] | None:
    """The tensor that the next Add of a bias or branch reads, and the nodes that lead to it from `name`; None if none does."""
    nodes: list[int] = []
    while name not in c.g.outputs and len(readers := c.readers(name)) == 1:
        node = c.g.nodes[readers[0]]
        if node.op == "add":
            return (name, nodes) if any(x is not None for x in _join(c, product, readers[0], name)) else None
        if not _passive(c.g, node):
            return None
        nodes.append(readers[0])
        name = node.outputs[0]
    return None


_ENDINGS = (
    ".weight", "_quantized", "_DequantizeLinear_Output", ".base_layer", ".MatMul", ".Gemm", ".Conv", ".matmul", ".default",
    "_quant", "_MatMul", ".modules_to_save", ".qweight",
    *(f"{part}_Q{bits}" for part in ("_DQ", "_matmul", "") for bits in (2, 4, 8)),
    *(f"_DQ_Q{bits}_output" for bits in (2, 4, 8)),
)  # fmt: skip


def _bare(path: str) -> str:
    """Without the endings that exporters, PEFT and quantizers add, and what rewrites put behind a name."""
    path = path.split(MARK)[0]
    while (ending := next((e for e in _ENDINGS if path.endswith(e)), None)) is not None:
        path = path.removesuffix(ending)
    return path


def _modules(g: Dataflow, product: Product, nodes: list[int]) -> tuple[tuple[str, ...], int]:
    """Dotted module paths: scope metadata of the product, or of its bias; then the weight's name, then the node's.

    Returns:
        The paths, and how many of them, from the first, are of scope metadata.
    """
    core = g.nodes[product.core]
    scopes = scope_of(core.source) or next((found for i in nodes if (found := scope_of(g.nodes[i].source))), [])
    scopes = [bare for path in scopes if (bare := _bare(path))]
    paths = []
    name = product.weight_name
    while (source := g.node_of(name)) is not None and source.inputs:
        paths += [name] if g.is_named(name) else []
        name = source.inputs[0]
    paths += [name, core.source.name.strip("/").replace("/", ".")]
    return tuple(dict.fromkeys(scopes + [bare for p in paths if (bare := _bare(p))])), len(scopes)


def _join(c: _Context, product: Product, index: int, name: str) -> tuple[Delta | None, Float64 | None]:
    """What the Add `index` puts on `name`: a branch, a bias, or neither."""
    inputs = list(c.g.nodes[index].inputs)
    side = inputs.index(name)
    found = c.branches.get(index)
    if found is not None and found[0] != side and found[1].x == c.g.strip(product.x):
        return found[1], None
    return None, c.g.vector(inputs[1 - side], product.shape[1])


def _linear(c: _Context, product: Product, names: set[str]) -> FoundLinear:
    g, n = c.g, product.shape[1]
    bias, loras = np.zeros(n), []
    nodes = list(product.nodes)
    name = g.nodes[product.index].outputs[0]
    while (ahead := _next_join(c, product, name)) is not None and not (c.exact and ahead[1]):
        name, passed = ahead
        (index,) = c.readers(name)
        delta, vector = _join(c, product, index, name)
        if delta is not None:
            loras.append(delta.lora)
            nodes += delta.nodes
        elif vector is not None:
            bias = bias + vector
        nodes += [*passed, index]
        name = g.nodes[index].outputs[0]
    output, result = None, name
    readers = g.readers.get(name, [])
    if len(readers) == 1 and name not in g.outputs and g.nodes[readers[0]].op == "quantize":
        output = g.activation(g.nodes[readers[0]].outputs[0])
        if output is not None:
            nodes.append(readers[0])
            result = output.codes
    core = g.nodes[product.core]
    modules, scopes = _modules(g, product, nodes)
    label = _unique(max(modules, key=lambda path: path.count("."), default=core.source.output[0]), names)
    codes = None if product.dynamic else g.codes_of(product.x) or _codes_behind(g, product.x)
    return FoundLinear(
        name=label,
        node=core.source.name or core.source.output[0],
        modules=modules,
        x_name=product.x,
        x=g.activation(codes) if codes is not None else None,
        reals=product.read,
        codes=product.codes,
        bias=bias,
        output_name=output.tensor if output is not None else name,
        output=output,
        loras=tuple(loras),
        nodes=tuple(nodes),
        result=result,
        dynamic=product.dynamic,
        shape=product.shape,
        scopes=scopes,
    )


def _codes_behind(g: Dataflow, name: str) -> str | None:
    """Codes behind a reshape that keeps the last dimension."""
    while True:
        node = g.node_of(name)
        if node is None or g.strip(name) == name:
            return None
        codes = g.codes_of(name)
        if codes is not None:
            return codes
        name = node.inputs[0]


def _unique(name: str, taken: set[str]) -> str:
    label, count = name, 1
    while label in taken:
        count += 1
        label = f"{name}#{count}"
    taken.add(label)
    return label


def recognise(
    model: onnx.ModelProto, exact: bool = False, passes: Sequence[Any] = ()
) -> tuple[Dataflow, tuple[FoundLinear, ...]]:
    """The linears of a model read by `onnx_reader.read`, in the graph's order.

    Args:
        passes: on the imported module, before it is read.
        exact: join nothing across a Q/DQ pair, and no branches: A and B are linears of their own.

    Raises:
        BadModel: weights or biases that are not finite.
    """
    g = Dataflow(model, passes)
    products = Products(g)
    joined = {} if exact else branches(g, products)
    while True:
        found = _all(g, products, joined, exact)
        claimed = {index for linear in found for index in linear.nodes}
        lost = joined.keys() - claimed  # a branch that its base does not reach, as behind a residual: linears of their own
        if not lost:
            break
        joined = {index: delta for index, delta in joined.items() if index not in lost}
    for linear in found:
        if not linear.is_finite:
            raise BadModel("weights or bias hold NaN or infinity", linear.name, "export the model again")
    return g, tuple(replace(linear, nodes=g.origins(linear.nodes)) for linear in found)


def _all(g: Dataflow, products: Products, joined: dict[int, tuple[int, Delta]], exact: bool) -> tuple[FoundLinear, ...]:
    """Every linear of the graph, given its branches."""
    context = _Context(g, products, joined, {index for _, delta in joined.values() for index in delta.nodes}, exact)
    names: set[str] = set()
    every = (products.at(index) for index in range(len(g.nodes)))
    return tuple(_linear(context, p, names) for p in every if p is not None and p.core not in context.inside)
