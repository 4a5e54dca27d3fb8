# make help lists the targets. PYTHON=python3.12 picks another Python, ONCE=1 ends the demo after its story.

PYTHON ?= python3
VENV := .venv
MODELS := .demo/models
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
export PYTHON
# Behind the machine's own programs: only a CMake that the machine lacks comes from the venv.
export PATH := $(PATH):$(CURDIR)/$(VENV)/bin
# The demo's and the tests' modules; `demo` is deploy/demo.
export PYTHONPATH := $(CURDIR)/deploy
export PYTHONDONTWRITEBYTECODE := 1
# The library that the worker loads, out of the installed Python package.
ONNXRUNTIME = "$$(ls "$(CURDIR)/$(VENV)"/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.* | head -n 1)"
TEST_ENVIRONMENT = ORT_DYLIB_PATH=$(ONNXRUNTIME) FOREBAY_BIN_DIR="$(TARGET)/debug" \
	FOREBAY_MODELS="$(CURDIR)/$(MODELS)"

.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python soak lint build models clean check check-tests

help: ## This list
	@echo "Forebay: an inference gateway and an ONNX Runtime worker"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

demo: check ## Real models behind the gateway on three workers; stays up to be tried (ONCE=1: ends)
	@./deploy/setup/venv.sh demo deploy/demo/requirements.txt
	@./deploy/setup/cmake.sh
	@$(VENV)/bin/python -m demo.prepare_models $(MODELS)
	@echo "Rust: building forebay-gateway and forebay-worker (the first time takes minutes)"
	@cargo build --release -p forebay-gateway -p forebay-worker
	@ORT_DYLIB_PATH=$(ONNXRUNTIME) $(VENV)/bin/python -m demo --binaries "$(TARGET)/release" --models $(MODELS) $(if $(ONCE),--once)

test: test-rust test-python ## Unit, property and end-to-end tests in Rust, then real clients in Python

test-rust: check-tests models ## Only the tests in Rust
	cargo build --workspace --bins
	$(TEST_ENVIRONMENT) cargo test --workspace

test-python: models ## Only the tests in Python: tritonclient and kserve, through the gateway and directly
	@./deploy/setup/venv.sh tests tests/python/requirements.txt
	cargo build --workspace --bins
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest -p no:cacheprovider tests/python --ignore=tests/python/test_kserve.py
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest -p no:cacheprovider tests/python/test_kserve.py

soak: ## A worker under everything at once for 10 minutes (SECONDS=60: shorter)
	cargo build -p forebay-worker
	$(TEST_ENVIRONMENT) FOREBAY_SOAK_SECONDS=$(or $(SECONDS),600) cargo test -p forebay-tests --test soak -- --nocapture

lint: check ## Formatting and clippy, warnings are errors
	@./deploy/setup/cmake.sh
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

build: check ## Release binaries: target/release/forebay-gateway and forebay-worker
	@./deploy/setup/cmake.sh
	cargo build --release -p forebay-gateway -p forebay-worker

models: check ## The two models of the demo and the tests, under .demo/models
	@./deploy/setup/venv.sh demo deploy/demo/requirements.txt
	@./deploy/setup/cmake.sh
	@$(VENV)/bin/python -m demo.prepare_models $(MODELS)

clean: ## Everything that was built or downloaded
	rm -rf target $(VENV) .demo

check-tests:
	@./deploy/setup/check.sh tests || { echo; echo "Install what is missing above, then run make again." >&2; exit 1; }

check:
	@./deploy/setup/check.sh || { echo; echo "Install what is missing above, then run make again." >&2; exit 1; }
