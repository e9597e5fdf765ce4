# `make demo` and `make test` require no preparation. Both create a virtual environment and a
# separate AiiDA folder in .dse/, and do not change anything else.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& $$p -c 'import ensurepip, venv' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(CURDIR)/.dse/venv/bin
export AIIDA_PATH := $(CURDIR)/.dse/aiida
export AIIDA_WARN_v3 :=
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: demo test lint validate fuzz benchmark clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       refine an example pattern and map its goodness of fit with AiiDA (3 min)"
	@echo "make test       run the linter, the type checker and all tests"
	@echo "make lint       run only the linter and the type checker"
	@echo "make validate   refine patterns computed with DebUsSy and with the direct sum, and compare"
	@echo "                the refined values with the true ones"
	@echo "make fuzz       run dse-engine on thousands of generated bad inputs (up to 1 h)"
	@echo "make benchmark  measure the speed of the engine, of a plain loop and of other programs"
	@echo "make clean      stop the daemon of the demo and delete .dse/"

# --quiet twice: hide pip's warnings about package indexes that cannot be reached, but not errors
.dse/venv/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with the venv module was not found. \
	Install it (Debian: apt install python3 python3-venv), or set PYTHON=/path/to/python."; exit 1; }
	@echo "Installing into .dse/venv. This is done only once and takes one or two minutes ..."
	@$(PYTHON) -m venv .dse/venv
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e ".[dev]" \
	|| { echo "The installation failed. Check the access to PyPI. 'make clean' removes .dse/."; \
	exit 1; }
	@mkdir -p $(AIIDA_PATH) && touch $@

demo: .dse/venv/.ready
	@$(BIN)/python -W ignore examples/demo.py

lint: .dse/venv/.ready
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: lint
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

validate: .dse/venv/.ready
	@$(BIN)/python benchmarks/accuracy.py
	@$(BIN)/python benchmarks/su_coverage.py
	@$(BIN)/python -m pytest --override-ini addopts=--import-mode=importlib -q tests/validation

fuzz: .dse/venv/.ready
	@$(BIN)/python -W ignore tests/fuzz/fuzz.py --cases 1000

benchmark: .dse/venv/.ready
	@$(BIN)/python benchmarks/run.py

clean:
	@if [ -x $(BIN)/verdi ]; then $(BIN)/verdi -p dse-demo daemon stop >/dev/null 2>&1 || true; fi
	@rm -rf .dse
