"""The linears of a model under its base and under each of its adapters: what calibration runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.found import FoundLinear
from axlora.compiler.frontend.merge import merge_graph, merge_peft

Linears = tuple[FoundLinear, ...]
_LOG = logging.getLogger(__name__)


def variants(
    found: Linears, adapters: Mapping[str, str | Path], adapter_map: Mapping[str, str] | None, by_weights: bool
) -> list[Linears]:
    """The linears of the base, those under the graph's own branches if it has such, and those under each adapter, merged.

    Args:
        by_weights: modules may be matched by equal weights later: an adapter whose names do not tell is left out then.

    Raises:
        BadAdapter: as `merge_peft`.
    """
    result = [found]
    if any(f.loras for f in found):
        result.append(merge_graph(found))
    for name, path in adapters.items():
        try:
            result.append(merge_peft(found, name, path, adapter_map))
        except BadAdapter:
            if not by_weights:
                raise
            _LOG.warning("calibration does not see adapter %r: names do not tell where its modules belong", name)
    return result
