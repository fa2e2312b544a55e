"""The command line: find the command, import it, run it. Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 a check failed; 2 the input is wrong: one line on standard error; 3 a fault of ours: one line that says
where the details are.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from axlora import __version__

COMMANDS = {
    "doctor": ("doctor", "What is installed, what is missing, how to get it."),
    "targets": ("targets", "List the target presets, or show one in full."),
    "compile": ("compile", "Compile an ONNX model, or a Hugging Face directory, with LoRA adapters to a package."),
    "simulate": ("simulate", "Run a package on the cycle-exact simulator."),
    "estimate": ("estimate", "Cycles of a Hugging Face model by its config.json alone: prefill, decode, batches."),
    "generate": ("generate", "Generate text with a language model compiled with --generate; greedy."),
    "rtl-test": ("rtl_test", "Run a package in Verilator and compare every output, cycle and counter with the simulator."),
    "explore": ("explore", "Search targets and options for few cycles, little energy, area and error; a study can go on."),
    "serve-sim": ("serve_sim", "Serve requests that come over time on the simulated machine: latency, throughput, adapters."),
    "adapter": ("adapter", "Adapters of a compiled package: add, list, remove, pin."),
    "bitstream": ("bitstream", "Build the bitstream of a board for a package or a target."),
    "area": ("area", "What a target takes of an ECP5 and in gates, per lane, per unit and whole (Yosys)."),
    "run": ("run", "Run a package on a board and compare results and counters with the simulator."),
    "zynq": ("zynq", "Write a Vivado project and a PYNQ driver for the ZCU104; neither is run here."),
    "hls": ("hls", "Write the machine of a target as C++ with a project for AMD Vitis HLS."),
    "hls-test": ("hls_test", "Run a package in the C simulation of the HLS C++ and compare with the simulator."),
    "diff": ("diff", "Name the first instruction and signal where two runs part (files written by --json)."),
    "report": ("report", "Show runs (files written by --json) side by side."),
    "disasm": ("disasm", "Print the program of a package as assembly."),
    "asm": ("asm", "Assemble a program; checks semaphores and loops."),
}
"""Command -> its module in this package, which has `arguments(parser)` and `run(options)`, and what it does."""

_CODES = "Exit codes: 0 done; 1 a check failed; 2 the input is wrong; 3 a fault of ours."


def _overview() -> argparse.ArgumentParser:
    """The parser of a line without a command that is known: help, version, errors."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="axlora",
        usage="axlora [--help] [--version] COMMAND ...",
        description="Compile quantized models with LoRA to an accelerator, simulate them to the cycle, run them in Verilog.",
        epilog=f"commands:\n{lines}\n\n`axlora COMMAND --help` shows the options of a command.\n{_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"axlora {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=argparse.SUPPRESS)
    return parser


def _options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; one that is unknown is refused with the usage of the command, or of its action."""
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        getattr(options, "own_parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _base_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--adapter -,NAME` (the base, then an adapter) as one: argparse takes -,NAME for an option."""
    found: list[str] = []
    for each in arguments:
        if each.startswith("-,") and found and found[-1] == "--adapter":
            found[-1] += f"={each}"
        else:
            found.append(each)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in COMMANDS:
        _overview().parse_args(given)
        return 2
    name, rest = given[0], given[1:]
    module, text = COMMANDS[name]
    try:
        command: ModuleType = importlib.import_module(f"axlora.cli.{module}")
        guarded = importlib.import_module("axlora.cli.terminal").guarded
    except ModuleNotFoundError as error:  # a checkout run where nothing was installed
        sys.stderr.write(f"axlora {name}: the package {error.name!r} is not installed (pip install axlora, or make demo)\n")
        return 2
    parser = argparse.ArgumentParser(prog=f"axlora {name}", description=text, epilog=_CODES)
    command.arguments(parser)
    options = _options(parser, _base_first(rest))
    return int(guarded(name, command.run, options))
