# Every target sets itself up: where .venv is missing or older than its pins, it is made first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench docs clean

demo: $(READY) ## the whole story on a tiny model, on a CPU, offline
	$(BIN)/lorascope demo

test: $(READY) ## all tests; those marked gpu or browser skip where there is none
	$(BIN)/python -m pytest -q -m "not gpu"

check: $(READY) ## style, types, and that generated documents are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

bench: $(READY) ## timings and memory against peers, in one run; prints rows for benchmarks/results
	$(BIN)/python benchmarks/resampling.py
	$(BIN)/python benchmarks/weights.py
	$(BIN)/python benchmarks/behaviour.py text choice generation auto
	$(BIN)/python benchmarks/training.py

docs: $(READY) ## write again what is generated: the JSON Schema, the glossary, the command reference
	$(BIN)/python docs/generate.py

clean: ## remove what the targets above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	rm -rf reports/demo

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@
