# Two commands do everything: `make demo` and `make test`. Both make their own virtual environment
# and their own AiiDA folder below .dse/, and touch nothing else.
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
	@echo "make demo       refine and map the example pattern through AiiDA (about 3 minutes)"
	@echo "make test       lint, types, tests"
	@echo "make validate   refine patterns of DebUsSy (kept beside the project) and of the direct sum; judge the results"
	@echo "make benchmark  speed beside the plain loop and the peers"
	@echo "make clean      stop the demo's daemon and remove .dse/"

.dse/venv/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with the venv module is missing: \
	install it (Debian: apt install python3 python3-venv) or say PYTHON=/path/to/python"; exit 1; }
	@echo "installing into .dse/venv (first time only; takes a minute or two) ..."
	@$(PYTHON) -m venv .dse/venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" \
	|| { echo "installation failed: is PyPI reachable? 'make clean' starts over"; exit 1; }
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
	@$(BIN)/python benchmarks/coverage.py

benchmark: .dse/venv/.ready
	@$(BIN)/python benchmarks/run.py

clean:
	@if [ -x $(BIN)/verdi ]; then $(BIN)/verdi -p dse-demo daemon stop >/dev/null 2>&1 || true; fi
	@rm -rf .dse
