"""Serving studies: the tokens of each request alone, times that add up, and who waits for what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_decoder import Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.cli import main
from axlora.serving import Limits, Request, Study, read_requests, serve

CONTEXT = 22
PROMPTS = [(65, 20, 33, 7, 90), (9,), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (90, 7)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    decoder = random_decoder(Sizes(layers=1, context=CONTEXT), seed=3)
    adapters = {f"a{rank}": write_peft(random_branches(decoder, rank, rank), folder / f"a{rank}") for rank in (4, 11)}
    made = axlora.compile(
        write_onnx(decoder, folder / "model.onnx"), "test", adapters=adapters, generate=True, max_context=CONTEXT, max_batch=3
    )
    made.save(folder / "m.axl")
    return folder / "m.axl"


@pytest.fixture(scope="module")
def program(package: Path) -> axlora.Program:
    return axlora.load(package)


def _requests(arrivals: list[float], adapters: list[str | None]) -> list[Request]:
    parts = zip(arrivals, PROMPTS, (6, 9, 4, 1), adapters, strict=True)
    return [Request(str(n), at, prompt, count, adapter) for n, (at, prompt, count, adapter) in enumerate(parts)]


def _checked(program: axlora.Program, study: Study, requests: list[Request]) -> None:
    """Tokens are those of each alone; times are in order, and the machine never idles while something can run."""
    assert len(study.served) == len(requests)
    for s in study.served:
        given = {"max_new_tokens": s.request.new_tokens, "adapter": s.request.adapter}
        assert s.tokens == tuple(t.token for t in axlora.generate(program, s.request.prompt, **given))
        assert s.came <= s.joined < s.first_token <= s.finished
    assert study.cycles == max(s.finished for s in study.served)
    assert study.starts[0][0] == len(requests)
    decoded = sum(count * size for size, (count, _) in study.starts.items())
    assert decoded == sum(len(s.tokens) - 1 for s in study.served)
    assert sum(cycles for _, cycles in study.starts.values()) <= study.cycles


def test_requests_at_once_keep_the_machine_busy(program: axlora.Program) -> None:
    requests = _requests([0, 0, 0, 0], ["a4", None, "a11", "a4"])
    study = serve(program, requests)
    _checked(program, study, requests)
    assert study.busy == 1
    assert [s.hit for s in sorted(study.served, key=lambda s: s.request.name)] == [False, False, False, True]
    assert max(study.starts) == 3


def test_one_request_alone_takes_what_generation_takes_and_the_clock_waits_for_the_next(program: axlora.Program) -> None:
    requests = _requests([0.25, 0.5, 0.75, 1.0], [None] * 4)
    study = serve(program, requests)
    _checked(program, study, requests)
    for s in study.served:
        assert s.joined == s.came == round(s.request.arrival * study.clock_mhz * 1e6)
    first = study.served[0]  # what earlier sequences leave in the cache may be reused: some cycles differ behind it
    alone = list(axlora.generate(program, first.request.prompt, max_new_tokens=first.request.new_tokens))
    assert first.finished - first.joined == sum(t.cycles for t in alone)
    assert first.first_token - first.joined == alone[0].cycles
    assert study.busy < 0.1


def test_limits_hold_requests_back(program: axlora.Program) -> None:
    requests = _requests([0, 0, 0, 0], ["a4", "a11", "a4", None])
    one = serve(program, requests, limits=Limits(1, 2))
    _checked(program, one, requests)
    assert set(one.starts) == {0, 1}
    adapter = serve(program, requests, limits=Limits(3, 1))
    _checked(program, adapter, requests)
    first, second, third, base = sorted(adapter.served, key=lambda s: s.request.name)
    assert second.joined >= first.finished  # its adapter may not run beside the other
    assert second.blocked > 0 == third.blocked
    assert third.joined < second.joined  # which the third one's does
    assert third.hit
    assert base.joined < second.joined
    assert one.cycles > adapter.cycles > serve(program, requests).cycles


def test_wrong_requests_and_limits_are_refused_by_line_or_name(program: axlora.Program, tmp_path: Path) -> None:
    lines = {
        "[1]": "not a JSON object",
        '{"arrival": -1, "prompt": "a", "new_tokens": 1}': "arrival is -1",
        '{"arrival": 0, "prompt": "", "new_tokens": 1}': "prompt is ''",
        '{"arrival": 0, "prompt": true, "new_tokens": 1}': "prompt is 'True'",
        '{"arrival": 0, "prompt": [1, "x"], "new_tokens": 1}': "prompt is",
        '{"arrival": 0, "prompt": "a", "new_tokens": 0}': "new_tokens is 0",
        '{"arrival": 0, "prompt": "a", "new_tokens": 1, "when": 2}': "unknown key 'when'",
        '{"arrival": 0, "prompt": "a", "new_tokens": 1, "adapter": 2}': "adapter and name must be text",
    }
    for line, message in lines.items():
        (tmp_path / "r.jsonl").write_text(f'\n{{"arrival": 0, "prompt": 3, "new_tokens": 1}}\n{line}\n')
        with pytest.raises(axlora.BadInput, match=message) as error:
            read_requests(tmp_path / "r.jsonl", str.encode, 97)
        assert error.value.where.endswith("line 3")
    (tmp_path / "r.jsonl").write_text("\n")
    with pytest.raises(axlora.BadInput, match="holds no requests"):
        read_requests(tmp_path / "r.jsonl", str.encode, 97)
    with pytest.raises(axlora.BadAdapter, match="no adapter 'x'"):
        serve(program, [Request("1", 0, (1,), 1, "x")])
    with pytest.raises(axlora.BadAdapter, match="request '1' asks for adapter 'a4', and 0 may run"):
        serve(program, [Request("1", 0, (1,), 1, "a4")], limits=Limits(1, 0))
    with pytest.raises(axlora.BadInput, match="compiled for a context of"):
        serve(program, [Request("1", 0, (1,) * CONTEXT, 9)])
    with pytest.raises(axlora.BadInput, match="max_batch is 4, the package takes 1 to 3"):
        serve(program, [Request("1", 0, (1,), 1)], limits=Limits(4, 1))
    with pytest.raises(axlora.BadInput, match="no requests"):
        serve(program, [])


def test_the_command_compares_limits(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"prompt": 3, "new_tokens": 4}
    rows = [{"arrival": n / 1000, "adapter": ("a4", "a11", None)[n % 3]} | own for n in range(6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "r.jsonl").write_text(text)
    out, page = tmp_path / "s.json", tmp_path / "s.html"
    given = ["serve-sim", str(package), "--trace", str(tmp_path / "r.jsonl"), "--max-batch", "1,3", "--max-loras", "1,2"]
    assert main([*given, "--json", str(out), "--html", str(page)]) == 0
    studies = json.loads(out.read_text())["studies"]
    assert [(s["max_batch"], s["max_loras"]) for s in studies] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    shown = capsys.readouterr().out
    html = page.read_text()
    for study in studies:
        assert f"{study['tokens_per_second']:,.1f}" in shown
        assert f"{study['tokens_per_second']:,.1f}" in html
        assert study["latency"]["p50"] <= study["latency"]["p99"] <= study["latency"]["max"]
        assert study["tokens"] == 24
        assert sum(own["requests"] for own in study["adapters"]) == 6
    assert main([*given[:-1], "x"]) == 2
    assert "--max-loras 'x' is no list of numbers" in capsys.readouterr().err
