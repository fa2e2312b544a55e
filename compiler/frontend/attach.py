"""Which linear a module of an adapter means by the names in the graph: every component of their paths must agree.

Only what wrappers add is taken off first, known by name (`WRAPPERS`, `MARKS`, `ROOTS`). Never by order or shape.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import onnx

from axlora.compiler.errors import BadAdapter
from axlora.compiler.layer import By

WRAPPERS = ("base_model", "model", "module", "m", "net", "inner", "inner_model", "wrapped", "wrapped_model", "hf_model")
"""First components that wrappers add, repeated or not: PEFT's `base_model.model`, transformers' `model`, DDP's `module`, and
what people call the model that their own module for the export holds."""
MARKS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Components that torch.compile, FSDP and checkpointing put anywhere in a path; no module of a model is called so."""
ROOTS = (
    "language_model", "transformer", "gpt_neox", "backbone", "bert", "distilbert", "roberta", "albert", "electra", "deberta",
    "mpnet", "auto_model", "unet",
)  # fmt: skip
"""First components under which a task's model, or a multimodal one, holds its base. The model of the ONNX file or that of the
adapter may lack them; where both have some, they must agree too."""
ALIASES = {"attn": "self_attn", "feed_forward": "mlp", "to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj"}
"""Components that exporters and diffusers rename (ONNX Runtime GenAI writes attn for self_attn)."""
_FLAT = re.compile(r"(?:lora|lycoris)_(?:(?:unet|te\d?|text_encoder(?:_\d)?|transformer|prior|llm)_)?(\w+)")
"""A module of kohya or LyCORIS: its path with underscores for dots."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Key of PyTorch's scope metadata of a node."""
_OPERATOR = re.compile(r"(Fused)?(MatMul|Gemm)(Integer|NBits|Bnb4)?(_\d+)?")
"""Last component of a node's path: the operator, not a module."""


def scope_of(node: onnx.NodeProto) -> list[str]:
    """The module that PyTorch's scope metadata names: the innermost but the operator's own."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = [s.strip(" '\"") for s in entry.value.strip("[]").split(",")]
            return [s for s in reversed(scopes[:-1] or scopes) if s][:1]
    return []


@dataclass(frozen=True)
class ModulePath:
    """A dotted path, and the same path without the parts that wrappers add."""

    parts: tuple[str, ...]
    """The exact path, without marks."""
    roots: tuple[str, ...]
    """First components of `ROOTS`."""
    rest: tuple[str, ...]
    """What must agree component by component."""

    def agrees(self, other: ModulePath) -> bool:
        """The same module, seen from models that wrap their base differently."""
        return self.rest == other.rest and _nested(self.roots, other.roots)

    def holds(self, other: ModulePath) -> bool:
        """`other` is this module or one inside it."""
        if other.parts[: len(self.parts)] == self.parts:
            return True
        return other.rest[: len(self.rest)] == self.rest and _nested(self.roots, other.roots)

    def renamed(self) -> ModulePath:
        """The path under the names that components have before exporters rename them."""
        parts, rest = (tuple(ALIASES.get(part, part) for part in own) for own in (self.parts, self.rest))
        return ModulePath(parts, self.roots, rest)


def _nested(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """One is the end of the other: it lacks the outer ones."""
    few, many = sorted((one, other), key=len)
    return many[len(many) - len(few) :] == few


@functools.lru_cache(maxsize=1 << 14)
def module_path(text: str) -> ModulePath:
    """Take off what wrappers add, but never the last component."""
    parts = [part for part in text.replace("/", ".").split(".") if part and part not in MARKS]
    if len(parts) > 1 and _OPERATOR.fullmatch(parts[-1]):
        del parts[-1]
    first = 0
    while first < len(parts) - 1 and parts[first] in (*WRAPPERS, *ROOTS):
        first += 1
    return ModulePath(tuple(parts), tuple(p for p in parts[:first] if p in ROOTS), tuple(parts[first:]))


class Named(Protocol):
    """A linear by its names."""

    @property
    def name(self) -> str:
        """Unique."""

    @property
    def node(self) -> str:
        """Of its MatMul or Gemm."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted module paths, the surest first."""

    @property
    def scopes(self) -> int:
        """How many of `modules`, from the first, are of scope metadata."""


T = TypeVar("T", bound=Named)


def paths_of(linear: Named) -> tuple[tuple[By, ModulePath], ...]:
    """The paths of a linear with their evidence, the surest first.

    A name that contradicts a surer path is left out: exporters keep equal weights of several modules under one's name.
    """
    return _paths(linear.node, linear.modules, linear.scopes)


@functools.lru_cache(maxsize=1 << 14)
def _paths(name: str, modules: tuple[str, ...], scopes: int) -> tuple[tuple[By, ModulePath], ...]:
    node, names = name.strip("/").replace("/", "."), modules[scopes:]
    found = [(By.SCOPE, module_path(text)) for text in modules[:scopes]]
    for by in (By.NODE, By.WEIGHT):
        own = [module_path(text) for text in names if node.startswith(text) is (by is By.NODE)]
        sure = [path.renamed() for kind, path in found if kind is By.SCOPE or "/" in name or "." in name]
        found += [(by, path) for path in own if all(s.holds(path.renamed()) for s in sure)]
    return tuple(found)


def candidates(module: str, linears: Sequence[T]) -> tuple[list[T], By]:
    """The linears that `module` may mean: of the surest evidence that names any, and there the exact paths before others."""
    wanted = module_path(module)
    flat = found[1] if (found := _FLAT.fullmatch(module)) else None
    paths = [(x, by, path) for x in linears for by, path in paths_of(x)]
    tests = (
        lambda path: path.parts == wanted.parts,
        wanted.agrees,
        lambda path: path.renamed().agrees(wanted.renamed()),
        lambda path: flat is not None and flat in ("_".join(path.parts), "_".join(path.rest)),
    )
    for by in (By.SCOPE, By.NODE, By.WEIGHT):
        for test in tests:
            same = {x.name: x for x, own, path in paths if own is by and test(path)}
            if same:
                return list(same.values()), by
    return [], By.SCOPE


def nearest(module: str, linears: Sequence[Named], limit: int = 3) -> list[str]:
    """Names of the linears whose paths end like the module's, the longest common ends first."""
    wanted = module_path(module).renamed().rest

    def common(linear: Named) -> int:
        best = 0
        for _, path in paths_of(linear):
            own, count = path.renamed().rest, 0
            while count < min(len(own), len(wanted)) and own[-1 - count] == wanted[-1 - count]:
                count += 1
            best = max(best, count)
        return best

    ranked = sorted(((-common(x), number, x.name) for number, x in enumerate(linears)))
    return [name for score, _, name in ranked if score < 0][:limit]


def check_map(adapter_map: Mapping[str, str] | None, linears: Sequence[Named], where: str) -> None:
    """Raise `BadAdapter` if the map sends a module to what is neither node nor name of a linear."""
    known = {name for x in linears for name in (x.node, x.name)}
    for module, node in (adapter_map or {}).items():
        if node not in known:
            raise BadAdapter(f"adapter map sends {module[:80]!r} to {node[:80]!r}, no linear", where, "fix the map")


def mapped(module: str, linears: Sequence[T], adapter_map: Mapping[str, str], where: str) -> T:
    """The linear that the map sends `module` to.

    Raises:
        BadAdapter: no linear has that node or name, or several do.
    """
    wanted = adapter_map[module]
    chosen = [x for x in linears if wanted in (x.node, x.name)]
    if len(chosen) != 1:
        known = ", ".join(x.node for x in linears[:8])
        raise BadAdapter(f"adapter map sends {module!r} to {wanted[:80]!r}, no linear", where, f"linears: {known}")
    return chosen[0]


def ambiguous(module: str, found: Sequence[Named], where: str) -> BadAdapter:
    """The error for a module that several linears may be."""
    names = ", ".join(x.node for x in found[:8])
    return BadAdapter(f"module {module!r} could be {len(found)} linears: {names}", where, "give --adapter-map")


def find_linear(module: str, linears: Sequence[T], adapter_map: Mapping[str, str] | None, where: str) -> T:
    """The one linear that `module` means by the map, looked at first, or by names.

    Args:
        adapter_map: module -> name of a node or linear.
        where: the adapter, for messages.

    Raises:
        BadAdapter: none, or several: the candidates are named.
    """
    if adapter_map and module in adapter_map:
        return mapped(module, linears, adapter_map, where)
    found, _ = candidates(module, linears)
    if len(found) == 1:
        return found[0]
    if found:
        raise ambiguous(module, found, where)
    known = ", ".join(nearest(module, linears) or [x.name for x in linears[:6]])
    raise BadAdapter(f"module {module!r} is no linear of the model", where, f"linears: {known}; or give --adapter-map")
