"""The base that an adapter was trained on (a Hugging Face directory): its weights tell which linear a module means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.attach import module_path
from axlora.compiler.frontend.safetensors_file import Entry, entries

Float64 = npt.NDArray[np.float64]
_KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class BaseWeights:
    """Weights of a directory's safetensors files, read one at a time."""

    def __init__(self, folder: str | Path) -> None:
        """Read the files' headers.

        Raises:
            BadAdapter: no directory, no safetensors file, or a damaged one.
        """
        self.folder = Path(folder)
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise BadAdapter("no safetensors file", str(folder), "give --base the directory of the base model")
        self._places: dict[str, Entry] = {}
        for file in files:
            try:
                found = entries(file)
            except ValueError as error:
                raise BadAdapter(str(error), str(file), "copy the base again") from None
            self._places |= {name: entry for name, entry in found.items() if entry.kind in _KINDS}

    def of(self, module: str) -> Float64 | None:
        """The weight matrix of a module [out, in] ([in, out] of a Conv1D), or None if there is not exactly one."""
        wanted = module_path(module)
        own = {n: module_path(n.removesuffix(".weight")) for n in self._places if n.endswith(".weight")}
        exact = [n for n, path in own.items() if path.parts == wanted.parts]
        names = exact or [n for n, path in own.items() if path.agrees(wanted)]
        if len(names) != 1:
            return None
        entry = self._places[names[0]]
        if len(entry.shape) != 2:
            return None
        raw = np.frombuffer(entry.read(), _KINDS[entry.kind]).reshape(entry.shape)
        value = (raw.astype(np.uint32) << 16).view(np.float32) if entry.kind == "BF16" else raw
        return value.astype(np.float64)
