"""Names of the tensors in PEFT's adapter_model.safetensors: module, part and name of the adapter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_formats import refuse_keys

_LENGTH = 400
"""Most characters of a tensor's name."""
_PREFIX = ["base_model", "model"]
"""What PEFT puts before a module's path; DDP and torch.compile put theirs before it."""
_BRANCH = ("lora_A", "lora_B", "lora_magnitude_vector")
_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
_KINDS = ("weight", "bias")


class Part(Enum):
    """Part of a module that a tensor is."""

    BRANCH = "branch"
    """lora_A, lora_B, lora_magnitude_vector, or lora_B's bias."""
    EMBEDDING = "embedding"
    """lora_embedding_A or lora_embedding_B."""
    TOKENS = "tokens"
    """Rows of an embedding that were trained (trainable_token_indices)."""
    WHOLE = "whole"
    """Weight or bias of the module itself."""
    ORIGINAL = "original"
    """The base's own, which PEFT keeps beside a module that was trained whole."""


@dataclass(frozen=True)
class Key:
    """A tensor's name, taken apart."""

    module: str
    """Dotted path in the base model."""
    part: Part
    name: str
    """lora_A, lora_B, lora_magnitude_vector, bias (of lora_B) and the embedding's; of whole modules weight or bias."""
    adapter: str | None
    """Name of the adapter in the key (`lora_A.law.weight`); None: the key has none."""


def take_apart(key: str) -> Key | None:
    """The parts of `base_model.model.MODULE.lora_A[.ADAPTER].weight` and its like; None if it is nothing like that."""
    parts = key.split(".")
    first = next((n for n in range(4) if parts[n : n + 2] == _PREFIX), None)
    parts = parts if first is None else parts[first + 2 :] or [""]
    kind = parts.pop() if parts[-1] in _KINDS else ""
    parts = [part for part in parts if part != "token_adapter"] or [""]
    at = next((n for n, part in enumerate(parts) if part.startswith("trainable_tokens_")), None)
    if at is not None:
        trained, adapter = parts[at] == "trainable_tokens_delta", parts[at + 1] if len(parts) > at + 1 else None
        known = at > 0 and len(parts) <= at + 2
        return Key(".".join(parts[:at]), Part.TOKENS if trained else Part.ORIGINAL, parts[at], adapter) if known else None
    at = next((n for n, part in enumerate(parts) if part in (*_BRANCH, *_EMBEDDING)), None)
    if at is not None:
        module, part, names = ".".join(parts[:at]), parts[at], parts[at + 1 :]
        adapter = names[0] if names else None
        if not module or len(names) > 1:
            return None
        if part in _EMBEDDING:
            return Key(module, Part.EMBEDDING, part, adapter)
        if part == "lora_magnitude_vector":
            return Key(module, Part.BRANCH, part, adapter) if kind != "bias" else None
        if not kind or (kind == "bias" and part == "lora_A"):
            return None
        return Key(module, Part.BRANCH, "bias" if kind == "bias" else part, adapter)
    if not kind or any(part.startswith("lora_") for part in parts[-2:]):
        return None
    original = "original_module" in parts
    adapter = None
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        adapter = parts[at + 1] if at + 1 < len(parts) else None
        parts = parts[:at] + parts[at + 2 :]
    parts = [part for part in parts if part not in ("base_layer", "original_module")]
    return Key(".".join(parts), Part.ORIGINAL if original else Part.WHOLE, kind, adapter) if all(parts) and parts else None


def sorted_keys(names: Iterable[str], where: str) -> dict[str, Key]:
    """The tensors' names taken apart, without those of the base's own.

    Raises:
        BadAdapter: a name of another format, one that is too long or not printable, several adapters, a tensor twice.
    """
    found: dict[str, Key] = {}
    unknown: list[str] = []
    for name in names:
        if len(name) > _LENGTH:
            raise BadAdapter(f"a tensor's name has {len(name)} characters", where, f"at most {_LENGTH}")
        key = take_apart(name)
        if not name.isprintable() or key is None:
            unknown.append(name)
        elif key.part is not Part.ORIGINAL:
            found[name] = key
    refuse_keys([*unknown, *(name for name, key in found.items() if key.part is Part.WHOLE)], where)
    if unknown:
        raise BadAdapter(
            f"tensor {unknown[0]!r} is none that PEFT's LoRA saves", where, "save the adapter with save_pretrained"
        )
    adapters = sorted({key.adapter for key in found.values() if key.adapter is not None})
    if len(adapters) > 1:
        listed = ", ".join(adapters[:8]) + (f" and {len(adapters) - 8} more" if len(adapters) > 8 else "")
        hint = f"save one alone: save_pretrained(DIR, selected_adapters=[{adapters[0]!r}])"
        raise BadAdapter(f"it holds {len(adapters)} adapters in one file: {listed}", where, hint)
    seen: dict[tuple[str, Part, str], str] = {}
    for name, key in found.items():
        other = seen.setdefault((key.module, key.part, key.name), name)
        if other != name:
            raise BadAdapter(f"tensors {other!r} and {name!r} are the same part", where, "save the adapter again")
    return found
