"""Modules of an adapter that the model does not take, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEADS = ("lm_head", "embed_out", "output_layer", "lm_head_proj")
"""Last components of linears whose outputs are the vocabulary."""
EMBEDDINGS = (
    "embed_tokens", "word_embeddings", "wte", "embed_in", "tok_embeddings", "embedding", "embeddings", "shared", "wpe",
    "position_embeddings", "token_type_embeddings", "embed_positions",
)  # fmt: skip
"""Last components of embeddings, where the model's own names are gone."""
LISTED = 8
"""Most names in a message."""


@dataclass(frozen=True)
class Left:
    """A module that no linear takes."""

    module: str
    one: str
    """The sentence that says why."""
    many: str = ""
    """What several of the kind are; empty: each has a sentence of its own."""
    hint: str = ""


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def resized(module: str, rows: int, base_rows: int) -> Left:
    """The module has other rows than the model's: a resized vocabulary, or other labels."""
    last = module.rsplit(".", 1)[-1]
    if last in (*HEADS, *EMBEDDINGS):
        why = f"{module} has {rows} rows, the base {base_rows}: the adapter was saved with a resized vocabulary"
        hint = f"resize the base to {rows} tokens (resize_token_embeddings) and export it again, or save the adapter without"
        return Left(module, why, hint=f"{hint} (save_embedding_layers=False)")
    why = f"{module} has {rows} rows, the base {base_rows}: the adapter was trained with another number of outputs"
    return Left(module, why, hint=f"export the base with {rows} outputs")
