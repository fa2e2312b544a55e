"""Bitstreams: clocks and rates by their rules, what does not fit said in numbers, and a small machine all the way to a .bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from axlora.cli import main
from axlora.fpga.bitstream import BuildFailed, build, line, pll, read_result
from axlora.fpga.boards import board
from axlora.fpga.identity import target_id
from axlora.isa.target import Target

SMALL = dataclasses.replace(
    Target.load("ulx3s-85f"),
    name="small",
    lanes=2,
    ports=2,
    beat_bytes=4,
    vector_lanes=1,
    tokens=2,
    fifo_depth=7,
    burst_beats=16,
    wbuf_lines=256,
    abuf_lines=64,
    ubuf_lines=16,
    acc_words=64,
    pbuf_groups=64,
    tbuf_tokens=16,
    obuf_beats=64,
    cbuf_words=256,
    vbuf_words=256,
    table_entries=128,
    icache_lines=4,
)
"""A machine that the tools place in a few minutes."""


@pytest.mark.parametrize("wanted", [10, 25, 33.3, 48, 50, 60, 62.5, 80, 100, 133])
def test_the_pll_is_within_its_limits_and_at_most_the_clock_asked_for(wanted: float) -> None:
    """Limits of the ECP5 family data sheet (FPGA-DS-02012), sysCLOCK PLL timing."""
    found = pll(25, wanted)
    assert found.mhz == pytest.approx(25 * found.feedback / found.reference)
    assert wanted * 0.95 <= found.mhz <= wanted
    assert 3.125 <= 25 / found.reference <= 400
    assert 400 <= found.mhz * found.output <= 800


def test_a_clock_that_no_divider_makes_is_refused() -> None:
    with pytest.raises(BuildFailed, match="no PLL setting"):
        pll(25, 2)


@pytest.mark.parametrize("mhz", [25, 40, 48, 50, 60, 62.5, 66, 80, 100])
def test_the_line_is_within_one_percent(mhz: float) -> None:
    baud, divider = line(mhz)
    assert mhz * 1e6 / divider == pytest.approx(baud, rel=0.01)
    assert divider >= 8


def test_the_identity_is_the_machines_not_its_names() -> None:
    one = Target.load("ulx3s-85f")
    assert target_id(one) == target_id(dataclasses.replace(one, name="other", clock_mhz=1))
    assert target_id(one) != target_id(dataclasses.replace(one, wbuf_lines=one.wbuf_lines // 2))
    assert 0 < target_id(one) < 1 << 31


def test_every_pin_of_the_top_has_a_place() -> None:
    """Ports of ulx3s_top.v and LOCATE lines of ulx3s.lpf are the same set."""
    ulx3s = board("ulx3s")
    text = next(p for p in ulx3s.sources if p.stem == ulx3s.top).read_text().split(") (", 1)[1].split(");", 1)[0]
    ports = set()
    for row in text.splitlines():
        words = row.split("//")[0].replace(",", " ").split()
        if not words:
            continue
        width = next((int(w[1:].split(":")[0]) + 1 for w in words if w.startswith("[")), 0)
        ports |= {f"{words[-1]}[{n}]" for n in range(width)} if width else {words[-1]}
    located = [row.split('"')[1] for row in ulx3s.constraints.read_text().splitlines() if row.startswith("LOCATE")]
    sites = [row.split('"')[3] for row in ulx3s.constraints.read_text().splitlines() if row.startswith("LOCATE")]
    assert sorted(located) == sorted(ports)
    assert len(set(sites)) == len(sites)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ulx3s-85f", "--board", "arty"], "no board 'arty'"),
        (["no-such", "--board", "ulx3s"], "no target 'no-such'"),
        (["ulx3s-85f", "--board", "ulx3s", "--onchip", "1000"], "--onchip 1000 is not a multiple of 2048"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bitstream", *arguments, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.exhaustive
def test_a_small_machine_becomes_a_bitstream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From Verilog to a .bit with the tools of this environment, at its 60 MHz; then from the cache."""
    (tmp_path / "small.toml").write_text(SMALL.to_toml())
    arguments = ["bitstream", str(tmp_path / "small.toml"), "--board", "ulx3s", "--onchip", "16384", "-o"]
    assert main([*arguments, str(tmp_path / "out")]) == 0, capsys.readouterr().err
    data = (tmp_path / "out" / "ulx3s.bit").read_bytes()
    assert b"LFE5U-85F" in data[:200]
    found = read_result(tmp_path / "out")
    assert found.mhz >= found.clock_mhz == 60
    assert 0 < found.lut < found.lut_available == 83640
    assert 0 < found.bram < 208
    assert found.dsp > 0
    assert found.path_from
    assert found.path_to
    assert found.path_ns == pytest.approx(1000 / found.mhz, rel=0.05)
    assert main([*arguments, str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "ulx3s.bit").read_bytes() == data
    assert json.loads((tmp_path / "again" / "bitstream.json").read_text())["lut"] == found.lut


@pytest.mark.exhaustive
def test_what_does_not_fit_says_by_how_much_and_what_to_lower(tmp_path: Path) -> None:
    large = dataclasses.replace(SMALL, name="large", wbuf_lines=16384, abuf_lines=16384, lanes=4, ports=4)
    with pytest.raises(BuildFailed, match=r"does not fit: \d+ block RAMs, ulx3s has 208 \(\d+ too many\).*lower --onchip"):
        build(large, board("ulx3s"), tmp_path, onchip_bytes=65536, clock_mhz=60, progress=lambda text: None)
    assert not list(tmp_path.iterdir())
