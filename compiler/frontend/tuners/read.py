"""Tuners by PEFT's `peft_type`: which tensors each saves, and what reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.adapter_content import PeftChange, PeftLora
from axlora.compiler.frontend.tuners import branches, products, rotations, spectral, weights
from axlora.compiler.frontend.tuners.tensors import Config, Own, Tensor, read_own

Reader = Callable[[Own], PeftLora | PeftChange]


@dataclass(frozen=True)
class Tuner:
    """A kind of adapter whose tensors are read."""

    name: str
    keys: str
    """Regular expression of the component of a tensor's name that is the tuner's own."""
    read: Reader


TUNERS = {
    "ADALORA": Tuner("AdaLoRA", r"lora_[ABE]|ranknum", branches.adalora),
    "BEFT": Tuner("BEFT", r"beft_bias", branches.beft),
    "BOFT": Tuner("BOFT", r"boft_[Rs]", rotations.boft),
    "BONE": Tuner("Bone", r"bone_block", branches.miss),
    "C3A": Tuner("C3A", r"c3a_kernel", spectral.c3a),
    "DEFT": Tuner("DEFT", r"deft_[PR]", branches.deft),
    "DELORA": Tuner("DeLoRA", r"delora_(A|B|lambda|w_norm)", branches.delora),
    "FOURIERFT": Tuner("FourierFT", r"fourierft_spectrum", spectral.fourierft),
    "GLORA": Tuner("GLoRA", r"glora_[A-E]", weights.glora),
    "GRALORA": Tuner("GraLoRA", r"gralora_[AB](_general)?", branches.gralora),
    "HIRA": Tuner("HiRA", r"hira_[AB]", weights.hira),
    "HRA": Tuner("HRA", r"hra_u", rotations.hra),
    "IA3": Tuner("IA3", r"ia3_l", weights.ia3),
    "LOHA": Tuner("LoHa", r"hada_[wt][12](_[ab])?", products.loha),
    "LOKR": Tuner("LoKr", r"lokr_([wt][12](_[ab])?|t2)", products.lokr),
    "MISS": Tuner("MiSS", r"miss_block", branches.miss),
    "OFT": Tuner("OFT", r"oft_R", rotations.oft),
    "OSF": Tuner("OSF", r"osf_svd_params", weights.osf),
    "PVERA": Tuner("PVeRA", r"pvera_(lambda_[bd]|[AB])", branches.vera),
    "RANDLORA": Tuner("RandLoRA", r"randlora_(A|B|lambda|gamma)", weights.randlora),
    "ROAD": Tuner("RoAd", r"road_(theta|alpha)", rotations.road),
    "SHIRA": Tuner("SHiRA", r"shira_(weight|indices)", weights.shira),
    "TINYLORA": Tuner("TinyLoRA", r"tinylora_[ABPv]", branches.tinylora),
    "UNILORA": Tuner("UniLoRA", r"unilora_(theta_d|(indices|scales)_[AB])", branches.unilora),
    "VBLORA": Tuner("VB-LoRA", r"vblora_(vector_bank|logits_[AB](_topk_(weights|indices))?)", branches.vblora),
    "VERA": Tuner("VeRA", r"vera_(lambda_[bd]|[AB])", branches.vera),
    "WAVEFT": Tuner("WaveFT", r"waveft_spectrum", spectral.waveft),
}
"""PEFT's `peft_type` -> tuner."""
_ENDS = ("default", "weight")


def read_tuner(
    tuner: Tuner, tensors: Mapping[str, Tensor], config: Config
) -> tuple[list[PeftLora | PeftChange], dict[str, Tensor]]:
    """(The changes sorted by module, the tensors that are not the tuner's).

    Raises:
        BadAdapter: a module whose tensors are missing, of other shapes or of a form that is not read.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, value in tensors.items():
        parts = key.split(".")
        at = next((n for n, part in enumerate(parts) if re.fullmatch(tuner.keys, part)), None)
        if at is None or parts[at] == "ranknum":
            rest |= {} if at is not None else {key: value}
            continue
        module = re.sub(r"^(.*?base_model\.model\.|.*?base_model\.?)", "", ".".join(parts[:at]) + ".").rstrip(".")
        ends = [part for part in parts[at + 1 :] if part not in _ENDS]
        modules.setdefault(module, {})[".".join([parts[at], *ends])] = value
    shared = modules.pop("", {})
    if shared and not modules:
        what = f"{tuner.name} saved what its modules share alone, and which has what depends on the order of all modules"
        raise BadAdapter(what, config.where, "peft.tuners.lora.conversion.convert_to_lora turns it into LoRA")
    return [read_own(tuner.read, Own(m, tuner.name, own, shared, config)) for m, own in sorted(modules.items())], rest
