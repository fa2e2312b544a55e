"""The options of `axlora.compile`: one class, with one meaning for every kind of model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter, BadModel
from axlora.compiler.frontend.resolve import Matching
from axlora.compiler.layer import check_adapter_name
from axlora.isa.opcodes import MOST_WINDOWS, SLOTS

OPERATORS = ("auto", "all", "linears")
STATIC = {"static8": 8, "static16": 16}
"""Bits of static codes."""
ACTIVATIONS = ("auto", "token8", "token16", *STATIC)
RANK = 1 << 15
"""Largest max_lora_rank."""
MOST_CONTEXT = 1 << 15
"""Largest context of a language model."""
WEIGHT_BITS = (2, 3, 4, 8)
AUTO_BITS = 5.0
"""Mean bits of weights where each linear's are chosen, unless a user says otherwise."""
_KNOWN: Mapping[str, tuple[object, ...]] = {
    "operators": OPERATORS,
    "lora_linears": ("used", "all"),
    "activation": (None, *ACTIVATIONS),
    "quantizer": ("rtn", "gptq"),
    "mode": ("fused", "exact"),
}
_RANGES = {
    "max_lora_rank": (0, RANK),
    "max_context": (1, MOST_CONTEXT),
    "chunk": (1, MOST_CONTEXT),
    "max_batch": (1, MOST_WINDOWS),
}


@dataclass(frozen=True)
class CompileOptions:
    """What a user may choose of a package. Fields are the keywords of `axlora.compile`.

    Raises:
        BadModel: a choice that there is not, or options of language models without `generate`. BadAdapter: a bad name.
    """

    adapters: Mapping[str, str | Path] | None = None
    """Name to PEFT directory, or to several with weights, `DIR@0.7,DIR@0.3`: their sum as one adapter."""
    adapter_map: Mapping[str, str] | None = None
    """Adapter module to ONNX node, where names do not tell."""
    shapes: Mapping[str, int] | None = None
    """Values of the model's symbolic dimensions."""
    calibration: Mapping[str, npt.NDArray[np.generic]] | None = None
    """Input name to samples [samples, *input shape]; None: random token ids, where magnitudes must be known; those of an input
    of floats are not."""
    activation: str | None = None
    """`token8`, `token16`: a scale for each token at run time; `static8`, `static16`: the file's scales, or from `calibration`;
    None: the file's scales where it has them, `token8` elsewhere; `auto`: a scale a token and the target's bits. None with
    `operators` all or `generate` drops the file's scales too, but where they alone tell the range of an input of floats.
    Values between the linears of whole models have 32 bits everywhere, so nothing else is to be chosen there."""
    weight_bits: int | str = 8
    """2, 3, 4 or 8, for weights that the file holds as floats; `auto`: chosen for each linear, so that results on the
    calibration data, which it needs, change least and all weights together are as many bytes as 5 bits a weight would be;
    `auto:6.5`: as 6.5 bits."""
    quantizer: str = "rtn"
    """How weights that the file holds as floats become codes: `rtn`, each to the nearest; `gptq`, so that results on the
    calibration data, which it needs, change least."""
    max_loras: int | None = None
    """Most different adapters in one batch, 0 to 8. None, with adapters: 1 of linears and of rows that nothing mixes, which
    have columns for each; else 8."""
    max_lora_rank: int | None = None
    """Largest rank that the package takes; None: that of the adapters given."""
    lora_linears: str = "used"
    """`used`: the linears that the given adapters change (all, if none are given) can be adapted, now and later; `all`: every
    linear, which costs each some cycles for its adapter columns."""
    merge: bool = False
    """Put the model's own branches, and the one adapter given, into the weights; the package has no adapter then."""
    mode: str = "fused"
    """`fused`: base and branches are joined in one wide sum and rounded once; `exact`: every Q/DQ pair of the file counts.
    Of whole models where they keep the file's scales."""
    base: str | Path | None = None
    """Hugging Face directory of the model that the adapters were trained on: equal weights tell which linear a module means."""
    dump_passes: str | Path | None = None
    """Directory for the text of every phase."""
    generate: bool = False
    """A decoder as prefill and decode programs around a cache."""
    max_context: int | None = None
    """Most tokens of prompt and answer; None: what the export is fixed to, else 256."""
    chunk: int | None = None
    """Most tokens of a prompt that a start takes; None: 32. The target's T are always taken, and no more than fit."""
    max_batch: int | None = None
    """Most sequences of a language model that a start decodes together, each with an adapter of its own; None: 1."""
    operators: str = "auto"
    """What the accelerator runs. `all`: every operator between the first rows (of embeddings, or an input of floats, which
    needs `calibration`) and the outputs; `linears`: the linears, and the host the rest; `auto`: all where the model and target
    allow it and no option asks for something else, with a notice that says why where they don't."""
    partial_adapters: bool = False
    """Take the part of an adapter that fits, with a notice of what is left out; else it is refused."""
    fixed_inputs: Mapping[str, float] | None = None
    """Inputs of the model that become constants, and the value of all their elements: the condition of a merged decoder, for
    example, which picks a branch."""
    progress: Callable[[str], None] | None = None
    """Called with the name of each phase, and of each linear as it is placed."""

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if (value := getattr(self, name)) not in known:
                raise BadModel(f"{name} is {value!r}", name, f"one of {', '.join(map(str, known))}")
        for name, (least, most) in _RANGES.items():
            if (value := getattr(self, name)) is not None and not least <= value <= most:
                raise BadModel(f"{name} is {value}", name, f"must be {least} to {most}")
        if self.max_loras is not None and not 0 <= self.max_loras <= SLOTS:
            what = f"{self.max_loras} adapter slots asked for, the machine has {SLOTS}"
            raise BadModel(what, "max-loras", f"0 to {SLOTS}")
        for name in self.files:
            check_adapter_name(name)
        if self.calibration is not None and not isinstance(self.calibration, Mapping):
            kind = type(self.calibration).__name__
            raise BadModel(f"calibration is a {kind}, must be a dict of arrays", "calibration", '{"input_ids": samples}')
        if self.quantizer == "gptq" and self.calibration is None:
            raise BadModel("gptq rounds weights for calibration data, and there is none", "quantizer", "--calibration DATA.npz")
        if self.weight_bits not in WEIGHT_BITS and not 2 <= (self.mean_bits or 0) <= 8:
            hint = "one of 2, 3, 4, 8, auto, or auto:B with B from 2 to 8"
            raise BadModel(f"weight_bits is {self.weight_bits!r}", "weight_bits", hint)
        if self.mean_bits is not None and self.calibration is None:
            what = "auto chooses bits of weights for calibration data, and there is none"
            raise BadModel(what, "weight-bits", "--calibration DATA.npz")
        if self.merge and len(self.files) > 1:
            raise BadAdapter(f"{len(self.files)} adapters to merge", "--merge", "give one")
        for name in ("chunk", "max_context", "max_batch"):
            if getattr(self, name) is not None and not self.generate:
                raise BadModel(f"{name} without generate", name, "it is of language models: generate=True, --generate")
        if self.exact and (self.merge or (self.activation or "").startswith("token")):
            hint = "leave --merge and --activation token* out"
            raise BadModel("exact keeps the file's own scales and branches", "mode", hint)

    @property
    def exact(self) -> bool:
        """Whether nothing of a linear is joined across a Q/DQ pair."""
        return self.mode == "exact"

    @property
    def usual_bits(self) -> int:
        """Bits of weights of floats whose own were not chosen."""
        return 4 if isinstance(self.weight_bits, str) else self.weight_bits

    @property
    def mean_bits(self) -> float | None:
        """Mean bits of weights whose own are to be chosen; None: they are not, or it is no number."""
        if not isinstance(self.weight_bits, str) or not (found := re.fullmatch(r"auto(?::(\d+(?:\.\d+)?))?", self.weight_bits)):
            return None
        return float(found[1] or AUTO_BITS)

    @property
    def static_bits(self) -> int:
        """Bits of the static codes that are asked for; 0: none are."""
        return STATIC.get(self.activation or "", 0)

    @property
    def calibrates_scales(self) -> bool:
        """Whether a whole model without scales gets static ones from the calibration data."""
        return self.static_bits > 0 and self.calibration is not None and self.asks_whole

    @property
    def keeps_scales(self) -> bool:
        """Whether linears read codes of the file's own scales, where it has them; else every row has a scale of its own."""
        return self.activation in STATIC or (self.activation is None and not self.asks_whole)

    @property
    def asks_whole(self) -> bool:
        """Whether a model runs whole or is refused; else what does not run whole may run as linears."""
        return self.generate or self.operators == "all"

    @property
    def files(self) -> Mapping[str, str | Path]:
        """`adapters`, none if None."""
        return self.adapters or {}

    @property
    def matching(self) -> Matching:
        """How adapters find their linears."""
        return Matching(self.adapter_map, self.base, self.partial_adapters)

    @property
    def dump(self) -> Path | None:
        """The directory of `dump_passes`."""
        return None if self.dump_passes is None else Path(self.dump_passes)

    def tell(self, what: str) -> None:
        """Report a phase, or a linear, to `progress`."""
        if self.progress is not None:
            self.progress(what)

    def special(self, bits: int) -> list[str]:
        """The choices that only programs of linears have, or models that keep their scales, for activations of `bits` bits."""
        given = {
            "mode exact": self.exact and not self.keeps_scales,
            f"activation {self.activation}": self.activation not in (None, "auto", f"token{bits}", *STATIC),
            f"lora_linears {self.lora_linears}": self.generate and self.lora_linears != "used",
            "merge": self.generate and self.merge,
            "operators linears": self.generate and self.operators == "linears",
        }
        return [name for name, asked in given.items() if asked]
