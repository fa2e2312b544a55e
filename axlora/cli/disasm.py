"""`axlora disasm`."""

from __future__ import annotations

import argparse
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package."""
    parser.add_argument("package", metavar="OUT.axl")
    parser.add_argument("--numbers", action="store_true", help="with the numbers that axlora diff and rtl-test --span use")


def run(options: argparse.Namespace) -> int:
    """Print the program with the linears or operators as comments."""
    from axlora.isa.assembly import disassemble
    from axlora.isa.instruction import decode
    from axlora.isa.opcodes import INSTRUCTION_BYTES
    from axlora.program import load

    program = load(options.package)
    for function, (title, code, names) in zip(program.functions, program.listing(), strict=True):
        if title:
            sys.stdout.write(f"## {title}\n")
        for place in range(0, len(code), INSTRUCTION_BYTES):
            index = place // INSTRUCTION_BYTES
            if index in names:
                sys.stdout.write(f"# {names[index]}\n")
            data = code[place : place + INSTRUCTION_BYTES]
            if any(data):
                number = f"  # {function.address // INSTRUCTION_BYTES + index}" if options.numbers else ""
                sys.stdout.write(f"{disassemble(decode(data))}{number}\n")
    return 0
