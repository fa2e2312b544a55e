"""Branches that PEFT trains in a parameter of all experts (`target_parameters`), as branches of each expert's module.

PEFT (0.21, `lora.ParamWrapper.get_delta_weight`) holds them as one A [experts r, in], expert by expert, and one B
[out, r experts], rank by rank. A module with several such parameters is wrapped in the order in which it defines them: the
first is the innermost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.tuners.tensors import Config, Tensor

_ORDER = ("gate_up_proj", "down_proj")
"""In which the experts of transformers define their parameters."""
_SIDES = ("lora_A", "lora_B")


def experts_apart(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The tensors with those of `target_parameters` as EXPERTS.number.parameter.lora_A and lora_B of each expert.

    Raises:
        BadAdapter: parameters whose order is not known, or tensors that are not so many branches of the rank.
    """
    targets = config.fields.get("target_parameters") or ()
    if not isinstance(targets, list | tuple) or not all(isinstance(target, str) and target for target in targets):
        raise BadAdapter(f"target_parameters is {targets!r}", config.where, "a list of parameters' names")
    found = dict(tensors)
    levels: dict[str, dict[int, dict[str, str]]] = {}
    for key in tensors:
        path, side = _taken_apart(key)
        if side and (names := _parameters(path.replace(".base_layer", ""), targets)):
            depth = path.count(".base_layer")
            levels.setdefault(path.replace(".base_layer", ""), {}).setdefault(depth, {})[side] = key
            if len(names) > 1 and set(names) != set(_ORDER):
                what = f"module {path!r} has {', '.join(names)}: which of them a branch is of is not saved"
                raise BadAdapter(what, config.where, "merge it into the base before exporting")
    for module, depths in levels.items():
        names = _parameters(module, targets)
        if len(depths) != len(names) or any(set(sides) != set(_SIDES) for sides in depths.values()):
            what = f"module {module!r} has {len(depths)} branches for {len(names)} parameters"
            raise BadAdapter(what, config.where, "save the adapter again")
        for name, depth in zip(names, sorted(depths, reverse=True), strict=True):
            a, b = (found.pop(depths[depth][side]) for side in _SIDES)
            rank = int(config.patterned(f"{module}.{name}", "rank_pattern", config.number("r")))
            if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or rank < 1 or len(a) % rank:
                what = f"parameter {f'{module}.{name}'!r}: lora_A {a.shape} and lora_B {b.shape} are no branches of rank {rank}"
                raise BadAdapter(what, config.where, "fix r, or save the adapter again")
            experts = len(a) // rank
            for e in range(experts):
                found[f"{module}.{e}.{name}.lora_A.weight"] = a[e * rank : (e + 1) * rank]
                found[f"{module}.{e}.{name}.lora_B.weight"] = b[:, e::experts]
    return found


def _taken_apart(key: str) -> tuple[str, str]:
    """(dotted path of the module, lora_A or lora_B) of a branch's tensor; no side: of something else."""
    for side in _SIDES:
        path, mark, _ = key.partition(f".{side}.")
        if mark:
            return path.rpartition("base_model.model.")[2], side
    return "", ""


def _parameters(module: str, targets: Sequence[str]) -> list[str]:
    """The targeted parameters of a module, the one that is wrapped first first."""
    names = []
    for target in targets:
        of, _, name = target.rpartition(".")
        if f".{module}".endswith(f".{of}") if of else module.rsplit(".", 1)[-1] == "experts":
            names.append(name)
    return sorted(set(names), key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
