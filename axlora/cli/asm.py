"""`axlora asm`."""

from __future__ import annotations

import argparse
from pathlib import Path

from axlora.isa.errors import Error

from .given import bad, write
from .terminal import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Source and program."""
    parser.add_argument("source", metavar="FILE")
    parser.add_argument("-o", "--output", required=True, metavar="PROGRAM.bin")


def run(options: argparse.Namespace) -> int:
    """Assemble, check, write."""
    from axlora.isa.assembly import assemble, encode_program
    from axlora.isa.instruction import BadInstruction
    from axlora.isa.legality import check_program

    source = Path(options.source)
    if source.is_dir():
        raise bad(f"{options.source} is a folder", options.source, "give a file of assembly")
    try:
        instructions = assemble(source.read_text())
    except UnicodeDecodeError:
        raise Error(f"{options.source} is not text", options.source, "see docs/isa.md") from None
    if not instructions:
        raise BadInstruction(f"{options.source} holds no instruction")
    check_program(instructions)
    data = encode_program(instructions)
    write(options.output, data)
    show(f"{options.output}: {len(instructions)} instructions, {len(data)} bytes")
    return 0
