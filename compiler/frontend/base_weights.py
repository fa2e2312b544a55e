"""The base that an adapter was trained on (a Hugging Face directory): its weights tell which linear a module means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.attach import module_path

Float64 = npt.NDArray[np.float64]
_KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_HEADER_LIMIT = 100 << 20


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
        self._places: dict[str, tuple[Path, str, list[int], int, int]] = {}
        for file in files:
            self._read_header(file)

    def _read_header(self, file: Path) -> None:
        try:
            with file.open("rb") as f:
                size = int.from_bytes(f.read(8), "little")
                if size > min(_HEADER_LIMIT, file.stat().st_size):
                    raise ValueError("header too long")
                header = json.loads(f.read(size))
            for name, entry in header.items():
                if name != "__metadata__" and entry["dtype"] in _KINDS:
                    start, end = (int(v) + 8 + size for v in entry["data_offsets"])
                    self._places[name] = file, entry["dtype"], [int(d) for d in entry["shape"]], start, end
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadAdapter(f"damaged safetensors file: {error}", str(file), "copy the base again") from None

    def of(self, module: str) -> Float64 | None:
        """The weight matrix of a module [out, in] ([in, out] of a Conv1D), or None if there is not exactly one."""
        wanted = module_path(module)
        own = {n: module_path(n.removesuffix(".weight")) for n in self._places if n.endswith(".weight")}
        exact = [n for n, path in own.items() if path.parts == wanted.parts]
        names = exact or [n for n, path in own.items() if path.agrees(wanted)]
        if len(names) != 1:
            return None
        file, kind, shape, start, end = self._places[names[0]]
        with file.open("rb") as f:
            f.seek(start)
            data = f.read(end - start)
        if len(shape) != 2 or len(data) != shape[0] * shape[1] * np.dtype(_KINDS[kind]).itemsize:
            return None
        raw = np.frombuffer(data, _KINDS[kind]).reshape(shape)
        value = (raw.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else raw
        return value.astype(np.float64)
