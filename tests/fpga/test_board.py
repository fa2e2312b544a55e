"""The simulated board over its pseudo-terminal: the host code of a real one, from memory cells to whole models, and faults."""

from __future__ import annotations

import json
import os
import pty
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import TARGETS, random_case
from tiny_decoder import Sizes, random_branches, random_decoder
from tiny_onnx import write_onnx, write_peft

import axlora
from axlora.cli import main
from axlora.comparing import TIMED
from axlora.fpga.host import SDRAM_BASE, Board
from axlora.fpga.link import TRIES, BoardError, Link, Operation, crc16
from axlora.fpga.simulated import SimulatedBoard
from axlora.generator import generate
from axlora.isa.opcodes import COUNTERS
from axlora.isa.target import Target
from axlora.sim.run import run_image

TARGET = TARGETS["test"]
PATIENCE = 60.0
"""Seconds for an answer of a healthy simulated board: long, for the machine may be busy; only faults wait for it."""


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with SimulatedBoard(TARGET) as simulated, Link(simulated.port, simulated.baud, PATIENCE) as link:
        yield Board(link, TARGET)


@pytest.fixture
def link(board: Board) -> Link:
    return board.link


def _faulty(*faults: str, patience: float = 1.0) -> tuple[SimulatedBoard, Link]:
    simulated = SimulatedBoard(TARGET, faults=faults)
    return simulated, Link(simulated.port, simulated.baud, patience)


def some(values: Sequence[object], count: int) -> list[Any]:
    """Parameters: the first `count` for make test, the others for make test-all."""
    return [pytest.param(v, marks=pytest.mark.slow if n < count else pytest.mark.exhaustive) for n, v in enumerate(values)]


def _all(memory: np.ndarray) -> list[tuple[int, int]]:
    return [(0, memory.size)]


def test_crc_is_the_catalogues_ibm_3740() -> None:
    """Check value of the catalogue of parametrised CRC algorithms: 0x29B1 for the digits 1 to 9."""
    assert crc16(b"123456789") == 0x29B1


@pytest.mark.slow
@pytest.mark.parametrize("base", [0, SDRAM_BASE])
def test_memory_keeps_what_frames_of_every_size_write(link: Link, base: int) -> None:
    rng = np.random.default_rng(base & 1)
    held = np.zeros(4096, np.uint8)
    link.request(Operation.FILL, base, 16)
    for first, count in ((0, 32), (3, 1), (31, 1), (64, 17), (40, 8), (500, 12)):
        data = rng.integers(0, 256, 8 * count, dtype=np.uint8)
        link.request(Operation.WRITE, base + 8 * first, count, data.tobytes())
        held[8 * first :][: data.size] = data
    for first, count in ((0, 32), (32, 32), (64, 32), (96, 1), (511, 1), (480, 32)):
        found = np.frombuffer(link.request(Operation.READ, base + 8 * first, count, answer=8 * count), np.uint8)
        assert (found == held[8 * first :][: found.size]).all()
    link.request(Operation.FILL, base, 16)
    assert not any(link.request(Operation.READ, base + 8 * 64, 32, answer=256))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "address", "count"),
    [
        (Operation.READ, 4, 1),
        (Operation.READ, 0, 33),
        (Operation.READ, 8, 32),
        (Operation.FILL, 128, 1),
        (Operation.READ_REGISTERS, 2, 1),
        (Operation.READ_REGISTERS, 0, 33),
    ],
)
def test_requests_that_are_not_legal_are_refused(link: Link, operation: Operation, address: int, count: int) -> None:
    with pytest.raises(BoardError, match="not legal"):
        link.request(operation, address, count, answer=8)


@pytest.mark.slow
def test_memory_that_is_not_there_answers_with_an_error(link: Link) -> None:
    with pytest.raises(BoardError, match="memory answered with an error"):
        link.request(Operation.READ, 1 << 24, 4, answer=32)


@pytest.mark.parametrize("seed", some(range(6), 3))
def test_random_programs_equal_the_simulator_to_every_counter_on_chip(board: Board, seed: int) -> None:
    case = random_case(seed, TARGET)
    memory = np.frombuffer(case.memory, np.uint8)
    sim = run_image(TARGET, case.memory, 0, case.registers)
    found = board.run(memory, 0, case.registers, _all(memory), _all(memory))
    assert found.onchip
    assert (found.memory == sim.memory).all()
    assert found.counters == sim.counters


@pytest.mark.parametrize("seed", some(range(2), 1))
def test_random_programs_equal_the_simulator_in_sdram_but_for_time(board: Board, seed: int) -> None:
    case = random_case(seed, TARGET)
    memory = np.zeros(board.onchip_bytes + 4096, np.uint8)
    memory[: len(case.memory)] = np.frombuffer(case.memory, np.uint8)
    sim = run_image(TARGET, memory, 0, case.registers)
    found = board.run(memory, 0, case.registers, [(0, len(case.memory))], [(0, len(case.memory))])
    assert not found.onchip
    assert (found.memory == sim.memory).all()
    assert {n: v for n, v in found.counters.items() if n not in TIMED} == {
        n: v for n, v in sim.counters.items() if n not in TIMED
    }
    assert found.counters["cycles"] > sim.cycles
    assert len(TIMED) == sum(c.unit in ("cycles", "lane-cycles") for c in COUNTERS) > 20


@pytest.mark.slow
def test_only_what_changed_is_sent_again(board: Board) -> None:
    case = random_case(1, TARGET)
    memory = np.frombuffer(case.memory, np.uint8).copy()
    board.run(memory, 0, case.registers, _all(memory), _all(memory))
    left = board.run(memory, 0, case.registers, _all(memory), _all(memory)).memory
    sent: list[int] = []
    changed = left.copy()
    changed[-1] ^= 1
    again = board.run(changed, 0, case.registers, _all(memory), _all(memory), progress=lambda done, total: sent.append(total))
    assert sent[-1] == 256
    assert (again.memory == run_image(TARGET, changed, 0, case.registers).memory).all()


@pytest.mark.slow
def test_an_error_of_the_machine_is_named(board: Board) -> None:
    memory = np.full(4096, 0xFF, np.uint8)
    with pytest.raises(BoardError, match="illegal in fetch, instruction at 0x0"):
        board.run(memory, 0, {}, [], [])


@pytest.mark.slow
def test_a_program_that_never_ends_ends_in_an_error(board: Board) -> None:
    case = random_case(0, TARGET)
    memory = np.frombuffer(case.memory, np.uint8)
    with pytest.raises(BoardError, match="still runs after 0 s"):
        board.run(memory, 0, case.registers, [], _all(memory), limit=0.0)
    while board.link.request(Operation.READ_REGISTERS, 4, 1, answer=4)[0] & 1:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_package_of_another_target_is_refused(board: Board) -> None:
    with pytest.raises(BoardError, match="not of the package's target 'zcu104'"):
        Board(board.link, Target.load("zcu104"))


@pytest.mark.slow
def test_a_program_larger_than_all_memories_is_refused(board: Board) -> None:
    memory = np.zeros(board.sdram_bytes + 4096, np.uint8)
    with pytest.raises(BoardError, match=r"needs 3356\d+ bytes of memory, the board has 33554432"):
        board.run(memory, 0, {}, [], [])


@pytest.mark.parametrize("fault", some(["--lose-in", "--lose-out"], 1))
def test_a_line_that_loses_some_bytes_is_survived(fault: str) -> None:
    case = random_case(2, TARGET)
    memory = np.frombuffer(case.memory, np.uint8)
    simulated, link = _faulty(fault, "1999", patience=2.0)
    with simulated, link:
        board = Board(link, TARGET)
        found = board.run(memory, 0, case.registers, _all(memory), _all(memory))
        assert link.resent > 0
    sim = run_image(TARGET, case.memory, 0, case.registers)
    assert (found.memory == sim.memory).all()
    assert found.counters == sim.counters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (("--mute",), "no answer in"),
        (("--lose-in", "5"), "no (whole )?answer"),
        (("--lose-out", "5"), "no (whole )?answer"),
        (("--divider", "5"), "no (whole )?answer"),
        (("--divider", "3"), "no (whole )?answer"),
    ],
)
def test_a_line_or_board_that_fails_is_an_error_in_time(faults: tuple[str, ...], message: str) -> None:
    """A mute board, a line that loses too much, and a host whose baud rate is a quarter too low or too high."""
    simulated, link = _faulty(*faults, patience=0.5)
    began = time.monotonic()
    with simulated, link, pytest.raises(BoardError, match=message):
        Board(link, TARGET)
    assert time.monotonic() - began < TRIES * 0.5 + 10


@pytest.mark.exhaustive
def test_a_reset_in_the_middle_is_an_error() -> None:
    case = random_case(2, TARGET)
    memory = np.frombuffer(case.memory, np.uint8)
    simulated, link = _faulty("--reset-after", "5000", patience=PATIENCE)
    with simulated, link:
        board = Board(link, TARGET)
        with pytest.raises(BoardError, match="reset in the middle"):
            board.run(memory, 0, case.registers, _all(memory), _all(memory))


def test_a_port_with_something_else_at_its_end_is_an_error() -> None:
    """A device that echoes: its bytes are no answers."""
    master, slave = pty.openpty()
    try:
        with Link(os.ttyname(slave), 115200, 0.1) as link, pytest.raises(BoardError, match="no answer in"):
            Board(link, TARGET)
    finally:
        os.close(master)
        os.close(slave)


def test_a_port_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = _linear(tmp_path)
    code = main(["run", str(package), "--board", "ulx3s", "--port", "/dev/none", "--random", "1"])
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
    code = main(["run", str(package), "--board", "arty", "--port", "/dev/none", "--random", "1"])
    assert code == 2
    assert "boards: ulx3s" in capsys.readouterr().err


def _linear(folder: Path, generate: bool = False) -> Path:
    decoder = random_decoder(Sizes(layers=1, context=8), seed=3)
    model = write_onnx(decoder, folder / "m.onnx")
    options: dict[str, Any] = {"operators": "linears", "shapes": {"batch": 1, "sequence": 4}}
    program = axlora.compile(model, TARGET, **({"generate": True, "max_context": 3} if generate else options))
    program.save(folder / "m.axl")
    return folder / "m.axl"


@pytest.mark.slow
@pytest.mark.parametrize("generate", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["linears", "generator"])
def test_run_says_that_board_and_simulator_are_equal(
    generate: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a language model a prefill start and a decode start."""
    assert main(["run", str(_linear(tmp_path, generate)), "--board", "ulx3s", "--port", "sim", "--random", "1"]) == 0
    assert f"board = simulator: all codes and {len(COUNTERS)} counters equal; on-chip memory" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_a_llama_layer_with_lora_decodes_eight_tokens_from_sdram(tmp_path: Path) -> None:
    """Hidden 128, grouped-query heads, an adapter: tokens, and all counters but those of time, are the simulator's."""
    sizes = Sizes(layers=1, features=128, heads=4, kv_heads=2, dim=32, inner=344, context=16)
    decoder = random_decoder(sizes, seed=5)
    adapters = {"a": write_peft(random_branches(decoder, 8, 5), tmp_path / "a")}
    program = axlora.compile(
        write_onnx(decoder, tmp_path / "m.onnx"), TARGET, adapters=adapters, generate=True, max_context=16, weight_bits=4
    )
    assert program.kind == "generator"
    prompt = [3, 1, 4]
    wanted = [t.token for t in generate(program, prompt, max_new_tokens=8, adapter="a")]
    simulated = SimulatedBoard(TARGET, onchip_bytes=16384)
    with simulated, Link(simulated.port, simulated.baud, PATIENCE) as link:
        board = Board(link, TARGET)
        found = list(generate(program, prompt, max_new_tokens=8, adapter="a", engine=board))
        assert [t.token for t in found] == wanted
        session = program.session("a", engine=board)
        model = program.session("a")
        for ids in (prompt, wanted[:1]):
            assert (session.feed(ids) == model.feed(ids)).all()
        assert {n: v for n, v in session.counters.items() if n not in TIMED} == {
            n: v for n, v in model.counters.items() if n not in TIMED
        }


@pytest.mark.exhaustive
def test_a_minilm_linear_with_lora_from_on_chip_memory(
    minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the target that bitstreams are made for: codes and all counters, cycles too, are the simulator's."""
    package, json_file = str(tmp_path / "m.axl"), str(tmp_path / "run.json")
    linear = minilm / "linear"
    with np.load(linear / "sample.npz") as sample:
        tokens = sample["layer0.hidden"].shape[0]
    named = [str(linear / "model.onnx"), "--shape", f"tokens={tokens}", "--adapter", f"law={linear / 'law'}"]
    assert main(["compile", *named, "-o", package, "--target", "ulx3s-85f"]) == 0
    arguments = ["--input", str(linear / "sample.npz"), "--adapter", "law", "--json", json_file]
    assert main(["run", package, "--board", "ulx3s", "--port", "sim", *arguments]) == 0
    assert f"all codes and {len(COUNTERS)} counters equal; on-chip memory" in capsys.readouterr().out
    found = json.loads(Path(json_file).read_text())
    assert found["view"] == "board"
    assert found["cycles"] > 50000
    assert found["multiplications"] < found["macs"] / 2
