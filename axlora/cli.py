"""The command line: parse, call the Python API, print tables. Exit codes: 0 done, 1 a check failed, 2 the input is wrong."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from axlora.isa.errors import Error
from axlora.isa.instruction import BadInstruction
from axlora.isa.legality import IllegalProgram
from axlora.sim.errors import MachineError

from . import commands, fpga_commands, hls_commands, text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="axlora",
        description="Compile quantized models with LoRA to an accelerator, simulate them to the cycle, run them in Verilog.",
        epilog="Exit codes: 0 done; 1 a check failed; 2 the input is wrong.",
    )
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        one = sub.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        return one

    add("doctor", commands.doctor, "What is installed, what is missing, how to get it.")
    one = add("targets", commands.targets, "List the target presets, or show one in full.")
    one.add_argument("name", nargs="?", metavar="NAME", help="a preset, or the path of a TOML file")

    one = add("compile", commands.compile_model, "Compile an ONNX model with LoRA adapters to a package.")
    one.add_argument("model", metavar="MODEL.onnx")
    one.add_argument("-o", "--output", required=True, metavar="OUT.axl")
    one.add_argument("--target", required=True, metavar="T", help="preset or TOML file")
    one.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR", help="PEFT directory; may be repeated")
    one.add_argument("--adapter-map", metavar="FILE", help="JSON: adapter module to ONNX node")
    one.add_argument("--calibration", metavar="DATA.npz", help="input samples, first axis is the sample")
    one.add_argument(
        "--shape", action="append", default=[], metavar="DIM=N", help="value of a symbolic dimension; may be repeated"
    )
    one.add_argument(
        "--activation",
        choices=["auto", "token8", "static8", "token16", "static16"],
        help="input codes of linears: a scale a token (auto: with the target's bits), or static (default: the file's scales "
        "where it has them, else token8)",
    )
    one.add_argument(
        "--weight-bits", type=int, default=8, choices=[2, 3, 4, 8], help="for weights that the file holds as floats"
    )
    one.add_argument("--max-loras", type=int, metavar="N", help="different adapters in one batch, 0 to 8")
    one.add_argument("--max-lora-rank", type=int, metavar="R", help="largest rank the program takes")
    one.add_argument(
        "--lora-linears",
        default="used",
        choices=["used", "all"],
        help="linears that adapters may change: those that the given ones do (all, if none are given), or all",
    )
    one.add_argument("--base", metavar="HF_DIR", help="the base of the adapters: matches their modules by equal weights")
    one.add_argument(
        "--operators",
        default="auto",
        choices=["auto", "all", "linears"],
        help="what the accelerator runs: all between embeddings and outputs, the linears alone, or all where it can (auto)",
    )
    one.add_argument(
        "--mode",
        default="fused",
        choices=["fused", "exact"],
        help="fused: base and LoRA are rounded once (default); exact: every Q/DQ pair of the file counts",
    )
    one.add_argument("--merge", action="store_true", help="put the LoRA, the model's own or one adapter, into the weights")
    one.add_argument("--dump-passes", metavar="DIR", help="write the Relax module after every phase")
    one.add_argument("--generate", action="store_true", help="a language model: prefill and decode programs around a cache")
    one.add_argument("--max-context", type=int, default=256, metavar="N", help="with --generate: most tokens (default 256)")
    one.add_argument("--chunk", type=int, metavar="C", help="with --generate: most tokens of a prompt at once (32)")

    one = add("simulate", commands.simulate, "Run a package on the cycle-exact simulator.")
    _run_options(one)
    one.add_argument("--no-timing", action="store_true", help="outputs only")
    one.add_argument("--bitstream", metavar="DIR", help="of axlora bitstream: report at its clock, with its area")

    one = add(
        "rtl-test",
        commands.rtl_test,
        "Run a package in Verilator and compare every output, cycle and counter with the simulator.",
    )
    _run_options(one)
    one.add_argument("--waves", metavar="FILE.vcd", help="write the waves of the Verilog")

    one = add("bitstream", fpga_commands.bitstream, "Build the bitstream of a board for a package or a target.")
    one.add_argument("machine", metavar="OUT.axl|TARGET", help="a package, or a preset or TOML file of a target")
    one.add_argument("--board", required=True, metavar="NAME", help="ulx3s")
    one.add_argument("-o", "--output", required=True, metavar="DIR", help="for NAME.bit and bitstream.json")
    one.add_argument("--clock", type=float, metavar="MHZ", help="default the target's")
    one.add_argument("--onchip", type=int, metavar="BYTES", help="of on-chip memory; default what the package needs")
    one.add_argument("--engines", action="store_true", help="one for each product engine, in folders of their names")

    one = add("zynq", fpga_commands.zynq, "Write a Vivado project and a PYNQ driver for the ZCU104; neither is run here.")
    one.add_argument("target", metavar="TARGET", help="a preset such as zcu104, or a TOML file")
    one.add_argument("-o", "--output", required=True, metavar="DIR", help="new or empty folder")
    one.add_argument("--force", action="store_true", help="replace files of an earlier call")

    one = add("hls", hls_commands.project, "Write the machine of a target as C++ with a project for AMD Vitis HLS.")
    one.add_argument("target", metavar="TARGET", help="preset or TOML file")
    one.add_argument("-o", "--output", required=True, metavar="DIR")

    one = add("hls-test", hls_commands.test, "Run a package in the C simulation of the HLS C++ and compare with the simulator.")
    _run_options(one)

    one = add("run", fpga_commands.run, "Run a package on a board and compare results and counters with the simulator.")
    _run_options(one)
    _board_options(one, required=True)
    one.add_argument("--no-check", action="store_true", help="do not simulate the run to compare")

    one = add("generate", text.generate, "Generate text with a language model compiled with --generate; greedy.")
    one.add_argument("package", metavar="OUT.axl")
    one.add_argument("--prompt", required=True, metavar="TEXT|@FILE")
    one.add_argument("--tokenizer", default="bytes", metavar="FILE|bytes", help="tokenizer.json, or bytes (default)")
    one.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    one.add_argument("--eos", type=int, metavar="ID", help="stop after this token")
    one.add_argument("--adapter", metavar="NAME", help="adapter; default the base")
    one.add_argument("--cycles", action="store_true", help="a line a token: its id, its cycles, its text")
    one.add_argument("--json", metavar="RUN.json", help="write tokens and their cycles")
    _board_options(one, required=False)

    one = add("adapter", commands.adapter, "Adapters of a compiled package: add, list, remove, pin.")
    actions = one.add_subparsers(dest="action", required=True, metavar="ACTION")
    act = actions.add_parser("add", help="add adapters from PEFT directories")
    act.add_argument("package", metavar="OUT.axl")
    act.add_argument("adapters", nargs="+", metavar="NAME=DIR")
    act.add_argument("--adapter-map", metavar="FILE", help="JSON: adapter module to ONNX node")
    act.add_argument("--base", metavar="HF_DIR", help="the base of the adapter: matches its modules by equal weights")
    act = actions.add_parser("list", help="the adapters, their ranks and sizes")
    act.add_argument("package", metavar="OUT.axl")
    act = actions.add_parser("remove", help="remove an adapter")
    act.add_argument("package", metavar="OUT.axl")
    act.add_argument("name", metavar="NAME")
    act = actions.add_parser("pin", help="keep an adapter in a slot in every run")
    act.add_argument("package", metavar="OUT.axl")
    act.add_argument("name", metavar="NAME")
    act.add_argument("--off", action="store_true", help="give the slot back")

    one = add("diff", commands.diff, "Name the first instruction and signal where two runs part (files written by --json).")
    one.add_argument("a", metavar="A.json")
    one.add_argument("b", metavar="B.json")

    one = add("disasm", commands.disasm, "Print the program of a package as assembly.")
    one.add_argument("package", metavar="OUT.axl")
    one = add("asm", commands.asm, "Assemble a program; checks semaphores and loops.")
    one.add_argument("source", metavar="FILE")
    one.add_argument("-o", "--output", required=True, metavar="PROGRAM.bin")

    one = add("report", commands.report, "Show runs (files written by --json) side by side.")
    one.add_argument("runs", nargs="+", metavar="RUN.json")
    return parser


def _run_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("package", metavar="OUT.axl")
    group = one.add_mutually_exclusive_group(required=True)
    group.add_argument("--input", metavar="IN.npz", help="input name to array")
    group.add_argument("--random", type=int, metavar="SEED", help="random inputs over the calibrated range")
    one.add_argument("--adapter", metavar="NAME[,NAME...]", help="adapter, or one for each batch row ('-' for none)")
    one.add_argument("--output", metavar="OUT.npz", help="write the outputs")
    one.add_argument("--json", metavar="RUN.json", help="write the report")


def _board_options(one: argparse.ArgumentParser, required: bool) -> None:
    one.add_argument("--board", required=required, metavar="NAME", help="run on a board: ulx3s")
    one.add_argument("--port", required=required, metavar="DEV", help="its serial port, or sim: the board in Verilator")
    one.add_argument("--baud", type=int, metavar="N", help="bits a second; default the bitstream's")
    one.add_argument("--bitstream", metavar="DIR", help="what the board was loaded with: its baud rate, area and clock")
    one.add_argument("--patience", type=float, default=1.0, metavar="S", help="seconds to wait for an answer (1)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    logging.basicConfig(level=os.environ.get("AXLORA_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BrokenPipeError:
        return 0
    except (Error, BadInstruction, IllegalProgram, OSError) as error:
        text = " ".join(str(error).split())
        sys.stderr.write(f"axlora {options.command}: {text}\n")
        return 2
    except MachineError as error:
        sys.stderr.write(f"axlora {options.command}: {error}\n")
        return 1
