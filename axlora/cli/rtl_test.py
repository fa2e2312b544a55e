"""`axlora rtl-test`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from .given import bad, folder, run_options, write


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package and its inputs."""
    run_options(parser)
    parser.add_argument("--rtl", metavar="DIR", help="folder of all Verilog files of a changed machine, instead of ours")
    parser.add_argument("--waves", metavar="FILE.fst", help="write all signals (or FILE.vcd), and lists for viewers")
    parser.add_argument("--span", metavar="FIRST:LAST", help="waves of these instructions alone, as axlora disasm counts them")
    parser.add_argument(
        "--bench", metavar="BENCH.py", help="coroutine bench(dut) of cocotb to run beside it (docs/rtl-runs.md)"
    )


def run(options: argparse.Namespace) -> int:
    """Run in Verilator and compare with the simulator; 1 if they differ."""
    from axlora.engines import Verilator
    from axlora.extras import need

    from .comparing import compare

    need("rtl")
    from axlora.rtl.probe import gtkwave, surfer

    span = _span(options)
    rtl = _folder_of_verilog(options.rtl)
    bench = _bench(options.bench)
    if options.waves:
        folder(options.waves)
        Path(options.waves).unlink(missing_ok=True)
    code = compare(options, "Verilog", Verilator(options.waves, rtl, span, True, bench))
    if options.waves:
        waves = Path(options.waves)
        if not waves.exists():
            raise bad(f"no instruction of {options.span} was executed", "--span", "axlora disasm shows their numbers")
        write(str(waves.with_suffix(".gtkw")), gtkwave(waves.name).encode())
        write(str(waves.with_suffix(".sucl")), surfer().encode())
    return code


def _span(options: argparse.Namespace) -> tuple[int, int] | None:
    """What --span says."""
    if options.span is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", options.span)
    if found is None or int(found[1]) > int(found[2]):
        raise bad(f"--span {options.span} is not FIRST:LAST", "--span", "for example 12:20")
    if not options.waves:
        raise bad("--span says what waves show", "--span", "give --waves FILE.fst too")
    return int(found[1]), int(found[2])


def _bench(path: str | None) -> Path | None:
    """What --bench says."""
    if path is None:
        return None
    place = Path(path).resolve()
    if not place.is_file() or not re.search(r"^async def bench\(", place.read_text(errors="replace"), re.M):
        raise bad(f"no coroutine bench(dut) in {path}", "--bench", "docs/rtl-runs.md shows one")
    return place


def _folder_of_verilog(path: str | None) -> Path | None:
    """What --rtl says."""
    from axlora.rtl.runner import TOP_MODULE
    from axlora.rtl.verilog_files import sources

    if path is None:
        return None
    place = Path(path).resolve()
    files = sources(place) if place.is_dir() else []
    if not any(re.search(rf"\bmodule\s+{TOP_MODULE}\b", file.read_text(errors="replace")) for file in files):
        raise bad(f"no module {TOP_MODULE} in {path}", "--rtl", "a copy of the folder rtl/, all of its files, to change")
    return place
