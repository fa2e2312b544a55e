"""Adapters of every tuner of PEFT on one small model: `python tests/compiler/tuned.py` writes tests/compiler/models/tuned.*.

Needs the extra `export` (torch). Weights are random from a fixed seed; what PEFT merges is what the tests expect.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

MODELS = Path(__file__).parent / "models"
LINEARS = {"layers.0.self_attn.q_proj": (16, 16), "layers.0.mlp.up_proj": (16, 24), "layers.0.mlp.down_proj": (24, 16)}
"""Module -> (inputs, outputs)."""
Q, UP, DOWN = "q_proj", "up_proj", "down_proj"


@dataclass(frozen=True)
class Tuned:
    """One adapter: PEFT's configuration class and its fields."""

    name: str
    config: str
    fields: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = (Q, UP, DOWN)


ALL = (
    Tuned("lora", "LoraConfig", {"r": 3, "lora_alpha": 5}),
    Tuned("rslora", "LoraConfig", {"r": 3, "use_rslora": True, "lora_bias": True}),
    Tuned("dora", "LoraConfig", {"r": 3, "use_dora": True}),
    Tuned("adalora", "AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10, "tinit": 1, "tfinal": 2}),
    Tuned("loha", "LoHaConfig", {"r": 2, "alpha": 3}),
    Tuned("lokr", "LoKrConfig", {"r": 2, "alpha": 3}),
    Tuned("lokr_both", "LoKrConfig", {"r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4}),
    Tuned("lokr_full", "LoKrConfig", {"r": 64, "alpha": 3}),
    Tuned("ia3", "IA3Config", {"feedforward_modules": [DOWN]}),
    Tuned("oft", "OFTConfig", {"r": 0, "oft_block_size": 4}),
    Tuned("oft_coft", "OFTConfig", {"r": 0, "oft_block_size": 4, "coft": True, "eps": 1e-2, "use_cayley_neumann": False}),
    Tuned("oft_shared", "OFTConfig", {"r": 0, "oft_block_size": 4, "block_share": True}),
    Tuned("boft", "BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 1}),
    Tuned("vera", "VeraConfig", {"r": 3}),
    Tuned("vblora", "VBLoRAConfig", {"r": 2, "num_vectors": 12, "vector_length": 4, "topk": 2}),
    Tuned("vblora_topk", "VBLoRAConfig",
          {"r": 2, "num_vectors": 12, "vector_length": 4, "topk": 2, "save_only_topk_weights": True}),
    Tuned("fourierft", "FourierFTConfig", {"n_frequency": 20, "scaling": 40.0}),
    Tuned("waveft", "WaveFTConfig", {"n_frequency": 20, "scaling": 5.0}),
    Tuned("waveft_plain", "WaveFTConfig", {"n_frequency": 20, "scaling": 5.0, "use_idwt": False}),
    Tuned("c3a", "C3AConfig", {"block_size": 4}),
    Tuned("randlora", "RandLoraConfig", {"r": 4, "randlora_alpha": 8}),
    Tuned("shira", "ShiraConfig", {"r": 2}),
    Tuned("miss", "MissConfig", {"r": 4}),
    Tuned("miss_odd", "MissConfig", {"r": 5}),
    Tuned("miss_bat", "MissConfig", {"r": 4, "init_weights": "bat"}),
    Tuned("miss_mini", "MissConfig", {"r": 4, "mini_r": 4, "init_weights": "mini"}),
    Tuned("delora", "DeloraConfig", {"r": 3}),
    Tuned("gralora", "GraloraConfig", {"r": 4, "gralora_k": 2, "alpha": 6}),
    Tuned("gralora_hybrid", "GraloraConfig", {"r": 4, "gralora_k": 2, "hybrid_r": 2}),
    Tuned("tinylora", "TinyLoraConfig", {"r": 2, "u": 4, "weight_tying": 1.0}),
    Tuned("tinylora_own", "TinyLoraConfig", {"r": 2, "u": 5}),
    Tuned("unilora", "UniLoraConfig", {"r": 2, "theta_d_length": 16, "save_indices": True}),
    Tuned("patterns", "LoHaConfig", {"r": 2, "alpha": 3, "rank_pattern": {Q: 3}, "alpha_pattern": {UP: 7}}),
    Tuned("glora_vector", "GloraConfig", {"r": 3, "config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"}),
    Tuned("glora_constant", "GloraConfig", {"r": 3, "config_A_B": "constant", "config_C": "none", "config_D_E": "none"}),
    Tuned("hra", "HRAConfig", {"r": 4}),
    Tuned("hra_gs", "HRAConfig", {"r": 4, "apply_GS": True}),
    Tuned("road_1", "RoadConfig", {"variant": "road_1", "group_size": 4}),
    Tuned("road_2", "RoadConfig", {"variant": "road_2", "group_size": 4}),
    Tuned("road_4", "RoadConfig", {"variant": "road_4", "group_size": 4}),
    Tuned("hira", "HiraConfig", {"r": 3}),
    Tuned("glora", "GloraConfig", {"r": 3}),
    Tuned("osf", "OSFConfig", {"effective_rank": 4}),
    Tuned("pvera", "PveraConfig", {"r": 3}),
    Tuned("beft", "BeftConfig", {}),
    Tuned("deft", "DeftConfig", {"r": 3}),
    Tuned("deft_qr", "DeftConfig", {"r": 3, "decomposition_method": "qr"}),
)  # fmt: skip


def build() -> Any:
    """The base: linears with biases, called one after another."""
    import torch

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for module in ("self_attn", "mlp"):
                self.add_module(module, torch.nn.Module())
            for name, (inputs, outputs) in LINEARS.items():
                of, last = name.split(".")[2:]
                getattr(self, of).add_module(last, torch.nn.Linear(inputs, outputs))

        def forward(self, x: Any) -> Any:
            return self.mlp.down_proj(self.mlp.up_proj(self.self_attn.q_proj(x)))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Layer()])
            self.config = {"model_type": "custom", "tie_word_embeddings": False}

        def forward(self, x: Any) -> Any:
            return self.layers[0](x)

    torch.manual_seed(1)
    return Net()


def write(case: Tuned, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(The configuration without what is not set, the tensors and, as `merged/NAME`, the weights that PEFT merges)."""
    import peft
    import torch

    config = getattr(peft, case.config)(target_modules=list(case.targets), **case.fields)
    model = peft.get_peft_model(build(), config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad and "ranknum" not in name:
                value.add_(torch.empty_like(value).normal_(0, 0.3))
    model.save_pretrained(str(folder))
    x = torch.randn(1, 5, 16)
    model.eval()
    before = model(x)
    merged = model.merge_and_unload()
    assert torch.allclose(merged(x), before, rtol=1e-4, atol=1e-4), "merging changes the model"
    fields = json.loads((folder / "adapter_config.json").read_text())
    kept = {
        name: value
        for name, value in fields.items()
        if value not in (None, [], {}) and name not in ("auto_mapping", "peft_version")
    }
    values = {f"merged/{name}": value.detach().numpy().copy() for name, value in merged.named_parameters()}
    return kept, load_file(folder / "adapter_model.safetensors") | values


def main() -> None:
    """Write `tuned.json` (configurations) and `tuned.safetensors` (tensors, and the base's)."""
    configs, tensors = {}, {f"base/{n}": v.detach().numpy().copy() for n, v in build().named_parameters()}
    for case in ALL:
        with tempfile.TemporaryDirectory() as temporary:
            configs[case.name], own = write(case, Path(temporary))
        tensors |= {f"{case.name}/{name}": value for name, value in own.items()}
    MODELS.mkdir(exist_ok=True)
    (MODELS / "tuned.json").write_text(json.dumps(configs, indent=0) + "\n")
    save_file(tensors, MODELS / "tuned.safetensors")


if __name__ == "__main__":
    main()
