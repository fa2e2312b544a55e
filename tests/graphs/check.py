"""What must hold for every model: a named refusal at compile, or a package that loads and computes the model."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from noise import noisy_runs
from onnx import numpy_helper
from sketch import Array, reference
from strategy import Drawn

import axlora
from axlora.cli import main
from axlora.compiler.frontend.onnx_reader import takes_rows

INTERNAL = ("TVM", "tvm", "Traceback", "InternalError", "shape of the tensor is not known", "has no source", "KeyError")
"""Texts that tell a user nothing."""
NO_PATH = ("operator Loop", "operator LSTM", "Mystery", "FLOAT8", "no linear")
"""What a refusal may name (one of them): everything else that is drawn runs."""
SAMPLES = 2
"""Random samples of calibration data."""
RELATIVE, ABSOLUTE = 2e-3, 1e-5
"""What is allowed beside the noise: other kernels than onnxruntime's compute the host part."""


@dataclass(frozen=True)
class Outcome:
    """How a model ended that behaved: it ran, or was refused."""

    ran: bool
    kind: str = ""
    """Of a refusal: its type and its message without names and numbers; else that of the package."""


class Failed(AssertionError):
    """A model that did not."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


def kind_of(text: str) -> str:
    """A message without what differs from model to model."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'..'", text.strip().splitlines()[0] if text.strip() else "")
    text = re.sub(r"[\w./]*(/|\.layers\.|val_|_\d)[\w./#]*", "NAME", text)
    return re.sub(r"-?\d[\d.e+-]*", "N", text)[:110]


def _crash(stage: str, error: BaseException) -> Failed:
    own = [f for f in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in f.filename]
    at = f"{Path(own[-1].filename).name}:{own[-1].name}" if own else ""
    text = next((line for line in reversed(str(error).splitlines()) if "Error" in line), str(error))
    return Failed(
        f"{stage} {type(error).__name__} at {at}: {kind_of(text)}", "".join(traceback.format_exception(error))[-3000:]
    )


def _refusal(error: axlora.Error, drawn: Drawn, folder: Path, target: str) -> Outcome:
    """The refusal's kind, if it is one that a user can use."""
    text = f"{error.where}: {error.message} ({error.hint})"
    kind = f"{type(error).__name__}: {kind_of(error.message)}"
    if not error.message or not error.where:
        raise Failed(f"refusal without message or place: {kind}", text)
    if "\n" in str(error) or len(str(error)) > 1000:
        raise Failed(f"refusal of several lines: {kind}", text)
    if any(word in text for word in INTERNAL):
        raise Failed(f"refusal that speaks of internals: {kind}", text)
    if drawn.refusal and drawn.refusal.lower() not in text.lower():
        raise Failed(f"refusal that does not name {drawn.refusal}: {kind}", text)
    if not any(word.lower() in text.lower() for word in NO_PATH):
        raise Failed(f"refused without need: {kind}", text)
    _command_line(drawn, folder, target)
    if left := sorted(p.name for p in folder.iterdir()):
        raise Failed("files of a refused model", str(left))
    return Outcome(False, kind)


def _command_line(drawn: Drawn, folder: Path, target: str) -> None:
    """`axlora compile` refuses the model too: in one line, with exit code 2."""
    path = folder / "drawn.onnx"
    path.write_bytes(drawn.model.SerializeToString())
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = main(["compile", str(path), "-o", str(folder / "model.axl"), "--target", target])
    path.unlink()
    if code != 2 or not said.getvalue().strip() or "Traceback" in said.getvalue():
        raise Failed("command line", f"exit code {code}, {said.getvalue()[-500:]!r}")


def compare(names: Sequence[str], expected: Sequence[Array], found: Sequence[Array], runs: Sequence[Sequence[Array]]) -> None:
    """Raise `Failed` unless every output is as near to `expected` as the noisy `runs` allow.

    Floats: root mean square and greatest difference are at most those of some run. Integers and truth values: equal
    wherever no run differs.
    """
    for i, name in enumerate(names):
        want, got = np.asarray(expected[i]), np.asarray(found[i])
        if want.shape != got.shape or want.dtype != got.dtype:
            raise Failed("wrong: shape or type", f"{name}: {got.shape} {got.dtype}, not {want.shape} {want.dtype}")
        if want.dtype.kind != "f":
            sure = np.all([run[i] == want for run in runs], axis=0)
            if not np.array_equal(got[sure], want[sure]):
                raise Failed("wrong: integers", f"{name}: {got.ravel()[:8]}, not {want.ravel()[:8]}")
            continue
        for norm, measure in (("mean", _mean), ("most", _most)):
            error, size = measure(got - want), measure(want)
            allowed = max(measure(run[i] - want) for run in runs) + RELATIVE * size + ABSOLUTE
            if not error <= allowed:
                raise Failed(f"wrong: {norm}", f"{name} {want.shape}: off by {error:.3g} of {size:.3g}, allowed {allowed:.3g}")


def _mean(x: Array) -> float:
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


def _most(x: Array) -> float:
    return float(np.abs(x).max())


def calibration(drawn: Drawn) -> dict[str, Array] | None:
    """The inputs of a model of rows of floats as samples, with others of that size; None of another model."""
    if drawn.refusal or not takes_rows(drawn.model):
        return None
    ((name, x),) = drawn.inputs.items()
    noise = np.random.default_rng(0).uniform(-1, 1, (SAMPLES, *x.shape)) * np.abs(x).max()
    return {name: np.stack([x, *noise.astype(x.dtype)])}


def _program(drawn: Drawn, target: str, calibrated: bool) -> axlora.Program:
    """Whole, if it is calibrated and can be; else as `auto` without calibration data."""
    data = calibration(drawn) if calibrated else None
    if data is not None:
        with contextlib.suppress(axlora.UnsupportedOperator, axlora.DoesNotFit):
            return axlora.compile(drawn.model, target, calibration=data, operators="all")
    return axlora.compile(drawn.model, target)


def compiled(drawn: Drawn, folder: Path, target: str, calibrated: bool = False) -> Outcome | axlora.Program:
    """The package, written and read again, or how the model was refused."""
    try:
        program = _program(drawn, target, calibrated)
    except axlora.Error as error:
        return _refusal(error, drawn, folder, target)
    except Exception as error:  # whatever it is: it is a failure
        raise _crash("compile", error) from error
    if drawn.refusal:
        raise Failed(f"accepted: {drawn.refusal}", "it cannot be right")
    path = folder / "model.axl"
    try:
        program.save(path)
        return axlora.load(path)
    except Exception as error:
        raise _crash("save or load", error) from error
    finally:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _as_defined(model: onnx.ModelProto, expected: Sequence[Array], found: Mapping[str, Array]) -> list[Array]:
    """What ONNX defines, where onnxruntime has it otherwise: the scale of a tensor of zeros is 0, onnxruntime's is 1.

    So are the constants that it is multiplied by.
    """
    held = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    ones: dict[str, Array] = {}
    """A scale, or its product with constants -> its value where the scale is 1."""
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            ones[node.output[1]] = np.ones(())
        elif node.op_type == "Mul" and {*node.input} <= ones.keys() | held.keys() and {*node.input} & ones.keys():
            a, b = (ones.get(name, held.get(name)) for name in node.input)
            ones[node.output[0]] = np.asarray(a) * np.asarray(b)
    names = [o.name for o in model.graph.output]
    zero = [
        n in ones and np.allclose(e, ones[n], rtol=1e-5) and not found[n].any() for n, e in zip(names, expected, strict=True)
    ]
    return [np.zeros_like(e) if z else e for e, z in zip(expected, zero, strict=True)]


def check(drawn: Drawn, folder: Path, target: str = "test", calibrated: bool = False) -> Outcome:
    """Compile, save, load, simulate, compare.

    Args:
        folder: an empty folder.
        calibrated: a model of rows of floats is given calibration data, with which it runs whole where it can.

    Raises:
        Failed: see the top of the file.
    """
    program = compiled(drawn, folder, target, calibrated)
    if isinstance(program, Outcome):
        return program
    names = [o.name for o in drawn.model.graph.output]
    try:
        outputs = axlora.simulate(program, drawn.inputs, timing=False).outputs
    except Exception as error:
        raise _crash("simulate", error) from error
    if list(outputs) != list(dict.fromkeys(names)):
        raise Failed("wrong: outputs", f"{list(outputs)}, not {names}")
    runs = [r for r in noisy_runs(drawn.model, drawn.inputs) if all(np.isfinite(a).all() for a in r)]
    compare(names, _as_defined(drawn.model, reference(drawn.model, drawn.inputs), outputs), [outputs[n] for n in names], runs)
    return Outcome(True, program.kind)
