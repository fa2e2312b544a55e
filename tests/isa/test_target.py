"""Targets: presets load, bad values are refused with field, value and range."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from axlora.isa.target import BadTarget, Target


@pytest.mark.parametrize("name", Target.presets())
def test_preset_loads_and_round_trips(name: str, tmp_path: Path) -> None:
    target = Target.load(name)
    file = tmp_path / "t.toml"
    file.write_text(target.to_toml())
    assert Target.load(file) == target
    assert target.name == name


def test_the_named_presets_exist() -> None:
    assert set(Target.presets()) >= {"test", "ulx3s-85f", "zcu104", "edge-asic"}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lanes", 12, "power of two"),
        ("engine", "magic", "mac, reuse, table"),
        ("fifo_depth", 6, "multiplier_latency + 4"),
        ("multipliers", 32, "1 to 16"),
        ("multipliers", 8, "at most ports"),
        ("accumulator_bits", 40, "32, 48"),
        ("group_scales", 1, "true or false"),
        ("vector_lanes", 8, "at most ports and lanes"),
        ("vector_lanes", 32, "from 1 to 16"),
        ("obuf_beats", 8, "power of two"),
        ("read_latency", 0, "1 to 255"),
        ("lanes", True, "power of two"),
    ],
)
def test_bad_value_is_named(field: str, value: object, words: str) -> None:
    with pytest.raises(BadTarget) as info:
        dataclasses.replace(Target.load("test"), **{field: value})  # type: ignore[arg-type]
    assert field in str(info.value)
    assert words in str(info.value)


@pytest.mark.parametrize(("engine", "most"), [("reuse", 4), ("table", 2)])
def test_the_multipliers_of_a_lane_have_a_bound(engine: str, most: int) -> None:
    """Each is a bank of its cache or of its tables; `mac` takes one for every port."""
    wide = dataclasses.replace(Target.load("test"), ports=8, engine="mac", multipliers=8)
    assert wide.multipliers == 8
    with pytest.raises(BadTarget, match=f"at most {most} with engine {engine}"):
        dataclasses.replace(wide, engine=engine)
    assert dataclasses.replace(wide, engine=engine, multipliers=most).multipliers == most


def test_unknown_field_and_missing_field(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(Target.load("test").to_toml() + "colour = 3\n")
    with pytest.raises(BadTarget, match="unknown field 'colour'"):
        Target.load(file)
    file.write_text(Target.load("test").to_toml().replace("ports = 4\n", ""))
    with pytest.raises(BadTarget, match="field 'ports' is missing"):
        Target.load(file)


def test_not_toml_and_no_such_target(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("lanes == 3")
    with pytest.raises(BadTarget, match="not a TOML file"):
        Target.load(file)
    with pytest.raises(BadTarget, match="no target 'nothing'"):
        Target.load("nothing")
