#!/usr/bin/env bash
# The main job: real MiniLM attention linears with two LoRA adapters, compiled, simulated, switched, run in Verilog.
set -euo pipefail
out=${1:-build/demo}
here=$(dirname "$0")
tokens=32

echo "== 1. The trained all-MiniLM-L6-v2: its 24 attention linears as int8 ONNX, two LoRA adapters, real activations"
python "$here/build.py" -o "$out" --tokens $tokens

echo "== 2. Compile for the target 'test' with both adapters"
axlora compile "$out/minilm.onnx" -o "$out/minilm.axl" --target test --shape tokens=$tokens \
    --adapter law="$out/adapters/law" --adapter med="$out/adapters/med"

echo "== 3. Simulate with adapter law, to the cycle"
axlora simulate "$out/minilm.axl" --input "$out/sample.npz" --adapter law --json "$out/law.json"

echo "== 4. Switch the adapter without recompiling: three register writes"
axlora simulate "$out/minilm.axl" --input "$out/sample.npz" --json "$out/base.json" > "$out/base.txt"
axlora simulate "$out/minilm.axl" --input "$out/sample.npz" --adapter med --json "$out/med.json" > "$out/med.txt"
axlora report "$out/base.json" "$out/law.json" "$out/med.json"

echo "== 5. The same package in Verilator: every output, every counter, every cycle"
axlora rtl-test "$out/minilm.axl" --input "$out/sample.npz" --adapter law
axlora rtl-test "$out/minilm.axl" --input "$out/sample.npz" --adapter med
