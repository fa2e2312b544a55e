"""Verilator's OBJCACHE: keeps the objects of its runtime library, the same for every simulator, in the folder AXLORA_OBJECTS.

They are half the time of building the simulator of a small machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def _key(command: list[str]) -> str:
    """SHA-256 of the command, the compiler's version and the library's sources beside the one that is compiled."""
    key = hashlib.sha256(" ".join(command).encode())
    key.update(subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout)
    for path in sorted(Path(command[-1]).parent.iterdir()):
        if path.is_file():
            key.update(path.name.encode() + path.read_bytes())
    return key.hexdigest()


def main(command: list[str]) -> int:
    """Run a compiler command, or copy what an earlier run of the same command left."""
    folder = os.environ.get("AXLORA_OBJECTS")
    if not folder or "-o" not in command or not Path(command[-1]).name.startswith("verilated"):
        return subprocess.run(command, check=False).returncode
    out = Path(command[command.index("-o") + 1])
    kept = Path(folder) / f"{_key(command)}.o"
    if kept.exists():
        shutil.copy(kept, out)
        return 0
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        shutil.copy(out, part)
        part.replace(kept)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
