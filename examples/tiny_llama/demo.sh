#!/usr/bin/env bash
# A language model whole on the machine: the tiny Llama writes code, and with its LoRA prose, on the simulated accelerator.
set -euo pipefail
out=${1:-build/demo}
here=$(dirname "$0")
mkdir -p "$out"

echo "== 6. The trained tiny Llama as ONNX; compiled whole: attention, norms and cache included, nothing on the host but picking embeddings"
python "$here/export.py" -o "$out/tiny.onnx"
axlora compile "$out/tiny.onnx" -o "$out/tiny.axl" --target zcu104 --generate --max-context 128 --adapter prose="$here/adapters/prose" \
    > "$out/tiny.txt"
tail -n 4 "$out/tiny.txt"

echo "== 7. It writes: the base code, the adapter prose"
axlora generate "$out/tiny.axl" --prompt "$(printf 'import os\n\n\ndef main(')" --max-new-tokens 64
axlora generate "$out/tiny.axl" --prompt "The statement " --max-new-tokens 64 --adapter prose
