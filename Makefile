# Each target makes the environment it needs (scripts/setup.sh); a second run starts at once.
SHELL := /bin/bash
PY := .venv/bin/python
PYTEST_ARGS ?=
# workers run side by side, one thread each
TEST_ENV := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2

.PHONY: help setup demo test test-all lint bench docs clean
help:
	@echo "make setup     the environment alone, in .venv"
	@echo "make demo      generate, fit, evaluate and report on Darcy flow, in demo/"
	@echo "make test      the tests"
	@echo "make test-all  the tests, slow ones included"
	@echo "make lint      ruff, import-linter, mypy"
	@echo "make bench     side by side with other solvers and plain training loops"
	@echo "make docs      the documentation, in docs/_build/html"

setup:
	@scripts/setup.sh

demo: setup
	@$(PY) -m opkit demo -o demo --overwrite

test: setup
	@$(TEST_ENV) $(PY) -m pytest -n auto $(PYTEST_ARGS)

test-all: setup
	@$(TEST_ENV) $(PY) -m pytest -n auto -m "slow or not slow" $(PYTEST_ARGS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports
	@.venv/bin/mypy

bench: setup
	@for f in benchmarks/bench_*.py; do echo "== $$f"; $(PY) $$f || exit 1; done

docs: setup
	@$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv build dist docs/_build
