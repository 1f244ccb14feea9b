# Two commands do everything: `make chat` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: chat test lint types check bench clean

chat: $(VENV)/.app
	$(BIN)/spec-engine chat $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: test lint types

bench: $(VENV)/.dev
	$(BIN)/spec-engine bench $(ARGS)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Python 3.11 or 3.12 is needed, this is %d.%d. Call: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No environment could be made. On Debian and Ubuntu: sudo apt install python3-venv. Then call make again."; exit 1; }

$(VENV)/.app: $(BIN)/python pyproject.toml
	@echo "Installing into $(VENV): torch and what else is needed. The first time this takes a minute or two."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	@echo "Installing into $(VENV): torch, the development tools and what else is needed. The first time this takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.app

clean:
	rm -rf $(VENV) build dist *.egg-info
