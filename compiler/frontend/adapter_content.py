"""What an adapter holds, whatever its file format and tuner: branches, changes of whole weights, modules trained whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.row_changes import RowChange

Float64 = npt.NDArray[np.float64]
MISFITS = (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, MemoryError)
"""What formulas raise for tensors of other shapes or values than theirs."""
_NOTHING = 1e-6
"""Singular values below this part of the largest are rounding of float32: what they add is below any code's step."""
_LARGE = 1024
"""Smaller side of matrices whose singular values take too long: of more than a quarter of the full rank, they count as full."""


@dataclass(frozen=True)
class PeftLora:
    """The low-rank branch of one module: y = gain * (x.W + scale * (x.A).B), and what DoRA and lora_bias add."""

    module: str
    """Dotted path in the base model."""
    a: Float64
    """[in, r]."""
    b: Float64
    """[r, out]."""
    scale: float
    """lora_alpha / r, lora_alpha / sqrt(r) with rsLoRA, or 1 where B has it."""
    bias: Float64 | None
    """lora_bias [out], before the scale."""
    magnitude: Float64 | None
    """DoRA's column magnitude [out]."""
    base_bias: Float64 | None = None
    """Trained bias of the base [out], in place of the base's own (bias='all' or 'lora_only')."""
    gain: Float64 | None = None
    """Scale of the output [out] (IA3), which `base_bias` holds already; None: 1."""

    @property
    def rank(self) -> int:
        """r."""
        return int(self.a.shape[1])


@dataclass(frozen=True)
class PeftModule:
    """A module that was saved whole, or only its bias: both replace the base's.

    The configuration lists some (modules_to_save, bias='all'); PEFT saves heads and embeddings unasked too.
    """

    module: str
    """Dotted path in the base model."""
    weight: Float64 | None
    """[in, out] of a torch Linear (PEFT stores [out, in]; of a Conv1D this is [out, in]); [n] of a normalization; None: the
    base's own."""
    bias: Float64 | None
    """[out]; None: the base's own."""
    listed: bool = True
    """The configuration says that it was trained."""
    tied: bool = False
    """Of an embedding: a head that shares it takes the change too."""


class Base(Protocol):
    """The linear that a change is made to."""

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out)."""

    @property
    def weight(self) -> Float64:
        """[in, out], read anew at every call."""

    @property
    def bias(self) -> Float64:
        """[out]."""


@dataclass(frozen=True)
class Dense:
    """A change of a weight that has no factors: y = x.(W + delta) + bias."""

    delta: Float64
    """[in, out]."""
    bias: Float64 | None = None
    """In place of the base's [out]; None: the base's own."""


@dataclass(frozen=True)
class PeftChange:
    """A change of one module that depends on its base: on the sizes, or on the values."""

    module: str
    """Dotted path in the base model."""
    tuner: str
    """Its kind, for messages."""
    of: Callable[[Base], PeftLora | Dense]
    """The change of a base; raises `ValueError` where its tensors do not fit."""
    outputs: int | None = None
    """Outputs of the module, where the tensors tell."""
    spatial: bool = False
    """It has the order of a convolution's patches, where it is one's; any other change has that of a torch weight."""

    def on(self, base: Base, merge: bool, limit: int | None, where: str) -> PeftLora:
        """The change as a branch.

        Args:
            merge: the branch is multiplied out again, so it may have any rank.
            limit: largest rank of a branch that stays one; None: any.

        Raises:
            BadAdapter: tensors that do not fit the base; a rank over the limit.
        """
        try:
            found = self.of(base)
            _check(found, base.shape)
        except MISFITS as error:
            k, n = base.shape
            reason = (str(error).splitlines() or [""])[0][:100]
            what = f"module {self.module!r}: tensors of {self.tuner} do not fit a linear of {k} to {n} ({reason})"
            raise BadAdapter(what, where, "this adapter belongs to another base") from None
        if isinstance(found, Dense):
            found = factored(self.module, found, merge)
        if not merge and limit is not None and found.rank > limit:
            what = f"module {self.module!r}: its change by {self.tuner} has rank {found.rank}, over the limit {limit}"
            raise BadAdapter(what, where, f"raise max_lora_rank to {found.rank}, or give --merge")
        return found


def _check(found: PeftLora | Dense, shape: tuple[int, int]) -> None:
    """Raise `ValueError` for a change of another shape, or with NaN or infinity."""
    if isinstance(found, Dense):
        matrices, own = [found.delta], found.delta.shape
        vectors = [found.bias]
    else:
        matrices, own = [found.a, found.b], (*found.a.shape[:-1], *found.b.shape[1:])
        vectors = [found.base_bias, found.gain]
    if own != shape or any(v is not None and v.shape != shape[1:] for v in vectors):
        raise ValueError(f"they are of {' to '.join(map(str, own))}")
    if not all(np.isfinite(v).all() for v in (*matrices, *vectors) if v is not None):
        raise ValueError("they give NaN or infinity")


def factored(module: str, dense: Dense, merge: bool) -> PeftLora:
    """A dense change as a branch of its true rank, by singular values; beside an identity where it is full or merged."""
    delta = dense.delta
    k, n = delta.shape
    a, b = (delta, np.eye(n)) if n <= k else (np.eye(k), delta)
    basis = None if merge else _range(delta)
    if basis is not None or not (merge or min(k, n) > _LARGE):
        u, s, v = np.linalg.svd(delta if basis is None else basis.T @ delta, full_matrices=False)
        rank = max(1, int((s > _NOTHING * s.max(initial=0)).sum()))
        if rank < min(k, n):
            root = np.sqrt(s[:rank])
            a, b = (u if basis is None else basis @ u)[:, :rank] * root, root[:, None] * v[:rank]
    return PeftLora(module, a, b, 1.0, None, None, dense.bias)


def _range(delta: Float64) -> Float64 | None:
    """Orthogonal columns that span those of a large matrix of low rank, found by products with random ones; None: it has none.

    Halko, Martinsson & Tropp, arXiv:0909.4061, algorithm 4.2: what such a basis leaves out is seen by comparing.
    """
    random, norm = np.random.default_rng(0), np.linalg.norm(delta)
    for columns in (64, 256, 1024):
        if columns > min(delta.shape) // 4:
            return None
        basis = np.linalg.qr(delta @ random.standard_normal((delta.shape[1], columns)))[0]
        if np.linalg.norm(delta - basis @ (basis.T @ delta)) <= _NOTHING * norm:
            return np.asarray(basis, np.float64)
    return None


@dataclass(frozen=True)
class PeftRows:
    """What was trained of an embedding [rows, n]: a product that is added to it, or some rows in place of its own."""

    module: str
    """Dotted path in the base model."""
    left: Float64
    """[rows, r]; without `right` the new rows [m, n]."""
    right: Float64 | None = None
    """[r, n], with the scale."""
    ids: npt.NDArray[np.int64] | None = None
    """[m], ascending: which rows are new; None: all."""
    magnitude: Float64 | None = None
    """DoRA's magnitude of every feature [n]."""
    tied: bool = False
    """A head that shares the table takes the change too."""
    weight: float = 1.0
    """Of the change, in a sum of adapters."""

    @property
    def features(self) -> int:
        """Of a row."""
        return int((self.left if self.right is None else self.right).shape[1])

    @property
    def rows(self) -> int:
        """Rows that the table must have at least; of a product, and of a table that is trained whole, all of them."""
        return len(self.left) if self.ids is None else int(self.ids[-1]) + 1

    def change(self, table: Float64) -> RowChange:
        """The change of a table that has the rows and features."""
        if self.magnitude is not None and self.right is not None:
            full = table + self.left @ self.right
            full = full * (self.magnitude / np.maximum(np.linalg.norm(full, axis=0), 1e-30))
            found = RowChange(self.module, full - table)
        elif self.right is not None:
            found = RowChange(self.module, self.left, self.right)
        else:
            found = RowChange(self.module, self.left - (table if self.ids is None else table[self.ids]), None, self.ids)
        return found.times(self.weight)

    def of_linear(self) -> PeftChange:
        """The same change of a linear whose outputs are the rows."""

        def of(base: Base) -> PeftLora | Dense:
            change = self.change(base.weight.T)
            pair = change.branch(base.shape[1])
            if pair is None:
                return Dense(change.of(np.arange(base.shape[1])).T)
            a, b = (np.asarray(factor, np.float64) for factor in pair)
            return PeftLora(self.module, a, b, 1.0, None, None)

        return PeftChange(self.module, "trained tokens", of, None)


@dataclass(frozen=True)
class PeftContent:
    """All that an adapter holds, by module and sorted by name."""

    loras: tuple[PeftLora, ...]
    modules: tuple[PeftModule, ...]
    """Without biases of modules that have a branch: `PeftLora.base_bias` holds them."""
    embeddings: tuple[PeftRows, ...]
    """Branches of embeddings, and rows of them that were trained."""
    changes: tuple[PeftChange, ...] = ()
    """Of modules that have no branch."""
    notices: tuple[str, ...] = ()
    """What was chosen in reading, a line each."""

    def with_notices(self, *notices: str) -> PeftContent:
        """The same, and more to tell."""
        return replace(self, notices=(*self.notices, *notices))


def check_rank(module: str, rank: int, limit: int | None, where: str) -> None:
    """Raise `BadAdapter` for a rank over the limit."""
    if limit is not None and rank > limit:
        raise BadAdapter(f"module {module!r}: rank {rank} is over the limit {limit}", where, "raise max_lora_rank")


def pair(module: str, part: Mapping[str, Float64], where: str, limit: int | None) -> tuple[Float64, Float64]:
    """lora_A [r, in] and lora_B [out, r] of a module; of a convolution `in` are the patches' elements (frontend/convolutions).

    Raises:
        BadAdapter: one is missing, they do not pair, or r is over `limit`.
    """
    for name, other in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
        if name not in part:
            raise BadAdapter(f"module {module!r} has {other} but no {name}", where, "save the adapter again")
    a, b = part["lora_A"], part["lora_B"]
    if a.ndim > 2 and b.ndim == a.ndim and math.prod(b.shape[2:]) == 1:
        a, b = np.moveaxis(a.reshape(*a.shape[:2], -1), 1, 2).reshape(len(a), -1), b.reshape(b.shape[:2])
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise BadAdapter(
            f"module {module!r}: lora_A {a.shape} and lora_B {b.shape} do not pair",
            where,
            "linears and convolutions have branches",
        )
    check_rank(module, a.shape[0], limit, where)
    return a, b
