"""What options say: pairs, files of JSON, inputs, adapters; and the files that runs are written to."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axlora.isa.errors import Error

if TYPE_CHECKING:
    from axlora import Program, Run
    from axlora.tracing import Traced

RUN_SCHEMA = 1


def bad(what: str, where: str, hint: str) -> Error:
    """The error of an option or of an input."""
    from axlora import BadInput

    return BadInput(what, where, hint)


def run_options(parser: argparse.ArgumentParser) -> None:
    """Options of the commands that run a package."""
    parser.add_argument("package", metavar="OUT.axl")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--input", metavar="IN.npz", help="input name to array")
    group.add_argument("--random", type=int, metavar="SEED", help="random inputs over the calibrated range")
    parser.add_argument("--adapter", metavar="NAME[,NAME...]", help="adapter, or one for each batch row ('-' for none)")
    paging_options(parser)
    parser.add_argument("--output", metavar="OUT.npz", help="write the outputs")
    parser.add_argument("--json", metavar="RUN.json", help="write the report")


def paging_options(parser: argparse.ArgumentParser, more: str = "") -> None:
    """How many adapters the machine's memory holds; `more`: said of several numbers."""
    help = "adapters that the memory holds at once; the least recently used makes room (default all)"
    parser.add_argument("--adapter-places", metavar="N" + ("[,N...]" if more else ""), help=help + more)
    speed = "how fast adapters are copied to their places, 10^6 bytes a second (default a beat of the memory a cycle)"
    parser.add_argument("--page-rate", type=float, metavar="MB/S", help=speed)


def places(options: argparse.Namespace) -> dict[str, Any]:
    """What --adapter-places and --page-rate say, as keywords of `Program.session`.

    Raises:
        BadInput: no number.
    """
    text = options.adapter_places
    if text is not None and not text.isdecimal():
        raise bad(f"--adapter-places {text!r} is no number", "--adapter-places", "for example 4")
    return {"adapter_places": None if text is None else int(text), "page_rate": options.page_rate}


def board_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Options of the commands that run on a board."""
    parser.add_argument("--board", required=required, metavar="NAME", help="run on a board: ulx3s")
    parser.add_argument("--port", required=required, metavar="DEV", help="its serial port, or sim: the board in Verilator")
    parser.add_argument("--baud", type=int, metavar="N", help="bits a second; default the bitstream's")
    parser.add_argument("--bitstream", metavar="DIR", help="what the board was loaded with: its baud rate, area and clock")
    parser.add_argument("--patience", type=float, default=1.0, metavar="S", help="seconds to wait for an answer (1)")


def trace_options(parser: argparse.ArgumentParser) -> None:
    """Options of the commands that write a trace."""
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("--trace-layers", metavar="NAME[,NAME...]", help="shown one by one; * and ? match (all)")
    parser.add_argument("--trace-limit", type=int, metavar="N", help="most slices of a trace; more are merged (200000)")


def pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """NAME=VALUE texts as a dict.

    Raises:
        BadInput: no such pair, or a name twice.
    """
    out = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise bad(f"{what} {text!r} is not NAME=VALUE", what, f"for example {what} name=value")
        if name in out:
            raise bad(f"{what} {name!r} is given twice", what, "give each name once")
        out[name] = value
    return out


def shapes(texts: Sequence[str]) -> dict[str, int]:
    """What --shape says: dimension to size.

    Raises:
        BadInput: as `pairs`, or no positive number.
    """
    found = {}
    for name, value in pairs(texts, "--shape").items():
        if not value.isdigit() or int(value) == 0:
            raise bad(f"--shape {name}={value}: not a positive number", "--shape", "DIM=N")
        found[name] = int(value)
    return found


def adapter_map(path: str | None) -> dict[str, str] | None:
    """The file of --adapter-map.

    Raises:
        BadInput: no JSON object of strings.
    """
    if not path:
        return None
    try:
        found = json.loads(Path(path).read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise bad(f"{path} is not a JSON object of strings", "--adapter-map", '{"module": "node"}')
    return found


def inputs(program: Program, options: argparse.Namespace) -> dict[str, Any]:
    """What --input or --random says; results that cannot be written are refused here, before anything runs.

    Raises:
        BadInput: a seed, a file of inputs, or a place of --output or --json.
    """
    from axlora.arrays import read_arrays

    for path in filter(None, (options.output, options.json)):
        folder(path)
    if options.input:
        return read_arrays(options.input)
    if options.random < 0:
        raise bad(f"--random {options.random}: a seed is not negative", "--random", "0 or more")
    return program.random_inputs(options.random)


def adapters(text: str | None) -> str | list[str | None] | None:
    """What --adapter says: a name, or one a batch row."""
    if text is None:
        return None
    names = [None if name == "-" else name for name in text.split(",")]
    return names[0] if len(names) == 1 else names


def folder(path: str) -> Path:
    """The folder of a file that is to be written.

    Raises:
        BadInput: it is not there, or a folder has the file's name.
    """
    folder = Path(path).resolve().parent
    if Path(path).is_dir():
        raise bad(f"{path} is a folder", path, "give the name of a file")
    if not folder.is_dir():
        raise bad(f"no folder for {path}", path, "give a path in a folder that is there")
    return folder


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BadInput: as `folder`.
    """
    with tempfile.NamedTemporaryFile(dir=folder(path), delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def tracer(program: Program, options: argparse.Namespace) -> Traced | None:
    """The engine that keeps what --trace writes; what cannot be written is refused here, before anything runs.

    Raises:
        BadInput: a place, a layer, a number. MissingExtra: the extra `trace` is not installed.
    """
    if not options.trace:
        if options.trace_layers is not None or options.trace_limit is not None:
            raise bad("--trace-layers and --trace-limit say what a trace shows", "--trace", "give --trace FILE too")
        return None
    from axlora.extras import need

    need("trace")
    from axlora.tracing import LIMIT, Traced, chosen_layers

    folder(options.trace)
    layers = ("*",) if options.trace_layers is None else tuple(options.trace_layers.split(","))
    chosen_layers(program, layers)
    limit = LIMIT if options.trace_limit is None else options.trace_limit
    if limit < 1:
        raise bad(f"--trace-limit {limit}: a trace has slices", "--trace-limit", "1 or more")
    return Traced(layers, limit)


def page_place(path: str | None) -> None:
    """Refuse a page of --html that cannot be written, before anything runs.

    Raises:
        BadInput: as `folder`. MissingExtra: the extra `report` is not installed.
    """
    if path:
        from axlora.extras import need

        need("report")
        folder(path)


def write_page(path: str, page: Callable[[str], str]) -> None:
    """Write a page.

    Args:
        path: of --html.
        page: from the text of the library that draws charts to HTML.

    Raises:
        BadInput, MissingExtra: as `page_place`.
    """
    page_place(path)
    from vl_convert import javascript_bundle

    write(path, page(javascript_bundle("window.vegaEmbed = vegaEmbed;")).encode())


def save_run(run: Run, options: argparse.Namespace) -> None:
    """--output and --json."""
    import io

    import numpy as np

    if options.output:
        buffer = io.BytesIO()
        np.savez(buffer, **run.outputs)  # type: ignore[arg-type]
        write(options.output, buffer.getvalue())
    if options.json:
        write(options.json, (json.dumps(run.to_json(), indent=1) + "\n").encode())


def run_json(path: str) -> dict[str, Any]:
    """A RUN.json.

    Raises:
        BadInput: a folder, no such file, or something else than a RUN.json of this schema.
    """
    hint = "axlora simulate ... --json writes one"
    place = Path(path)
    if place.is_dir():
        package = (place / "manifest.json").is_file()
        raise bad(f"{path} is a {'package' if package else 'folder'}, not a RUN.json", path, hint)
    if not place.is_file():
        raise bad(f"no such file: {path}", path, hint)
    try:
        data = json.loads(place.read_text())
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or "counters" not in data or data.get("schema") != RUN_SCHEMA:
        raise bad(f"{path} is not a RUN.json of schema {RUN_SCHEMA}", path, hint)
    return data
