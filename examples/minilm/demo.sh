#!/usr/bin/env bash
# The main job: the whole trained MiniLM with two trained LoRA adapters, compiled, simulated, switched, run in Verilog.
set -euo pipefail
out=${1:-build/demo}
here=$(dirname "$0")
tokens=24

echo "== 1. The trained all-MiniLM-L6-v2 as ONNX, and passages to calibrate with"
python "$here/encoder.py" -o "$out" --tokens $tokens

echo "== 2. Compile for the target 'test': int8 weights, a scale a token, adapters 'topic' and 'language'"
axlora compile "$out/minilm.onnx" -o "$out/minilm.axl" --target test --shape batch=1 --shape sequence=$tokens \
    --calibration "$out/calibration.npz" --adapter topic="$here/adapters/topic" --adapter language="$here/adapters/language" \
    > "$out/placement.txt"
tail -n 5 "$out/placement.txt"

echo "== 3. Held-out passages: base and adapter, switched by three register writes, nothing compiled again"
python "$here/answer.py" "$out/minilm.axl"

echo "== 4. What a run costs, to the cycle"
for adapter in topic language; do
    axlora simulate "$out/minilm.axl" --input "$out/sample.npz" --adapter $adapter --json "$out/$adapter.json" > "$out/$adapter.txt"
done
axlora simulate "$out/minilm.axl" --input "$out/sample.npz" --json "$out/base.json" > "$out/base.txt"
cat "$out/language.txt"
axlora report "$out/base.json" "$out/topic.json" "$out/language.json"

echo "== 5. The same package in Verilator: every output, every counter, every cycle"
axlora rtl-test "$out/minilm.axl" --input "$out/sample.npz" --adapter language
