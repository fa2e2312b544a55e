"""Weights of a model: read from files beside it, and set aside while tools run that serialize the whole model.

Protobuf serializes at most 2 GB, and onnx's checker, shape inference and optimizer all serialize. They see weights as inputs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend.precision import FLOATS, copy_in_float32
from axlora.compiler.frontend.tensors import check_data, inner_tensors, size

TOTAL_LIMIT = 256 << 20
"""Bytes of weights that a model may carry through the tools."""
TENSOR_LIMIT = 1 << 16
"""Bytes of a weight that stays in the model beyond that."""


def _place(tensor: onnx.TensorProto, folder: Path, where: str) -> tuple[Path, int, int]:
    """File, offset and length of external data; the file lies inside `folder`."""
    given = {e.key: e.value for e in tensor.external_data}
    hint = "keep weight files in the model's own folder"
    name = given.get("location", "")
    path = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise BadModel(f"weights of {tensor.name!r} lie at {name!r}, outside the model's folder", where, hint)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadModel(f"weights of {tensor.name!r}: {name!r} links out of the model's folder", where, hint)
    if not path.is_file():
        raise BadModel(f"weights of {tensor.name!r}: no file {name!r}", where, "copy it beside the model")
    try:
        offset = int(given.get("offset") or 0)
        length = int(given.get("length") or path.stat().st_size - offset)
    except ValueError:
        raise BadModel(f"weights of {tensor.name!r}: offset or length is no number", where, "export again") from None
    if offset < 0 or length != size(tensor) or offset + length > path.stat().st_size:
        what = f"weights of {tensor.name!r}: {length} bytes at {offset}, needs {size(tensor)}"
        raise BadModel(f"{what}, {name!r} has {path.stat().st_size}", where, "copy or export the model again")
    return path, offset, length


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those of its subgraphs included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {o.name for o in graph.output}.union(*(reads(inner) for inner in graph.node))
    return names


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _load(tensor: onnx.TensorProto, folder: Path, where: str) -> None:
    path, offset, length = _place(tensor, folder, where)
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def whole(tensor: onnx.TensorProto, folder: Path, where: str) -> onnx.TensorProto:
    """A copy with its data, read from its file if need be.

    Raises:
        BadModel: a file that cannot be read.
    """
    own = onnx.TensorProto()
    own.CopyFrom(tensor)
    if _is_external(own):
        _load(own, folder, where)
    return own


_STORED = "stored"
"""Key of external data: the type that floats have in the file."""


def _left(tensor: onnx.TensorProto, folder: Path, where: str) -> onnx.TensorProto:
    """External floats as float32, which stay where they are; `values` reads them."""
    path, offset, length = _place(tensor, folder, where)
    result = onnx.TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=tensor.dims)
    result.data_location = TensorProto.EXTERNAL
    place = {"location": path.resolve(), "offset": offset, "length": length, _STORED: tensor.data_type}
    for key, value in place.items():
        result.external_data.add(key=key, value=str(value))
    return result


def values(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """The values of a constant of a model that was read; floats that were left in their file are read from it as float32."""
    if not _is_external(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    given = {e.key: e.value for e in tensor.external_data}
    stored = helper.tensor_dtype_to_np_dtype(int(given[_STORED]))
    raw = np.memmap(given["location"], stored, "r", int(given["offset"]), tuple(tensor.dims))
    with np.errstate(over="ignore"):
        return np.asarray(raw).astype(np.float32, copy=False)


def check(model: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Raise `BadModel` for weights whose bytes do not fit their dimensions, and for external data out of reach.

    Args:
        folder: where the model's file lies; None for a model in memory, which has no external data.
    """
    for tensor in model.graph.initializer:
        check_data(tensor, where)
        if _is_external(tensor):
            if folder is None:
                what = f"weights of {tensor.name!r} are not in the model"
                raise BadModel(what, where, "give the model's path, or load it with its external data")
            _place(tensor, folder, where)
    for tensor in inner_tensors(model):
        check_data(tensor, where)
        if _is_external(tensor):
            raise BadModel(f"constant {tensor.name!r} of a node holds external data", where, "only weights may be external")


class Aside:
    """A model in float32 whose big weights stay where they are: they are graph inputs until `put_back`."""

    def __init__(self, source: onnx.ModelProto, folder: Path | None, where: str) -> None:
        """Take what `check` has passed; `source` is not changed.

        Raises:
            BadModel: a weight file that cannot be read.
        """
        self.model = onnx.ModelProto()
        self._folder, self._where, self._source = folder or Path(), where, source
        big = sum(size(t) for t in source.graph.initializer) > TOTAL_LIMIT
        self.names = {t.name for t in source.graph.initializer if big and size(t) > TENSOR_LIMIT}
        """Weights that are inputs now."""
        copy_without(source, self.model, "graph")
        copy_without(source.graph, self.model.graph, "initializer")
        listed = {v.name for v in source.graph.input}
        for tensor in source.graph.initializer:
            if tensor.name not in self.names:
                self.model.graph.initializer.append(self._whole(tensor))
            elif tensor.name not in listed:
                info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                self.model.graph.input.append(info)

    def _whole(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        return whole(tensor, self._folder, self._where)

    def put_back(self, model: onnx.ModelProto, leave: bool = False) -> None:
        """The weights that `model` (made from `self.model`) still reads become its initializers, in float32, in place.

        Args:
            leave: external floats stay in their file, for `values`.
        """
        if not self.names:
            return
        graph = model.graph
        used = {o.name for o in graph.output}.union(*(reads(node) for node in graph.node))
        for i in reversed(range(len(graph.input))):
            if graph.input[i].name in self.names:
                del graph.input[i]
        for tensor in self._source.graph.initializer:
            if tensor.name not in self.names & used:
                continue
            if leave and _is_external(tensor) and tensor.data_type in (*FLOATS, TensorProto.FLOAT):
                graph.initializer.append(_left(tensor, self._folder, self._where))
            else:
                copy_in_float32(self._whole(tensor), graph.initializer.add())


def copy_without(source: onnx.ModelProto | onnx.GraphProto, target: onnx.ModelProto | onnx.GraphProto, without: str) -> None:
    """Copy every field but one into the empty `target`."""
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if isinstance(value, str | int | bytes):
            setattr(target, field.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            getattr(target, field.name).extend(value)


def weights_hash(model: onnx.ModelProto, folder: Path, where: str) -> str:
    """SHA-256 of all weights: names, types, dimensions and values, in the order of names; of no graph, and no file's layout.

    Raises:
        BadModel: as `whole`.
    """
    found = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda t: t.name):
        found.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}\n".encode())
        found.update(numpy_helper.to_array(whole(tensor, folder, where)).tobytes())
    return found.hexdigest()
