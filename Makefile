# Everything runs in .venv, which each target makes if it is not there.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := setup
.PHONY: setup demo test test-slow check bench docs clean

setup: .venv/.installed  ## the package and what it needs

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

demo: .venv/.installed  ## train two networks on digits, audit both, write runs/demo/report.html
	$(BIN)/unfooled demo --out runs/demo

test: .venv/.installed-dev  ## the default tests, under five minutes on two cores
	$(BIN)/python -m pytest

test-slow: .venv/.installed-dev  ## the long ones
	$(BIN)/python -m pytest -m slow

check: .venv/.installed-dev .venv/.installed-docs  ## format, lint, types, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

bench: .venv/.installed-dev  ## measure against peers; JSON into benchmarks/results
	$(BIN)/python -m pip install --quiet "foolbox>=3.3.4" "captum>=0.7"
	$(BIN)/python -m pip install --quiet --no-deps torchattacks adv-lib  # they ask for torchvision, which these attacks do not use
	$(BIN)/python benchmarks/attacks_vs_peers.py --out benchmarks/results/attacks_vs_peers.json
	$(BIN)/python benchmarks/explanations_vs_captum.py --out benchmarks/results/explanations_vs_captum.json

docs: .venv/.installed-docs  ## the site, into site/
	$(BIN)/mkdocs build --strict

clean:  ## what can be made again
	rm -rf .venv site dist build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
