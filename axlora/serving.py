"""A serving study: requests that come over time, through continuous batching on the machine; every start costs its own cycles.

When the machine is free, requests that have come join in their order, as long as there is a place and their adapter may run
beside those of the others; each prompt is prefilled as it joins, and that gives its first token. Then all sequences decode a
token together. A sequence leaves with its last token. The tokens are those of greedy generation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from axlora.compiler.errors import BadAdapter

from .decoder import Batch, Context
from .inputs import BadInput
from .paging import Paging
from .program import Program
from .session import Session

PERCENTILES = (50, 90, 99)
_KEYS = {"arrival", "prompt", "new_tokens", "adapter", "name"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What a user asks for, and when."""

    name: str
    arrival: float
    """Seconds from the beginning."""
    prompt: tuple[int, ...]
    """Token ids."""
    new_tokens: int
    adapter: str | None = None


@dataclass(frozen=True)
class Limits:
    """How much of the machine serving may use."""

    max_batch: int
    """Sequences that are under way together."""
    max_loras: int
    """Different adapters among them."""
    adapter_places: int | None = None
    """Adapters that the memory holds; None: all of the package."""


@dataclass(frozen=True)
class Served:
    """A request and what became of it; times in cycles from the beginning."""

    request: Request
    came: int
    joined: int
    first_token: int
    finished: int
    tokens: tuple[int, ...]
    hit: bool
    """Whether its adapter was in the batch already."""
    blocked: int
    """Cycles that it waited for its adapter alone, with a place free."""


@dataclass
class Study:
    """What serving the requests took."""

    target: str
    engine: str
    clock_mhz: int
    limits: Limits
    served: list[Served] = field(default_factory=list)
    """In the order in which they finished."""
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Sequences that decoded together -> (starts, cycles); 0: prompts."""
    cycles: int = 0
    """When the last one finished."""
    paging: Paging | None = None
    """What became of adapters, where the memory does not hold all of them; the machine waits for their copies."""

    def add_start(self, sequences: int, cycles: int) -> None:
        """Count a start, or the starts of a prompt (`sequences` 0)."""
        count, sum_of_cycles = self.starts.get(sequences, (0, 0))
        self.starts[sequences] = count + 1, sum_of_cycles + cycles

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last."""
        return self.cycles / (self.clock_mhz * 1e6)

    @property
    def busy(self) -> float:
        """The share of the time in which the machine works."""
        return sum(cycles for _, cycles in self.starts.values()) / max(1, self.cycles)

    def to_json(self) -> dict[str, Any]:
        """Schema 1 of docs/serving.md: times in seconds."""
        second = self.clock_mhz * 1e6
        rows = [
            {
                "name": s.request.name,
                "adapter": s.request.adapter,
                "prompt_tokens": len(s.request.prompt),
                "new_tokens": len(s.tokens),
                "arrival": s.came / second,
                "joined": s.joined / second,
                "first_token": s.first_token / second,
                "finished": s.finished / second,
                "blocked_by_adapters": s.blocked / second,
                "adapter_hit": s.hit,
            }
            for s in self.served
        ]
        decoded = [(count, size) for size, (count, _) in self.starts.items() if size]
        tokens = sum(len(s.tokens) for s in self.served)
        return {
            "target": self.target,
            "engine": self.engine,
            "clock_mhz": self.clock_mhz,
            "max_batch": self.limits.max_batch,
            "max_loras": self.limits.max_loras,
            "adapter_places": self.limits.adapter_places,
            "paging": None if self.paging is None else self.paging.to_json(),
            "cycles": self.cycles,
            "seconds": self.seconds,
            "busy": self.busy,
            "tokens": tokens,
            "tokens_per_second": tokens / self.seconds if self.cycles else 0.0,
            "mean_batch": sum(n * size for n, size in decoded) / max(1, sum(n for n, _ in decoded)),
            "time_to_first_token": _percentiles([(s.first_token - s.came) / second for s in self.served]),
            "time_per_token": _percentiles(
                [(s.finished - s.first_token) / second / (len(s.tokens) - 1) for s in self.served if len(s.tokens) > 1]
            ),
            "latency": _percentiles([(s.finished - s.came) / second for s in self.served]),
            "adapters": _by_adapter(self.served, second),
            "starts": [
                {"sequences": size, "starts": count, "cycles": cycles} for size, (count, cycles) in sorted(self.starts.items())
            ],
            "requests": rows,
        }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles (linear between values) and the largest; None of no values."""
    if not values:
        return None
    found = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {"mean": float(np.mean(values)), **found, "max": float(max(values))}


def _by_adapter(served: Sequence[Served], second: float) -> list[dict[str, Any]]:
    names = dict.fromkeys(s.request.adapter for s in sorted(served, key=lambda s: s.came))
    found = []
    for name in names:
        own = [s for s in served if s.request.adapter == name]
        hits = sum(s.hit for s in own)
        blocked = sum(s.blocked for s in own) / second
        found.append({"adapter": name, "requests": len(own), "hits": hits, "blocked": blocked})
    return found


def read_requests(path: str | Path, encode: Callable[[str], Sequence[int]], vocabulary: int) -> list[Request]:
    """The requests of a JSONL file (docs/serving.md).

    Args:
        encode: text to token ids.
        vocabulary: ids that a prompt of so many random tokens is drawn from.

    Raises:
        BadInput: a line that is no request: its number, and what is wrong with it.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text", str(path), "a line of JSON a request") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_request(line, f"{path}, line {number}", number, encode, vocabulary))
    if not found:
        raise BadInput(f"{path} holds no requests", str(path), "a line of JSON a request")
    return found


def _request(line: str, where: str, number: int, encode: Callable[[str], Sequence[int]], vocabulary: int) -> Request:
    hint = '{"arrival": 0.5, "prompt": "text", "new_tokens": 32, "adapter": "law"}'
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise BadInput("not a JSON object", where, hint)
    if unknown := sorted(set(data) - _KEYS):
        raise BadInput(f"unknown key {unknown[0]!r}", where, f"keys are {', '.join(sorted(_KEYS))}")
    arrival, prompt, count = data.get("arrival"), data.get("prompt"), data.get("new_tokens")
    name, adapter = data.get("name", str(number)), data.get("adapter")
    if isinstance(arrival, bool) or not isinstance(arrival, int | float) or not 0 <= arrival < math.inf:
        raise BadInput(f"arrival is {arrival!r}, must be seconds from 0 on", where, hint)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BadInput(f"new_tokens is {count!r}, must be 1 or more", where, hint)
    if not isinstance(adapter, str | None) or not isinstance(name, str):
        raise BadInput("adapter and name must be text", where, hint)
    match prompt:
        case str():
            ids = tuple(encode(prompt))
        case bool():
            ids = ()
        case int():
            ids = tuple(np.random.default_rng(number).integers(0, vocabulary, max(0, prompt)).tolist())
        case list() if all(isinstance(i, int) and not isinstance(i, bool) for i in prompt):
            ids = tuple(prompt)
        case _:
            ids = ()
    if not ids:
        raise BadInput(f"prompt is {str(prompt)[:40]!r}, must be text, token ids, or how many random ones", where, hint)
    return Request(name, float(arrival), ids, count, adapter)


def serve(
    program: Program,
    requests: Iterable[Request],
    *,
    limits: Limits | None = None,
    page_rate: float | None = None,
    progress: Progress | None = None,
) -> Study:
    """Serve the requests on the simulated machine.

    Args:
        program: a language model (`generate=True`).
        limits: default what the package was compiled for.
        page_rate: as of `Program.session`, for limits with `adapter_places`.
        progress: called with (finished requests, all).

    Raises:
        BadInput: no language model, no request, one that its context does not hold, or limits beyond the package's.
        BadAdapter: an adapter that the package does not have, or none may run.
    """
    given = sorted(requests, key=lambda request: request.arrival)
    if not given:
        raise BadInput("no requests", "requests", "one at least")
    places = None if limits is None else limits.adapter_places
    session = program.session(adapter_places=places, page_rate=page_rate)
    batch = session.batch()
    decoder = batch.running.decoder
    most = Limits(decoder.together, program.max_loras)
    limits = limits or most
    for name, value, least, bound in (
        ("max_batch", limits.max_batch, 1, most.max_batch),
        ("max_loras", limits.max_loras, 0, most.max_loras),
    ):
        if not least <= value <= bound:
            hint = f"compile with a larger --{name.replace('_', '-')}"
            raise BadInput(f"{name} is {value}, the package takes {least} to {bound}", name, hint)
    for request in given:
        decoder.check_ids(request.prompt, f"request {request.name!r}")
        decoder.check_room(len(request.prompt), request.new_tokens)
    server = _Server(session, batch, program, limits)
    for request in given:
        if not server.fits([request.adapter]):
            what = f"request {request.name!r} asks for adapter {request.adapter!r}, and {limits.max_loras} may run"
            raise BadAdapter(what, "max_loras", "allow more")
    return server.run(given, progress)


@dataclass
class _Live:
    """A request that is under way."""

    request: Request
    sequence: Context
    came: int
    joined: int
    first_token: int
    hit: bool
    blocked: int
    tokens: list[int]


class _Server:
    """The scheduler: a clock in cycles, requests that wait, and sequences that are under way."""

    def __init__(self, session: Session, batch: Batch, program: Program, limits: Limits) -> None:
        target = program.target
        self._session, self._batch, self._limits = session, batch, limits
        self._study = Study(target.name, target.engine, target.clock_mhz, limits)
        self._now = 0
        self._live: list[_Live] = []
        self._blocked: dict[int, int] = {}
        """Request that came so many-th -> since when its adapter alone keeps it waiting."""

    def fits(self, adapters: Sequence[str | None]) -> bool:
        """Whether sequences with these adapters may be under way together; errors as `Machine.slot_of` for an unknown one."""
        machine = self._batch.running.machine
        for name in adapters:
            machine.slot_of([name])
        try:
            different, _ = machine.slot_of(list(adapters))
        except BadAdapter:
            return False
        return len(different) <= self._limits.max_loras

    def run(self, requests: Sequence[Request], progress: Progress | None) -> Study:
        """All requests, which are in the order of their arrival."""
        second = self._study.clock_mhz * 1e6
        waiting = [(n, request, math.ceil(request.arrival * second)) for n, request in enumerate(requests)]
        while waiting or self._live:
            joined = self._next(waiting)
            if joined is not None:
                waiting.remove(joined)
                self._join(*joined)
            elif self._live:
                self._decode()
            else:
                self._now = waiting[0][2]
            if progress is not None:
                progress(len(self._study.served), len(requests))
        self._study.cycles, self._study.paging = self._now, self._session.paging
        return self._study

    def _next(self, waiting: Sequence[tuple[int, Request, int]]) -> tuple[int, Request, int] | None:
        """The first request that has come and may join."""
        if len(self._live) == self._limits.max_batch:
            return None
        under_way = [live.request.adapter for live in self._live]
        for n, request, came in waiting:
            if came > self._now:
                return None
            if self.fits([*under_way, request.adapter]):
                return n, request, came
            self._blocked.setdefault(n, self._now)
        return None

    def _join(self, n: int, request: Request, came: int) -> None:
        """Prefill its prompt."""
        hit = any(live.request.adapter == request.adapter for live in self._live)
        blocked = self._now - self._blocked.pop(n, self._now)
        joined = self._now
        sequence = self._batch.join(request.adapter)
        token = int(np.argmax(self._started(0, lambda: sequence.feed(request.prompt)[-1])))
        live = _Live(request, sequence, came, joined, self._now, hit, blocked, [])
        self._live.append(live)
        self._took(live, token)

    def _decode(self) -> None:
        """A token of every sequence that is under way."""
        steps = [(live.sequence, live.tokens[-1]) for live in self._live]
        found = self._started(len(steps), lambda: self._batch.step(steps))
        for live, logits in zip(list(self._live), found, strict=True):
            self._took(live, int(np.argmax(logits)))

    def _started(self, sequences: int, start: Callable[[], Any]) -> Any:
        """What starts of the machine give; the clock goes on by their cycles."""
        before, waited = self._batch.running.counters.get("cycles", 0), self._copied
        found = start()
        cycles = self._batch.running.counters["cycles"] - before
        self._study.add_start(sequences, cycles)
        self._now += cycles + self._copied - waited
        return found

    @property
    def _copied(self) -> int:
        """Cycles that the machine has waited for adapters so far."""
        paging = self._session.paging
        return 0 if paging is None else paging.stall_cycles

    def _took(self, live: _Live, token: int) -> None:
        """A sequence's next token; it leaves with the last."""
        live.tokens.append(token)
        if len(live.tokens) == live.request.new_tokens:
            self._live.remove(live)
            self._batch.leave(live.sequence)
            times = live.came, live.joined, live.first_token, self._now
            self._study.served.append(Served(live.request, *times, tuple(live.tokens), live.hit, live.blocked))
