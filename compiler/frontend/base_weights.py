"""The base that an adapter was trained on (a Hugging Face directory): its weights tell which linear a module means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.layer import Linear

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
        wanted = f"{module}.weight"
        names = [n for n in self._places if n == wanted or n.endswith(f".{wanted}") or wanted.endswith(f".{n}")]
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


def linear_of_weights(module: str, linears: Sequence[Linear], base: BaseWeights, where: str) -> Linear:
    """The one linear whose codes are what the base's weight rounds to.

    Raises:
        BadAdapter: the base has no such module; none or several linears hold its weights.
    """
    weight = base.of(module)
    if weight is None:
        raise BadAdapter(f"module {module!r} is not in the base {base.folder}", where, "give the base it was trained on")
    found = [linear for linear in linears if any(_holds(linear, w) for w in (weight.T, weight))]
    if len(found) == 1:
        return found[0]
    names = ", ".join(x.node for x in found[:8]) or "none"
    raise BadAdapter(f"weights of module {module!r} are those of {len(found)} linears: {names}", where, "give --adapter-map")


def _holds(linear: Linear, weight: Float64) -> bool:
    """Every element is within half a code's step, and a little for a cast to half precision."""
    grid = linear.grid
    if grid is None or weight.shape != (linear.inputs, linear.n):
        return False
    scaled = weight if grid.smooth is None else weight * grid.smooth[:, None]
    near = np.abs(linear.matrix() * grid.w_scale - scaled) <= 0.51 * grid.w_scale + np.abs(scaled) * 2.0**-9
    return bool(near.all())
