# `make demo` and `make test` need Python 3.11 or newer and make, nothing else: they build their own environment in .venv.
# On x86-64 Linux, PyPI's torch is a CUDA build of several GB. This takes the CPU build instead:
#   make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
ARGS ?=
BENCH ?= all

PYTHON310 ?= python3.10
VENV310 := $(VENV)-3.10
# what a device needs but torch, and what its tests need
DEVICE := numpy zstandard msgspec tomli grpcio protobuf psutil typer pytest pytest-timeout hypothesis scipy

.PHONY: help demo test test-device check-arm64 check-install check-compose lint bench clean

help:
	@echo 'make demo            one server and four device daemons on this machine: 30 rounds on handwritten digits'
	@echo 'make test            ruff, mypy and pytest'
	@echo 'make test-device     the tests of common and client that need no torch, on Python 3.10 (PYTHON310=...)'
	@echo 'make check-arm64     wheels, daemon and doctor on emulated 64-bit Arm (root; 15 minutes)'
	@echo 'make check-install   deploy/install-client.sh in a clean Debian root, booted (root; 10 minutes)'
	@echo 'make check-compose   deploy/compose.yaml in a real engine: the job, limits, kills, --scale (root; 10 minutes)'
	@echo 'make lint            ruff and mypy alone'
	@echo 'make bench           every benchmark, one JSON file each in build/bench (BENCH=codec for one of them)'
	@echo 'make clean           remove what the above made, but for $(VENV) and runs/'
	@echo "ARGS='...'           options for pleat demo, pytest or pleat bench, such as ARGS='--seed 3 --model cnn'"
	@echo "PIP_ARGS='...'       options for pip, such as --extra-index-url https://download.pytorch.org/whl/cpu"

demo: $(VENV)/.demo
	$(BIN)/pleat demo $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

test-device: $(VENV310)/.device
	$(VENV310)/bin/python -m pytest --device-side $(ARGS)

check-arm64: $(VENV)/.demo
	PYTHON=$(BIN)/python deploy/check-arm64.sh $(ARGS)

check-compose: | $(BIN)/python
	PYTHON=$(BIN)/python PIP_ARGS='$(PIP_ARGS)' deploy/check-compose.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/pleat bench $(BENCH) --out build/bench $(ARGS)

check-install: $(VENV)/.dev
	PLEAT='$(abspath $(BIN))/pleat' deploy/check-install.sh $(ARGS)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find common server client tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'pleat needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[server,client,demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[server,client,demo,dev]'
	touch $@ $(VENV)/.demo

$(VENV310)/.device: pyproject.toml constraints.txt
	$(PYTHON310) -m venv $(VENV310)
	$(VENV310)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt $(DEVICE)
	$(VENV310)/bin/python -m pip install $(PIP_ARGS) --no-deps -e .
	touch $@
