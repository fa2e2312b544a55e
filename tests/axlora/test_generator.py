"""Language models as packages: what they generate is the integer reference's, and what is wrong is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from same import assert_same
from tiny_decoder import VOCABULARY, Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.adapters import add_adapter, pin_adapter, remove_adapter
from axlora.cli import main
from axlora.compiler.layer import Linear
from axlora.compiler.operators import Function, NormKind
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import Generated, lower_whole
from axlora.compiler.reference import numpy_rows
from axlora.compiler.rows.lower import lower
from axlora.generator import generate
from axlora.inputs import BadInput

CONTEXT = 22
PROMPT = [65, 20, 33, 7, 90]
NEW = 8


@dataclass(frozen=True)
class Made:
    """A compiled model, and the files it came from."""

    program: axlora.Program
    onnx: Path
    adapters: dict[str, Path]

    @property
    def lowered(self) -> Generated:
        """The same model as integers."""
        return lower_whole(self.onnx, self.program.target, CompileOptions(self.adapters, generate=True, max_context=CONTEXT))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One layer with an adapter of rank 4 and one of rank 11."""
    folder = tmp_path_factory.mktemp("generator")
    decoder = random_decoder(Sizes(layers=1, context=CONTEXT), seed=2)
    model = write_onnx(decoder, folder / "model.onnx")
    adapters = {f"a{rank}": write_peft(random_branches(decoder, rank, rank), folder / f"a{rank}") for rank in (4, 11)}
    program = axlora.compile(model, "test", adapters=adapters, generate=True, max_context=CONTEXT)
    assert program.kind == "generator"
    return Made(program, model, adapters)


@pytest.fixture
def package(made: Made, tmp_path: Path) -> Path:
    made.program.save(tmp_path / "m.axl")
    return tmp_path / "m.axl"


def _greedy(lowered: Generated, program: axlora.Program, prompt: Sequence[int], count: int, adapter: str | None) -> list[int]:
    """The integer reference's tokens, all of the context anew at every step; no cache, no chunks."""
    linears: dict[str, Linear] = {linear.name: linear for linear in lowered.lowered.linears}
    ids, host = list(prompt), program.interface
    for _ in range(count):
        rows = numpy_rows.Reference(linears, [adapter] * len(ids), numpy_rows.Cache(), 8, host.embed({host.ids: ids}))
        lower(lowered.region, rows, 8, lowered.image.context)
        ids.append(int(np.argmax(rows.output[-1])))
    return ids[len(prompt) :]


@pytest.mark.parametrize("adapter", [None, "a4", "a11"])
def test_generate_is_the_integer_references_greedy(made: Made, adapter: str | None) -> None:
    found = list(generate(made.program, PROMPT, max_new_tokens=NEW, adapter=adapter))
    assert [t.token for t in found] == _greedy(made.lowered, made.program, PROMPT, NEW, adapter)
    assert all(t.cycles > 0 for t in found)
    assert found[0].cycles > 2 * found[1].cycles  # five tokens of prompt: two starts of two, and one of one


@pytest.mark.parametrize("target", ["test", "zcu104"])
def test_learned_positions_and_a_packed_projection(target: str, tmp_path: Path) -> None:
    """GPT-2's form: the host adds positions to the rows; layer norms, biases, no rotary embedding."""
    sizes = Sizes(layers=1, context=CONTEXT, norm=NormKind.LAYER, function=Function.GELU_TANH, kv_heads=4, packed=True)
    model = write_onnx(random_decoder(sizes, seed=3), tmp_path / "model.onnx")
    compiled = axlora.compile(model, target, generate=True, max_context=CONTEXT)
    compiled.save(tmp_path / "m.axl")
    program = axlora.load(tmp_path / "m.axl")
    positions = program.interface.positions
    assert positions is not None
    assert positions.shape == (CONTEXT, sizes.features)
    lowered = lower_whole(model, program.target, CompileOptions(generate=True, max_context=CONTEXT))
    found = [t.token for t in generate(program, PROMPT, max_new_tokens=NEW)]
    assert found == _greedy(lowered, program, PROMPT, NEW, None)


@pytest.mark.parametrize("packed", [False, True])
def test_an_export_with_caches_is_the_one_without(packed: bool, tmp_path: Path) -> None:
    """past_key_values in, present out: the machine's own cache stands for them; the same memory image but for names."""
    kind = {"norm": NormKind.LAYER, "function": Function.GELU_TANH, "kv_heads": 4, "packed": True} if packed else {}
    decoder = random_decoder(Sizes(layers=2, context=CONTEXT, **kind), seed=5)  # type: ignore[arg-type]
    plain, past = (write_onnx(decoder, tmp_path / f"{p}.onnx", past=p) for p in (False, True))
    session = ort.InferenceSession(past)
    feed = {"input_ids": np.array([PROMPT])}
    feed |= {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()[1:]}
    assert len(feed) == 5
    wanted = session.run(["logits"], feed)[0][0]
    a, b = (axlora.compile(model, "test", generate=True, max_context=CONTEXT) for model in (plain, past))
    assert a.kind == "generator"
    assert b.kind == "generator"
    assert a.image == b.image
    got = np.ldexp(b.session().feed(PROMPT).astype(float), -b.interface.output_fraction)
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("chunk", "rows"), [(None, {1, 2, 4, 8, 16}), (4, {1, 2, 4}), (5, {1, 2, 4}), (1, {1, 2})])
def test_chunk_is_the_most_of_a_prefill_start(made: Made, chunk: int | None, rows: set[int]) -> None:
    """And the tokens are the same."""
    program = axlora.compile(made.onnx, "test", adapters=made.adapters, generate=True, max_context=CONTEXT, chunk=chunk)
    assert program.kind == "generator"
    assert {f.rows for f in program.functions} == {n for n in rows if n <= CONTEXT}
    wanted, got = ([t.token for t in generate(p, PROMPT, max_new_tokens=3)] for p in (made.program, program))
    assert wanted == got


def test_the_adapters_and_the_base_generate_different_text(made: Made) -> None:
    texts = {tuple(t.token for t in generate(made.program, PROMPT, max_new_tokens=NEW, adapter=a)) for a in (None, "a4", "a11")}
    assert len(texts) == 3


def test_save_load_gives_the_same_package_and_tokens(made: Made, package: Path) -> None:
    again = axlora.load(package)
    assert_same(made.program, again)
    assert axlora.load(package).kind == "generator"
    wanted, got = (list(generate(p, PROMPT, max_new_tokens=NEW, adapter="a4")) for p in (made.program, again))
    assert wanted == got
    again.save(package.with_name("b.axl"))
    for file in sorted(f.relative_to(package) for f in package.rglob("*") if f.is_file()):
        assert (package / file).read_bytes() == (package.with_name("b.axl") / file).read_bytes()


def test_more_slots_than_adapters_change_no_token(made: Made) -> None:
    """A slot that no register names takes no part."""
    program = axlora.compile(made.onnx, "test", adapters=made.adapters, generate=True, max_context=CONTEXT, max_loras=3)
    assert program.kind == "generator"
    for adapter in (None, "a11"):
        wanted, got = (
            [t.token for t in generate(p, PROMPT, max_new_tokens=3, adapter=adapter)] for p in (made.program, program)
        )
        assert wanted == got


def test_a_context_goes_to_its_last_token_and_no_further(made: Made) -> None:
    prompt = list(range(CONTEXT - 2))
    found = [t.token for t in generate(made.program, prompt, max_new_tokens=3)]
    assert found == _greedy(made.lowered, made.program, prompt, 3, None)
    with pytest.raises(BadInput, match=f"{CONTEXT - 2} tokens and 4 new ones, compiled for a context of {CONTEXT}"):
        next(generate(made.program, prompt, max_new_tokens=4))
    session = made.program.session()
    session.feed(prompt)
    with pytest.raises(BadInput, match=f"{CONTEXT + 1} tokens"):
        session.feed([1, 2, 3])


def test_a_session_takes_a_prompt_in_parts(made: Made) -> None:
    """Starts of T tokens and of one give the same logits, wherever the parts are cut."""
    whole = made.program.session("a4").feed(PROMPT)
    parts = made.program.session("a4")
    assert np.array_equal(np.concatenate([parts.feed(PROMPT[:1]), parts.feed(PROMPT[1:4]), parts.feed(PROMPT[4:])]), whole)
    assert parts.feed([]).shape == (0, VOCABULARY)
    assert parts.cycles == parts.counters["cycles"] > 0


@pytest.mark.parametrize("first", [0, 3, 16])
def test_a_prompt_is_cut_into_the_starts_that_take_fewest_cycles(made: Made, first: int) -> None:
    """A start may have rows for more tokens; logits, and what comes later, are those of single tokens."""
    costs = {1: 10, 2: 11, 4: 12, 8: 30, 16: 31}
    functions = tuple(dataclasses.replace(f, cycles=costs[f.rows]) for f in made.program.functions)
    program = dataclasses.replace(made.program, functions=functions)
    for count in range(1, CONTEXT - first + 1):
        ids = [(7 * n + count) % VOCABULARY for n in range(first + count)]
        session, one = program.session("a4"), program.session("a4")
        for sequence in (session, one):
            sequence.feed(ids[:first])
        chosen = session.sequence.plan(count)
        cost, at, left = sum(f.cycles for f in chosen), first, count
        for f in chosen:
            assert at % f.rows == 0
            assert at + f.rows <= CONTEXT
            at, left = at + f.rows, left - f.rows
        assert left <= 0
        assert cost <= 10 * count
        if count in (3, 5, 6):
            wanted = np.vstack([one.decode(i) for i in ids[first:]])
            assert np.array_equal(session.feed(ids[first:]), wanted)
            if first + count < CONTEXT:
                assert np.array_equal(session.decode(1), one.decode(1))
    if first == 0:
        assert [f.rows for f in program.session().sequence.plan(3)] == [4]
        assert [f.rows for f in program.session().sequence.plan(9)] == [16]


def test_generation_stops_after_the_end_token(made: Made) -> None:
    tokens = [t.token for t in generate(made.program, PROMPT, max_new_tokens=NEW)]
    eos = tokens[2]
    first = tokens.index(eos)
    assert [t.token for t in generate(made.program, PROMPT, max_new_tokens=NEW, eos=eos)] == tokens[: first + 1]


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ([], {}, "the prompt is empty"),
        ([1, VOCABULARY], {"max_new_tokens": 2}, f"token id {VOCABULARY} is not in the vocabulary"),
        ([-1], {"max_new_tokens": 2}, "token id -1"),
        ([1], {"max_new_tokens": CONTEXT + 1}, "context of 22"),
        ([1], {"max_new_tokens": 2, "adapter": "law"}, "no adapter 'law' in the package.*a4, a11"),
    ],
)
def test_wrong_requests_are_refused(made: Made, prompt: list[int], options: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, axlora.BadAdapter), match=words):
        next(generate(made.program, prompt, **options))


@pytest.mark.parametrize("context", [0, -3, (1 << 15) + 1])
def test_contexts_out_of_range_are_refused(made: Made, context: int) -> None:
    with pytest.raises(axlora.BadModel, match="max_context"):
        axlora.compile(made.onnx, "test", generate=True, max_context=context)


# Packages

FILES = ("manifest.json", "memory.bin", "arrays.safetensors", "linears.safetensors", "adapters/a4.bin")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncate", "edit", "remove"])
def test_damage_is_refused(package: Path, file: str, damage: str) -> None:
    data = (package / file).read_bytes()
    if damage == "truncate":
        (package / file).write_bytes(data[:-5])
    elif damage == "edit":
        (package / file).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    else:
        (package / file).unlink()
    with pytest.raises(axlora.BadPackage):
        axlora.load(package)


def _function(rows: int, address: int) -> dict[str, object]:
    return {"name": f"of {rows}", "rows": rows, "address": address, "size": 64}


def _edit(package: Path, **changes: object) -> None:
    """Change fields of the manifest and sign it again."""
    manifest = json.loads((package / "manifest.json").read_text()) | changes
    manifest.pop("sha256")
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (package / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("context", -1),
        ("context", 1 << 16),
        ("adapter_address", 0),
        ("adapter_address", 1 << 33),
        ("adapter_size", 64),
        ("rank", 3),
        ("input_words", 1),
        ("output_words", 1),
        ("input_words", 1 << 20),
        ("vocabulary", 1 << 20),
        ("functions", []),
        ("functions", [_function(1, 0)]),
        ("functions", [_function(1, 0), _function(2, 1 << 30)]),
        ("functions", [_function(1, 3), _function(2, 64)]),
        ("regions", []),
        ("regions", {}),
        ("regions", {"input": [0, 4096], "output": [0, 4096], "token words": [0, 64]}),
        ("input_fraction", 1000),
        ("target", {}),
        ("kind", "linears"),
        ("schema", 1),
        ("schema", 99),
    ],
    ids=str,
)
def test_a_signed_manifest_with_sizes_that_do_not_fit_is_refused(package: Path, field: str, value: object) -> None:
    _edit(package, **{field: value})
    with pytest.raises(axlora.BadPackage):
        axlora.load(package)


def test_adapters_added_later_have_the_bytes_of_those_compiled_in(made: Made, package: Path) -> None:
    """Weights are read back from the package, so nothing of the model is needed."""
    program: axlora.Program = axlora.load(package)
    for name in made.adapters:
        program = remove_adapter(program, name)
    assert not program.adapters
    for name, path in made.adapters.items():
        program = add_adapter(program, name, path)
    assert program.adapters == made.program.adapters


# Every package runs on every engine, and adapters mean the same


def test_a_run_is_prefill_and_decode_of_each_sequence(made: Made) -> None:
    """Logits of a session, whatever is fed at once; layers and steps add up; a batch is its sequences one by one."""
    inputs = made.program.random_inputs(1)
    ((name, ids),) = inputs.items()
    rows = {f.rows for f in made.program.functions}
    assert ids.shape == (1, max(rows) + 1)
    both = {name: np.vstack([ids, ids[:, ::-1]])}
    run = axlora.simulate(made.program, both, ["a4", None])
    assert run.to_json()["cycles"] == sum(layer.cycles for layer in run.layers) > 0
    (codes,) = run.codes.values()
    assert codes.shape == (2, ids.shape[1], VOCABULARY)
    for row, adapter in enumerate(("a4", None)):
        session = made.program.session([adapter])
        assert np.array_equal(np.vstack([session.decode(int(i)) for i in both[name][row]]), codes[row])
    assert session.counters["macs"] < run.counters["macs"]
    (fed,) = axlora.simulate(made.program, {name: ids[:, :5]}).codes.values()
    assert np.array_equal(session.prefill(ids[0, :5].tolist()), fed[0])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.zeros((1, CONTEXT + 1), int), r"has shape \(1, 23\), compiled for \(1, 22\)"),
        (np.zeros(3, int), r"has shape \(3,\)"),
        (np.zeros((0, 3), int), r"has shape \(0, 3\)"),
        (np.full((1, 2), VOCABULARY), "not in the vocabulary"),
        (np.zeros((1, 2)), "must be integers"),
    ],
)
def test_wrong_ids_of_a_run_are_refused(made: Made, ids: np.ndarray, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        axlora.simulate(made.program, {next(iter(made.program.inputs_info)): ids})


def test_several_prompts_are_generated_in_turn(made: Made) -> None:
    """Each as if it were alone, with its own adapter; one that ends leaves the others."""
    prompts, adapters = [PROMPT, [9], PROMPT[::-1]], ["a4", None, "a11"]
    found = list(generate(made.program, prompts, max_new_tokens=4, adapter=adapters))
    assert [t.sequence for t in found] == [0, 1, 2] * 4
    for number, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        alone = [(t.token, t.cycles) for t in generate(made.program, prompt, max_new_tokens=4, adapter=adapter)]
        assert [(t.token, t.cycles) for t in found if t.sequence == number] == alone
    eos = next(t.token for t in found if t.sequence == 1)
    ended = [t.sequence for t in generate(made.program, prompts, max_new_tokens=2, adapter=adapters, eos=eos)]
    assert ended.count(1) == 1
    with pytest.raises(axlora.BadAdapter, match="2 adapters named for 3"):
        next(generate(made.program, prompts, adapter=["a4", None]))
    with pytest.raises(BadInput, match="the prompt is empty"):
        next(generate(made.program, [PROMPT, []], max_new_tokens=2))


def test_adapters_in_fewer_places_reach_every_sequence(made: Made) -> None:
    """Sequences with memories of their own share the places: what one brought, another finds too."""
    adapters = ["a4", "a11", "a4"]
    prompts = [PROMPT, PROMPT[:3], PROMPT[1:]]
    wanted = [t[:2] for t in generate(made.program, prompts, max_new_tokens=3, adapter=adapters)]
    for places in (1, 2):
        found = generate(made.program, prompts, max_new_tokens=3, adapter=adapters, adapter_places=places)
        assert [t[:2] for t in found] == wanted
    with pytest.raises(BadInput, match="a page rate without adapter places"):
        generate(made.program, prompts, page_rate=5.0)


def test_pins_and_limits_hold_for_generation(made: Made) -> None:
    """As for every package: more different adapters than `max_loras`, pinned ones among them, are refused."""
    one = dataclasses.replace(made.program, max_loras=1)
    assert len(list(generate(one, [[1], [2]], max_new_tokens=1, adapter=["a4", None]))) == 2
    with pytest.raises(axlora.BadAdapter, match="2 different adapters in one batch, the package has 1 slots"):
        next(generate(one, [[1], [2]], max_new_tokens=1, adapter=["a4", "a11"]))
    with pytest.raises(axlora.BadAdapter, match=r"\(1 of them pinned\)"):
        next(generate(pin_adapter(one, "a11"), [1], max_new_tokens=1, adapter="a4"))


@pytest.mark.parametrize(
    ("command", "words", "adapters"), [("hls-test", "HLS C++ = simulator", "a4,-"), ("rtl-test", "Verilog = simulator", "-,a4")]
)
def test_prefill_and_decode_are_the_simulators_elsewhere(
    command: str, words: str, adapters: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sequences of three tokens, with an adapter and without."""
    np.savez(tmp_path / "in.npz", input_ids=np.array([PROMPT[:3], PROMPT[1:4]]))
    code, out, err = _run(capsys, command, package, "--input", tmp_path / "in.npz", "--adapter", adapters)
    assert code == 0, out + err
    assert f"{words}: {2 * 3 * VOCABULARY} output codes" in out


def test_a_session_names_what_it_does_not_have(made: Made, plain: Path) -> None:
    with pytest.raises(BadInput, match=r"no engine 'gpu'.*sim, rtl, hls"):
        made.program.session(engine="gpu")
    session = axlora.open(plain).session()
    with pytest.raises(BadInput, match="does not generate"):
        session.feed([1])
    inputs = axlora.open(plain).random_inputs(2)
    assert session.run(inputs).counters == axlora.simulate(axlora.load(plain), inputs).counters


# The command line


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_prints_the_text_and_a_summary(
    made: Made, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens are bytes; the prompt may be a file; cycles are the API's."""
    (tmp_path / "prompt.txt").write_text("A!BC")
    wanted = list(generate(made.program, list(b"A!BC"), max_new_tokens=4, adapter="a4"))
    text = bytes(t.token for t in wanted).decode()
    for prompt in ("A!BC", f"@{tmp_path / 'prompt.txt'}"):
        run = (
            "generate",
            package,
            "--prompt",
            prompt,
            "--max-new-tokens",
            4,
            "--adapter",
            "a4",
            "--json",
            tmp_path / "run.json",
        )
        code, out, err = _run(capsys, *run)
        assert code == 0
        assert out == text + "\n"
        assert "prompt: 4 tokens" in err
        assert "decode: 3 tokens" in err
        data = json.loads((tmp_path / "run.json").read_text())
        assert data["tokens"] == [{"token": t.token, "cycles": t.cycles} for t in wanted]
        assert (data["schema"], data["target"], data["clock_mhz"]) == (1, "test", 50)


@pytest.mark.parametrize("adapter", [("a4", "-"), ("a4,-",)])
def test_the_command_takes_several_prompts(
    adapter: tuple[str, ...], made: Made, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer a line, each with its adapter."""
    prompts = ["A!BC", "B"]
    wanted = list(generate(made.program, [list(p.encode()) for p in prompts], max_new_tokens=3, adapter=["a4", None]))
    run = ["generate", package, "--prompt", *prompts, "--adapter", *adapter, "--max-new-tokens", 3]
    run += ["--json", tmp_path / "run.json"]
    code, out, err = _run(capsys, *run)
    assert code == 0, err
    texts = [bytes(t.token for t in wanted if t.sequence == n).decode(errors="replace") for n in (0, 1)]
    assert out == f"0: {texts[0]}\n1: {texts[1]}\n"
    assert "prompt: 5 tokens and 2 first new ones" in err
    assert json.loads((tmp_path / "run.json").read_text())["tokens"] == [t._asdict() for t in wanted]


def test_compile_on_the_command_line_gives_the_apis_package(
    made: Made, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = [f"--adapter={name}={path}" for name, path in made.adapters.items()]
    run = (
        "compile",
        made.onnx,
        "-o",
        tmp_path / "b.axl",
        "--target",
        "test",
        "--generate",
        "--max-context",
        CONTEXT,
        *adapters,
    )
    code, out, err = _run(capsys, *run)
    assert code == 0, err
    assert "a11 (rank 11)" in " ".join(out.split())
    for file in ("memory.bin", "arrays.safetensors", "adapters/a4.bin", "adapters/a11.bin"):
        assert (tmp_path / "b.axl" / file).read_bytes() == (package / file).read_bytes()


def test_adapters_come_and_go(made: Made, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = _run(capsys, "adapter", "list", package)[1]
    assert "a4" in listed
    assert "a11" in listed
    assert _run(capsys, "adapter", "remove", package, "a4")[0] == 0
    assert "a4" not in _run(capsys, "adapter", "list", package)[1].split()
    run = ("generate", package, "--prompt", "A!BC", "--max-new-tokens", 2)
    code, _, err = _run(capsys, *run, "--adapter", "a4")
    assert code == 2
    assert "no adapter 'a4'" in err
    assert _run(capsys, "adapter", "add", package, f"again={made.adapters['a4']}")[0] == 0
    code, out, _ = _run(capsys, *run, "--adapter", "again")
    assert code == 0
    wanted = [t.token for t in generate(made.program, list(b"A!BC"), max_new_tokens=2, adapter="a4")]
    assert out == bytes(wanted).decode() + "\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Path:
    """The same model's linears as a package that does not generate."""
    out = tmp_path_factory.mktemp("plain") / "plain.axl"
    program = axlora.compile(made.onnx, "test", shapes={"batch": 1, "sequence": 6})
    program.save(out)
    return out


WRONG: dict[str, tuple[list[str], str]] = {
    "generate with another package": (["generate", "PLAIN", "--prompt", "AB"], "does not generate"),
    "no package": (["generate", "none.axl", "--prompt", "AB"], "not a package"),
    "empty prompt": (["generate", "PACKAGE", "--prompt", ""], "the prompt is empty"),
    "byte outside the vocabulary": (["generate", "PACKAGE", "--prompt", "zz", "--max-new-tokens", "1"], "token id 122"),
    "context too small": (["generate", "PACKAGE", "--prompt", "AB", "--max-new-tokens", "99"], "context of 22"),
    "no new tokens": (["generate", "PACKAGE", "--prompt", "AB", "--max-new-tokens", "0"], "--max-new-tokens"),
    "unknown adapter": (
        ["generate", "PACKAGE", "--prompt", "AB", "--max-new-tokens", "2", "--adapter", "tax"], "no adapter 'tax'",
    ),
    "no prompt file": (["generate", "PACKAGE", "--prompt", "@none.txt"], "none.txt"),
    "bad tokenizer": (["generate", "PACKAGE", "--prompt", "AB", "--tokenizer", "none.json"], "tokenizer"),
    "no directory for json": (
        ["generate", "PACKAGE", "--prompt", "AB", "--max-new-tokens", "1", "--json", "none/run.json"], "none/run.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line_and_exit_2(
    what: str, package: Path, plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, words = WRONG[what]
    names = {"PACKAGE": package, "PLAIN": plain}
    code, _, err = _run(capsys, *(names.get(a, a) for a in arguments))
    assert code == 2, err
    assert words in err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("axlora ")
    if what != "no directory for json":
        assert err.count("\n") == 1
