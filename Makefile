# Two commands do all set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench clean

# torch first and under the constraint: asked for later, or by another package, it would bring gigabytes of CUDA
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tropescan needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	rm -f reports/sample.duckdb
	$(BIN)/tropescan scan corpora/sample --db reports/sample.duckdb
	$(BIN)/tropescan prevalence --db reports/sample.duckdb
	$(BIN)/tropescan passages --db reports/sample.duckdb --top 3

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist reports/sample.duckdb .pytest_cache .mypy_cache .ruff_cache .hypothesis
