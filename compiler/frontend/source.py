"""A model by its file, its directory or in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.hf import directory


def first_line(error: Exception) -> str:
    """The first line of what a library says, cut where it is long."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:200]


@dataclass(frozen=True)
class Source:
    """A model that was opened once. Weights may be external data, which stay in their files."""

    proto: onnx.ModelProto
    folder: Path | None
    """Where external data lies; None: the model is whole in memory."""
    name: str
    """In messages."""
    file: Path | None
    """What describes it: the ONNX file or config.json."""


Model = onnx.ModelProto | str | Path | Source
"""A model, its file, or a Hugging Face directory."""


def opened(model: Model) -> Source:
    """Open a model, unless it is open.

    Raises:
        BadModel: no such file, or not an ONNX file; as `directory.read`.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, onnx.ModelProto):
        return Source(model, None, "model", None)
    path = Path(model)
    if path.is_dir():
        return Source(directory.read(path), path, str(path), path / directory.CONFIG)
    if not path.is_file():
        raise BadModel("no such file", str(path), "give the path of an .onnx file, or of a Hugging Face directory")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf, onnx and OS errors have no common base
        raise BadModel(f"not an ONNX file, or damaged: {first_line(error)}", str(path), "export the model again") from None
    return Source(proto, path.parent, str(path), path)
