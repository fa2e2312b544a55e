"""What PEFT saves of embeddings, and the numbers of its configuration that branches of linears have too."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import Float64, PeftRows
from axlora.compiler.frontend.tuners.tensors import Config


def lora_scale(module: str, rank: int, config: Config) -> float:
    """What a branch is multiplied by; raises `BadAdapter` for another rank than the configuration's."""
    wanted = config.patterned(module, "rank_pattern", config.number("r"))
    if rank != wanted:
        what = f"module {module!r}: lora_A has rank {rank}, the configuration says {wanted:g}"
        raise BadAdapter(what, config.where, "fix r")
    alpha = config.patterned(module, "alpha_pattern", config.number("lora_alpha"))
    return alpha / (math.sqrt(rank) if config.fields.get("use_rslora") else rank)


def dora_magnitude(module: str, part: Mapping[str, Float64], config: Config) -> Float64 | None:
    """DoRA's magnitude, where the configuration says that there is one; raises `BadAdapter` where it and the file disagree."""
    magnitude = part.get("lora_magnitude_vector")
    if bool(config.fields.get("use_dora")) != (magnitude is not None):
        what = f"module {module!r}: use_dora and the magnitude vector disagree"
        raise BadAdapter(what, config.where, "save the adapter again")
    return magnitude


def read_branch(module: str, part: Mapping[str, Float64], config: Config) -> PeftRows:
    """lora_embedding_A [r, rows] and lora_embedding_B [n, r]; a head that shares the table has them by `ensure_weight_tying`.

    Raises:
        BadAdapter: one is missing, they do not pair, or differ from the configuration.
    """
    a, b = part.get("lora_embedding_A"), part.get("lora_embedding_B")
    if a is None or b is None:
        have, lack = ("B", "A") if a is None else ("A", "B")
        what = f"module {module!r} has lora_embedding_{have} but no lora_embedding_{lack}"
        raise BadAdapter(what, config.where, "save the adapter again")
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.size or not b.size:
        what = f"module {module!r}: lora_embedding_A {a.shape} and lora_embedding_B {b.shape} do not pair"
        raise BadAdapter(what, config.where, "save the adapter again")
    scale, magnitude = lora_scale(module, a.shape[0], config), dora_magnitude(module, part, config)
    if magnitude is not None and magnitude.size != b.shape[0]:
        what = f"module {module!r}: a vector has {magnitude.size} values, needs {b.shape[0]}"
        raise BadAdapter(what, config.where, "save again")
    magnitude = None if magnitude is None else magnitude.reshape(-1)
    tied = bool(config.fields.get("ensure_weight_tying"))
    return PeftRows(module, a.T, scale * b.T, magnitude=magnitude, tied=tied)


def read_tokens(module: str, part: Mapping[str, Float64], config: Config) -> PeftRows:
    """trainable_tokens_delta [m, n]: rows in place of those of the tokens that the configuration lists.

    Raises:
        BadAdapter: other tokens than rows, one of them twice, or what is no id.
    """
    rows = part["trainable_tokens_delta"]
    field = "token_indices" if "token_indices" in config.fields else "trainable_token_indices"
    ids = config.fields.get(field)
    if isinstance(ids, Mapping):
        ids = next((value for name, value in ids.items() if f".{module}".endswith(f".{name}")), None)
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 31 for i in ids):
        what = f"{field} lists no token ids for module {module!r}, whose rows were trained"
        raise BadAdapter(what, config.where, "save the adapter again")
    if rows.ndim != 2 or not rows.size or len(rows) != len(ids) or len(set(ids)) != len(ids):
        what = f"module {module!r}: trained rows {rows.shape} for {len(ids)} tokens ({len(set(ids))} different ones)"
        raise BadAdapter(what, config.where, "save the adapter again")
    order = np.argsort(np.array(ids, np.int64))
    return PeftRows(module, rows[order], ids=np.array(ids, np.int64)[order], tied=True)
