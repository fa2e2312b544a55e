"""Read an ONNX model, fix its dimensions and bring it to the form that recognition expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnxscript import optimizer

from axlora.compiler.errors import BadModel, Error
from axlora.compiler.frontend.cache import drop_caches
from axlora.compiler.frontend.code_moves import move_reals
from axlora.compiler.frontend.control import inline_conditionals
from axlora.compiler.frontend.convolutions import unfold_convolutions
from axlora.compiler.frontend.expand import expand, plain_flattens
from axlora.compiler.frontend.fixed_inputs import fix_inputs
from axlora.compiler.frontend.fold import fold, infer_shapes
from axlora.compiler.frontend.forms.rewrite import rewrite
from axlora.compiler.frontend.gemm import plain_gemms
from axlora.compiler.frontend.host_ops import prepare
from axlora.compiler.frontend.onnx_graph import sort_nodes
from axlora.compiler.frontend.precision import in_float32, to_float32
from axlora.compiler.frontend.products import plain_products
from axlora.compiler.frontend.scales import check_scales, drop_infinite, make_codes_signed
from axlora.compiler.frontend.sizes import check_sizes, check_values
from axlora.compiler.frontend.source import Model, first_line, opened
from axlora.compiler.frontend.spatial import spell_out
from axlora.compiler.frontend.storage import Aside, check
from axlora.compiler.frontend.supported import refuse_operators, refuse_unknown_shapes
from axlora.compiler.frontend.tensors import check_inputs

_DIMENSION = 1 << 24
_FOLD_LIMIT = 1 << 30
"""Elements of a constant that may be folded (a transposed weight)."""


def with_fixed_inputs(model: Model, values: Mapping[str, float]) -> onnx.ModelProto:
    """The model in memory, weights included, with inputs made constants; errors as `fix_inputs` and `load`."""
    source = opened(model)
    if source.folder is None:
        return fix_inputs(source.proto, values, source.name)
    check(source.proto, source.folder, source.name)
    whole = onnx.ModelProto()
    whole.CopyFrom(source.proto)
    onnx.load_external_data_for_model(whole, str(source.folder))
    return fix_inputs(whole, values, source.name)


Dimensions = dict[str, tuple[int | str, ...]]
"""Input -> its dimensions, free ones by name."""


def dimensions(model: Model) -> Dimensions:
    """The inputs' dimensions, before anything is checked or fixed.

    Raises:
        BadModel: no such file, or not an ONNX file.
    """
    proto = opened(model).proto
    constant = {i.name for i in proto.graph.initializer}
    return {
        v.name: tuple(d.dim_param or int(d.dim_value) for d in v.type.tensor_type.shape.dim)
        for v in proto.graph.input
        if v.name not in constant
    }


def input_types(model: Model) -> dict[str, str]:
    """Input -> NumPy type by name."""
    proto = opened(model).proto
    constant = {i.name for i in proto.graph.initializer}
    kinds = {v.name: v.type.tensor_type.elem_type for v in proto.graph.input if v.name not in constant}
    return {name: str(onnx.helper.tensor_dtype_to_np_dtype(kind)) for name, kind in kinds.items()}


def takes_ids(model: Model) -> bool:
    """Whether an input of integers may be token ids; the model need not be checked yet."""
    proto = opened(model).proto
    integers = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return any(v.type.tensor_type.elem_type in integers for v in proto.graph.input)


def takes_rows(model: Model) -> bool:
    """Whether the only input is of floats and has features and rows; the model need not be checked yet."""
    proto = opened(model).proto
    constant = {i.name for i in proto.graph.initializer}
    types = [v.type.tensor_type for v in proto.graph.input if v.name not in constant]
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return len(types) == 1 and types[0].elem_type in floats and len(types[0].shape.dim) > 1


def has_scales(model: Model) -> bool:
    """Whether a QuantizeLinear, or QONNX's Quant, gives tensors a scale; the model need not be checked yet."""
    proto = opened(model).proto
    return any(node.op_type in ("QuantizeLinear", "Quant") for node in proto.graph.node)


def load(model: Model) -> tuple[Aside, str]:
    """The checked model (a copy), every known form of it as standard operators, and the name to call it in messages.

    Raises:
        BadModel: as `rewrite`; no such file, not an ONNX file, truncated, refused by the ONNX checker, or weights out of reach.
    """
    given = opened(model)
    name, source, folder = given.name, given.proto, given.folder
    if not source.graph.node or not source.opset_import:
        raise BadModel("not an ONNX file, or damaged: it holds no operators", name, "export the model again")
    check(source, folder, name)
    check_inputs(source, name)
    aside = Aside(rewrite(source, folder, name), folder, name)
    sort_nodes(aside.model.graph)
    try:
        onnx.checker.check_model(aside.model)
    except Exception as error:
        raise BadModel(f"ONNX checker: {first_line(error)}", name, "export the model again") from None
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


@dataclass(frozen=True)
class _Passed:
    """Outputs of a model that are inputs or constants of it: tools rename them, so they are set aside meanwhile."""

    outputs: tuple[onnx.ValueInfoProto, ...]
    """All of the model's, in order."""
    given: dict[str, onnx.ValueInfoProto | onnx.TensorProto]
    """The inputs and constants among them by name."""

    def put_back(self, model: onnx.ModelProto) -> None:
        """Make them outputs of `model` again, in place, in the model's order."""
        if not self.given:
            return
        graph = model.graph
        there = {o.name: o for o in graph.output}
        every = [onnx.ValueInfoProto.FromString(there.get(o.name, o).SerializeToString()) for o in self.outputs]
        constants = {i.name for i in graph.initializer}
        for output in every:
            found = self.given.get(output.name)
            if isinstance(found, onnx.ValueInfoProto):
                output.CopyFrom(next(i for i in graph.input if i.name == output.name))
            elif found is not None and output.name not in constants:
                graph.initializer.append(found)
            if isinstance(found, onnx.TensorProto):
                output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, found.data_type, list(found.dims)))
        del graph.output[:]
        graph.output.extend(every)


def _take_passed(model: onnx.ModelProto) -> _Passed:
    """Take the outputs that are inputs or constants out of a model, in place."""
    graph = model.graph
    outputs = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in graph.output]
    names = {o.name for o in outputs}
    made = {name for node in graph.node for name in node.output}
    given: dict[str, onnx.ValueInfoProto | onnx.TensorProto] = {v.name: v for v in graph.input if v.name in names - made}
    for tensor in graph.initializer:
        if tensor.name in names - made:
            given[tensor.name] = in_float32(onnx.TensorProto.FromString(tensor.SerializeToString()))
    for i in reversed(range(len(graph.output))):
        if graph.output[i].name in given:
            del graph.output[i]
    return _Passed(tuple(outputs), given)


def read(
    model: Model,
    shapes: Mapping[str, int] | None = None,
    exact: bool = False,
    empty_caches: bool = False,
    whole: bool = False,
) -> tuple[onnx.ModelProto, str]:
    """Load, fix dimensions, make floats float32 and codes signed, fold constants (never DequantizeLinear), infer shapes.

    Args:
        shapes: values of the free dimensions.
        exact: every Q/DQ pair counts; else those of infinite scale are taken out, with a notice.
        whole: for a model that is to run whole: big weights that lie in files stay there, for `storage.values`, and what slides
            over images is spelled out (`spell_out`).
        empty_caches: the caches that a decoder takes are empty, and those that it gives are left out.

    Returns:
        the model, and its name for messages.

    Raises:
        UnsupportedOperator: see `refuse_operators`, `refuse_unknown_shapes` and `inline_conditionals`.
        BadModel: as `load` and `fix_dimensions`, or shapes that contradict each other.
    """
    aside, where = load(model)
    copy = aside.model
    if empty_caches:
        drop_caches(copy)
    refuse_operators(copy)
    fix_dimensions(copy, shapes or {}, where)
    check_sizes(copy, where, aside.names)
    passed = _take_passed(copy)
    try:
        to_float32(copy)
        plain_gemms(copy)
        copy = expand(copy)
        refuse_operators(copy)  # definitions may use operators without a path
        copy = infer_shapes(copy)
        check_sizes(copy, where, aside.names)
        plain_flattens(copy)
        copy = optimizer.optimize(copy, output_size_limit=_FOLD_LIMIT, input_size_limit=_FOLD_LIMIT)
        refuse_operators(copy)  # functions are part of the graph now
        copy = inline_conditionals(copy, where)
        move_reals(copy)
        if not exact:
            drop_infinite(copy, where)
        check_scales(copy, where)
        make_codes_signed(copy)
        copy = prepare(fold(expand(copy)))
    except Error:
        raise
    except Exception as error:
        raise BadModel(f"shapes do not fit: {first_line(error)}", where, "check the model and --shape") from None
    aside.put_back(copy, whole)
    passed.put_back(copy)
    copy = unfold_convolutions(spell_out(copy), 1) if whole else unfold_convolutions(copy)
    refuse_unknown_shapes(copy, where)
    copy = prepare(plain_products(copy))
    check_sizes(copy, where)
    check_values(copy, where)
    return copy, where
