"""Read an adapter of ONNX Runtime (`.onnx_adapter`): branches of linears, scaled in B, as Olive and GenAI write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter

Float64 = npt.NDArray[np.float64]
SUFFIX = ".onnx_adapter"
_CONVERTED = "give the PEFT directory that it was converted from"


def adapter_file(path: Path) -> Path | None:
    """The one such file: `path`, or the only one in the directory where PEFT's files are not; None: there is none."""
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    files = sorted(path.glob(f"*{SUFFIX}"))
    return files[0] if len(files) == 1 and not (path / "adapter_config.json").exists() else None


def read_parameters(data: Path) -> dict[str, Float64]:
    """The tensors by name, turned as PEFT has them: lora_A [r, in], lora_B [out, r].

    The file has them as the graph multiplies them, lora_A [in, r] and lora_B [r, out], and may name the operator too
    (`q_proj.lora_A.MatMul.weight`).

    Raises:
        BadAdapter: onnxruntime is not installed; a damaged file; tensors of integers or with NaN.
    """
    where = str(data)
    try:
        from onnxruntime import AdapterFormat  # an extra, of this format alone
    except ImportError:
        hint = "pip install 'axlora[adapters]', or give the PEFT directory that it was converted from"
        raise BadAdapter("reading an adapter of ONNX Runtime needs onnxruntime, which is not installed", where, hint) from None
    try:
        parameters = AdapterFormat.read_adapter(where).get_parameters()
        arrays = {name: np.array(value.numpy()) for name, value in parameters.items()}
    except Exception as error:  # onnxruntime raises classes of its own, which its stubs do not name
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadAdapter(f"damaged adapter of ONNX Runtime: {reason}", where, _CONVERTED) from None
    tensors: dict[str, Float64] = {}
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            raise BadAdapter(f"tensor {name!r} has type {value.dtype}, must be floats", where, _CONVERTED)
        if not np.isfinite(value).all():
            raise BadAdapter(f"tensor {name!r} holds NaN or infinity", where, "train or save the adapter again")
        tensors[re.sub(r"\.MatMul\.weight$", ".weight", name)] = value.astype(np.float64).T
    return tensors
