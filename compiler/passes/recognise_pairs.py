"""Q/DQ pairs of a transformer's graph: what rows, scores and weights of attention are rounded to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from axlora.compiler.operators import Quantization
from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_attention import AttentionWalk
from axlora.compiler.passes.recognise_state import Scores, Symbol
from axlora.compiler.passes.tensor_elements import Curve, Looked, View


@dataclass
class PairWalk(AttentionWalk):
    """Adds what a file's static scales do to a tensor.

    A pair between the nodes of what is one operator here (a norm, a rotation, a sum of embeddings) is passed over, as linears
    pass over those before their bias: it rounds once.
    """

    def dequantized(self, node: Node, x: Symbol) -> Symbol | None:
        """The tensor behind a pair, whose quantize gave its own input on; None if it is no pair of one constant scale."""
        activation = self.g.activation(node.inputs[0]) if self.g.codes_of(node.outputs[0]) is not None else None
        if activation is None:
            return None
        half = 1 << (activation.bits - 1)
        codes = Quantization(activation.scale, activation.zero_point, -half, half - 1)
        if isinstance(x, Scores):
            return replace(x, weight_codes=codes) if x.done else replace(x, codes=(*x.codes, codes))
        if isinstance(x, Looked):
            return x.rounded(codes)
        if isinstance(x, Curve) and (x.line() is not None or x.function() is not None or self.own(x) is not None):
            (value,), second = self.in_rows(node, node.inputs[:1])
            x = self.tensor(value, node.outputs[0], second)
        if not isinstance(x, View) or (len(x.terms) > 1 and self._is_part(node)):
            return x
        return self.rounded_view(x, codes)

    def _is_part(self, node: Node) -> bool:
        """Whether what turns of a head is put in front of its rest behind a pair: both are one rotation."""
        return any(self.g.nodes[i].op == "concat" for i in self.g.readers.get(node.outputs[0], []))

    def rounded_view(self, view: View, codes: Quantization) -> View:
        """The same elements of the value that is rounded; the view itself where they are sums, or each times its own number."""
        view = self.turned_view(view)
        gain = view.columns(self.features[view.value])
        if gain is not None and (gain != gain[0]).any():
            view = View.rows(self.scaled(view.value, gain, np.zeros(gain.size)), view.shape)
        coefficient = view.terms[0][1]
        factor = float(coefficient.max())
        if len(view.terms) != 1 or factor <= 0 or not np.isin(coefficient, (0, factor)).all():  # codes hold 0, in padding
            return view
        return replace(view, value=self.rounded(view.value, codes.times(1 / factor)))

    def of_one_value(self, parts: Sequence[Symbol]) -> list[View]:
        """Views of one value as they are; where some are of what pairs made of it, those as views of it, too. Else none."""
        views = [part for part in parts if isinstance(part, View) and 0 not in part.shape]
        if len(views) < sum(0 not in part.shape if isinstance(part, View) else 1 for part in parts):
            return []
        source = {made: value for (value, _), made in self.pairs.items()}
        lines = []
        for view in views:
            line = [view.value]
            while line[-1] in source:
                line.append(source[line[-1]])
            lines.append(line)
        value = next((name for name in lines[0] if all(name in line for line in lines)), None)
        return [] if value is None else [replace(view, value=value) for view in views]
