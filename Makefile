# What the README and CI run. PYTHON may name another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-slow lint docs bench install clean

install: $(VENV)/.installed

# torch first: its CUDA build, which torchvision is built against, runs on a CPU too.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; assert (3, 10) <= sys.version_info < (3, 13), "Python 3.10 to 3.12 is needed: make PYTHON=python3.12"'
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/raymrcnn demo --out demo

test: install
	$(PYTEST) -m 'not slow and not ray' -n 2 -q
	$(PYTEST) -m 'ray and not slow' -q

test-slow: install
	$(PYTEST) -m 'slow and not ray' -n 2 -q
	$(PYTEST) -m 'slow and ray' -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks:. $(BIN)/mypy --config-file= --ignore-missing-imports --check-untyped-defs benchmarks/*.py

docs: install
	$(BIN)/mkdocs build --strict --quiet

bench: install
	for b in benchmarks/[a-z]*.py; do $(BIN)/python $$b || exit 1; done
	$(BIN)/python benchmarks/_readme.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
