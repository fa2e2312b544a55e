"""Areas: units add up to the machine, lanes are counted once, and what is recorded of lanes is what Yosys says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from axlora.cli import main
from axlora.fpga import area, lanes
from axlora.fpga.area import Area, machine_area, synthesized_luts
from axlora.fpga.lanes import compared_lanes, lane_luts, recorded_luts, verilog
from axlora.isa.target import Target


def _cells(modules: int = 1, **cells: int) -> dict[str, Any]:
    """40 transistors each of the modules that it is and has: Yosys tells them so, cells and memories without those inside."""
    return {"num_cells_by_type": cells, "estimated_num_transistors": f"{40 * modules}+", "num_memory_bits": 8}


MODULES = {
    "\\lane": _cells(LUT4=7, TRELLIS_FF=3),
    "\\axlora_top": _cells(11, LUT4=1, control=1, **{"$paramod$1\\axlora_core": 1}),
    "\\control": _cells(LUT4=10),
    "$paramod$1\\axlora_core": _cells(9, CCU2C=1, errors=1, **{"$paramod$2\\matrix": 1, "$paramod\\beat_ram\\W=8": 2}),
    "\\errors": _cells(LUT4=100),
    "$paramod$2\\matrix": _cells(5, TRELLIS_DPR16X4=1, MULT18X18D=3, lane_stub=2, counter=4),
    "\\counter": _cells(TRELLIS_FF=5),
    "$paramod\\beat_ram\\W=8": _cells(DP16KD=6),
}


def test_units_have_all_that_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """LUTs as bitstream counts them: 2 a CCU2C, 4 a DPR16X4; gates are transistors over 4, 10 a module of these."""
    monkeypatch.setattr(area, "_run", lambda script, top, name, results, progress: [MODULES] * len(results))
    target = Target.load("test")
    found = machine_area(target, lambda _: None)
    assert found.lane == Area(lut=7, ff=3, gates=10, memory_bits=8)
    assert found.lane_lut_without_dsp == 7
    assert found.units["lanes"] == Area(lut=7 * 8, ff=3 * 8, gates=80, memory_bits=64)
    assert found.units["matrix, without lanes"] == Area(lut=4, ff=20, dsp=3, gates=50, memory_bits=40)
    assert found.units["buffers"] == Area(bram=12, gates=20, memory_bits=16)
    rest = found.units["queues, semaphores, counters, registers"]
    assert rest == Area(lut=1 + 10 + 2 + 100, gates=40, memory_bits=32)
    assert found.whole == Area(lut=56 + 4 + 113, ff=44, dsp=3, bram=12, gates=190, memory_bits=152)
    assert found.to_json()["whole"]["lut"] == found.whole.lut


def test_lanes_around_which_the_rest_is_synthesized_are_empty() -> None:
    whole, around = verilog("lane"), verilog("axlora_top")
    assert whole.keys() == around.keys()
    assert [name for name in whole if whole[name] != around[name]] == ["lane.v"]
    text = around["lane.v"].decode()
    assert text.count("output") == whole["lane.v"].decode().count("output")
    assert "always" not in text
    assert "lane_front" not in text


@pytest.mark.parametrize("name", Target.presets())
def test_the_lanes_of_every_preset_are_recorded(name: str) -> None:
    own, *others = [recorded_luts(lane) or 0 for lane in compared_lanes(Target.load(name))]
    assert own > 0
    assert others == sorted(others)
    assert others[0] > 0


@pytest.mark.exhaustive
def test_what_is_recorded_is_what_yosys_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smallest lane; a change of rtl/lane.v or below: python -m axlora.fpga.area."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mac = compared_lanes(Target.load("ulx3s-85f"))[1]
    assert synthesized_luts(mac, lambda _: None) == lane_luts(mac)
    monkeypatch.setattr(lanes, "_recorded", dict)
    assert lane_luts(mac) == synthesized_luts(mac, lambda _: None)
    assert lane_luts(compared_lanes(Target.load("ulx3s-85f"))[2]) is None


def test_a_target_that_is_not_there_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["area", "nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
