# Each command makes its own virtual environment and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

PYTEST = $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Tests start many processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-most test-all lint docs clean

demo: $(VENV)/.demo  ## tune small, train large, beside SP; prints a table, the paths of a page and a figure, and a sentence
	$(VENV)/bin/equimu compare --config examples/demo.toml --at width=64,128,256 --out runs/demo

test: $(VENV)/.test  ## the quick tests, some of every part
	$(PYTEST) -m "not slow and not long"

test-most: $(VENV)/.test  ## all but the slowest
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.test  ## all tests
	$(PYTEST)

lint: $(VENV)/.test  ## formatting, lint, types, and whether every public name has one
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	PATH=$(abspath $(VENV)/bin):$$PATH pyright --verifytypes equimu --ignoreexternal

docs: $(VENV)/.docs  ## the documentation, as a folder of pages
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) site runs

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "equimu needs Python 3.11 or newer; make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(INSTALL) '.[tune]'
	touch $@

$(VENV)/.test: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(INSTALL) '.[docs]'
	touch $@
