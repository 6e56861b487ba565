# Everything runs in .venv, which each target makes if it is not there.
PYTHON ?= python3
BIN := .venv/bin
# Tests run in as many processes as there are cores, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal
# The tested versions; `make newest` goes without, but for torch.
PIP := -m pip install --quiet --constraint constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := setup
.PHONY: setup demo test test-slow check newest dist constraints bench gallery docs clean

setup: .venv/.installed  ## the package and what it needs

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python $(PIP) -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python $(PIP) -e ".[dev]"
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python $(PIP) -e ".[docs]"
	touch $@

demo: .venv/.installed  ## train two networks on digits, audit both, write runs/demo/report.html
	$(BIN)/unfooled demo --out runs/demo

test: .venv/.installed-dev  ## the default tests, at most ten minutes on two cores
	$(PYTEST)

test-slow: .venv/.installed-dev  ## the long ones
	$(PYTEST) -m slow

check: .venv/.installed-dev .venv/.installed-docs  ## format, lint, types, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

newest:  ## the default tests against the newest versions of everything but torch, in .venv-newest
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	grep '^torch' constraints.txt > .venv-newest/torch.txt
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --constraint .venv-newest/torch.txt -e ".[dev]"
	.venv-newest/bin/python -m pip freeze --exclude-editable
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest --numprocesses auto --dist worksteal

dist: .venv/.installed  ## a wheel and a source archive in dist/, the wheel tried in an empty environment
	rm -rf dist
	$(BIN)/python $(PIP) build
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv dist/.venv
	dist/.venv/bin/python $(PIP) dist/unfooled-*.whl
	cd dist && .venv/bin/python -I ../tests/installed.py

constraints: .venv/.installed-dev .venv/.installed-docs  ## write the versions of .venv into constraints.txt
	sed -n '/^#/p; /^torch>/p' constraints.txt > .venv/constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -e '^torch==' -e '^#' -e '^build==' -e '^pyproject_hooks==' >> .venv/constraints.txt
	mv .venv/constraints.txt constraints.txt

bench: .venv/.installed-dev  ## measure against peers; JSON into benchmarks/results
	$(BIN)/python $(PIP) "foolbox>=3.3.4" "captum>=0.7"
	$(BIN)/python -m pip install --quiet --no-deps torchattacks adv-lib  # they ask for torchvision, which these attacks do not use
	$(BIN)/python benchmarks/attacks_vs_peers.py --out benchmarks/results/attacks_vs_peers.json
	$(BIN)/python benchmarks/explanations_vs_captum.py --out benchmarks/results/explanations_vs_captum.json

gallery: .venv/.installed-dev  ## run the examples that changed, and store what they print for the site
	$(BIN)/python docs/gallery.py

docs: .venv/.installed-docs  ## the site, into site/
	$(BIN)/mkdocs build --strict

clean:  ## what can be made again
	rm -rf .venv .venv-newest site dist build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
