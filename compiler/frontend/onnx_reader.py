"""Read an ONNX model, fix its dimensions and bring it to the form that recognition expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxscript import optimizer

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.expand import expand
from axlora.compiler.frontend.fold import fold, infer_shapes
from axlora.compiler.frontend.host_ops import prepare
from axlora.compiler.frontend.precision import to_float32
from axlora.compiler.frontend.sizes import check_sizes, check_values
from axlora.compiler.frontend.storage import Aside, check
from axlora.compiler.frontend.unfuse import unfuse

_STANDARD = ("", "ai.onnx")
_REFUSED = ("QLinearMatMul", "Loop", "Scan")
_HINT = "float models, QuantizeLinear/DequantizeLinear pairs and dynamic int8 are taken; export as one of them"
_DIMENSION = 1 << 24
_FOLD_LIMIT = 1 << 30
"""Elements of a constant that may be folded (a transposed weight)."""


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:200]


def _open(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise BadModel("no such file", str(path), "give the path of an .onnx file")
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf, onnx and OS errors have no common base
        raise BadModel(f"not an ONNX file, or damaged: {_first_line(error)}", str(path), "export the model again") from None


def load(model: onnx.ModelProto | str | Path) -> tuple[Aside, str]:
    """The checked model (a copy) and the name to call it in messages.

    Raises:
        BadModel: no such file, not an ONNX file, truncated, refused by the ONNX checker, or weights out of reach.
    """
    if isinstance(model, onnx.ModelProto):
        name, source, folder = "model", model, None
    else:
        name, source, folder = str(model), _open(Path(model)), Path(model).parent
    if not source.graph.node or not source.opset_import:
        raise BadModel("not an ONNX file, or damaged: it holds no operators", name, "export the model again")
    check(source, folder, name)
    aside = Aside(source, folder, name)
    try:
        onnx.checker.check_model(aside.model)
    except Exception as error:
        raise BadModel(f"ONNX checker: {_first_line(error)}", name, "export the model again") from None
    return aside, name


def fix_dimensions(model: onnx.ModelProto, shapes: Mapping[str, int], where: str) -> None:
    """Give every named free dimension of the inputs its value, in place.

    Raises:
        BadModel: a dimension without a value, a value that is not positive, or a name that the model does not have.
    """
    known = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    for name, value in shapes.items():
        if name not in known:
            free = ", ".join(sorted(known)) or "none"
            raise BadModel(f"no dimension {name!r}", where, f"free dimensions of this model: {free}")
        if not 1 <= value <= _DIMENSION:
            raise BadModel(f"dimension {name!r} is {value}, must be at least 1, at most {_DIMENSION}", where, "fix the shape")
    constant = {i.name for i in model.graph.initializer}
    for v in model.graph.input:
        for axis, d in enumerate(v.type.tensor_type.shape.dim):
            if v.name in constant or d.HasField("dim_value"):
                continue
            if d.dim_param not in shapes:
                what = f"dimension {d.dim_param!r}" if d.dim_param else f"dimension {axis} without a name"
                hint = f"pass --shape {d.dim_param}=N" if d.dim_param else "export with a fixed shape"
                raise BadModel(f"input {v.name!r} has a free {what}", where, hint)
            d.dim_value = shapes[d.dim_param]
    for v in model.graph.output:
        if v.type.HasField("tensor_type"):
            v.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def refuse_operators(model: onnx.ModelProto) -> None:
    """Raise `UnsupportedOperator` for the operators that have no path yet, by node and operator."""
    own = {f.domain for f in model.functions}
    for node in model.graph.node:
        where = f"node {node.name or node.output[0]!r}"
        if node.domain not in _STANDARD and node.domain not in own:
            raise UnsupportedOperator(f"operator {node.domain}.{node.op_type}", where, _HINT)
        if node.op_type in _REFUSED:
            raise UnsupportedOperator(f"operator {node.op_type}", where, _HINT)


def read(model: onnx.ModelProto | str | Path, shapes: Mapping[str, int] | None = None) -> tuple[onnx.ModelProto, str]:
    """Load, fix dimensions, make floats float32 and codes signed, fold constants (never DequantizeLinear), infer shapes.

    Returns:
        the model, and its name for messages.

    Raises:
        UnsupportedOperator: see `refuse_operators`.
        BadModel: as `load` and `fix_dimensions`, or shapes that contradict each other.
    """
    aside, where = load(model)
    copy = aside.model
    unfuse(copy)
    refuse_operators(copy)
    fix_dimensions(copy, shapes or {}, where)
    check_sizes(copy, where, aside.names)
    try:
        to_float32(copy)
        copy = infer_shapes(copy)
        check_sizes(copy, where, aside.names)
        copy = optimizer.optimize(copy, output_size_limit=_FOLD_LIMIT, input_size_limit=_FOLD_LIMIT)
        check_scales(copy, where)
        make_codes_signed(copy)
        copy = prepare(fold(expand(copy)))
    except BadModel:
        raise
    except Exception as error:
        raise BadModel(f"shapes do not fit: {_first_line(error)}", where, "check the model and --shape") from None
    aside.put_back(copy)
    check_sizes(copy, where)
    check_values(copy, where)
    return copy, where


def check_scales(model: onnx.ModelProto, where: str) -> None:
    """Raise `BadModel` for a constant scale that is not finite: quantizers make one of a mask of -inf."""
    values = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in values:
            continue
        if not np.isfinite(numpy_helper.to_array(values[node.input[1]]).astype(np.float32)).all():
            what = f"scale of node {node.name or node.output[0]!r} is not finite"
            raise BadModel(what, where, "quantize again without that operator (a mask of -inf has no scale)")


def make_codes_signed(model: onnx.ModelProto) -> None:
    """Turn per-tensor unsigned Q/DQ pairs into signed ones, zero point less half the range: same values, in place."""
    graph = model.graph
    values = {i.name: i for i in graph.initializer}
    outputs = {o.name for o in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.output[0] in outputs:
            continue
        pair = readers.get(node.output[0], [])
        if not pair or any(n.op_type != "DequantizeLinear" for n in pair):
            continue
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in values:
                continue
            zero = numpy_helper.to_array(values[node.input[2]])
        else:
            zero = np.array(0, np.uint8)
        if zero.dtype not in (np.uint8, np.uint16):
            continue
        bits = zero.dtype.itemsize * 8
        signed = (zero.astype(np.int64) - (1 << (bits - 1))).astype(f"int{bits}")
        name = f"{node.output[0]}.signed_zero_point"
        graph.initializer.append(numpy_helper.from_array(signed, name))
        for each in (node, *pair):
            inputs = [*each.input[:2], name]
            del each.input[:]
            each.input.extend(inputs)
            kept = [a for a in each.attribute if a.name != "output_dtype"]
            del each.attribute[:]
            each.attribute.extend(kept)
