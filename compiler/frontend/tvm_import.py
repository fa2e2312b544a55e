"""Hand a model of standard operators to TVM, and name the nodes that TVM does not take."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx import from_onnx

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend.bounds import bound_indices
from axlora.compiler.frontend.supported import named

LLVM: dict[str, Any] = {"kind": "llvm"}
"""The baseline CPU."""
_NAMED = 8
"""Most nodes that a refusal names."""


def import_onnx(model: onnx.ModelProto, *, constants: bool = False) -> tvm.IRModule:
    """The Relax module; initializers stay parameters unless `constants`, so that nothing folds codes back into floats.

    Raises:
        UnsupportedOperator: TVM does not take an operator; names the nodes.
    """
    try:
        return bound_indices(_imported(model, constants))
    except Exception as error:  # TVM raises several types here
        raise refused(model, error) from error


def import_to_read(model: onnx.ModelProto, form: onnx.ModelProto) -> tvm.IRModule:
    """The Relax module as recognition reads it: initializers are constants, and no index is bounded.

    Args:
        model: with the types of its tensors, for messages.
        form: the form of it that is imported.

    Raises:
        UnsupportedOperator: as `import_onnx`.
    """
    try:
        return _imported(form, True)
    except Exception as error:  # TVM raises several types here
        raise refused(model, error) from error


def _imported(model: onnx.ModelProto, constants: bool) -> tvm.IRModule:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it prints what it cannot convert
        warnings.simplefilter("ignore")
        return from_onnx(model, keep_params_in_input=not constants)


def compiled(module: tvm.IRModule) -> Any:
    """The Relax VM over the module's functions, compiled by LLVM."""
    return relax.VirtualMachine(relax.build(module, target=tvm.target.Target(LLVM)), tvm.cpu())


def refused(model: onnx.ModelProto, error: Exception) -> UnsupportedOperator:
    """The error that names the nodes of a typed model which TVM does not import, compile or run alone; all of them at once."""
    types = {v.name: v for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    tensors = {i.name: i for i in model.graph.initializer} | _constants(model)
    bad: list[tuple[onnx.NodeProto, str]] = []
    for node in model.graph.node:
        if (reason := _fails(model, node, types, tensors)) is not None:
            bad.append((node, reason))
    if not bad:
        text = _short(error)
        return UnsupportedOperator(f"operators that cannot be compiled together: {text}", "host part", "simplify the export")
    first, reason = bad[0]
    more = ", ".join(f"{node.op_type} {named(node)}" for node, _ in bad[1:_NAMED])
    more = f"; also {more}" if more else ""
    more += f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    what = f"operator {first.op_type} in this form ({reason}){more}"
    return UnsupportedOperator(what, named(first), "replace it in the model, or export another form of it")


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """What Constant nodes give, by name: an operator alone needs its shapes and axes as constants."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = own = onnx.TensorProto()
            own.CopyFrom(node.attribute[0].t)
            own.name = node.output[0]
    return found


def _short(error: Exception) -> str:
    """The last line of an error, which in TVM's says what failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join((lines[-1] if lines else type(error).__name__).split())[:160]


def _fails(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    types: Mapping[str, onnx.ValueInfoProto],
    tensors: Mapping[str, onnx.TensorProto],
) -> str | None:
    """What TVM says of the node alone; None if it compiles."""
    read = dict.fromkeys(name for name in node.input if name)
    outputs = [types[name] for name in node.output if name in types]
    graph = helper.make_graph(
        [node],
        "alone",
        [types[name] for name in read if name in types and name not in tensors],
        outputs,
        [tensors[name] for name in read if name in tensors],
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions)
    inputs = [value.type.tensor_type for value in graph.input]
    try:
        function = compiled(bound_indices(_imported(alone, constants=True)))["main"]
        shapes = [tuple(d.dim_value for d in kind.shape.dim) for kind in inputs]
        dtypes = [helper.tensor_dtype_to_np_dtype(kind.elem_type) for kind in inputs]
        function(*[tvm.runtime.tensor(np.ones(s, d)) for s, d in zip(shapes, dtypes, strict=True)])
    except Exception as error:  # TVM raises several types here
        return _short(error)
    return None


@mutator
class _Renamed(PyExprMutator):  # type: ignore[misc]
    """Rewrites a function so that it calls functions by other names."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__()
        self._names = names

    def visit_global_var_(self, op: Any) -> Any:
        """One name."""
        return self._names.get(op.name_hint, op)


def merged(modules: Mapping[str, tvm.IRModule]) -> tvm.IRModule:
    """One module in which the `main` of each has the name that it stands under, with the functions that it calls.

    Args:
        modules: name -> module of `import_onnx`.
    """
    builder = relax.BlockBuilder()
    for name, module in modules.items():
        called: dict[str, Any] = {}
        for variable, function in module.functions_items():
            if not isinstance(function, relax.Function):
                own = f"{name}_{variable.name_hint}"
                called[variable.name_hint] = builder.add_func(function.with_attr("global_symbol", own), own)
        main = module["main"]
        main = _Renamed(called).visit_expr(main) if called else main
        builder.add_func(main.with_attr("global_symbol", name), name)
    return builder.finalize()
