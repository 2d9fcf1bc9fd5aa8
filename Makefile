# One command for each thing people do here; each sets up what it needs in .venv and works with or without a GPU.
#
#   make quickstart   from nothing to finished jobs, with what this version has
#   make test         all tests
#   make check        format, lint, types, import directions, generated files, skills
#   make light        the wheel in a fresh environment without torch, every light command started
#   make bench        measured speed, written to bench/bench.md
#   make generate     rewrite every generated file

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart test check light bench generate clean

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the runtime into $(VENV) (torch is the large part) ..." >&2
	$(PIP) -e '.[runtime,automl,export]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the development set into $(VENV) (torch is the large part) ..." >&2
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.runtime

quickstart: $(VENV)/.runtime
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash skills/tao-setup/scripts/quickstart.sh

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/skillbank generate --check
	$(BIN)/skillbank skills validate

light: | $(BIN)/python
	@PYTHON=$(BIN)/python bash tests/light/run.sh

bench: $(VENV)/.dev
	$(BIN)/python tests/bench/run.py

generate: $(VENV)/.dev
	$(BIN)/skillbank generate

clean:
	rm -rf $(VENV) bench dist build quickstart
