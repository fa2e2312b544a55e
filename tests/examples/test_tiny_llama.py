"""The trained tiny Llama: its texts, its ONNX against NumPy and PyTorch, its bits per byte, its adapter on the machine."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from safetensors.numpy import load_file

import axlora
from axlora.compiler.frontend.attach import find_linear
from axlora.compiler.frontend.onnx_reader import read
from axlora.compiler.frontend.peft import read_peft
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.passes.recognise_linears import recognise

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_llama"
BASE, PROSE = EXAMPLE / "base", EXAMPLE / "adapters" / "prose"
KINDS = ("code", "prose")
TARGETS = {
    "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (256, 128),
    "self_attn.v_proj": (256, 128),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (256, 512),
    "mlp.up_proj": (256, 512),
    "mlp.down_proj": (512, 256),
}
"""Linear to its inputs and outputs."""


@pytest.fixture(scope="module")
def evaluate() -> Iterator[ModuleType]:
    """bits.py under a name of its own."""
    spec = importlib.util.spec_from_file_location("tiny_llama_bits", EXAMPLE / "bits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        spec.loader.exec_module(module)
        yield module
    for name in ("corpus", "export"):
        sys.modules.pop(name, None)


def _softmax(x: Float) -> Float:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _forward(weights: Mapping[str, Float], ids: Int, lora: Mapping[str, Float], scale: float) -> Float:
    """Logits [n, t, 256] of the Llama by its definition, float64: rotation by pairs (i, i + 32), heads one by one."""
    n, t = ids.shape
    rows = np.arange(t)
    angle = rows[:, None] * 10000.0 ** (-np.arange(32) / 32)
    turn = np.exp(1j * angle)

    def norm(x: Float, name: str) -> Float:
        return np.asarray(x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5) * weights[f"{name}.weight"])

    def linear(x: Float, name: str) -> Float:
        w = weights[f"{name}.weight"]
        if f"{name}.lora_A.weight" in lora:
            w = w + scale * lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
        return x @ w.T

    def rotated(x: Float) -> Float:
        z = (x[..., :32] + 1j * x[..., 32:]) * turn
        return np.concatenate([z.real, z.imag], -1)

    x = weights["model.embed_tokens.weight"][ids]
    for i in range(5):
        path = f"model.layers.{i}"
        h = norm(x, f"{path}.input_layernorm")
        q, k, v = (linear(h, f"{path}.self_attn.{m}_proj").reshape(n, t, -1, 64) for m in "qkv")
        heads = []
        for head in range(4):
            scores = rotated(q[:, :, head]) @ rotated(k[:, :, head // 2]).transpose(0, 2, 1) / 8
            scores[:, rows[:, None] < rows] = -np.inf
            heads.append(_softmax(scores) @ v[:, :, head // 2])
        x = x + linear(np.concatenate(heads, -1), f"{path}.self_attn.o_proj")
        h = norm(x, f"{path}.post_attention_layernorm")
        gate = linear(h, f"{path}.mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, f"{path}.mlp.up_proj"), f"{path}.mlp.down_proj")
    return linear(norm(x, "model.norm"), "lm_head")


def test_the_committed_files_are_small_and_of_the_promised_shapes() -> None:
    assert (BASE / "model.safetensors").stat().st_size < 6_300_000
    assert (PROSE / "adapter_model.safetensors").stat().st_size < 400_000
    tensors = load_file(BASE / "model.safetensors")
    assert sum(v.size for v in tensors.values()) == json.loads((BASE / "results.json").read_text())["parameters"] == 3_083_008
    config = json.loads((PROSE / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (8, 16, "axlora/tiny-llama")
    shapes = {
        f"base_model.model.model.layers.{i}.{linear}.lora_{part}.weight": shape
        for i in range(5)
        for linear, (inputs, outputs) in TARGETS.items()
        for part, shape in (("A", (8, inputs)), ("B", (outputs, 8)))
    }
    lora = load_file(PROSE / "adapter_model.safetensors")
    assert {k: v.shape for k, v in lora.items()} == shapes
    assert all(v.dtype == np.float16 and np.isfinite(v).all() for v in (*tensors.values(), *lora.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_out_is_not_trained_on(evaluate: ModuleType, kind: str) -> None:
    """No training text of this Python holds four lines running of a committed excerpt."""
    corpus = evaluate.corpus
    text = corpus.held_out(kind)
    assert len(text) == corpus.EXCERPT * corpus.EXCERPTS == 16384
    assert corpus.END not in text
    sources = (EXAMPLE / "held_out" / f"{kind}.sources").read_text().split()
    split = corpus.split(kind)
    assert len(sources) == corpus.EXCERPTS
    assert not set(sources) & set(split.training)
    training = corpus.END.join(split.training.values())
    for i in range(corpus.EXCERPTS):
        excerpt = text[i * corpus.EXCERPT : (i + 1) * corpus.EXCERPT]
        lines = [line for line in excerpt.splitlines()[:-1] if line.strip()]
        assert not any(b"\n".join(lines[j : j + 4]) in training for j in range(len(lines) - 3))


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_excerpts_take_the_texts_in_turn(evaluate: ModuleType, kind: str) -> None:
    corpus = evaluate.corpus
    pieces = corpus.excerpts(corpus.split(kind).held_out)
    assert len(pieces) == corpus.EXCERPTS
    assert len({piece for _, piece in pieces}) == corpus.EXCERPTS
    assert all(len(piece) == corpus.EXCERPT and piece.decode() for _, piece in pieces)


def test_bits_per_byte_is_the_mean_code_length(evaluate: ModuleType) -> None:
    ids = np.array([[3, 1, 2], [0, 255, 7]])
    assert evaluate.bits_per_byte(np.zeros((2, 3, 256), np.float32), ids) == pytest.approx(8)
    logits = np.full((2, 3, 256), -1e4, np.float32)
    for row, column in np.ndindex(2, 2):
        logits[row, column, ids[row, column + 1]] = 1e4
    assert evaluate.bits_per_byte(logits, ids) == 0
    logits[1, 1, 6] = 1e4  # one of four bytes costs a bit
    assert evaluate.bits_per_byte(logits, ids) == pytest.approx(0.25)


def test_bits_of_a_text_do_not_depend_on_the_batch(evaluate: ModuleType) -> None:
    table = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    text = bytes(np.random.default_rng(2).integers(1, 256, 403, dtype=np.uint8))
    whole = evaluate.bits_of(lambda ids: table[ids], text, 16, 100)
    assert evaluate.windows(text, 16).shape == (25, 16)
    assert evaluate.bits_of(lambda ids: table[ids], text, 16, 4) == pytest.approx(whole)


@pytest.mark.parametrize("adapter", [None, "prose"])
def test_the_onnx_is_the_definition_of_a_llama(evaluate: ModuleType, adapter: str | None) -> None:
    """onnxruntime against NumPy, with and without the LoRA in the graph, at lengths 1, 33 and the whole context."""
    export = evaluate.export
    lora = export.read_lora(PROSE) if adapter else export.Lora({}, 0)
    model = export.model(lora if adapter else None)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    run = evaluate.float_model(model)
    weights = {k: v.astype(np.float64) for k, v in load_file(BASE / "model.safetensors").items()}
    text = evaluate.corpus.held_out("prose")
    for ids in (evaluate.windows(text, 1)[:2], evaluate.windows(text, 33)[:3], evaluate.windows(text, 256)[:1]):
        wanted = _forward(weights, ids, {k: v.astype(np.float64) for k, v in lora.tensors.items()}, lora.scale)
        logits = run(ids)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, wanted, atol=1e-3)


@pytest.mark.parametrize("folder", [BASE, PROSE], ids=["base", "prose"])
def test_the_onnx_is_what_transformers_and_peft_compute(evaluate: ModuleType, folder: Path) -> None:
    """`golden.npz`: written by train.py from PyTorch."""
    export = evaluate.export
    run = evaluate.float_model(export.model(export.read_lora(folder) if folder == PROSE else None))
    golden = np.load(folder / "golden.npz")
    assert golden["logits"].std() > 1
    np.testing.assert_allclose(run(golden["ids"]), golden["logits"], atol=1e-3)


def test_held_out_bits_per_byte_are_those_of_the_results(evaluate: ModuleType) -> None:
    """The base is better on code, the adapter on prose."""
    export, corpus = evaluate.export, evaluate.corpus
    results = json.loads((PROSE / "results.json").read_text())
    for name, kind, lora in (("base", "code", None), ("adapter", "prose", export.read_lora(PROSE))):
        run = evaluate.float_model(export.model(lora))
        assert evaluate.bits_of(run, corpus.held_out(kind), 256) == pytest.approx(results[f"{name}_{kind}"], abs=2e-4)
    assert results["base_code"] < 2.2
    assert results["adapter_prose"] < results["base_prose"] - 0.15
    assert results["base_code"] < results["adapter_code"]


def _linears(model: onnx.ModelProto) -> tuple[FoundLinear, ...]:
    fixed, _ = read(model, {"batch": 1, "sequence": 16})
    return recognise(fixed)[1]


def test_every_module_of_the_adapter_finds_its_linear(evaluate: ModuleType) -> None:
    linears = _linears(evaluate.export.model())
    assert len(linears) == 36
    found = {lora.module: find_linear(lora.module, linears, None, "prose").name for lora in read_peft(PROSE)}
    assert len(found) == 35
    assert all(name == module for module, name in found.items())


def test_the_lora_in_the_graph_is_recognised(evaluate: ModuleType) -> None:
    linears = _linears(evaluate.export.model(evaluate.export.read_lora(PROSE)))
    assert [len(x.loras) for x in linears] == [1] * 35 + [0]


@pytest.mark.slow
def test_quantized_on_the_machine_it_is_as_good(evaluate: ModuleType) -> None:
    """Linears in 8 bits, the rest on the host: bits per byte of 4 windows within 1 % of float, base and adapter."""
    model = evaluate.export.model()
    program = axlora.compile(model, "zcu104", adapters={"prose": PROSE}, shapes={"batch": 1, "sequence": 64})
    text = evaluate.corpus.held_out("prose")[: 4 * 64]
    for name, lora in ((None, None), ("prose", evaluate.export.read_lora(PROSE))):
        wanted = evaluate.bits_of(evaluate.float_model(evaluate.export.model(lora)), text, 64)

        def run(ids: Int, name: str | None = name) -> npt.NDArray[np.float32]:
            return axlora.simulate(program, {"input_ids": ids}, adapter=name, timing=False).outputs["logits"]

        assert evaluate.bits_of(run, text, 64, batch=1) == pytest.approx(wanted, rel=0.01)
