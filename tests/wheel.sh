#!/usr/bin/env bash
# A wheel alone in a virtual environment of its own, outside the checkout: doctor, targets, compile, simulate, report.
# usage: tests/wheel.sh PYTHON [FOLDER]
set -euo pipefail
python=$1
checkout=$(cd "$(dirname "$0")/.." && pwd)
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
rm -rf "$folder/wheel" "$folder/venv" "$folder/copy"
mkdir "$folder/copy"
(cd "$checkout" && git ls-files -z | xargs -0 cp --parents -t "$folder/copy")
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --upgrade pip
"$folder/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheel" "$folder/copy"
"$folder/venv/bin/python" -m pip install --quiet "$folder"/wheel/axlora-*.whl
cd "$folder"
unset PYTHONPATH
axlora=$folder/venv/bin/axlora
"$folder/venv/bin/python" - <<'PY'
"""A two-layer model with nothing but the packages that the wheel brings."""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
weights = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in (("w1", (32, 48)), ("w2", (48, 16)))]
nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
nodes.append(helper.make_node("MatMul", ["r", "w2"], ["y"]))
values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["batch", 32]), ("y", ["batch", 16]))]
graph = helper.make_graph(nodes, "mlp", values[:1], values[1:], weights)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "mlp.onnx")
PY
set -x
"$axlora" --version
"$axlora" --help > help.txt
"$axlora" doctor
"$axlora" targets
"$axlora" compile mlp.onnx -o mlp.axl --target test --shape batch=4
"$axlora" simulate mlp.axl --random 1 --json run.json --output out.npz
"$axlora" simulate mlp.axl --random 2 --json other.json > /dev/null
"$axlora" report run.json other.json
"$folder/venv/bin/python" -m axlora disasm mlp.axl > mlp.asm
code=0
"$axlora" rtl-test mlp.axl --random 1 2> error.txt || code=$?
test "$code" = 2
grep -q "axlora\[rtl\]" error.txt
{ set +x; } 2> /dev/null
echo "the wheel alone: doctor, targets, compile, simulate, report pass; rtl-test names its extra"
