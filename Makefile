# Everything here needs Python 3.11 or later, git and make; the rest is installed into $(VENV).
# Another Python: make test PYTHON=python3.13 VENV=.venv-3.13

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest campaigns edits dev check format faults bench compare clean

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.orcapod-installed
TESTS ?= tests
PYTEST_OPTIONS ?=
# Files of tests are spread over the cores; WORKERS=0 runs all in one process, for a debugger.
# One more than there are cores, for some tests mostly wait.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
OLDEST_VENV := .venv-oldest
OLDEST_PYARROW := $(shell sed -n 's/^ *"pyarrow>=\([0-9]*\)",/\1.0.0/p' pyproject.toml)
PINNED := -c constraints.txt -e '.[process-pool,ray,polars,pandas,example,dev]'
OLDEST := -c <(grep -v '^pyarrow=' constraints.txt) -e '.[process-pool,pandas,polars,dev]' pyarrow==$(OLDEST_PYARROW)
# What a version of Python or pyarrow can change: conversion, hashes, identity, files; the engine is tested on one version.
VERSION_TESTS := tests/test_types.py tests/test_round_trip.py tests/test_import.py tests/test_edit_matrix.py \
	$(addprefix tests/core/test_,$(addsuffix .py,converter datagrams hashing identity files code_store forms))
DAGSTER_HOME := $(CURDIR)/.dagster_home
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of processes, each of which would compile this package.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## Materialize the example project three times and show what happened.
	@$(BIN)/python -m example_project.demo

test: $(INSTALLED) ## Run the tests.
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS) $(TESTS)

test-oldest: $(OLDEST_VENV)/.orcapod-installed ## Run what versions can change with the oldest pyarrow; on another Python: PYTHON=...
	@$(OLDEST_VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not slow' $(VERSION_TESTS)

edits: $(INSTALLED) ## Run the matrices of edits in full: in both layouts, in the process pool and on Ray.
	@CAMPAIGNS=full $(BIN)/python -m pytest -q tests/test_edit_runs.py

dev: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## Open the example project in the Dagster UI.
	@DAGSTER_HOME="$(DAGSTER_HOME)" PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dagster dev

check: $(INSTALLED) ## Lint, formatting and types.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED) ## Format the code and mend what the linter can mend.
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

campaigns: $(INSTALLED) ## Run every test in its long form, the fault campaigns and the matrices of edits included; some hours.
	@CAMPAIGNS=full $(BIN)/python -m pytest -q -s tests

faults: $(INSTALLED) ## Run all fault campaigns in full; about two hours.
	@CAMPAIGNS=full $(BIN)/python -m pytest -q -s tests/faults

faults-%: $(INSTALLED) ## Run one fault campaign in full: tests/faults/test_%.py.
	@CAMPAIGNS=full $(BIN)/python -m pytest -q -s tests/faults/test_$*.py

bench: $(INSTALLED) ## Print the benchmarks.
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

compare: $(INSTALLED) ## Write docs/partitions.md: every kind of partitions, here and in other IO managers; a quarter of an hour.
	@$(BIN)/python benchmarks/compare_io_managers.py

clean: ## Remove what the other targets made, the environment included.
	@rm -rf .venv .venv-* .demo .dagster_home lake .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installs $(2) into the environment $(1). By uv, which takes a tenth of pip's time; by pip where that is told of another index, of which
# uv would not know, and where uv cannot.
define install
	@{ ! $(1)/bin/python -m pip config list | grep -q '[.]index-url=' && $(1)/bin/python -m pip install -qq -c constraints.txt uv && \
		$(1)/bin/uv pip install -q --python $(1)/bin/python $(2); } || $(1)/bin/python -m pip install -qq --no-compile $(2)
endef

# An environment that is there already is used as it is; what it has besides stays.
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing into $(VENV); the first time takes a minute or two."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(call install,$(VENV),$(PINNED))
	@touch $@

$(OLDEST_VENV)/.orcapod-installed: pyproject.toml constraints.txt
	@echo "Installing into $(OLDEST_VENV), with pyarrow $(OLDEST_PYARROW)."
	@test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	$(call install,$(OLDEST_VENV),$(OLDEST))
	@touch $@

$(DAGSTER_HOME)/dagster.yaml:
	@mkdir -p "$(@D)"
	@printf '%s\n' 'telemetry:' '  enabled: false' 'concurrency:' '  runs:' '    max_concurrent_runs: 2' > "$@"
