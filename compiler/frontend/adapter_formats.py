"""Adapters in other formats than PEFT's LoRA directory, called what they are: by files, by `peft_type`, by tensor names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axlora.compiler.errors import BadAdapter

_CONVERT = "peft.tuners.lora.conversion.convert_to_lora turns it into LoRA"
_MERGE = "merge it into the base before exporting"
_ROUTED = "what it adds depends on the token at run time, which is not supported"
_NO_LINEAR = "it adds tokens or keys and changes no linear; it cannot be attached"


@dataclass(frozen=True)
class Tuner:
    """A kind of adapter that is not LoRA."""

    name: str
    hint: str
    keys: str
    """Regular expression of what its tensors' names hold, as components; empty: they don't tell."""


TUNERS = {
    "LOHA": Tuner("LoHa", _CONVERT, r"hada_[wt][12](_[ab])?"),
    "LOKR": Tuner("LoKr", _CONVERT, r"lokr_([wt][12](_[ab])?|t2)"),
    "IA3": Tuner("IA3", _MERGE, r"ia3_l"),
    "OFT": Tuner("OFT", _MERGE, r"oft_(r|R|s|blocks|diag)"),
    "BOFT": Tuner("BOFT", _MERGE, r"boft_(r|R|s)"),
    "ADALORA": Tuner("AdaLoRA", _CONVERT, r"lora_E|ranknum"),
    "VERA": Tuner("VeRA", _CONVERT, r"vera_(lambda_[bd]|[AB])"),
    "VBLORA": Tuner("VB-LoRA", _CONVERT, r"vblora_\w+"),
    "FOURIERFT": Tuner("FourierFT", _CONVERT, r"fourierft_\w+"),
    "WAVEFT": Tuner("WaveFT", _CONVERT, r"waveft_\w+"),
    "RANDLORA": Tuner("RandLoRA", _CONVERT, r"randlora_\w+"),
    "SHIRA": Tuner("SHiRA", _MERGE, r"shira_\w+"),
    "C3A": Tuner("C3A", _CONVERT, r"c3a_\w+"),
    "BONE": Tuner("Bone", _CONVERT, r"bone_\w+"),
    "MISS": Tuner("MiSS", _CONVERT, r"miss_\w+"),
    "DELORA": Tuner("DeLoRA", _CONVERT, r"delora_\w+"),
    "GRALORA": Tuner("GraLoRA", _CONVERT, r"gralora_\w+"),
    "TINYLORA": Tuner("TinyLoRA", _CONVERT, r"tinylora_\w+"),
    "UNILORA": Tuner("UniLoRA", _CONVERT, r"unilora_\w+"),
    "ROAD": Tuner("RoAd", _MERGE, r"road_\w+"),
    "HRA": Tuner("HRA", _MERGE, r"hra_\w+"),
    "HIRA": Tuner("HiRA", _MERGE, r"hira_\w+"),
    "GLORA": Tuner("GLoRA", _MERGE, r"glora_\w+"),
    "OSF": Tuner("OSF", _MERGE, r"osf_\w+"),
    "LN_TUNING": Tuner("LayerNorm tuning", _MERGE, r"ln_tuning_layers"),
    "TRAINABLE_TOKENS": Tuner("trainable tokens", _MERGE, r"trainable_tokens_\w+|token_adapter"),
    "XLORA": Tuner("X-LoRA", _ROUTED, r"internal_xlora_\w+|xlora_\w+"),
    "LILY": Tuner("Lily", _ROUTED, r"lily_\w+"),
    "POLY": Tuner("Poly", _ROUTED, r"poly_\w+"),
    "PROMPT_TUNING": Tuner("prompt tuning", _NO_LINEAR, r"prompt_embeddings|prompt_encoder"),
    "MULTITASK_PROMPT_TUNING": Tuner("multitask prompt tuning", _NO_LINEAR, r"prefix_task_(cols|rows)"),
    "P_TUNING": Tuner("P-tuning", _NO_LINEAR, ""),
    "PREFIX_TUNING": Tuner("prefix tuning", _NO_LINEAR, r"prefix_encoder|past_key_values"),
    "CPT": Tuner("context-aware prompt tuning", _NO_LINEAR, r"cpt_\w+"),
    "ADAPTION_PROMPT": Tuner("adaption prompts (LLaMA-Adapter)", _NO_LINEAR, r"adaption_(prompt|gate)"),
    "CARTRIDGE": Tuner("Cartridge", _NO_LINEAR, ""),
}
"""PEFT's `peft_type` -> what it is; LyCORIS names its tensors as PEFT's LoHa, LoKr, OFT and BOFT do."""
_PEFT = "convert it to PEFT's format"
FORMATS = (
    ("kohya's LoRA (lora_unet_, lora_te_)", rf"{_PEFT}, and give a directory with adapter_config.json",
     r"^lora_(unet|te\d?|transformer|prior|llm)_|\.lora_(down|up)\.weight$|(^|_)lora_(down|up)$"),
    ("diffusers' LoRA (processor, down and up)", "load it with diffusers and save with PEFT's save_pretrained",
     r"\.processor\.|_lora\.(down|up)\b|\.lora(_linear_layer)?\.(down|up)\."),
    ("LyCORIS' full difference (diff)", _MERGE, r"\.diff(_b)?$"),
    ("a LoRA of MLX or torchtune (lora_a, lora_b)", _PEFT, r"(^|\.)lora_[ab](\.weight)?$"),
    ("a LoRA of NeMo or Megatron (linear_in, linear_out)", _PEFT, r"\.(linear_in|linear_out)(\.|$)"),
    ("LLaMA-Adapter or bottleneck adapters (adapter_down, adapter_up)", _MERGE, r"\.adapter_(down|up|gate)(\.|$)|\.adapters\."),
    ("trained tokens (trainable_token_indices)", _MERGE, r"trainable_tokens_|token_adapter"),
)  # fmt: skip
"""(format, what to do, regular expression of a tensor's name)."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HEADER = 100 << 20
_SAVE = "load it with PEFT and save_pretrained(DIR, safe_serialization=True): a pickle runs code when it is read"


def foreign_key(key: str) -> tuple[str, str] | None:
    """(format, what to do) of a tensor's name that another kind of adapter writes, or None."""
    for tuner in TUNERS.values():
        if tuner.keys and re.search(rf"(^|\.)({tuner.keys})(\.|$)", key):
            return tuner.name, tuner.hint
    return next(((name, hint) for name, hint, pattern in FORMATS if re.search(pattern, key)), None)


def refuse_keys(keys: Iterable[str], where: str) -> None:
    """Raise `BadAdapter` for the first tensor of another format."""
    for key in keys:
        found = foreign_key(key)
        if found is not None:
            raise BadAdapter(f"tensor {key!r} is of {found[0]}; PEFT's LoRA directories are read", where, found[1])


def refuse_type(config: Mapping[str, Any], where: str) -> None:
    """Raise `BadAdapter` for the configuration of another tuner than LoRA."""
    kind = config.get("peft_type")
    if kind is None and not config.keys().isdisjoint({"lora_parameters", "fine_tune_type"}):
        raise BadAdapter("it is the configuration of a LoRA of MLX; PEFT's LoRA directories are read", where, _PEFT)
    tuner = TUNERS.get(kind) if isinstance(kind, str) else None
    name = "" if tuner is None else f" ({tuner.name})"
    hint = "only LORA is read" if tuner is None else tuner.hint
    text = repr(kind)
    raise BadAdapter(f"peft_type is {text if len(text) <= 60 else text[:57] + '...'}{name}; LORA is supported", where, hint)


def _keys(file: Path) -> list[str]:
    """Tensor names of a safetensors file; none if it is damaged."""
    try:
        with file.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size)) if size <= min(_HEADER, file.stat().st_size) else {}
    except (OSError, ValueError, RecursionError):
        return []
    return [key for key in header if key != "__metadata__"] if isinstance(header, dict) else []


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
    if suffix == ".safetensors":
        kind = next((found for key in _keys(file) if (found := foreign_key(key)) is not None), None)
        if kind is None and file.name == "pytorch_lora_weights.safetensors":
            return FORMATS[1][:2]
        return kind or ("weights without a configuration", "give the directory that PEFT's save_pretrained wrote")
    if suffix in _PICKLES:
        return f"a pickle ({suffix})", _SAVE
    if suffix in (".npz", ".nemo"):
        return f"a file of {'MLX' if suffix == '.npz' else 'NeMo'} ({suffix})", _PEFT
    if suffix == ".onnx":
        return "an ONNX model", "give the PEFT directory"
    return None


def refuse_path(path: Path) -> None:
    """Raise `BadAdapter` for anything but a directory that may hold PEFT's LoRA: a file, or a directory of something else.

    A directory with adapter_config.json and adapter_model.safetensors, or with nothing that is known, passes.
    """
    where = str(path)
    if path.is_file():
        found = _of_file(path)
        if found is None:
            raise BadAdapter("it is a file", where, "give the directory that PEFT's save_pretrained wrote")
        raise BadAdapter(f"it is {found[0]}, which is not read", where, found[1])
    if not path.is_dir():
        raise BadAdapter("no such directory", where, "give the directory that PEFT's save_pretrained wrote")
    weights = path / "adapter_model.safetensors"
    if (path / "adapter_config.json").exists() and weights.exists():
        return
    inside = sorted(p.name for p in path.iterdir() if (p / "adapter_config.json").is_file())
    if inside and not weights.exists():
        names = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
        what = f"it holds {'the adapter' if len(inside) == 1 else f'{len(inside)} adapters'} {names} in folders of their own"
        raise BadAdapter(what, where, f"give one of them: {path / inside[0]}")
    parts = sorted(path.glob("adapter_model-*-of-*.safetensors"))
    if parts:
        hint = "save it with a larger max_shard_size, as one adapter_model.safetensors"
        raise BadAdapter(f"its tensors are in {len(parts)} files ({parts[0].name}, ..)", where, hint)
    if (path / "config.json").is_file() and (any(path.glob("model*.safetensors")) or any(path.glob("pytorch_model*.bin"))):
        hint = "give the directory that PEFT's save_pretrained wrote"
        raise BadAdapter("it is the directory of a whole model, not of an adapter", where, hint)
    own = [p for p in path.iterdir() if p.is_file() and (p != weights or _is_foreign(p))]
    for file in sorted(own, key=lambda p: (not p.name.startswith("adapter"), p.suffix.lower() in _PICKLES, p.name)):
        found = _of_file(file)
        if found is not None:
            raise BadAdapter(f"{file.name} is {found[0]}, which is not read", where, found[1])


def _is_foreign(file: Path) -> bool:
    """A safetensors file holds tensors of another format."""
    return any(foreign_key(key) is not None for key in _keys(file))
