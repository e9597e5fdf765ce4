# `make demo` and `make test` need no preparation. Both create a virtual environment and an AiiDA
# folder of their own below .dse/, and change nothing else.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& $$p -c 'import ensurepip, venv' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(CURDIR)/.dse/venv/bin
export AIIDA_PATH := $(CURDIR)/.dse/aiida
export AIIDA_WARN_v3 :=
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: demo test lint validate benchmark clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       refine an example pattern and map its goodness of fit with AiiDA (3 minutes)"
	@echo "make test       run the linter, the type checker and all tests"
	@echo "make lint       run the linter and the type checker only"
	@echo "make validate   refine patterns computed by DebUsSy and by the direct sum, and compare the"
	@echo "                results with the values that the patterns were computed from"
	@echo "make benchmark  measure the speed, also of the plain loop and of other programs"
	@echo "make clean      stop the daemon of the demo and delete .dse/"

# twice quiet: pip's warnings about package indexes that cannot be reached are hidden, errors are not
.dse/venv/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with the venv module was not found. \
	Install it (Debian: apt install python3 python3-venv), or set PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into .dse/venv. This happens once and takes one or two minutes ..."
	@$(PYTHON) -m venv .dse/venv
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e ".[dev]" \
	|| { echo "The installation failed. Can PyPI be reached? 'make clean' removes what is there"; \
	exit 1; }
	@mkdir -p $(AIIDA_PATH) && touch $@

demo: .dse/venv/.ready
	@$(BIN)/python -W ignore examples/demo.py

lint: .dse/venv/.ready
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: lint
	@$(BIN)/python -m pytest

validate: .dse/venv/.ready
	@$(BIN)/python benchmarks/accuracy.py
	@$(BIN)/python benchmarks/su_coverage.py

benchmark: .dse/venv/.ready
	@$(BIN)/python benchmarks/run.py

clean:
	@if [ -x $(BIN)/verdi ]; then $(BIN)/verdi -p dse-demo daemon stop >/dev/null 2>&1 || true; fi
	@rm -rf .dse
