"""Adapters that other tools than PEFT write: kohya, LyCORIS, diffusers, MLX and torchtune, by the names of their tensors.

Their scale is alpha / r: of a tensor `alpha` at each module, else of the configuration (which diffusers writes into the file),
else 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import Base, Dense, PeftChange, PeftContent, PeftLora, pair
from axlora.compiler.frontend.adapter_formats import refuse_keys
from axlora.compiler.frontend.tuners import products
from axlora.compiler.frontend.tuners.tensors import Config, Own, Tensor, matrix, read_own

_OWN = (
    (r"(?P<module>.+)\.lora_(?P<part>down|up|mid)\.weight", True),
    (r"(?P<module>.+)\.(?:lora|lora_linear_layer)\.(?P<part>down|up)\.weight", True),
    (r"(?P<module>.+)\.processor\.(?P<projection>to_\w+?)_lora\.(?P<part>down|up)\.weight", True),
    (r"(?P<module>.+)\.lora_(?P<part>[ab])(?P<torch>\.weight)?", True),
    (r"(?P<module>.+)\.(?P<part>diff|diff_b)", True),
    (r"(?P<module>.+)\.(?P<part>alpha|dora_scale)", False),
    (r"(?P<module>.+)\.(?P<part>hada_[wt][12](?:_[ab])?|lokr_(?:[wt][12](?:_[ab])?|t2))", False),
    (r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight", False),
)
"""(Names of tensors, no PEFT adapter has such)."""
_COMPONENT = re.compile(r"(unet|transformer|text_encoder(_\d)?|prior)\.")
_DIFFUSERS = "pytorch_lora_weights"


@dataclass(frozen=True)
class _Name:
    module: str
    part: str
    """lora_A, lora_B, lora_mid, alpha, dora_scale, diff, diff_b, or a tensor of LoHa or LoKr."""
    turned: bool = False
    """A and B are as MLX multiplies them: [in, r] and [r, out]."""


_PARTS = {"down": "lora_A", "up": "lora_B", "a": "lora_A", "b": "lora_B", "A": "lora_A", "B": "lora_B", "mid": "lora_mid"}


def _name(key: str) -> _Name | None:
    for pattern, _ in _OWN:
        if found := re.fullmatch(pattern, key):
            groups = found.groupdict()
            module = re.sub(r"^(base_model\.model\.|text_encoder\.(?=text_model\.))", "", groups["module"])
            projection = groups.get("projection")
            if projection is not None:
                module += "." + ("to_out.0" if projection == "to_out" else projection)
            turned = groups["part"] in ("a", "b") and groups.get("torch") is None
            return _Name(module, _PARTS.get(groups["part"], groups["part"]), turned)
    return None


def is_foreign(names: Iterable[str], config: Config, files: Sequence[Path]) -> bool:
    """Tensors that another tool named, or a file that has no configuration and is named as diffusers', kohya's or LyCORIS'."""
    known = [key for key in names if _name(key) is not None]
    if any(own and re.fullmatch(pattern, key) for key in known for pattern, own in _OWN):
        return True
    bare = not config.fields
    diffusers = any(file.name.startswith(_DIFFUSERS) for file in files)
    return bare and any(diffusers or _COMPONENT.match(key) or ("lora_A" not in key and "lora_B" not in key) for key in known)


def read_foreign(tensors: Mapping[str, Tensor], config: Config, metadata: Mapping[str, Any], limit: int | None) -> PeftContent:
    """All that such a file holds.

    Args:
        metadata: fields of diffusers' configuration by component (`unet.lora_alpha`); empty where the file has none.

    Raises:
        BadAdapter: a tensor of no such format, matrices that do not pair, an unknown scale, a rank over `limit`.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in tensors.items():
        name = _name(key)
        if name is None:
            unknown.append(key)
            continue
        own = modules.setdefault(name.module, {})
        if name.part in own:
            raise BadAdapter(f"tensors of module {name.module!r} stand there twice ({key!r})", config.where, "save it again")
        own[name.part] = value.T if name.turned else value
        if name.part == "lora_A" and (alpha := _alpha_of(key, len(own["lora_A"]), metadata, config.where)) is not None:
            own.setdefault("alpha", np.array(alpha))
    refuse_keys(unknown, config.where)
    if unknown:
        what = f"tensor {unknown[0][:120]!r} is none that kohya, LyCORIS, diffusers, MLX or torchtune write"
        raise BadAdapter(what, config.where, "convert the adapter to PEFT's format")
    own_scale = any(key.endswith(".alpha") for key in tensors)
    lettered = any(re.search(r"\.lora_[ab](\.weight)?$", key) for key in tensors)

    def change(own: Own) -> PeftLora | PeftChange:
        return _change(own, own_scale or not lettered, limit)

    found = [read_own(change, Own(m, _tuner(t), t, {}, config)) for m, t in sorted(modules.items())]
    loras = tuple(x for x in found if isinstance(x, PeftLora))
    return PeftContent(loras, (), (), tuple(x for x in found if isinstance(x, PeftChange)))


def _alpha_of(key: str, rank: int, metadata: Mapping[str, Any], where: str) -> float | None:
    """What alpha of a tensor would have the scale that diffusers' configuration says; None: it says none."""
    component, _, path = key.partition(".")
    fields = {k.removeprefix(f"{component}."): v for k, v in metadata.items() if k.startswith(f"{component}.")}
    if "lora_alpha" not in fields:
        return None
    config = Config(fields, where)
    alpha = config.patterned(re.sub(r"\.lora_A\b.*", "", path), "alpha_pattern", config.number("lora_alpha"))
    return alpha * math.sqrt(rank) if fields.get("use_rslora") else alpha


def _tuner(names: Iterable[str]) -> str:
    kinds = {name.split("_")[0] for name in names}
    return "LoHa" if "hada" in kinds else "LoKr" if "lokr" in kinds else "LyCORIS' difference" if "diff" in kinds else "LoRA"


def _change(own: Own, has_default: bool, limit: int | None) -> PeftLora | PeftChange:
    """The change of one module."""
    match own.tuner:
        case "LoHa":
            plain: PeftLora | PeftChange = products.loha(own)
        case "LoKr":
            plain = products.lokr(own)
        case "LoRA":
            plain = _lora(own, has_default, limit)
        case _:
            plain = _difference(own)
    if not own.has("dora_scale"):
        return plain
    magnitude = own.get("dora_scale")
    if isinstance(plain, PeftLora) and magnitude.size == plain.b.shape[1] and magnitude.shape[0] == magnitude.size:
        return PeftLora(plain.module, plain.a, plain.b, plain.scale, plain.bias, magnitude.reshape(-1))
    return _normed(own, plain, magnitude)


def _normed(own: Own, plain: PeftLora | PeftChange, magnitude: Tensor) -> PeftChange:
    """LyCORIS' weight decomposition: the columns of the sum have trained norms (dora_scale [out, 1]), or its rows ([1, in])."""
    of_outputs = magnitude.shape[0] == magnitude.size and magnitude.size > 1

    def of(base: Base) -> Dense:
        w = base.weight
        change = plain if isinstance(plain, PeftLora) else plain.of(base)
        delta = change.delta if isinstance(change, Dense) else change.scale * (change.a @ change.b)
        norm = np.linalg.norm(w + delta, axis=0 if of_outputs else 1, keepdims=True)
        scale = magnitude.reshape(1, -1) if of_outputs else magnitude.reshape(-1, 1)
        if scale.size != norm.size:
            raise ValueError(f"{scale.size} norms")
        return Dense((w + delta) * (scale / np.maximum(norm, 1e-30)) - w)

    return PeftChange(own.module, f"{own.tuner} with norms (dora_scale)", of)


def _lora(own: Own, has_default: bool, limit: int | None) -> PeftLora:
    part = dict(own.tensors)
    if own.has("lora_mid"):
        part["lora_A"] = np.einsum(
            "rs...,si->ri...", own.get("lora_mid"), own.get("lora_A").reshape(len(own.get("lora_A")), -1)
        )
        part["lora_B"] = own.get("lora_B").reshape(*own.get("lora_B").shape[:2], *[1] * (part["lora_A"].ndim - 2))
    a, b = pair(own.module, part, own.config.where, limit)
    return PeftLora(own.module, a.T, b.T, _scale(own, len(a), has_default), None, None)


def _scale(own: Own, rank: int, has_default: bool) -> float:
    """alpha / r, or what MLX' configuration says."""
    config = own.config
    if own.has("alpha"):
        return float(own.get("alpha").reshape(-1)[0]) / rank
    if config.fields.get("lora_alpha") is not None:
        return config.patterned(own.module, "alpha_pattern", config.number("lora_alpha")) / rank
    inner = config.fields.get("lora_parameters")
    if isinstance(inner, dict) and inner.get("scale") is not None:
        return Config(inner, config.where).number("scale")
    if not has_default:
        hint = "give the directory with its adapter_config.json (lora_alpha, or MLX' lora_parameters.scale)"
        raise BadAdapter("its scale is not known: neither the tensors nor a configuration say it", config.where, hint)
    return 1.0


def _difference(own: Own) -> PeftChange:
    """The whole change of the weight (diff [out, in]) and of the bias (diff_b [out])."""
    delta = None if not own.has("diff") else matrix(own.get("diff"))
    added = own.get("diff_b").reshape(-1) if own.has("diff_b") else None

    def of(base: Base) -> Dense:
        return Dense(np.zeros(base.shape) if delta is None else delta, None if added is None else base.bias + added)

    return PeftChange(
        own.module, own.tuner, of, None if delta is None else delta.shape[1], own.has("diff") and own.get("diff").ndim > 2
    )
