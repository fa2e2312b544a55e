"""`axlora zynq`: what Vivado and PYNQ need to put the machine on a ZCU104. docs/zynq.md says what of it was run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from axlora.isa.errors import Error
from axlora.isa.opcodes import COUNTERS, MACHINE_ID, REGISTERS, ErrorCode, Unit
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters
from axlora.rtl.verilog_files import sources

FOLDER = Path(__file__).resolve().parent
_PORT_BYTES = (4, 8, 16)
"""Widths of a high-performance port of the processing system."""


class BadZynq(Error):
    """The target does not fit the processing system's ports, or the folder is taken."""


def emit(target: Target, out: Path, *, force: bool = False) -> list[Path]:
    """Write the project to a folder; nothing is left half-written.

    Args:
        target: its beat must be as wide as a port of the processing system.
        out: new or empty folder.
        force: may hold files, which are replaced one by one; others stay (such as Vivado's project).

    Returns:
        The files, relative to `out`.

    Raises:
        BadZynq: a beat of another width, or `out` is taken.
    """
    if target.beat_bytes not in _PORT_BYTES:
        widths = ", ".join(map(str, _PORT_BYTES))
        raise BadZynq(f"beats of {target.beat_bytes} bytes", "beat_bytes", f"a memory port of the ZCU104 has {widths}")
    if out.exists() and not out.is_dir():
        raise BadZynq(f"{out} is a file", "--output", "name a folder")
    if not force and out.is_dir() and any(out.iterdir()):
        raise BadZynq(f"{out} is not empty", "--output", "another folder, or --force to replace its files")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "files"
        _write(target, folder)
        written = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        if out.is_dir():
            shutil.copytree(folder, out, dirs_exist_ok=True)
        else:
            folder.rename(out)
    return written


def _write(target: Target, folder: Path) -> None:
    parameters = ",\n".join(f"        .{name}({value})" for name, value in target_parameters(target).items())
    values = {
        "TARGET": target.name,
        "PARAMETERS": parameters,
        "BITS": 8 * target.beat_bytes,
        "BEAT_BYTES": target.beat_bytes,
        "BURST_BEATS": target.burst_beats,
        "READS": target.outstanding + 1,  # load's bursts and one of fetch
        "CLOCK_MHZ": target.clock_mhz,
    }
    for name in ("pynq", "rtl"):
        (folder / name).mkdir(parents=True)
    for template in sorted(FOLDER.glob("*.in")):
        (folder / template.stem).write_text(_filled(template.read_text(), values))
    for path in [*sources(), sources()[0].parent / "axlora_isa.vh"]:
        shutil.copyfile(path, folder / "rtl" / path.name)
    for path in sorted((FOLDER / "pynq").glob("*.py")):
        shutil.copyfile(path, folder / "pynq" / path.name)
    (folder / "pynq" / "axlora_registers.py").write_text(registers_module(target))


def _filled(text: str, values: Mapping[str, object]) -> str:
    """The text with each @NAME@ replaced by its value."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def registers_module(target: Target) -> str:
    """The text of `axlora_registers.py`: the machine's one description, for a board that has no compiler."""
    lines = [
        '"""Numbers of the machine; written by `axlora zynq`, do not edit."""',
        "",
        "from __future__ import annotations",
        "",
    ]
    lines += [f"MACHINE_ID = 0x{MACHINE_ID:08X}"]
    lines += _block("COUNTERS: tuple[str, ...] = (", (f'"{c.name}"' for c in COUNTERS), ")")
    lines += _block("REGISTERS: dict[str, int] = {", (f'"{r.name}": {r.offset}' for r in REGISTERS), "}")
    lines += _block("ERRORS: dict[int, str] = {", (f'{e.value}: "{e.name.lower()}"' for e in ErrorCode), "}")
    lines += _block("UNITS: dict[int, str] = {", (f'{u.value}: "{u.name.lower()}"' for u in Unit), "}")
    fields = (f'"{n}": "{v}"' if isinstance(v, str) else f'"{n}": {v}' for n, v in asdict(target).items())
    lines += _block("TARGET: dict[str, object] = {", fields, "}")
    lines += [f"WINDOWS = {target.windows}"]
    return "\n".join([*lines, ""])


def _block(first: str, items: Iterable[str], last: str) -> list[str]:
    return [first, *(f"    {item}," for item in items), last]
