"""A linear between values with gaps: rows and columns of zeros where no feature lies (`rows/layout.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from axlora.compiler.layer import Adapter, Codes, Linear, Records
from axlora.compiler.rows.layout import Layout, Parts


@dataclass(frozen=True)
class Gaps:
    """The parts of the rows and of the columns of a linear's matrix; () where they have no gaps."""

    rows: Parts = ()
    columns: Parts = ()

    @property
    def down(self) -> Layout:
        """Of the rows."""
        return Layout(self.rows)

    @property
    def across(self) -> Layout:
        """Of the columns."""
        return Layout(self.columns)

    def linear(self, linear: Linear) -> Linear:
        """The linear as the machine holds it, with its adapters: results are those of `linear`, and 0 in gaps."""
        across, records = self.across.spread, linear.records
        return replace(
            linear,
            weight=self._weight(linear.weight),
            records=Records(across(records.bias), across(records.m1), across(records.shift, fill=1)),
            adapters=tuple(self._adapter(adapter) for adapter in linear.adapters),
        )

    def _weight(self, weight: Codes) -> Codes:
        """Weights of 0 in the gaps; scale groups take the gaps of their rows with them."""
        scale, zero = (None if own is None else self.across.spread(own) for own in (weight.scale, weight.zero))
        stored = self.across.spread(self.down.spread(weight.stored, 0))
        group = self.down.grouped(weight.group)
        gaps = np.setdiff1d(np.arange(stored.shape[0]), self.down.places) if self.rows else np.empty(0, np.int64)
        if zero is not None:
            stored[gaps] = zero[gaps // group]
        if weight.codebook is not None:  # what is multiplied there is 0, whatever the entry
            stored[gaps] = np.argmin(np.abs(weight.codebook))
        return replace(weight, stored=stored, group=group, scale=scale, zero=zero)

    def _adapter(self, adapter: Adapter) -> Adapter:
        across = self.across.spread
        a, b = (
            replace(codes, stored=layout.spread(codes.stored, axis))
            for codes, layout, axis in ((adapter.a, self.down, 0), (adapter.b, self.across, 1))
        )
        return replace(adapter, a=a, b=b, bias=across(adapter.bias), m1=across(adapter.m1), m2=across(adapter.m2))


WITHOUT_GAPS = Gaps()
