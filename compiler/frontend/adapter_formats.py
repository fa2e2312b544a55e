"""Adapters that are not read, called what they are: by files, by `peft_type`, by tensor names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.tuners.read import TUNERS

_MERGE = "merge it into the base before exporting"
_ROUTED = "what it adds depends on the token at run time; a branch has fixed coefficients here"
_TWICE = (
    "it runs the model twice: a classifier of the last hidden states gives every layer its coefficients for the second pass;"
    " give its adapters with weights of your own (NAME=DIR@0.7,DIR@0.3)"
)
_NO_LINEAR = "it adds tokens or keys and changes no linear; it cannot be attached"
_ORDER = "what it adds depends on signs or on an order that the file does not tell; merge it into the base before exporting"


@dataclass(frozen=True)
class Refused:
    """A kind of adapter that is not read."""

    name: str
    hint: str
    keys: str
    """Regular expression of what its tensors' names hold, as components; empty: they don't tell."""


REFUSED = {
    "PSOFT": Refused("PSOFT", _ORDER, r"psoft_\w+"),
    "FROD": Refused("FRoD", _ORDER, r"frod_\w+"),
    "ADAMSS": Refused("AdaMSS", _ORDER, r"adamss_\w+"),
    "PEANUT": Refused("PEANuT", _MERGE, r"peanut_\w+"),
    "SUPERTUNING": Refused("super tuning", _MERGE, ""),
    "SHADOW": Refused("Shadow", _ROUTED, r"shadow_\w+"),
    "LN_TUNING": Refused("LayerNorm tuning", _MERGE, r"ln_tuning_layers"),
    "XLORA": Refused("X-LoRA", _TWICE, r"internal_xlora_\w+|xlora_\w+"),
    "LILY": Refused("Lily", _ROUTED, r"lily_\w+"),
    "POLY": Refused("Poly", _ROUTED, r"poly_\w+"),
    "PROMPT_TUNING": Refused("prompt tuning", _NO_LINEAR, r"prompt_embeddings|prompt_encoder"),
    "MULTITASK_PROMPT_TUNING": Refused("multitask prompt tuning", _NO_LINEAR, r"prefix_task_(cols|rows)"),
    "P_TUNING": Refused("P-tuning", _NO_LINEAR, ""),
    "PREFIX_TUNING": Refused("prefix tuning", _NO_LINEAR, r"prefix_encoder|past_key_values"),
    "CPT": Refused("context-aware prompt tuning", _NO_LINEAR, r"cpt_\w+"),
    "ADAPTION_PROMPT": Refused("adaption prompts (LLaMA-Adapter)", _NO_LINEAR, r"adaption_(prompt|gate)"),
    "CARTRIDGE": Refused("Cartridge", _NO_LINEAR, ""),
}
"""PEFT's `peft_type` -> what it is."""
FORMATS = (
    ("a mixture of LoRA experts (lora_route, moe_gate)", _ROUTED,
     r"lora_(route|router|gate)\b|(^|\.)moe_gate(\.|$)|\.lora_[AB]\d+\."),
    ("LyCORIS' OFT or IA3 (oft_blocks, oft_diag, ia3)", _MERGE, r"(^|\.)(oft_(blocks|diag)|on_input)$"),
    ("a LoRA of NeMo or Megatron (linear_in, linear_out)", "convert it to PEFT's format", r"\.(linear_in|linear_out)(\.|$)"),
    ("LLaMA-Adapter or bottleneck adapters (adapter_down, adapter_up)", _MERGE, r"\.adapter_(down|up|gate)(\.|$)|\.adapters\."),
)  # fmt: skip
"""(format, what to do, regular expression of a tensor's name)."""
_READ = "LoRA and the tuners of docs/adapters.md are read"


def foreign_key(key: str) -> tuple[str, str] | None:
    """(format, what to do) of a tensor's name that another kind of adapter writes, or None."""
    for refused in REFUSED.values():
        if refused.keys and re.search(rf"(^|\.)({refused.keys})(\.|$)", key):
            return refused.name, refused.hint
    for kind, tuner in TUNERS.items():
        if re.search(rf"(^|\.)({tuner.keys})(\.|$)", key) and "lora_A" not in key and "lora_B" not in key:
            return tuner.name, f"its configuration must say peft_type {kind}"
    return next(((name, hint) for name, hint, pattern in FORMATS if re.search(pattern, key)), None)


def refuse_keys(keys: Iterable[str], where: str) -> None:
    """Raise `BadAdapter` for the first tensor of another format."""
    for key in keys:
        found = foreign_key(key)
        if found is not None:
            raise BadAdapter(f"tensor {key!r} is of {found[0]}", where, found[1])


def refuse_type(config: Mapping[str, Any], where: str) -> BadAdapter:
    """The error for the configuration of a tuner that is not read."""
    kind = config.get("peft_type")
    refused = REFUSED.get(kind) if isinstance(kind, str) else None
    if refused is not None:
        return BadAdapter(f"peft_type is {kind!r} ({refused.name}), which is not supported", where, refused.hint)
    text = repr(kind)
    return BadAdapter(f"peft_type is {text if len(text) <= 60 else text[:57] + '...'}, which is not known", where, _READ)


_PEFT_DIRECTORY = "give the directory that PEFT's save_pretrained wrote"


def _of_file(file: Path) -> tuple[str, str] | None:
    """(format, what to do) of a file by its first bytes and name, or None."""
    try:
        with file.open("rb") as f:
            start = f.read(8)
    except OSError:
        return None
    suffix = file.suffix.lower()
    if suffix == ".onnx_adapter" or start[4:8] == b"TORT":
        return "an adapter of ONNX Runtime (.onnx_adapter)", "give the PEFT directory that it was converted from"
    if suffix == ".gguf" or start[:4] == b"GGUF":
        return "a GGUF file of llama.cpp", "give the PEFT directory that it was converted from"
    if suffix in (".npz", ".nemo"):
        return f"a file of {'MLX' if suffix == '.npz' else 'NeMo'} ({suffix})", "convert it to PEFT's format"
    if suffix == ".onnx":
        return "an ONNX model", "give the PEFT directory"
    return None


def refuse_path(path: Path) -> BadAdapter:
    """The error for a file or a directory in which no adapter is found."""
    where = str(path)
    if path.is_file():
        found = _of_file(path)
        return BadAdapter("it is a file" if found is None else f"it is {found[0]}, which is not read", where,
                          _PEFT_DIRECTORY if found is None else found[1])  # fmt: skip
    if not path.is_dir():
        return BadAdapter("no such directory", where, _PEFT_DIRECTORY)
    inside = sorted(p.name for p in path.iterdir() if (p / "adapter_config.json").is_file())
    if inside and not (path / "adapter_config.json").exists():
        names = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
        what = f"it holds {'the adapter' if len(inside) == 1 else f'{len(inside)} adapters'} {names} in folders of their own"
        return BadAdapter(what, where, f"give one of them: {path / inside[0]}")
    if (path / "config.json").is_file() and (any(path.glob("model*.safetensors")) or any(path.glob("pytorch_model*.bin"))):
        return BadAdapter("it is the directory of a whole model, not of an adapter", where, _PEFT_DIRECTORY)
    own = [p for p in path.iterdir() if p.is_file()]
    for file in sorted(own, key=lambda p: (not p.name.startswith("adapter"), p.name)):
        found = _of_file(file)
        if found is not None:
            return BadAdapter(f"{file.name} is {found[0]}, which is not read", where, found[1])
    several = sorted(p.name for p in path.glob("*.safetensors"))
    if len(several) > 1:
        return BadAdapter(f"it holds {len(several)} files of tensors ({several[0]}, ..)", where, "give one of them")
    missing = "adapter_model.safetensors" if (path / "adapter_config.json").is_file() else "adapter_config.json"
    return BadAdapter(f"no {missing}", where, _PEFT_DIRECTORY)
