"""Low-rank branches beside a base: y + s (x.A).B, and DoRA's g (x.W + s (x.A).B), by structure.

A branch is read backwards from the Add that joins it; it belongs to a base that reads the same x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.recognised import GraphLora
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.matrix_products import Product, Products

Float64 = npt.NDArray[np.float64]
_DEPTH = 64


@dataclass(frozen=True)
class Delta:
    """A branch, and the nodes from the join back to x."""

    x: str
    lora: GraphLora
    nodes: tuple[int, ...]


@dataclass
class _Walk:
    """Factors, bias and nodes met on the way back."""

    scale: float = 1.0
    columns: Float64 | None = None
    """[n]: a factor by column."""
    middle: Float64 | None = None
    """[r]: a factor between A and B."""
    bias: Float64 | None = None
    second: Product | None = None
    """The product by B."""

    def add(self, vector: Float64) -> None:
        moved = self.scale * vector * (1 if self.columns is None else self.columns)
        self.bias = moved if self.bias is None else self.bias + moved

    def multiply(self, vector: Float64) -> None:
        if self.second is None:
            self.columns = vector if self.columns is None else self.columns * vector
        else:
            self.middle = vector if self.middle is None else self.middle * vector

    def lora(self, first: Product) -> GraphLora | None:
        """The branch with A = `first`; None if it is not of low rank."""
        second = self.second
        if second is None or first.shape[1] >= min(first.shape[0], second.shape[1]):
            return None
        if first.shape[1] != second.shape[0]:
            return None
        a, b = (one.read().astype(np.float64) for one in (first, second))
        a = a if self.middle is None else a * self.middle
        return GraphLora(a, b if self.columns is None else b * self.columns, self.scale, self.bias)


def _skipped(g: Dataflow, name: str) -> tuple[str, list[int]]:
    """`name` behind Q/DQ, Cast and reshapes, and the nodes passed."""
    behind, nodes = g.strip(name), []
    while name != behind:
        nodes.append(g.producer[name])
        name = g.nodes[nodes[-1]].inputs[0]
    return name, nodes


def _step(g: Dataflow, walk: _Walk, name: str) -> str | None:
    """Take the constant operand of a Mul, Div or Add into the walk; returns the other, None if there is none."""
    node = g.nodes[g.producer[name]]
    if node.op not in ("multiply", "divide", "add") or (node.op == "add" and walk.second is not None):
        return None
    n = g.shape(name)[-1] if g.shape(name) else 1
    for side in (1, 0) if node.op != "divide" else (1,):
        vector = g.vector(node.inputs[side], n)
        if vector is None:
            continue
        scalar = g.scalar(node.inputs[side])
        if node.op == "add":
            walk.add(vector)
        elif scalar is not None:
            walk.scale = walk.scale * scalar if node.op == "multiply" else walk.scale / scalar
        else:
            walk.multiply(vector if node.op == "multiply" else 1 / vector)
        return str(node.inputs[1 - side])
    return None


def _delta(g: Dataflow, products: Products, name: str) -> Delta | None:
    """Read `name` backwards as s (x.A).B + bias; None if it is anything else."""
    walk, nodes = _Walk(), []
    for _ in range(_DEPTH):
        name, passed = _skipped(g, name)
        nodes += passed
        if name not in g.producer:
            return None
        product = products.of(name)
        if product is None:
            nodes.append(g.producer[name])
            other = _step(g, walk, name)
            if other is None:
                return None
            name = other
        elif walk.second is None:
            walk.second, name = product, product.x
            nodes += product.nodes
        else:
            lora = walk.lora(product)
            return None if lora is None else Delta(g.strip(product.x), lora, (*nodes, *product.nodes))
    return None


def _without_constant(g: Dataflow, name: str, n: int) -> str | None:
    """The other operand of an Add or Sub of a constant vector, or None."""
    node = g.node_of(name)
    if node is None or node.op not in ("add", "subtract"):
        return None
    if g.vector(node.inputs[1], n) is not None:
        return str(node.inputs[0])
    return str(node.inputs[1]) if node.op == "add" and g.vector(node.inputs[0], n) is not None else None


def _gained(g: Dataflow, products: Products, name: str) -> tuple[Product, Float64, list[int]] | None:
    """Read `name` as (g - 1) (x.W + constants): the product, g [n], and the nodes before the product."""
    name, nodes = _skipped(g, name)
    node = g.node_of(name)
    if node is None or node.op != "multiply" or products.of(name) is not None:
        return None
    n = g.shape(name)[-1]
    for side in (0, 1):
        less = g.vector(node.inputs[side], n)
        if less is None:
            continue
        nodes.append(g.producer[name])
        name = node.inputs[1 - side]
        for _ in range(_DEPTH):
            name, passed = _skipped(g, name)
            nodes += passed
            product, behind = products.of(name), _without_constant(g, name, n)
            if product is not None:
                return product, 1 + less, nodes
            if behind is None:
                return None
            nodes.append(g.producer[name])
            name = behind
    return None


def _dora(g: Dataflow, products: Products, name: str) -> Delta | None:
    """Read `name` as (g - 1) x.W + g s (x.A).B: PEFT's DoRA beside its base."""
    name, nodes = _skipped(g, name)
    node = g.node_of(name)
    if node is None or node.op != "add":
        return None
    for side in (0, 1):
        gained, delta = _gained(g, products, node.inputs[side]), _delta(g, products, node.inputs[1 - side])
        if gained is None or delta is None or g.strip(gained[0].x) != delta.x or delta.lora.bias is not None:
            continue
        product, gain, passed = gained
        if product.shape != (delta.lora.a.shape[0], delta.lora.b.shape[1]) or not gain.all():
            continue
        lora = GraphLora(delta.lora.a, delta.lora.b / gain, delta.lora.scale, None, gain)
        own = _exclusive(g, [*nodes, g.producer[name]], passed)
        return Delta(delta.x, lora, (*own, *delta.nodes))
    return None


def _exclusive(g: Dataflow, own: list[int], path: list[int]) -> list[int]:
    """`own` and the nodes of the path back to the base that only they read: the base's bias Add is not the branch's."""
    for index in path:
        if not set(g.readers.get(g.nodes[index].outputs[0], [])) <= set(own):
            break
        own = [*own, index]
    return own


def _bases(g: Dataflow, products: Products, name: str, depth: int = 0) -> Iterator[str]:
    """The x of every product that reaches `name` through Adds, Q/DQ and reshapes."""
    name = g.strip(name)
    node = g.node_of(name)
    if node is None or depth > _DEPTH:
        return
    product = products.of(name)
    if product is not None:
        yield g.strip(product.x)
    elif node.op == "add":
        yield from _bases(g, products, node.inputs[0], depth + 1)
        yield from _bases(g, products, node.inputs[1], depth + 1)


def branches(g: Dataflow, products: Products) -> dict[int, tuple[int, Delta]]:
    """Add node -> which operand is a branch, and the branch."""
    found = {}
    for index, node in enumerate(g.nodes):
        if node.op != "add":
            continue
        for side in (1, 0):
            delta = _delta(g, products, node.inputs[side]) or _dora(g, products, node.inputs[side])
            if delta is not None and delta.x in _bases(g, products, node.inputs[1 - side]):
                found[index] = (side, delta)
                break
    return found
