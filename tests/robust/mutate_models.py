"""Mutations of ONNX models: model.onnx (and weights.bin) in the case's folder; `call.json` may change the call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from mutate import ANY, REFUSED, SAME, Mutation, Random, of_bytes
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto, Random], str]


def _file(folder: Path, rng: Random) -> Path:
    return folder / "model.onnx"


def _pick(items: object, rng: Random) -> object:
    found = list(items)  # type: ignore[call-overload]
    return found[int(rng.integers(len(found)))]


def _edit(change: Change) -> Callable[[Path, Random], str]:
    def apply(folder: Path, rng: Random) -> str:
        path = folder / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        text = change(model, rng)
        path.write_bytes(model.SerializeToString())
        return text

    return apply


def _tensor(model: onnx.ModelProto, rng: Random, least: int = 0) -> onnx.TensorProto:
    return _pick([t for t in model.graph.initializer if len(t.dims) >= least], rng)  # type: ignore[return-value]


def dims(model: onnx.ModelProto, rng: Random) -> str:
    """Dimensions of a weight that its bytes do not hold."""
    t = _tensor(model, rng, 1)
    axis = int(rng.integers(len(t.dims)))
    t.dims[axis] = int(_pick((0, -1, 1, 3, 2**20, 2**31, 2**40, 2**62, t.dims[axis] + 1, t.dims[axis] * 2), rng))
    return f"dims of {t.name}: {list(t.dims)}"


def dims_without_bytes(model: onnx.ModelProto, rng: Random) -> str:
    """Huge dimensions and no data at all."""
    t = _tensor(model, rng, 1)
    t.dims[0] = int(_pick((2**20, 2**31, 2**40), rng))
    for field in ("raw_data", "float_data", "int32_data", "int64_data"):
        t.ClearField(field)
    return f"{t.name} is {list(t.dims)} without data"


def raw(model: onnx.ModelProto, rng: Random) -> str:
    """Bytes that do not fit the dimensions, or in a typed field."""
    t = _tensor(model, rng)
    if rng.integers(2):
        t.raw_data = t.raw_data[: -int(rng.integers(1, 5))] if rng.integers(2) else t.raw_data + bytes(int(rng.integers(1, 9)))
    else:
        t.ClearField("raw_data")
        t.float_data.extend([1.0] * int(rng.integers(0, 5)))
    return f"raw data of {t.name}"


def dtype(model: onnx.ModelProto, rng: Random) -> str:
    """Another element type."""
    t = _tensor(model, rng)
    t.data_type = int(_pick((*range(0, 24), 99, -1), rng))
    return f"type of {t.name}: {t.data_type}"


def _numbers(model: onnx.ModelProto, rng: Random) -> str:
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.raw_data]
    t: onnx.TensorProto = _pick(floats, rng)  # type: ignore[assignment]
    value = numpy_helper.to_array(t).copy()
    new = float(_pick((np.nan, np.inf, -np.inf, 0.0, -0.01, 1e-45, 1e-30, 3e38, 1e20, -1e20), rng))
    if value.ndim and rng.integers(2):
        value.reshape(-1)[int(rng.integers(value.size))] = new
    else:
        value[...] = new
    t.CopyFrom(numpy_helper.from_array(value, t.name))
    return f"{t.name} has {new}"


def scales(model: onnx.ModelProto, rng: Random) -> str:
    """NaN, infinity, zero, negative and huge values in a float tensor; scales where there are."""
    keep = [t for t in model.graph.initializer if "scale" in t.name and t.data_type == TensorProto.FLOAT and t.raw_data]
    if not keep or rng.integers(3) == 0:
        return _numbers(model, rng)
    only = onnx.ModelProto()
    only.graph.initializer.append(_pick(keep, rng))  # type: ignore[arg-type]
    text = _numbers(only, rng)
    changed = only.graph.initializer[0]
    next(t for t in model.graph.initializer if t.name == changed.name).CopyFrom(changed)
    return text


def zeros(model: onnx.ModelProto, rng: Random) -> str:
    """Integer tensors (zero points, shapes, axes) with other values."""
    integers = [t for t in model.graph.initializer if t.data_type in (TensorProto.INT8, TensorProto.INT64, TensorProto.UINT8)]
    if not integers:
        return dims(model, rng)
    t: onnx.TensorProto = _pick(integers, rng)  # type: ignore[assignment]
    value = numpy_helper.to_array(t).copy()
    limits = np.iinfo(value.dtype)
    new = int(_pick((limits.min, limits.max, 0, -1 if limits.min else 1, 100), rng))
    if value.size:
        value.reshape(-1)[int(rng.integers(value.size))] = new
    t.CopyFrom(numpy_helper.from_array(value, t.name))
    return f"{t.name} has {new}"


def swapped(model: onnx.ModelProto, rng: Random) -> str:
    """Two weights with their names exchanged."""
    a, b = _tensor(model, rng), _tensor(model, rng)
    a.name, b.name = b.name, a.name
    return f"{a.name} and {b.name} swapped"


def duplicate(model: onnx.ModelProto, rng: Random) -> str:
    """A name used twice: of weights, of nodes' outputs, of inputs."""
    how = int(rng.integers(3))
    if how == 0:
        model.graph.initializer.append(_tensor(model, rng))
        return "weight twice"
    a, b = (_pick(model.graph.node, rng) for _ in range(2))
    if how == 1:
        a.output[0] = b.output[0]  # type: ignore[attr-defined]
        return "output twice"
    model.graph.input.append(_pick(model.graph.input, rng))  # type: ignore[arg-type]
    return "input twice"


def cycle(model: onnx.ModelProto, rng: Random) -> str:
    """A node reads what comes after it."""
    nodes = [n for n in model.graph.node if n.input]
    first = int(rng.integers(len(nodes)))
    nodes[first].input[0] = nodes[int(rng.integers(first, len(nodes)))].output[0]
    return f"cycle at {nodes[first].name}"


def unknown(model: onnx.ModelProto, rng: Random) -> str:
    """Operators, domains and attributes that do not exist."""
    node: onnx.NodeProto = _pick(model.graph.node, rng)  # type: ignore[assignment]
    how = int(rng.integers(5))
    if how == 0:
        node.op_type = str(_pick(("Frobnicate", "", "Loop", "MatMulInteger", "QLinearMatMul", "Conv", "If", "Scan"), rng))
    elif how == 1:
        node.domain = str(_pick(("com.example", "ai.onnx.ml", "com.microsoft", "é"), rng))
    elif how == 2:
        node.attribute.append(helper.make_attribute(str(_pick(("axis", "perm", "to", "alpha", "zz"), rng)), 2**40))
    elif how == 3:
        del node.input[:]
    else:
        del node.output[:]
    return f"{node.op_type} {node.domain} {how}"


def attributes(model: onnx.ModelProto, rng: Random) -> str:
    """Attributes with other values."""
    nodes = [n for n in model.graph.node if n.attribute]
    node: onnx.NodeProto = _pick(nodes, rng)  # type: ignore[assignment]
    a: onnx.AttributeProto = _pick(node.attribute, rng)  # type: ignore[assignment]
    new = int(_pick((-1, 0, 1, 5, 2**31, 2**62, -(2**62)), rng))
    if a.ints:
        a.ints[int(rng.integers(len(a.ints)))] = new
    elif a.HasField("t"):
        a.t.dims.append(new)
    elif rng.integers(4) == 0:
        a.type = int(rng.integers(0, 15))
    else:
        a.i, a.f = new, float(_pick((np.nan, np.inf, -1.0), rng))
    return f"{node.op_type}.{a.name} {new}"


def opset(model: onnx.ModelProto, rng: Random) -> str:
    """Versions that do not exist."""
    how = int(rng.integers(4))
    if how == 0:
        model.opset_import[0].version = int(_pick((999, 0, -1, 2**40, 1, 6), rng))
    elif how == 1:
        del model.opset_import[:]
    elif how == 2:
        model.ir_version = int(_pick((0, 99, 2**40, 1), rng))
    else:
        model.opset_import.append(model.opset_import[0])
    return f"versions {how}"


def shapes(model: onnx.ModelProto, rng: Random) -> str:
    """Inputs and outputs of absurd shapes and types."""
    value: onnx.ValueInfoProto = _pick((*model.graph.input, *model.graph.output), rng)  # type: ignore[assignment]
    kind = value.type.tensor_type
    how = int(rng.integers(4))
    if how == 0:
        kind.elem_type = int(_pick((0, 2, 6, 7, 8, 9, 10, 14, 77), rng))
    elif how == 1:
        kind.shape.dim.add().dim_value = int(_pick((1, 0, 2**40), rng))
    elif how == 2:
        kind.ClearField("shape")
    elif kind.shape.dim:
        dim: onnx.TensorShapeProto.Dimension = _pick(kind.shape.dim, rng)  # type: ignore[assignment]
        dim.dim_value = int(_pick((0, -1, -4, 2**20, 2**31, 2**40, 2**62), rng))
    return f"shape of {value.name} {how}"


def nothing_left(model: onnx.ModelProto, rng: Random) -> str:
    """Parts of the graph removed."""
    part = str(_pick(("node", "input", "output", "initializer"), rng))
    field = getattr(model.graph, part)
    if rng.integers(2):
        del field[:]
    else:
        del field[int(rng.integers(len(field)))]
    return f"{part} removed"


def _call(changes: Callable[[Random], dict[str, object]]) -> Callable[[Path, Random], str]:
    def apply(folder: Path, rng: Random) -> str:
        call = json.loads((folder / "call.json").read_text())
        new = changes(rng)
        call |= new
        (folder / "call.json").write_text(json.dumps(call))
        return str(new)

    return apply


def _shape_argument(rng: Random) -> dict[str, object]:
    value = int(_pick((0, -1, 2**20, 2**31, 2**40, 2**63, 2**70), rng))
    return {"shapes": {str(_pick(("batch", "sequence", "tokens"), rng)): value}}


def _options(rng: Random) -> dict[str, object]:
    return dict(
        [
            _pick(
                (
                    ("max_loras", -1), ("max_loras", 9), ("max_loras", 2**40), ("max_lora_rank", -1), ("weight_bits", 5),
                    ("max_lora_rank", 2**20), ("max_lora_rank", 2**40), ("activation", "x"), ("activation", "token16"),
                    ("activation", "static8"), ("weight_bits", 0),
                ),
                rng,
            )  # type: ignore[list-item]
        ]
    )  # fmt: skip


def _external(location: Callable[[Path], str], offset: str = "", length: str = "") -> Callable[[Path, Random], str]:
    def apply(folder: Path, rng: Random) -> str:
        path = folder / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        t: onnx.TensorProto = _tensor(model, rng, 1)
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        del t.external_data[:]
        given = {"location": location(folder), "offset": offset, "length": length}
        for key, value in given.items():
            if value:
                t.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())
        return f"{t.name} at {given}"

    return apply


def _inside_subgraph(folder: Path, rng: Random) -> str:
    """External data of a constant in the branch of an If."""
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    hidden = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value=str(folder.parent / "secret.bin"))
    out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, [4])
    if rng.integers(2):
        nodes, constants = [helper.make_node("Identity", ["hidden"], ["branch"])], [hidden]
    else:
        nodes, constants = [helper.make_node("Constant", [], ["branch"], value=hidden)], []
    branch = helper.make_graph(nodes, "b", [], [out], constants)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch))
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [4]))
    path.write_bytes(model.SerializeToString())
    return "external data in a branch"


def _link(folder: Path, rng: Random) -> str:
    os.symlink(folder.parent / "secret.bin", folder / "link.bin")
    return _external(lambda _: "link.bin")(folder, rng)


def _model_is_link_loop(folder: Path, rng: Random) -> str:
    (folder / "model.onnx").unlink()
    how = int(rng.integers(3))
    if how == 0:
        os.symlink("model.onnx", folder / "model.onnx")
    elif how == 1:
        (folder / "model.onnx").mkdir()
    return f"no model file {how}"


def harmless(model: onnx.ModelProto, rng: Random) -> str:
    """What changes nothing: documentation, unused weights, the order of weights."""
    model.doc_string = "x" * int(rng.integers(0, 100))
    model.producer_name = "someone"
    model.graph.doc_string = "é"
    constants = list(model.graph.initializer)
    order = rng.permutation(len(constants))
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants[i] for i in order)
    model.graph.initializer.append(numpy_helper.from_array(np.full(3, np.nan, np.float32), "unused"))
    model.metadata_props.add(key="a", value="b")
    return "harmless"


MODEL = [
    *of_bytes(_file),
    Mutation("dims", _edit(dims)),
    Mutation("dims-without-bytes", _edit(dims_without_bytes)),
    Mutation("raw", _edit(raw)),
    Mutation("dtype", _edit(dtype)),
    Mutation("scales", _edit(scales)),
    Mutation("scales", _edit(scales)),
    Mutation("zeros", _edit(zeros)),
    Mutation("swapped", _edit(swapped)),
    Mutation("duplicate", _edit(duplicate)),
    Mutation("cycle", _edit(cycle)),
    Mutation("unknown", _edit(unknown)),
    Mutation("attributes", _edit(attributes)),
    Mutation("opset", _edit(opset)),
    Mutation("shapes", _edit(shapes)),
    Mutation("removed", _edit(nothing_left)),
    Mutation("shape-argument", _call(_shape_argument)),
    Mutation("options", _call(_options)),
    Mutation("outside-relative", _external(lambda f: "../secret.bin"), REFUSED),
    Mutation("outside-absolute", _external(lambda f: str(f.parent / "secret.bin")), REFUSED),
    Mutation("outside-passwd", _external(lambda f: "../../../../../../../../../etc/passwd"), REFUSED),
    Mutation("outside-link", _link, REFUSED),
    Mutation("outside-branch", _inside_subgraph, REFUSED),
    Mutation("external-range", _external(lambda f: "model.onnx", str(2**62), str(2**62)), REFUSED),
    Mutation("external-text", _external(lambda f: "model.onnx", "x", "-1"), REFUSED),
    Mutation("no-file", _model_is_link_loop, REFUSED),
    Mutation("harmless", _edit(harmless), SAME),
]
EXTERNAL = [*of_bytes(lambda folder, rng: folder / "weights.bin"), Mutation("harmless", _edit(harmless), SAME)]

__all__ = ["ANY", "EXTERNAL", "MODEL"]
